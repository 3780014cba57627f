"""`kind: python` in a profile: what is wrong is one sentence with its key, and the release covers what will be run."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from own_functions import REWARD, VARIANT, served, write_distribution, write_profile

from sync_r1.reward_models.backends.local import LocalRunner
from sync_r1.reward_models.backends.repository import write_repository
from sync_r1.reward_models.profiles import load_profile
from sync_r1.reward_models.python_code import frames
from sync_r1.reward_models.python_code.fields import FIELDS
from sync_r1.reward_models.rewards.fields import is_present, missing_field
from sync_r1.reward_models.runner import RunContext
from sync_r1.reward_models.types import (
    Concept,
    Failure,
    FailureCode,
    GraphError,
    NotApplicable,
    Outcome,
    Picture,
    ProfileError,
    Sample,
    Score,
)  # fmt: skip

WELL = "def score(answer: str) -> float:\n    return float(len(answer))\n"


@pytest.mark.parametrize(
    ("source", "function", "sentence"),
    [
        (WELL, "nowhere_at_all:score", r"there is no module 'nowhere_at_all': it lies neither in .* nor where"),
        (WELL, "json:dumps", "function: 'json' is a module of Python's own"),
        (WELL, "own:scor", r"own\.py has no 'scor'; it defines 'score'"),
        (WELL, "own", "String should match pattern"),
        ("def score(answer: str", "own:score", r"own\.py, line 1: '\(' was never closed"),
        ("score = len", "own:score", r"own\.py, line 1: 'score' is not defined there but made in another way"),
        ("def score(anser: str): ...", "own:score", r"`anser` is no field of a sample; the fields are 'answer', "),
        ("def score(answer: str, id: str): ...", "own:score", "`id` is no field of a sample"),
        ("def score(concept: str): ...", "own:score", "`concept` is no field of a sample; name its parts"),
        ("def score(answer): ...", "own:score", "`answer` has no type; expected `str`, or a list of that for a batch"),
        ("def score(answer: float): ...", "own:score", "`answer` is annotated `float`; expected `str`"),
        ("def score(answer: str, prompt: list[str]): ...", "own:score", "`prompt` is a list of items, but `answer` is"),
        ("def score(answer: list[str], prompt: list[str] = ()): ...", "own:score", "a default, which a batch cannot"),
        ("def score(answer: str, image: 'np.ndarray' = None): ...", "own:score", "pictures always come"),
        ("def score(*answer: str): ...", "own:score", "arguments without a name"),
        ("def score(answer: str, /): ...", "own:score", "arguments without a name"),
        ("async def score(answer: str): ...", "own:score", "score is `async`; expected a plain `def`"),
        ("def score(): ...", "own:score", "score takes no field of a sample; the fields are image, prompt"),
        ("class Scorer: ...", "own:Scorer", "class Scorer has no `__call__`"),
        ("class Scorer:\n def __init__(self, size): ...\n def __call__(self, answer: str): ...", "own:Scorer",
         "Scorer needs the argument 'size'; give it under the key `arguments`"),
    ],
)  # fmt: skip
def test_what_is_no_reward_is_said_in_one_sentence_with_its_key(
    tmp_path: Path, source: str, function: str, sentence: str
) -> None:
    with pytest.raises(ProfileError, match=sentence) as caught:
        served(tmp_path, source, function=function, judges="answer")
    assert f"own.yaml: rewards.{REWARD}.variants.{VARIANT}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"card": {"summary": "s"}}, r"variants\.mine\.card\.source: Field required"),
        ({"card": {"summary": "s", "source": "s"}}, "a card needs a `licence`"),
        ({"arguments": {"weigth": 1}}, r"score takes no argument 'weigth' \(key `arguments`\)"),
        ({"device": "cuda"}, "device: own:score has no constructor with an argument `device`"),
        ({"timeout": 3}, "there is no key 'timeout' here; there are 'timeout_s'"),
        ({"timeout_s": 0}, r"timeout_s: .*greater than 0"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ProfileError, match=sentence):
        served(tmp_path, WELL, judges="answer", **keys)


def test_a_missing_card_is_named(tmp_path: Path) -> None:
    file = write_profile(tmp_path, WELL, judges="answer")
    profile = yaml.safe_load(file.read_text())
    del profile["rewards"][REWARD]["variants"][VARIANT]["card"]
    file.write_text(yaml.safe_dump(profile))
    with pytest.raises(ProfileError, match=rf"own\.yaml: rewards\.{REWARD}\.variants\.{VARIANT}\.card: Field required"):
        load_profile(str(file))


def test_a_profile_is_read_without_running_its_function(tmp_path: Path) -> None:
    assert served(tmp_path, f"raise SystemExit\n{WELL}", judges="answer").variants[VARIANT].card.reward == REWARD


def test_required_fields_are_the_arguments_without_a_default(tmp_path: Path) -> None:
    source = (
        "import PIL.Image\nfrom typing import Optional\n"
        "def score(image: PIL.Image.Image, concept_references: 'list[PIL.Image.Image]', nouns: list[str],\n"
        "          metadata: dict[str, str], question: Optional[str] = None, scale: float = 1): ...\n"
    )
    card = served(tmp_path, source).variants[VARIANT].card
    assert card.required_fields == ("image", "concept.references", "nouns")
    assert json.loads(card.to_json())["required_fields"] == ["image", "concept.references", "nouns"]


def test_a_function_may_be_passed_on_and_inherited(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "__init__.py").write_text("from .inner import Base as Scorer\n")
    (tmp_path / "parts" / "inner.py").write_text(
        "from dataclasses import dataclass\nclass Root:\n def __call__(self, answer: str): return self.size\n"
        "@dataclass\nclass Base(Root):\n  size: float\n"
    )
    reward = served(tmp_path, "from parts import Scorer", function="own:Scorer", judges="answer", arguments={"size": 2})
    assert scored(tmp_path, [Sample(answer="a")]) == [Score(2.0)]
    assert reward.variants[VARIANT].card.required_fields == ("answer",)


def digest(folder: Path, source: str = WELL, **keys: Any) -> str:
    return served(folder, source, judges="answer", **keys).release(VARIANT).digest


def test_the_release_changes_with_the_source_the_function_and_its_arguments(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "__init__.py").write_text("")
    (tmp_path / "parts" / "deep.py").write_text("RATE = 1.0\n")
    (tmp_path / "unused.py").write_text("")
    source = (
        "def score(answer: str, rate: float = 1):\n    from parts.deep import RATE\n    return RATE\n\nother = score\n"
    )
    source += "def again(answer: str): return 1\n"
    digests = [digest(tmp_path, source)]
    assert digest(tmp_path, source) == digests[0], "the same sources, the same release"
    (tmp_path / "unused.py").write_text("changed = True\n")
    assert digest(tmp_path, source, workers=3, timeout_s=4) == digests[0], "what is not run has no part in it"
    digests += [digest(tmp_path, source + "\n"), digest(tmp_path, source, function="own:again")]
    digests += [digest(tmp_path, source, arguments={"rate": 2.0}), digest(tmp_path, source, arguments={"rate": 3.0})]
    (tmp_path / "parts" / "deep.py").write_text("RATE = 2.0\n")
    digests.append(digest(tmp_path, source))
    (tmp_path / "parts" / "__init__.py").write_text("# a package\n")
    digests.append(digest(tmp_path, source))
    assert len(set(digests)) == len(digests)


def test_the_release_does_not_depend_on_where_the_profile_lies(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_an_installed_distribution_is_covered_by_its_version_and_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, here = tmp_path / "site", tmp_path / "here"
    here.mkdir()
    write_distribution(site, "1.0", WELL)
    monkeypatch.syspath_prepend(str(site))
    first = digest(here, function="team_rewards.scores:score")
    write_distribution(site, "1.1", WELL)
    second = digest(here, function="team_rewards.scores:score")
    write_distribution(site, "1.1", WELL + "# other\n")
    assert len({first, second, digest(here, function="team_rewards.scores:score")}) == 3


def scored(folder: Path, samples: list[Sample]) -> list[Outcome]:
    """By the function in this process."""
    profile = load_profile(str(folder / "own.yaml"))
    reward = profile.rewards[REWARD]
    with LocalRunner(profile) as runner:
        context = RunContext(reward.release(VARIANT), time.monotonic() + 60)
        try:
            return asyncio.run(reward.variants[VARIANT].score(samples, runner, context))
        finally:
            for name in ("own", "parts", "parts.inner"):
                sys.modules.pop(name, None)


def picture(grey: int) -> Picture:
    return Picture(np.full((2, 3, 3), grey, np.uint8), str(grey))


def test_every_field_of_a_sample_can_be_an_argument() -> None:
    names = {field.name for field in fields(Sample)} - {"concept", "id", "group"}
    names |= {f"concept.{field.name}" for field in fields(Concept)}
    assert {field.path for field in FIELDS.values()} == names
    for name, field in FIELDS.items():
        assert name == field.path.replace(".", "_")
        assert not is_present(Sample(), field.path)
        if field.needed:
            failure = missing_field(Sample(), [field.path])
            assert failure is not None
            assert failure.field == field.path


def test_every_field_comes_as_it_is_annotated(tmp_path: Path) -> None:
    source = """
