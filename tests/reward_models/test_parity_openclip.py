"""CLIP, SigLIP, HPSv2.1 and LAION v2 equal open_clip: from encoded picture and text to the score, on equal weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import parity
import pytest
import torch
from open_clip.transform import image_transform
from parity import HALF_TOLERANCE, MUTANTS, SIZE, TOLERANCE, largest

from benchmarks.originals import TEXTS, encoded, hpsv2_transform, opened
from sync_r1.reward_models.inputs.encoders import cosine
from sync_r1.reward_models.published.parts import Normalise
from sync_r1.reward_models.published.texts import clip_text_encoder, siglip_clean, siglip_text_encoder

MODELS = ("clip_vit_b_32", "clip_vit_h_14", "hps_v2_1", "siglip_vit_b_16", "laion_v2")


def side(name: str) -> int:
    return 160 if name == "siglip_vit_b_16" else SIZE


def original_transform(name: str) -> Any:
    config = parity.tiny(name).config
    if name == "hps_v2_1":
        return lambda image: hpsv2_transform(image, SIZE, config["mean"], config["std"])
    mode = "squash" if name == "siglip_vit_b_16" else "shortest"
    return image_transform(side(name), is_train=False, mean=config["mean"], std=config["std"], resize_mode=mode)


def image_key(name: str) -> str:
    return "score" if name == "laion_v2" else "image"


@pytest.mark.parametrize("name", MODELS)
def test_input_tensors_equal_the_originals_and_every_mutant_differs_tenfold(tiny: Any, name: str) -> None:
    exported, transform = tiny(name), original_transform(name)
    normalise = Normalise(exported.model.config["mean"], exported.model.config["std"])
    ours = normalise(torch.from_numpy(exported.pixels(image_key(name))))
    theirs = torch.stack([transform(opened(data)) for data in encoded()])
    assert largest(ours, theirs) <= TOLERANCE
    preprocessing = exported.model.graphs[image_key(name)].preprocessing
    for kind in MUTANTS:
        wrong = [parity.mutant(kind, np.asarray(opened(data)), preprocessing, side(name)) for data in encoded()]
        assert largest(normalise(torch.from_numpy(np.stack(wrong))), theirs) > 10 * TOLERANCE, kind


@pytest.mark.parametrize("name", ["clip_vit_b_32", "clip_vit_h_14", "hps_v2_1"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", TOLERANCE), ("fp16", HALF_TOLERANCE)])
def test_cosines_of_pictures_and_texts_equal_open_clips(tiny: Any, name: str, precision: str, tolerance: float) -> None:
    exported, transform = tiny(name, precision), original_transform(name)
    clip = exported.original.clip
    with torch.no_grad():
        images = clip.encode_image(torch.stack([transform(opened(data)) for data in encoded()]), normalize=True)
        texts = clip.encode_text(open_clip.SimpleTokenizer()(list(TEXTS)), normalize=True)
    ours_images = exported.run("image", {"pixels": exported.pixels("image")})["embedding"]
    ours_texts = exported.run("text", clip_text_encoder(exported.graph("text")).encode(TEXTS))["embedding"]
    assert largest(ours_images, images) <= tolerance
    assert largest(ours_texts, texts) <= tolerance
    scores = [[cosine(image, text) for text in ours_texts] for image in ours_images]
    assert largest(scores, images @ texts.T) <= tolerance
    for kind in MUTANTS:
        preprocessing = exported.model.graphs["image"].preprocessing
        wrong = [parity.mutant(kind, np.asarray(opened(data)), preprocessing, SIZE) for data in encoded()]
        got = exported.run("image", {"pixels": np.stack(wrong)})["embedding"]
        assert largest(got, images) > 10 * TOLERANCE, kind


def test_siglips_cosines_equal_open_clips(tiny: Any) -> None:
    exported, transform = tiny("siglip_vit_b_16"), original_transform("siglip_vit_b_16")
    clip = exported.original.clip
    tokens = torch.randint(2, 1000, (5, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        images = clip.encode_image(torch.stack([transform(opened(data)) for data in encoded()]), normalize=True)
        texts = clip.encode_text(tokens, normalize=True)
    ours_images = exported.run("image", {"pixels": exported.pixels("image")})["embedding"]
    ours_texts = exported.run("text", {"tokens": tokens.numpy()})["embedding"]
    assert largest(ours_images @ ours_texts.T, images @ texts.T) <= TOLERANCE


def test_siglips_texts_are_cleaned_cut_and_padded_as_open_clip_does(tiny: Any, tmp_path: Path) -> None:
    """Its sentence pieces are the publisher's; here another tokenizer stands in their place, with its end at 1."""
    from open_clip.tokenizer import get_clean_fn
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    clean = get_clean_fn("canonicalize")
    assert [siglip_clean(text) for text in TEXTS] == [clean(text) for text in TEXTS]
    words = sorted({word for text in TEXTS for word in clean(text).split()})
    vocabulary = {"<pad>": 0, "</s>": 1} | {word: number + 2 for number, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = Whitespace()
    graph = replace(tiny("siglip_vit_b_16").graph("text"), file=tmp_path / "siglip.onnx")
    tokenizer.save(str(graph.file.with_name(f"{graph.name}.tokenizer.json")))
    tokens = siglip_text_encoder(graph).encode(TEXTS)["tokens"]
    assert tokens.shape == (len(TEXTS), 64)
    assert (tokens[:, -1] == 1).all(), "the end stands even where the text was cut"
    assert tokens[4, 1:].tolist() == [1] * 63


def test_clips_tokens_equal_open_clips_for_any_text(tiny: Any) -> None:
    from hypothesis import given, settings
    from hypothesis import strategies as st

    graph, original = tiny("clip_vit_b_32").graph("text"), open_clip.SimpleTokenizer()

    # What no Unicode has assigned yet, different versions of Unicode split differently.
    assigned = st.characters(exclude_categories=("Cn", "Cs", "Co"))

    @given(st.lists(st.text(assigned, max_size=200), min_size=1, max_size=4))
    @settings(max_examples=150, deadline=None)
    def equal(texts: list[str]) -> None:
        assert clip_text_encoder(graph).encode(texts)["tokens"].tolist() == original(texts).tolist()

    equal()
    assert clip_text_encoder(graph).encode(TEXTS)["tokens"].tolist() == original(list(TEXTS)).tolist()


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", TOLERANCE), ("fp16", HALF_TOLERANCE)])
def test_laions_rating_equals_its_linear_maps_on_open_clips_embedding(
    tiny: Any, precision: str, tolerance: float
) -> None:
    exported, transform = tiny("laion_v2", precision), original_transform("laion_v2")
    clip, head = exported.original.clip, exported.original.head
    with torch.no_grad():
        rating = clip.encode_image(torch.stack([transform(opened(data)) for data in encoded()]), normalize=True)
        for number in (0, 2, 4, 6, 7):  # the keys of the released head: maps with dropout between them
            weights = head.state_dict()
            rating = rating @ weights[f"layers.{number}.weight"].T + weights[f"layers.{number}.bias"]
    got = exported.run("score", {"pixels": exported.pixels("score")})["score"]
    assert got.shape == (len(encoded()), 1)
    assert largest(got, rating) <= tolerance


def test_hpsv2s_own_code_gave_the_same_inputs() -> None:
    golden = np.load(Path(__file__).parents[1] / "fixtures" / "hpsv2.npz")
    for number, data in enumerate(encoded()[:2]):
        stored = golden[f"input_{number}"]  # in half precision
        assert largest(original_transform("hps_v2_1")(opened(data))[:, ::4, ::4], stored) <= 2e-3


def test_the_pin_says_that_weights_are_random(tiny: Any) -> None:
    pin = json.loads((tiny("clip_vit_b_32").folder / "clip_vit_b_32_image.onnx.json").read_text())
    assert "random" in pin["source"]
    assert pin["source_weights_sha256"] == ""


@pytest.mark.slow
def test_vit_b_32_in_full_size_equals_open_clip(tmp_path: Path) -> None:
    exported = parity.export(parity.tiny("clip_vit_b_32"), tmp_path)
    clip, config = exported.original.clip, exported.model.config
    transform = image_transform(224, is_train=False, mean=config["mean"], std=config["std"])
    with torch.no_grad():
        images = clip.encode_image(torch.stack([transform(opened(data)) for data in encoded()]), normalize=True)
        texts = clip.encode_text(open_clip.SimpleTokenizer()(list(TEXTS)), normalize=True)
    ours_images = exported.run("image", {"pixels": exported.pixels("image")})["embedding"]
    ours_texts = exported.run("text", clip_text_encoder(exported.graph("text")).encode(TEXTS))["embedding"]
    assert largest(ours_images @ ours_texts.T, images @ texts.T) <= TOLERANCE
