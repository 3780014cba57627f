"""Profiles: which graphs there are, and which variants of which reward run them.

    profile = load_profile("pocket")
    profile.rewards["concept-consistency"].variants["dino"].score(samples, runner, context)

A profile is a YAML file; `profiles/pocket.yaml` is built in. Reading one loads and exports nothing: digests of graph
files are computed when a release is first asked for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.encoders import ImageEncoder, TextEncoder, minilm_text_encoder, pocket_text_encoder
from sync_r1.reward_models.graphs import GraphSpec, TensorSpec, graph_store
from sync_r1.reward_models.images import Preprocessing
from sync_r1.reward_models.profile_files import CardFile, GraphFile, ProfileFile
from sync_r1.reward_models.releases import Release
from sync_r1.reward_models.rewards import aesthetic, concept_consistency, text_faithfulness, understanding
from sync_r1.reward_models.rewards.base import Reward
from sync_r1.reward_models.types import RewardError, UnknownVariant

_HERE = Path(__file__).parent
_TEXT_ENCODERS = {"pocket": pocket_text_encoder, "minilm": minilm_text_encoder}


class ProfileError(RewardError):
    """The profile does not exist or is not valid; the message says where and why."""


@dataclass(frozen=True)
class ServedReward:
    """One of the four rewards as a profile serves it."""

    name: str
    default_variant: str
    variants: dict[str, Reward]
    graphs: dict[str, GraphSpec]
    """All graphs of the profile."""

    @cached_property
    def releases(self) -> dict[str, Release]:
        """Variant -> the release that scores it. Raises GraphFileMissing when a weights file is absent or changed."""
        return {name: self.release(name) for name in self.variants}

    def release(self, variant: str) -> Release:
        """The release of one variant; reads only the graphs it needs. Raises UnknownVariant and GraphFileMissing."""
        if variant not in self.variants:
            raise UnknownVariant(f"{self.name} has no variant {variant!r}; it has {sorted(self.variants)}")
        reward = self.variants[variant]
        pins = tuple(self.graphs[graph].pin for graph in reward.graphs)
        return Release(self.name, variant, reward.card.formula_version, pins)


@dataclass(frozen=True)
class Profile:
    """Graphs and rewards by name."""

    name: str
    graphs: dict[str, GraphSpec]
    rewards: dict[str, ServedReward]


def load_profile(name_or_path: str) -> Profile:
    """Read a profile: the name of a built-in one ("pocket") or the path of a YAML file. Raises ProfileError."""
    built_in = _HERE / "profiles" / f"{name_or_path}.yaml"
    path = built_in if built_in.is_file() else Path(name_or_path)
    if not path.is_file():
        names = sorted(file.stem for file in built_in.parent.glob("*.yaml"))
        raise ProfileError(f"there is no profile {name_or_path!r}: neither a file nor one of {names}")
    try:
        file = ProfileFile.model_validate(yaml.safe_load(path.read_text()))
        return _Builder(file).profile()
    except (ValidationError, yaml.YAMLError, ProfileError) as error:
        raise ProfileError(f"profile {path}: {error}") from error


class _Builder:
    """Turns a validated file into graphs and rewards."""

    def __init__(self, file: ProfileFile) -> None:
        self.file = file
        self.graphs = {name: _graph(name, graph) for name, graph in file.graphs.items()}

    def profile(self) -> Profile:
        rewards = self.file.rewards
        concept: dict[str, Reward] = {
            name: concept_consistency.ConceptConsistency(
                self.card(
                    (concept_consistency.NAME, name, concept_consistency.FORMULA_VERSION),
                    concept_consistency.REQUIRED_FIELDS,
                    variant.card,
                    variant.image_encoder,
                ),
                self.image_encoder(variant.image_encoder),
                variant.references,
            )
            for name, variant in rewards.concept_consistency.variants.items()
        }
        text: dict[str, Reward] = {
            name: text_faithfulness.TextFaithfulness(
                self.card(
                    (text_faithfulness.NAME, name, text_faithfulness.FORMULA_VERSION),
                    text_faithfulness.REQUIRED_FIELDS,
                    variant.card,
                    variant.image_encoder,
                ),
                self.image_encoder(variant.image_encoder),
                self.text_encoder(variant.text_encoder),
                variant.split,
            )
            for name, variant in rewards.text_faithfulness.variants.items()
        }
        answers: dict[str, Reward] = {}
        for name, answer_variant in rewards.understanding_correctness.variants.items():
            encoder = answer_variant.text_encoder
            if not encoder and name not in understanding.STRING_METRICS:
                raise ProfileError(
                    f"understanding-correctness has no variant {name!r} without a `text_encoder`; "
                    f"string metrics are {sorted(understanding.STRING_METRICS)}"
                )
            required = (
                understanding.SEMANTIC_REQUIRED_FIELDS
                if encoder
                else understanding.STRING_METRICS[name].required_fields
            )
            title = (understanding.NAME, name, understanding.FORMULA_VERSION)
            card = self.card(title, required, answer_variant.card)
            answers[name] = (
                understanding.SemanticCorrectness(card, self.text_encoder(encoder))
                if encoder
                else understanding.StringCorrectness(card)
            )
        beauty: dict[str, Reward] = {
            name: aesthetic.Aesthetic(
                self.card(
                    (aesthetic.NAME, name, aesthetic.FORMULA_VERSION),
                    aesthetic.REQUIRED_FIELDS,
                    variant.card,
                    variant.image_encoder,
                ),
                self.image_encoder(variant.image_encoder),
            )
            for name, variant in rewards.aesthetic.variants.items()
        }
        served = [
            ServedReward(concept_consistency.NAME, rewards.concept_consistency.default, concept, self.graphs),
            ServedReward(text_faithfulness.NAME, rewards.text_faithfulness.default, text, self.graphs),
            ServedReward(understanding.NAME, rewards.understanding_correctness.default, answers, self.graphs),
            ServedReward(aesthetic.NAME, rewards.aesthetic.default, beauty, self.graphs),
        ]
        return Profile(self.file.name, self.graphs, {reward.name: reward for reward in served})

    def image_encoder(self, name: str) -> ImageEncoder:
        graph = self._graph(name)
        side = graph.inputs[0].shape
        if len(graph.inputs) != 1 or graph.inputs[0].dtype != "uint8" or len(side) != 3 or side[0] != side[1]:
            raise ProfileError(f"graph {name!r} is no image encoder: it needs one uint8 input of shape [size, size, 3]")
        return ImageEncoder(graph)

    def text_encoder(self, name: str) -> TextEncoder:
        graph = self._graph(name)
        tokenizer = self.file.graphs[name].tokenizer
        if not tokenizer:
            raise ProfileError(f"graph {name!r} is no text encoder: it names no `tokenizer`")
        return _TEXT_ENCODERS[tokenizer](graph)

    def card(
        self, title: tuple[str, str, str], required: tuple[str, ...], file: CardFile, image_encoder: str = ""
    ) -> Card:
        """The card of (reward, variant, formula version)."""
        reward, variant, formula_version = title
        graph = self._graph(image_encoder) if image_encoder else None
        size = graph.inputs[0].shape[0] if graph else 0
        scale = 1 / (file.one_at - file.zero_at)
        return Card(
            reward=reward,
            variant=variant,
            summary=file.summary,
            source=file.source,
            licence=file.licence,
            required_fields=required,
            raw_min=file.raw_min,
            raw_max=file.raw_max,
            affine_scale=scale,
            affine_shift=-file.zero_at * scale,
            formula_version=formula_version,
            preprocessing=f"{graph.preprocessing} to {size} x {size}, {graph.inputs[0].dtype}" if graph else "",
            preferred_image_size=size,
            validity=_validity(file.validity),
            validity_command=file.validity_command,
            failure_modes=file.failure_modes,
        )

    def _graph(self, name: str) -> GraphSpec:
        if name not in self.graphs:
            raise ProfileError(f"there is no graph {name!r}; the profile has {sorted(self.graphs)}")
        return self.graphs[name]


def _graph(name: str, file: GraphFile) -> GraphSpec:
    return GraphSpec(
        name=name,
        version=file.version,
        file=_HERE / file.checked_in if file.checked_in else graph_store() / f"{file.package}.onnx",
        inputs=tuple(TensorSpec(tensor, spec.dtype, spec.shape) for tensor, spec in file.inputs.items()),
        outputs=tuple(TensorSpec(tensor, spec.dtype, spec.shape) for tensor, spec in file.outputs.items()),
        max_batch_size=file.max_batch_size,
        preprocessing=Preprocessing(file.resize),
        package=file.package,
        instances=file.instances,
    )


def _validity(places: dict[str, str]) -> dict[str, float]:
    """The figures at every place, as "group/outer/inner"; none of a place where nothing was measured yet."""
    found: dict[str, float] = {}
    for group, place in places.items():
        file, _, keys = place.partition("#")
        path = _HERE / file
        figures = json.loads(path.read_text()) if path.is_file() else {}
        for key in keys.split("."):
            figures = figures.get(key, {})
        found |= _flat(figures, f"{group}/" if group else "")
    return found


def _flat(figures: dict[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)):
            found[prefix + name] = float(value)
    return found