import numpy as np
from PIL import Image

def score(image: Image.Image, prompt: str, question: str, answer: str, reference_answers: list[str],
          choices: list[str], target: int, nouns: list[str], concept_name: str, concept_class_noun: str,
          concept_references: list[np.ndarray], concept_info: str, concept_extra_info: list[str],
          concept_conversation_type: str, metadata: dict[str, str]):
    given = dict(locals())
    assert given.pop("image").size == (3, 2)
    (reference,) = given.pop("concept_references")
    assert reference.shape == (2, 3, 3) and reference.dtype == np.uint8 and reference[0, 0, 0] == 7
    assert given == {
        "prompt": "p", "question": "q", "answer": "", "reference_answers": ["r"], "choices": ["a", "b"], "target": 1,
        "nouns": ["n"], "concept_name": "<bo>", "concept_class_noun": "dog", "concept_info": "i",
        "concept_extra_info": ["e"], "concept_conversation_type": "animal", "metadata": {"a": "b"},
    }, given
    return 1
"""
    write_profile(tmp_path, source)
    concept = Concept("<bo>", "dog", (picture(7),), "i", ("e",), "animal")
    sample = Sample(
        "1", "", picture(5), "p", concept, "q", "", ("r",), ("a", "b"), 1, ("n",), {"a": "b"}
    )  # fmt: skip
    assert scored(tmp_path, [sample]) == [Score(1.0)]


def test_a_missing_field_is_that_items_failure_and_a_default_stands_in_for_an_optional_one(tmp_path: Path) -> None:
    source = "def score(answer: str, question: str = 'none'): return {'score': 1, 'n': len(question)}\n"
    write_profile(tmp_path, source, judges="answer")
    missing, default, given = scored(tmp_path, [Sample(), Sample(answer=""), Sample(answer="a", question="ab")])
    assert isinstance(missing, Failure)
    assert (missing.code, missing.field) == (FailureCode.MISSING_FIELD, "answer")
    assert (default, given) == (Score(1.0, {"n": 4.0}), Score(1.0, {"n": 2.0}))


def test_in_this_process_an_item_s_fault_is_its_failure_too(tmp_path: Path) -> None:
    source = "def score(answer: str): return {'raise': lambda: 1 / 0, 'none': lambda: None}.get(answer, lambda: 1)()\n"
    write_profile(tmp_path, source, judges="answer")
    good, failed, none = scored(tmp_path, [Sample(answer=answer) for answer in ("a", "raise", "none")])
    assert good == Score(1.0)
    assert isinstance(failed, Failure)
    assert "raised ZeroDivisionError (own.py, line 1" in failed.message
    assert isinstance(none, NotApplicable)


_TEXT = st.text(st.characters(exclude_categories=()), max_size=5)
_PICTURES = st.integers(1, 4).flatmap(lambda side: arrays(np.uint8, (side, 5 - side, 3)))


@given(
    st.lists(
        st.fixed_dictionaries(
            {"image": _PICTURES, "prompt": _TEXT, "choices": st.lists(_TEXT, max_size=3)},
            optional={"concept_references": st.lists(_PICTURES, max_size=3), "metadata": st.dictionaries(_TEXT, _TEXT)},
        ),
        max_size=4,
    )
)
def test_rows_reach_a_worker_as_they_were_given(rows: list[dict[str, Any]]) -> None:
    written = frames.write_rows(rows)
    sent = b"".join(frames.frame({"rows": written.rows, "shapes": written.shapes}, written.pixels))
    coming = io.BytesIO(sent)
    received = frames.receive(coming.readinto)
    assert received is not None
    message, pixels = received
    came = frames.read_rows(message["rows"], message["shapes"], pixels, {"image", "concept_references"})
    assert plain(came) == plain(rows)
    assert coming.read() == b""


def plain(value: Any) -> Any:
    """To be compared."""
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes()
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else value


def test_triton_is_not_told_of_functions(tmp_path: Path) -> None:
    write_repository(
        load_profile(str(write_profile(tmp_path, WELL, judges="answer"))), tmp_path / "m", backend="python"
    )
    assert list((tmp_path / "m").iterdir()) == []


def test_no_caller_can_name_a_function(tmp_path: Path) -> None:
    """What a request may say is in the contract: nothing of it is a module, a file or a function."""
    from sync_r1.protos.rewards.v1 import rewards_pb2

    fields = {field.name for field in rewards_pb2.ScoreRequest.DESCRIPTOR.fields}
    assert fields == {"variant", "release", "samples", "request_id"}
    with pytest.raises(GraphError):
        scored_under_another_release(tmp_path)


def scored_under_another_release(folder: Path) -> None:
    write_profile(folder, WELL, judges="answer")
    profile = load_profile(str(folder / "own.yaml"))
    release = served(folder, WELL + "# other\n", judges="answer").release(VARIANT)
    with LocalRunner(profile) as runner:
        reward = profile.rewards[REWARD].variants[VARIANT]
        asyncio.run(reward.score([Sample(answer="a")], runner, RunContext(release, time.monotonic() + 60)))
