"""The checked-in pocket models: what goes in and out, that graphs equal the torch models, and that they measure what
they should."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sync_r1.reward_models.pocket.tokenizer import CONTEXT_LENGTH, END_ID, PAD_ID, UNKNOWN_ID, encode
from sync_r1.reward_models.pocket.world.attributes import labels, scene_from
from sync_r1.reward_models.pocket.world.distort import FAULTS, degrade, soften
from sync_r1.reward_models.pocket.world.scenes import Accessory, Scene, Things, dense_caption, render, sample_scene

ARTEFACTS = Path(__file__).parents[2] / "reward_models" / "pocket" / "artefacts"


def _fresh(count: int, seed: int) -> tuple[list[Scene], np.ndarray]:
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng) for _ in range(count)]
    return scenes, np.stack([render(scene, rng) for scene in scenes])


def test_tokens_are_words_then_the_end_mark_then_padding() -> None:
    tokens = encode(["A red Cat.", "<bo> 's hat"])
    assert tokens.shape == (2, CONTEXT_LENGTH)
    assert tokens.dtype == np.int64
    assert list((tokens != PAD_ID).sum(axis=1)) == [5, 4]
    assert tokens[0, 4] == END_ID == tokens.max()
    assert tokens[1, 0] == UNKNOWN_ID
    np.testing.assert_array_equal(tokens[0], encode(["a red cat ."])[0])
    np.testing.assert_array_equal(encode(["the cat's hat"]), encode(["the cat 's hat"]))


def test_texts_that_do_not_fit_are_refused_with_the_limit() -> None:
    with pytest.raises(ValueError, match=r"texts\[1\] has 70 words; the limit of pocket-clip is 63"):
        encode(["a cat", "cat " * 70])
    with pytest.raises(ValueError, match=r"texts\[0\] has no words"):
        encode(["  "])


def test_labels_and_scene_are_each_others_inverse() -> None:
    for scene in _fresh(200, 1)[0]:
        assert scene_from(labels(scene)) == scene


def test_distortions_keep_shape_and_a_severer_fault_is_farther_away() -> None:
    _, pictures = _fresh(40, 2)
    rng = np.random.default_rng(0)
    for picture in pictures:
        assert soften(picture, rng).shape == picture.shape
    for fault in FAULTS:
        mild, severe = (
            np.mean(
                [np.abs(degrade(picture, fault, severity, rng).astype(int) - picture).mean() for picture in pictures]
            )
            for severity in (0.0, 1.0)
        )
        assert min(mild, severe) > 0, fault
        if fault != "cut_off":  # moving the figure farther out does not move its pixels farther from the original's
            assert severe > 1.2 * mild, fault
    with pytest.raises(ValueError, match="fault must be one of blur"):
        degrade(pictures[0], "rust", 0.5, rng)


def test_graphs_give_what_the_torch_models_give() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("open_clip")
    pytest.importorskip("onnxruntime")
    from sync_r1.reward_models.pocket.clip import load_pocket_clip, pixels_to_input
    from sync_r1.reward_models.pocket.training.aesthetic import load_aesthetic
    from sync_r1.reward_models.pocket.training.validity import Graph

    clip, head = load_pocket_clip(), load_aesthetic()
    scenes, pictures = _fresh(9, 3)
    rng = np.random.default_rng(0)
    tokens = encode([dense_caption(scene, rng) for scene in scenes])
    with torch.no_grad():
        image = clip.encode_image(pixels_to_input(torch.from_numpy(pictures)), normalize=True)
        expected = {
            "pocket_clip_image": [image],
            "pocket_clip_text": [clip.encode_text(torch.from_numpy(tokens), normalize=True)],
            "pocket_aesthetic": [head(image), image],
        }
    for name, outputs in expected.items():
        session = Graph(ARTEFACTS / f"{name}.onnx").session
        feed = {session.get_inputs()[0].name: tokens if name == "pocket_clip_text" else pictures}
        for got, wanted in zip(session.run(None, feed), outputs, strict=True):
            np.testing.assert_allclose(got, wanted.numpy(), atol=1e-4)


def test_the_oracle_reads_fresh_scenes_and_judges_concept_and_condition() -> None:
    pytest.importorskip("torch")
    from sync_r1.reward_models.pocket.oracle import Oracle, success

    oracle = Oracle.load()
    cat = Scene("cat", "red", "striped", "snow", Accessory("hat", "green"), Things("ball", "yellow", 1, "left of"))
    picture = render(cat, np.random.default_rng(5))
    (reading,) = oracle.read(picture[None])
    assert reading.scene == cat
    assert min(reading.confidence.values()) > 0.5
    assert success(reading, cat, Accessory("hat", "green"))
    assert success(reading, cat, "snow")
    assert success(reading, cat, Things("ball", "yellow", 3, "above"))
    assert not success(reading, cat, Accessory("hat", "blue"))
    assert not success(reading, cat, "beach")
    assert not success(reading, Scene("cat", "red", "plain", "snow"), "snow")
    with pytest.raises(ValueError, match="the oracle reads uint8 pictures"):
        oracle.read(picture[None].astype(np.float32))


def test_faulty_pictures_are_rated_below_clean_ones() -> None:
    pytest.importorskip("onnxruntime")
    from sync_r1.reward_models.pocket.training.validity import Graph

    rate = Graph(ARTEFACTS / "pocket_aesthetic.onnx")
    _, pictures = _fresh(64, 4)
    rng = np.random.default_rng(0)
    clean = rate(pictures)[:, 0].mean()
    for fault in FAULTS:
        spoilt = rate(np.stack([degrade(picture, fault, 0.7, rng) for picture in pictures]))[:, 0].mean()
        assert spoilt < clean - 1, fault


def test_the_measured_validity_meets_its_targets() -> None:
    report = json.loads((ARTEFACTS / "validity.json").read_text())
    assert report["scenes"] >= 2048
    for pairs in ("seen_pairs", "unseen_pairs"):
        for style in ("short", "dense"):
            figures = report[pairs]["pocket_clip"][style]
            assert figures["top1_of_32"] >= 0.90, (pairs, style)
            for factor in ("colour_swap", "count", "relation", "accessory"):
                assert figures[factor] >= 0.85, (pairs, style, factor)
        assert report[pairs]["pocket_aesthetic"]["clean_vs_degraded_auc"] >= 0.95
    for part in ("concept", "accessory", "success"):
        assert report["seen_pairs"]["oracle"][part] >= 0.95
        assert report["seen_pairs_reconstructed"]["oracle"][part] >= 0.90


def test_the_artefacts_stay_small() -> None:
    assert sum(path.stat().st_size for path in ARTEFACTS.iterdir()) <= 15_000_000


@pytest.mark.slow
def test_training_with_the_same_seed_gives_the_same_oracle() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("open_clip")
    from sync_r1.reward_models.pocket.training.train_oracle import train_oracle

    first, second = (train_oracle(2, seed=1, pool=None, start_from=None).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_batches_mix_in_reconstructions_and_negatives_never_repeat_the_caption() -> None:
    pytest.importorskip("torch")
    from sync_r1.reward_models.pocket.training.batches import ReconstructedPool, clip_batch

    rng = np.random.default_rng(0)
    pool = ReconstructedPool(np.zeros_like, 8, rng)
    batch = clip_batch(20, 4, rng, pool)
    from_pool = (batch.pixels_N == 0).all(axis=(1, 2, 3))
    assert 0 < from_pool.sum() < 20
    assert not from_pool[1::2].any()  # near misses are always rendered
    own, wrong = batch.tokens_3N_L[:40], batch.tokens_3N_L[40:].reshape(40, 2, -1)
    assert (own[:, None] != wrong).any(axis=-1).all()
    assert (own[0::2] != own[1::2]).any(axis=-1).all()
