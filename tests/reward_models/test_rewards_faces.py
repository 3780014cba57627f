"""Rewards by faces: who is compared with whom, by what, and what happens where there is no face.

The formulas need embeddings whose likeness is known and faces that one detector sees and the other does not, so the
graphs' outputs are told by the picture's grey here; that real graphs find real faces, `test_library_graphs.py` tests.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np
import pytest
import yaml

from sync_r1.reward_models.images import from_raw
from sync_r1.reward_models.profiles import load_profile
from sync_r1.reward_models.releases import GraphPin, Release
from sync_r1.reward_models.rewards.base import Reward
from sync_r1.reward_models.rewards.faces import ramp
from sync_r1.reward_models.runner import RunContext, RunResult, Tensors
from sync_r1.reward_models.types import Concept, Failure, FailureCode, NotApplicable, Outcome, Picture, Sample, Score

# A grey is a picture: whether each detector finds a face in it, and the angle of its embeddings, degrees.
BOTH, MTCNN_ONLY, DLIB_ONLY, NONE = "both", "mtcnn", "dlib", "none"
GREYS: dict[int, tuple[str, float]] = {
    10: (BOTH, 0.0), 20: (BOTH, 30.0), 30: (BOTH, 75.0), 40: (MTCNN_ONLY, 20.0), 50: (DLIB_ONLY, 20.0),
    60: (NONE, 10.0), 70: (NONE, 80.0),
}  # fmt: skip


def grey(value: int) -> Picture:
    return from_raw(bytes([value]) * (8 * 8 * 3), 8, 8)


def direction(grey: int, width: int) -> np.ndarray:
    vector = np.zeros(width, np.float32)
    vector[:2] = math.cos(math.radians(GREYS[grey][1])), math.sin(math.radians(GREYS[grey][1]))
    return vector


class Told:
    """A GraphRunner whose outputs follow `GREYS`; counts the items of each graph."""

    def __init__(self) -> None:
        self.items: dict[str, int] = {}

    async def run(self, context: RunContext, graph: str, inputs: Tensors) -> RunResult:
        greys = [int(pixels[0, 0, 0]) for pixels in inputs["pixels"]]
        self.items[graph] = self.items.get(graph, 0) + len(greys)
        return RunResult(self._outputs(graph, greys), 1, 0)

    def _outputs(self, graph: str, greys: list[int]) -> Mapping[str, np.ndarray]:
        if graph == "mtcnn":
            found = [[float(GREYS[g][0] in (BOTH, MTCNN_ONLY))] for g in greys]
            return {
                "found": np.array(found, np.float32),
                "face160": np.stack([np.full((160, 160, 3), g, np.uint8) for g in greys]),
                "face112": np.stack([np.full((112, 112, 3), g, np.uint8) for g in greys]),
            }
        embedding = np.stack([direction(g, 128 if graph == "dlib_face" else 512) for g in greys])
        found = [[float(GREYS[g][0] in (BOTH, DLIB_ONLY))] for g in greys]
        return {"found": np.array(found, np.float32), "embedding": embedding}


def variant(profile: str, name: str) -> Reward:
    return load_profile(profile).rewards["concept-consistency"].variants[name]


def sample(image: int, *references: int, kind: str = "person") -> Sample:
    return Sample(
        image=grey(image),
        concept=Concept("<bo>", "man", tuple(map(grey, references)), conversation_type=kind),
    )


async def score(reward: Reward, *samples: Sample, runner: Told | None = None) -> list[Outcome]:
    pins = tuple(GraphPin(graph, 1, "0" * 64) for graph in reward.graphs)
    context = RunContext(Release("concept-consistency", "v", "1", pins), time.monotonic() + 10)
    return await reward.score(samples, runner or Told(), context)


def assert_scored(outcome: Outcome, value: float, components: dict[str, float]) -> None:
    assert isinstance(outcome, Score)
    assert outcome.value == pytest.approx(value, abs=1e-6)
    assert outcome.components == pytest.approx(components, abs=1e-6)


def cos(a: int, b: int) -> float:
    return math.cos(math.radians(GREYS[a][1] - GREYS[b][1]))


def close(a: int, b: int) -> float:
    return 1 - 2 * math.sin(math.radians(abs(GREYS[a][1] - GREYS[b][1])) / 2)


def test_the_ramp_is_the_releases() -> None:
    assert [ramp(x) for x in (-1, 0.4999, 0.5, 0.75, 1)] == [0, 0, 0, 0.5, 1]
    assert math.isnan(ramp(float("nan")))


async def test_sync_r1_weighs_both_likenesses_of_a_person_each_ramped_before_the_mean() -> None:
    (outcome,) = await score(variant("faces", "sync_r1"), sample(10, 20, 30, 60))
    facenet = (ramp(cos(10, 20)) + ramp(cos(10, 30))) / 2
    dlib = (ramp(close(10, 20)) + ramp(close(10, 30))) / 2
    assert isinstance(outcome, Score)
    assert outcome.components == pytest.approx({"facenet": facenet, "dlib": dlib}, abs=1e-6)
    assert outcome.value == pytest.approx(0.7 * facenet + 0.3 * dlib, abs=1e-6)
    assert ramp(cos(10, 30)) == 0, "ramping the mean instead would give another number"


async def test_sync_r1_takes_the_one_that_sees_a_face_on_both_sides_and_clip_where_none_does() -> None:
    samples = [
        sample(40, 10),  # only MTCNN sees the picture's face
        sample(50, 10),  # only dlib does
        sample(10, 40),  # only MTCNN sees the reference's
        sample(60, 10),  # nobody does
        sample(10, 60, 70),  # no reference with a face
        sample(40, 50),  # each sees another side
    ]
    outcomes = await score(variant("faces", "sync_r1"), *samples)
    made_of = [list(outcome.components) for outcome in outcomes if isinstance(outcome, Score)]
    assert made_of == [["facenet"], ["dlib"], ["facenet"], ["clip"], ["clip"], ["clip"]]
    values = [outcome.value for outcome in outcomes if isinstance(outcome, Score)]
    expected = [
        ramp(cos(40, 10)), ramp(close(50, 10)), ramp(cos(10, 40)), ramp(cos(60, 10)),
        ramp((cos(10, 60) + cos(10, 70)) / 2), ramp(cos(40, 50)),
    ]  # fmt: skip
    assert values == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["animal", "object", "Animal "])
async def test_sync_r1_compares_anything_else_by_clip_and_looks_for_no_face(kind: str) -> None:
    runner = Told()
    (outcome,) = await score(variant("faces", "sync_r1"), sample(10, 20, kind=kind), runner=runner)
    assert_scored(outcome, ramp(cos(10, 20)), {"clip": ramp(cos(10, 20))})
    assert set(runner.items) == {"clip_vit_b_32_image"}, "whatever the class noun says"


async def test_faces_decide_without_clip_and_each_picture_is_searched_once() -> None:
    runner = Told()
    samples = [sample(10, 20, 30), sample(10, 20, 30), sample(20, 10, kind="human")]
    await score(variant("faces", "sync_r1"), *samples, runner=runner)
    assert runner.items == {"mtcnn": 3, "dlib_face": 3, "facenet": 3}


async def test_without_a_type_of_concept_the_cure_is_named_and_nobody_is_routed() -> None:
    for profile, name in (("faces", "sync_r1"), ("arcface", "arcface"), ("scorers", "dlib_face")):
        (outcome,) = await score(variant(profile, name), sample(10, 20, kind=""))
        assert isinstance(outcome, Failure)
        assert (outcome.code, outcome.field) == (FailureCode.MISSING_FIELD, "concept.conversation_type")
        assert '"person"' in outcome.message


async def test_arcface_compares_largest_faces_and_knows_three_kinds_of_nothing() -> None:
    samples = [sample(10, 20, 30, 60), sample(60, 20), sample(10, 60, 70), sample(10, 20, kind="animal")]
    scored, faceless, no_reference, animal = await score(variant("arcface", "arcface"), *samples)
    assert_scored(scored, (cos(10, 20) + cos(10, 30)) / 2, {"face_found": 1.0, "reference_faces": 2.0})
    assert faceless == Score(0.0, {"face_found": 0.0, "reference_faces": 1.0}), "a measured 0"
    assert isinstance(no_reference, Failure)
    assert (no_reference.code, no_reference.field) == (FailureCode.BAD_REFERENCE, "concept.references")
    assert isinstance(animal, NotApplicable)


async def test_dlib_alone_is_one_minus_the_distance() -> None:
    scored, faceless = await score(variant("scorers", "dlib_face"), sample(10, 20, 30), sample(40, 10))
    assert_scored(scored, (close(10, 20) + close(10, 30)) / 2, {"face_found": 1.0, "reference_faces": 2.0})
    assert faceless.value == 0


async def test_a_broken_embedding_is_a_failure_on_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GREYS, 10, (BOTH, float("nan")))
    for profile, name in (("faces", "sync_r1"), ("arcface", "arcface"), ("scorers", "dlib_face")):
        bad, good = await score(variant(profile, name), sample(10, 20), sample(20, 30))
        assert isinstance(bad, Failure), name
        assert bad.code == FailureCode.NON_FINITE
        assert isinstance(good, Score)
    (outcome,) = await score(variant("faces", "sync_r1"), sample(10, 20, kind="object"))
    assert isinstance(outcome, Failure)


async def test_order_changes_nothing() -> None:
    samples = [sample(10, 20), sample(60, 10), sample(20, 30, kind="object"), sample(50, 10)]
    forwards = await score(variant("faces", "sync_r1"), *samples)
    backwards = await score(variant("faces", "sync_r1"), *reversed(samples))
    assert forwards == backwards[::-1]


def test_a_profile_that_mixes_up_face_graphs_is_refused_by_name(tmp_path) -> None:
    from sync_r1.reward_models.types import ProfileError

    file = {
        "name": "wrong", "base": "scorers",
        "graphs": {"brisque": {"library": "brisque"}, "mtcnn": {"library": "mtcnn"}},
        "rewards": {
            "concept-consistency": {
                "default": "x",
                "variants": {"x": {"kind": "face", "detector": "brisque", "card": {
                    "summary": "s", "source": "s", "licence": "l"}}},
            }
        },
    }  # fmt: skip
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(file))
    with pytest.raises(ProfileError, match=r"'brisque' does not fit here: expected a library graph with outputs found"):
        load_profile(str(path))
    file["rewards"]["concept-consistency"]["variants"]["x"]["detector"] = "mtcnn"
    path.write_text(yaml.safe_dump(file))
    with pytest.raises(ProfileError, match=r"'mtcnn' does not fit here: .*outputs found, embedding"):
        load_profile(str(path))
