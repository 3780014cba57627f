"""The image tokenizer gives the published network's numbers and takes its full size."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sync_r1.trainer_client.policies.showo.image_tokenizer import Magvit, MagvitConfig
from sync_r1.trainer_client.policies.showo.image_tokenizer_layers import StageSizes

SHARED = Path(os.environ.get("SYNC_R1_SHARED", Path(__file__).parents[3].parent / "shared" / "data"))
GOLDEN = SHARED / "showo_golden"
golden_needed = pytest.mark.skipif(not GOLDEN.exists(), reason="golden values of Show-o are not in this checkout")


@pytest.fixture(scope="module")
def golden_tokenizer() -> Magvit:
    raw = json.loads((GOLDEN / "config.json").read_text())
    stages = [
        StageSizes(raw[name]["ch"], tuple(raw[name]["ch_mult"]), tuple(raw[name]["num_res_blocks"]))
        for name in ("encoder", "decoder")
    ]
    model = Magvit(MagvitConfig(stages[0], stages[1], bits=raw["encoder"]["z_channels"], image_size=64))
    model.load_weights(GOLDEN / "tokenizer.safetensors")
    return model


@pytest.fixture(scope="module")
def golden() -> dict[str, npt.NDArray[np.generic]]:
    with np.load(GOLDEN / "golden.npz") as arrays:
        return dict(arrays)


@golden_needed
def test_tokenizer_gives_the_published_numbers(
    golden_tokenizer: Magvit, golden: dict[str, npt.NDArray[np.generic]]
) -> None:
    with torch.no_grad():
        hidden = golden_tokenizer.encoder(torch.from_numpy(golden["tok_pixels"]))
        quantised = golden_tokenizer.quantize(hidden)
        codes = golden_tokenizer.quantize.codes(hidden)
        decoded = golden_tokenizer.decoder(golden_tokenizer.quantize.values(codes, 4))
    np.testing.assert_allclose(hidden, golden["tok_hidden"], atol=1e-4)
    np.testing.assert_allclose(quantised, golden["tok_quantised"], atol=1e-6)
    np.testing.assert_array_equal(codes, golden["tok_indices"])
    np.testing.assert_allclose(decoded, golden["tok_decoded"], atol=1e-4)


@golden_needed
def test_published_size_has_the_published_keys_and_shapes() -> None:
    expected = json.loads((GOLDEN / "manifest.json").read_text())["magvitv2"]
    with torch.device("meta"):
        model = Magvit(MagvitConfig())
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == expected
    assert MagvitConfig().grid == 32


def test_pictures_of_another_size_are_refused_with_both_sizes_named() -> None:
    sizes = StageSizes(32, (1, 1), (1, 1))
    model = Magvit(MagvitConfig(sizes, sizes, bits=4, image_size=32, patch=4))
    with pytest.raises(ValueError, match=r"\(N, 32, 32, 3\).*\(1, 16, 16, 3\)"):
        model.encode(np.zeros((1, 16, 16, 3), np.uint8))


def test_codes_survive_a_round_trip_through_values_and_file(tmp_path: Path) -> None:
    sizes = StageSizes(32, (1, 1), (1, 1))
    model = Magvit(MagvitConfig(sizes, sizes, bits=5, image_size=32, patch=4)).eval()
    codes = torch.randint(0, 32, (3, 16))
    assert torch.equal(model.quantize.codes(model.quantize.values(codes, 4)), codes)
    model.save(tmp_path / "tokenizer.safetensors", dtype=torch.float32)
    again = Magvit.load(tmp_path / "tokenizer.safetensors")
    assert again.config == model.config
    np.testing.assert_array_equal(again.decode(codes), model.decode(codes))
