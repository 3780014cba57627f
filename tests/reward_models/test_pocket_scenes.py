"""The pocket renderer's promises: reproducible pictures, closed vocabulary, one-factor negatives, unseen pairs
unseen."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from sync_r1.reward_models.pocket.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    UNSEEN_PAIRS,
    WORDS,
    Accessory,
    Scene,
    Things,
    caption_pair,
    dense_caption,
    negatives,
    plan_caption,
    render,
    sample_scene,
    short_caption,
    write_caption,
)

SCENES = [sample_scene(np.random.default_rng(seed)) for seed in range(300)]


def test_same_seed_same_picture_and_another_seed_another_picture() -> None:
    for scene in SCENES[:20]:
        first = render(scene, np.random.default_rng(7))
        assert first.shape == (64, 64, 3)
        assert first.dtype == np.uint8
        np.testing.assert_array_equal(first, render(scene, np.random.default_rng(7)))
        assert (first != render(scene, np.random.default_rng(8))).any()


def test_every_kind_accessory_and_background_changes_many_pixels() -> None:
    def picture(**changes: object) -> np.ndarray:
        fields: dict[str, object] = {"kind": "cat", "colour": "red", "pattern": "plain", "background": "snow"}
        return render(Scene(**{**fields, **changes}), np.random.default_rng(0)).astype(int)  # type: ignore[arg-type]

    def changed(left: np.ndarray, right: np.ndarray) -> int:
        return int((np.abs(left - right).max(axis=-1) > 60).sum())

    by_kind = {kind: picture(kind=kind) for kind in KINDS}
    for one in KINDS:
        for two in KINDS:
            assert one == two or changed(by_kind[one], by_kind[two]) > 250, (one, two)
    for accessory in ("hat", "scarf", "glasses", "umbrella"):
        assert changed(picture(), picture(accessory=Accessory(accessory, "blue"))) > 100, accessory
    for background in BACKGROUNDS[1:]:
        assert changed(picture(background=BACKGROUNDS[0]), picture(background=background)) > 500, background


def test_negatives_differ_in_exactly_the_factor_they_name() -> None:
    rng = np.random.default_rng(0)
    seen: set[str] = set()
    for scene in SCENES:
        for factor, negative in negatives(scene, rng).items():
            seen.add(factor)
            changed = {field for field, value in asdict(scene).items() if asdict(negative)[field] != value}
            if factor == "colour_swap":
                assert changed in ({"colour", "accessory"}, {"colour", "things"})
            elif factor == "accessory":
                assert changed == {"accessory"}
                assert negative.accessory is None
            else:
                assert changed == {"things"}
                assert scene.things
                assert negative.things
                inner = {key for key, value in asdict(scene.things).items() if asdict(negative.things)[key] != value}
                assert inner == {factor}
            for style in ("short", "dense"):
                own, other = caption_pair(scene, negative, factor, rng, style)
                assert own != other
    assert seen == {"colour_swap", "count", "relation", "accessory"}


def test_captions_use_the_closed_vocabulary_only() -> None:
    rng = np.random.default_rng(0)
    known = {*WORDS, "<name>"}
    for scene in SCENES:
        for text in (
            short_caption(scene, rng),
            dense_caption(scene, rng),
            write_caption(scene, plan_caption(scene, rng, "facts")),
        ):
            assert set(text.split()) <= known, text


def test_relations_are_told_from_both_sides() -> None:
    scene = Scene("cat", "red", "plain", "snow", things=Things("ball", "blue", 2, "left of"))
    rng = np.random.default_rng(0)
    told = {dense_caption(scene, rng).split(" . ")[1] for _ in range(40)}
    assert told == {"two blue balls are left of the cat .", "the cat is right of two blue balls ."}


def test_unseen_pairs_are_drawn_only_when_asked_for() -> None:
    rng = np.random.default_rng(0)
    assert not any((scene.kind, scene.colour) in UNSEEN_PAIRS for scene in (sample_scene(rng) for _ in range(2000)))
    drawn = {(scene.kind, scene.colour) for scene in (sample_scene(rng, unseen=True) for _ in range(500))}
    assert drawn == UNSEEN_PAIRS
    assert {kind for kind, _ in UNSEEN_PAIRS} == set(KINDS)
    assert {colour for _, colour in UNSEEN_PAIRS} == set(COLOURS)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: Scene("horse", "red", "plain", "snow"), "kind must be one of boy"),
        (lambda: Things("ball", "red", 4, "above"), "count must be 1..3; got 4"),
    ],
)
def test_impossible_scenes_are_refused_with_what_was_expected(bad: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        bad()  # type: ignore[operator]
