"""Dense descriptions, as UnifyBench++ has them: one text per fact that says all a picture of it must show.

A condition such as "<koda> with its sled" only refers to a fact. The dense description resolves it: "<koda>, a grey and
white plush husky …, with its sled, which is painted green." `sync-r1 densify` copies a benchmark and adds such texts to
each `info.json` under the key `dense`, and their noun phrases under `nouns`, both index-aligned with `extra_info`. From
then on they are what pictures are scored against (`tasks.reward_text` and `reward_nouns`). They are made by rules,
or by a language model behind an OpenAI-compatible endpoint.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.trainer_client.tasks.unifybench import BenchConcept, Condition, load_unifybench

TIMEOUT_S = 60.0
ATTEMPTS = 3
"""Per description: a server that is away or answers nonsense is asked this often."""
MAX_WORDS = 120
MAX_NOUNS = 8
"""Each is a question to a model per picture."""
_MAX_TOKENS = 400
_LOGGED = 2000
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"description": {"type": "string"}, "nouns": {"type": "array", "items": {"type": "string"}}},
    "required": ["description", "nouns"],
    "additionalProperties": False,
}
_INSTRUCTION = (
    "You describe one picture of a named subject. Use only what is given: its look, one fact, and the situation. "
    "Resolve the situation with the fact, so that nothing has to be known beforehand. One or two sentences, at most "
    f"{MAX_WORDS} words, with the subject's name exactly as written. Then list what there is to see in the picture, at "
    f'most {MAX_NOUNS} nouns, each with its attributes in words of the description ("green hat"); the subject as its '
    'kind, never by its name. Answer with JSON: {"description": "…", "nouns": ["…"]}.'
)
_STOPS = (
    r"(?:and (?:an?|the)|an?|the|with|without|of|in|into|on|at|by|to|from|for|like|near|under|over|through|beside|"
    r"behind|between|around|before|after|that|which|who|where|when|while|is|are|was|has|have)\b"
)
_WORD = rf"(?!{_STOPS})[\w'’-]+"
_NAMED = re.compile(rf"\b(?:an?|the) ({_WORD}(?:,? {_WORD})*)")
"""What an article introduces, up to the first word that cannot be part of it."""

log = logging.getLogger(__name__)


class DensifyError(SyncR1Error, RuntimeError):
    """The benchmark cannot be densified; the message says which description failed and why."""


@dataclass(frozen=True)
class Description:
    """A dense description with the concept's name, and what there is to see in it: nouns with their attributes."""

    text: str
    nouns: tuple[str, ...]


class Writer(Protocol):
    """Writes the dense description of one fact under its condition."""

    def describe(self, concept: BenchConcept, condition: Condition) -> Description:
        """At least one noun, none with the concept's name. Raises DensifyError."""
        ...


class RuleWriter:
    """Joins look, condition and fact into one sentence; where no rule fits, the sentences follow one another.

    Nouns are the class noun with the attributes that `info` puts before it, what articles introduce in the fact ("a red
    box"), and the thing that a condition mentions ("its sled") unless the fact says what it is. The rest goes unasked.
    """

    def describe(self, concept: BenchConcept, condition: Condition) -> Description:
        """See `Writer`; never fails for a condition with a fact."""
        assert condition.fact is not None
        fact, situation = _bare(concept.extra_info[condition.fact]), _bare(condition.text)
        thing = _thing(concept.token, situation, fact)
        nouns = (_kind(concept), *(thing.nouns if thing else _NAMED.findall(fact)))
        return Description(_sentence(concept, situation, fact, thing), tuple(dict.fromkeys(nouns)))


@dataclass(frozen=True)
class _Thing:
    """What both condition and fact speak of: "with its sled" and "<koda>'s sled is painted green"."""

    name: str
    verb: str
    told: str

    @property
    def nouns(self) -> list[str]:
        named = _NAMED.findall(self.told)
        if self.verb in ("has", "have"):
            return [self.name, *named]
        if re.match(r"(?:an?|the) ", self.told):
            return named  # "its toy is a red box"
        return [f"{self.told} {self.name}" if re.fullmatch(r"[a-z-]+", self.told) else self.name, *named]


def _thing(name: str, situation: str, fact: str) -> _Thing | None:
    told = re.match(rf"{re.escape(name)} ?'s (.+?) (is|are|has|have) (.+)$", fact)
    if told is None or not re.search(rf"\b(?:its|his|her|their) {re.escape(told.group(1))}$", situation):
        return None
    return _Thing(*told.groups())


def _sentence(concept: BenchConcept, situation: str, fact: str, thing: _Thing | None) -> str:
    look = re.match(rf"{re.escape(concept.token)} is (an? .+)$", _bare(concept.info))
    if look is None or not situation.startswith(concept.token):
        return f"{situation}. {_bare(concept.info)}. {fact}."
    rest = situation.removeprefix(concept.token).strip()
    subject = f"{concept.token}, {look.group(1)},"
    return f"{subject} {rest}, which {thing.verb} {thing.told}." if thing else f"{subject} {rest}. {fact}."


def _kind(concept: BenchConcept) -> str:
    """The class noun, with the attributes before it where `info` is "<koda> is a grey dog …"."""
    kind = re.escape(concept.class_noun)
    found = re.match(rf"{re.escape(concept.token)} is an? ((?:{_WORD},? )*?{kind})\b", concept.info)
    return found.group(1) if found else concept.class_noun


def _bare(text: str) -> str:
    return " ".join(text.split()).rstrip(" .")


