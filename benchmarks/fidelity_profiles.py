"""What `benchmarks.fidelity` measures of profiles whose graphs come from packages or need faces.

One process per profile: `prepare` fills the graph store, `measure` scores and times every variant that no base of the
profile has, beside its original where `library_originals` has one.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import originals
from benchmarks.library_originals import GLINTR100, LIBRARY_ORIGINALS
from benchmarks.variant_runs import samples_of, timed
from sync_r1.reward_models.graphs.spec import pin_path
from sync_r1.reward_models.profiles import ServedReward, load_profile
from sync_r1.reward_models.types import Sample

BASES = {"pocket": "", "scorers": "pocket", "faces": "scorers", "arcface": "scorers"}
"""Profiles -> the profile whose variants they repeat."""


def prepare(name: str, folder: Path) -> None:
    """Export what the profile's own variants run into `folder`, which is the graph store; random where published."""
    from sync_r1.reward_models.backends.graph_store import ensure_graphs

    profile = load_profile(name)
    graphs = sorted({graph for served, variant in own_variants(name) for graph in served.variants[variant].graphs})
    missing = [profile.graphs[name] for name in graphs if not pin_path(profile.graphs[name].file).is_file()]
    for model in dict.fromkeys(graph.published for graph in missing if graph.published):
        weights = "random"
        if model == "arcface":  # random weights of our own exporter are a small network's
            from benchmarks import iresnet

            iresnet.write(folder / GLINTR100)
            weights = str(folder / GLINTR100)
        command = [sys.executable, "-m", "sync_r1.cli.main", "export", model, "--weights", weights]
        subprocess.run(command, check=True)
    ensure_graphs(profile, graphs=graphs)


def measure(name: str, folder: Path) -> dict[str, dict[str, Any]]:
    """`fidelity.COLUMNS` of each of the profile's own variants, by "profile/reward/variant"."""
    from sync_r1.reward_models.backends.local import LocalRunner

    found: dict[str, dict[str, Any]] = {}
    with LocalRunner(load_profile(name)) as runner:
        for served, variant in own_variants(name):
            reward, original = served.variants[variant], LIBRARY_ORIGINALS.get((name, served.name, variant))
            asked = samples_of(original.items()) if original else text_samples()
            values, ms = timed(reward, served.release(variant), runner, asked)
            engine = ("onnx" if name == "pocket" else "library") if reward.graphs else "none"
            row: dict[str, Any] = {"engine": engine, "CPU ms/item": ms}
            if original:
                theirs = original.scores(original.items(), folder)
                row |= {"original": original.library, "note": original.note}
                row["max abs difference"] = largest_difference(values, theirs)
            found[f"{name}/{served.name}/{variant}"] = row
    return found


def own_variants(name: str) -> list[tuple[ServedReward, str]]:
    """(served reward, variant) of those that the profile's base has not."""
    base = load_profile(BASES[name]).rewards.values() if BASES[name] else ()
    known = {variant.card.to_json() for served in base for variant in served.variants.values()}
    return [
        (served, variant)
        for served in load_profile(name).rewards.values()
        for variant, reward in served.variants.items()
        if reward.card.to_json() not in known
    ]


def text_samples() -> list[Sample]:
    """The items of `originals` with questions and answers."""
    return [
        replace(
            sample, prompt="a red dog left of a blue ball", question="What does <bo> wear?",
            answer="<bo> wears a red hat.", reference_answers=("yes, a red hat.", "B"), choices=("a red hat", "a sofa"),
            target=0,
        )
        for sample in samples_of(originals.items())
    ]  # fmt: skip


def largest_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Over the items that the original has a value for (faces: a face on both sides). Raises ValueError without any."""
    pairs = [(a, b) for a, b in zip(ours, theirs) if not np.isnan(b)]
    if not pairs or any(np.isnan(a) for a, _ in pairs):
        raise ValueError(f"expected a score for every item that the original scores, got {ours} beside {theirs}")
    return max(abs(a - b) for a, b in pairs)
