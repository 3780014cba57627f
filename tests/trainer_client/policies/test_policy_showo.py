"""The unified model gives Show-o's numbers, attends as Show-o does, and takes its full size."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file

from sync_r1.trainer_client.policies.showo.network import Showo, ShowoConfig, attention_allowed

SHARED = Path(os.environ.get("SYNC_R1_SHARED", Path(__file__).parents[3].parent / "shared" / "data"))
GOLDEN = SHARED / "showo_golden"
pytestmark = pytest.mark.skipif(not GOLDEN.exists(), reason="golden values of Show-o are not in this checkout")


@pytest.fixture(scope="module")
def model() -> Showo:
    raw = json.loads((GOLDEN / "config.json").read_text())
    sizes = raw["lm"]
    model = Showo(
        ShowoConfig(
            text_vocab=raw["text_vocab"],
            image_codes=raw["codebook"],
            image_tokens=raw["image_tokens"],
            hidden_size=sizes["hidden_size"],
            intermediate_size=sizes["intermediate_size"],
            layers=sizes["num_hidden_layers"],
            heads=sizes["num_attention_heads"],
            max_positions=sizes["max_position_embeddings"],
        )
    ).eval()
    assert model.config.mask_id == raw["mask_token_id"]
    assert model.config.first_code_id == raw["first_code_id"]
    model.showo.load_state_dict(load_file(str(GOLDEN / "lm.safetensors")))
    return model


@pytest.fixture(scope="module")
def golden() -> dict[str, npt.NDArray[np.generic]]:
    with np.load(GOLDEN / "golden.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize(("layout", "image_first"), [("t2i", False), ("mmu", True)])
def test_attention_and_logits_are_the_published_ones(
    model: Showo, golden: dict[str, npt.NDArray[np.generic]], layout: str, image_first: bool
) -> None:
    ids = torch.from_numpy(golden[f"ids_{layout}"])
    real = (ids != model.config.special("<|pad|>")).numpy()
    allowed = attention_allowed(ids, model.config, image_first=image_first)
    np.testing.assert_array_equal(allowed.numpy()[:, 0][real], golden[f"allow_{layout}"][:, 0][real])
    with torch.no_grad():
        hidden, _ = model.hidden(ids, allowed)
        logits = model.logits(hidden, 0, model.config.vocab_size).numpy()
    np.testing.assert_allclose(logits[real], golden[f"logits_{layout}"][real], atol=1e-4)


def test_text_read_once_gives_the_same_image_logits(model: Showo, golden: dict[str, npt.NDArray[np.generic]]) -> None:
    """The text before an image never sees it, so its keys and values serve all decoding steps."""
    ids = torch.from_numpy(golden["ids_t2i"])
    allowed = attention_allowed(ids, model.config, image_first=False)
    with torch.no_grad():
        _, prefix = model.hidden(ids[:, :13], allowed[:, :, :13, :13])
        hidden, _ = model.hidden(ids[:, 13:], allowed[:, :, 13:], prefix)
        logits = model.logits(hidden, 0, model.config.vocab_size).numpy()
    np.testing.assert_allclose(logits, golden["logits_t2i"][:, 13:], atol=1e-4)


def test_published_size_has_the_published_keys_and_shapes() -> None:
    expected = json.loads((GOLDEN / "manifest.json").read_text())["showo"]
    with torch.device("meta"):
        model = Showo(ShowoConfig())
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == expected
