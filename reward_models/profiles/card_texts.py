"""Cards of a profile: what its YAML says of a variant, what the formula knows, and the figures measured for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.graphs.judges import PICTURE_SIDE
from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.inputs.encoders import tokenizer_beside
from sync_r1.reward_models.inputs.whole_pictures import LONGEST_SIDE
from sync_r1.reward_models.profiles.file_parts import CardFile
from sync_r1.reward_models.published.catalogue import MODELS
from sync_r1.reward_models.releases import file_sha256
from sync_r1.reward_models.types import ProfileError

_PACKAGE = Path(__file__).parent.parent
_WORTH_SENDING = 1024
"""Longest side of a picture for an own function, pixels: what it makes of more is not known."""


@dataclass(frozen=True)
class CardMaker:
    """Makes the card of one variant; the functions of `variants.py` add what their formula needs."""

    reward: str
    variant: str

    def card(
        self,
        file: CardFile,
        *,
        version: str,
        required: tuple[str, ...],
        graphs: Sequence[GraphSpec] = (),
        groupwise: bool = False,
    ) -> Card:
        """`version` is that of the formula, `required` the paths in `Sample` it reads, `graphs` what it runs."""
        size, preprocessing = _preprocessing(graphs, required)
        scale = 1 / (file.one_at - file.zero_at)
        random = [graph.name for graph in graphs if graph.random_weights]
        return Card(
            reward=self.reward,
            variant=self.variant,
            summary=f"RANDOM WEIGHTS, the score means nothing: {file.summary}" if random else file.summary,
            source=file.source,
            licence=file.licence or _licence(graphs),
            required_fields=required,
            raw_min=file.raw_min,
            raw_max=file.raw_max,
            affine_scale=scale,
            affine_shift=-file.zero_at * scale,
            formula_version=version + "".join(_tokenizer_pin(graph) for graph in graphs),
            preprocessing=preprocessing,
            preferred_image_size=size,
            groupwise=groupwise,
            validity={} if random else _validity(file.validity),
            validity_command=file.validity_command,
            failure_modes=(
                *(f"RANDOM WEIGHTS in graph {name}, for trying out only" for name in random),
                *file.failure_modes,
            ),
        )


def _preprocessing(graphs: Sequence[GraphSpec], required: Sequence[str]) -> tuple[int, str]:
    """The longest side worth sending, pixels, and what is done to a picture before the graphs see it."""
    judge = next((graph.judge for graph in graphs if graph.judge is not None), None)
    if judge is not None:
        asked = f"prompt {judge.prompt.name!r} version {judge.prompt.version}"
        if "image" not in required:
            return 0, asked
        return PICTURE_SIDE, f"{asked}, pictures as PNG, reduced where their longer side is above {PICTURE_SIDE}"
    if any(graph.python is not None for graph in graphs):
        pictures = {"image", "concept.references"} & set(required)
        return (_WORTH_SENDING, "the picture itself, uint8") if pictures else (0, "")
    if any(graph.library for graph in graphs):
        return LONGEST_SIDE, f"the picture itself, reduced where its longer side is above {LONGEST_SIDE}, uint8"
    encoder = next((graph for graph in graphs if graph.takes_pictures), None)
    if encoder is None:
        return 0, ""
    size = encoder.picture_size
    return size, f"{encoder.preprocessing} to {size} x {size}, {encoder.inputs[0].dtype}"


def _tokenizer_pin(graph: GraphSpec) -> str:
    """Of the tokenizer beside an own file, which decides scores as its weights do; that of an exported one is pinned.

    Raises ProfileError when it is not there.
    """
    if not graph.own or graph.tokenizer != "minilm" or not graph.file.is_file():
        return ""
    file = tokenizer_beside(graph)
    if not file.is_file():
        raise ProfileError(f"graph {graph.name!r}: there is no tokenizer {file}; put the one it was trained with there")
    return f", tokenizer {file_sha256(file)[:12]}"


def _licence(graphs: Sequence[GraphSpec]) -> str:
    """What the catalogue says of the published models that a variant runs. Raises ProfileError when there are none."""
    models = [MODELS[name] for name in dict.fromkeys(graph.published for graph in graphs) if name]
    if not models:
        raise ProfileError("a card needs a `licence` when no graph of its variant is published")
    return ", ".join(f"{model.licence} ({model.source})" for model in models)


def _validity(places: dict[str, str]) -> dict[str, float]:
    """The figures at every place, as "group/outer/inner"; none of a place where nothing was measured yet."""
    found: dict[str, float] = {}
    for group, place in places.items():
        file, _, keys = place.partition("#")
        path = _PACKAGE / file
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