class ChatEndpoint:
    """A language model behind an OpenAI-compatible `/chat/completions`; every wait and every retry has a bound."""

    def __init__(
        self, base_url: str, model: str, *, api_key: str | None = None, timeout_s: float = TIMEOUT_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:  # fmt: skip
        """`api_key` None reads OPENAI_API_KEY. Raises DensifyError without a model."""
        if not model:
            raise DensifyError("an endpoint needs the name of a model; give --model")
        key = os.environ.get("OPENAI_API_KEY", "") if api_key is None else api_key
        self._model = model
        self._client = httpx.Client(
            base_url=base_url.rstrip("/") + "/", timeout=timeout_s, transport=transport,
            headers={"authorization": f"Bearer {key}"} if key else {},
        )  # fmt: skip

    def describe(self, concept: BenchConcept, condition: Condition) -> Description:
        """See `Writer`. Raises DensifyError after `ATTEMPTS` failed or unparsable replies; raw texts are logged."""
        reason = ""
        for _ in range(ATTEMPTS):
            try:
                response = self._client.post("chat/completions", json=self._request(concept, condition))
                response.raise_for_status()
            except httpx.HTTPStatusError as error:
                reason = f"HTTP {error.response.status_code}: {error.response.text[:200]}"
                if error.response.status_code < 500 and error.response.status_code != 429:
                    break  # it would say the same again
                continue
            except httpx.HTTPError as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            try:
                return _parse(response.text, concept)
            except ValueError as error:
                reason = f"the reply cannot be used: {error}"
                log.warning("%s, %r: %s; raw reply: %s", concept.name, condition.text, error, response.text[:_LOGGED])
        raise DensifyError(f"no description for {condition.text!r} of <{concept.name}>: {reason}")

    def _request(self, concept: BenchConcept, condition: Condition) -> dict[str, Any]:
        assert condition.fact is not None
        given = {
            "subject": concept.token, "kind": concept.class_noun, "look": concept.info,
            "fact": concept.extra_info[condition.fact], "situation": condition.text,
        }  # fmt: skip
        return {
            "model": self._model,
            "temperature": 0,
            "max_tokens": _MAX_TOKENS,
            "messages": [
                {"role": "system", "content": _INSTRUCTION},
                {"role": "user", "content": json.dumps(given, ensure_ascii=False)},
            ],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "dense_description", "strict": True, "schema": _SCHEMA},
            },
        }


def _parse(reply: str, concept: BenchConcept) -> Description:
    """The description in a chat completion. Raises ValueError saying what is wrong with it."""
    try:
        content = json.loads(json.loads(reply)["choices"][0]["message"]["content"])
        description, nouns = content["description"], content["nouns"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f'expected JSON {{"description": "…", "nouns": ["…"]}} ({type(error).__name__})') from error
    if not isinstance(description, str) or not description.strip():
        raise ValueError(f"expected a non-empty description, got {description!r}")
    if concept.token not in description:
        raise ValueError(f"expected the name {concept.token} in it")
    if len(description.split()) > MAX_WORDS:
        raise ValueError(f"expected at most {MAX_WORDS} words, got {len(description.split())}")
    if not isinstance(nouns, list) or not 0 < len(nouns) <= MAX_NOUNS:
        raise ValueError(f"expected a list of 1 to {MAX_NOUNS} nouns, got {nouns!r}")
    known = set(_words(description.replace(concept.token, concept.class_noun)))
    for noun in nouns:
        if not isinstance(noun, str) or concept.token in noun or not noun.strip() or set(_words(noun)) - known:
            raise ValueError(f"expected nouns in words of the description and without the name, got {noun!r}")
    return Description(" ".join(description.split()), tuple(" ".join(noun.split()) for noun in nouns))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def densify_benchmark(
    data: Path, out: Path, writer: Writer | None, *, on_progress: Callable[[str], None] = lambda line: None
) -> int:
    """Copy the benchmark `data` to `out` with dense descriptions; returns how many. `writer` None = by rules.

    Nothing is left in `out` unless all succeeded. Raises DensifyError, also when `out` exists or conditions name no
    facts (UnifyBench's list form), and UnifyBenchError.
    """
    if out.exists():
        raise DensifyError(f"{out} exists already; give a new folder")
    writer = writer or RuleWriter()
    dense: dict[str, list[Description]] = {}
    for concept in load_unifybench(data).concepts:
        conditions = {c.fact: c for c in (*concept.train_conditions, *concept.held_out_conditions)}
        missing = [fact for fact in range(len(concept.extra_info)) if fact not in conditions]
        if missing or not concept.extra_info:
            raise DensifyError(
                f"<{concept.name}> has no condition for each of its facts (UnifyBench's list form?); dense "
                "descriptions need 'personalized_driven_generation', index-aligned with extra_info, in "
                "t2i_conditions.json"
            )
        dense[concept.name] = [
            writer.describe(concept, conditions[fact]) for fact in range(len(concept.extra_info))
        ]  # fmt: skip
        for written in dense[concept.name]:
            on_progress(f"{written.text} [{', '.join(written.nouns)}]")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(data, partial)
    for name, written_of in dense.items():
        file = partial / "concept" / "train" / name / "info.json"
        info = json.loads(file.read_text(encoding="utf-8")) | {
            "dense": [written.text for written in written_of],
            "nouns": [list(written.nouns) for written in written_of],
        }
        file.write_text(json.dumps(info, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.rename(out)
    return sum(map(len, dense.values()))
