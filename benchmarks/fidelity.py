"""Every reward variant against its original at full size, and what an item costs: `python -m benchmarks.fidelity`.

For each published model: export with random weights, score pictures and texts by the original library and by the
variants that a service would run (encoded picture to score), and compare; likewise for the profiles whose graphs come
from packages or need faces. Minutes per model; at most about 5 GB of memory at a time, one process per step. Writes
`results/fidelity.json` and `docs/rewards.md`.

    python -m benchmarks.fidelity [NAME …]        # all models and profiles, or some: the others keep figures
    python -m benchmarks.fidelity --prepare DIR   # only exports and originals' scores, the long part, into DIR
    python -m benchmarks.fidelity --work DIR      # keeps all in DIR, and goes on where an earlier run was cut off
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import fidelity_profiles, originals, rewards_page
from benchmarks.harness import RESULTS, Report
from benchmarks.variant_runs import ModuleRunner, samples_of, timed
from sync_r1.reward_models.profiles import load_profile
from sync_r1.reward_models.releases import GraphPin, Release
from sync_r1.reward_models.rewards.base import Reward
from sync_r1.reward_models.runner import GraphRunner

IN_TORCH = ("clip_vit_l_14", "git_vqa", "image_reward", "hps_v2_1", "pickscore")
"""Models of 1.6 to 4 GB: writing and loading files takes thrice that, so their graphs run as torch modules."""
COLUMNS = ("profile", "reward", "variant", "original", "engine", "max abs difference", "CPU ms/item", "note")


def variants_of(model: str) -> list[tuple[str, str]]:
    """(reward, variant) of the profile `full` whose original is of that model."""
    return [key for key, original in originals.ORIGINALS.items() if original.model == model]


def prepare(model: str, folder: Path) -> None:
    """Graphs of random weights into `folder`, and beside them the original's scores; each step a process of its own."""
    scores = folder / f"{model}.original.json"
    if scores.is_file():
        return
    if model in IN_TORCH:  # original and ours share one network, in `measure`
        _write_tokenizers(model, folder)
        return
    command = [sys.executable, "-m", "sync_r1.cli.main", "export", model, "--weights", "random", "--out", str(folder)]
    subprocess.run(command, check=True)
    _step("original", model, folder)


def _write_tokenizers(model: str, folder: Path) -> None:
    """What an export puts beside the graphs of a model that read texts."""
    from sync_r1.reward_models.published.catalogue import MODELS
    from sync_r1.reward_models.published.texts import write_tokenizer

    for graph in MODELS[model].graphs.values():
        made = write_tokenizer(graph.tokenizer, folder, None)
        if made is not None:
            made.replace(folder / f"{graph.name}.tokenizer.json")


def measure(name: str, folder: Path) -> dict[str, dict[str, Any]]:
    """What `COLUMNS` has of each variant of the model or profile, by "profile/reward/variant"."""
    measured = folder / f"{name}.measured.json"
    if not measured.is_file():
        _step("profile" if name in fidelity_profiles.BASES else "measure", name, folder)
    found: dict[str, dict[str, Any]] = json.loads(measured.read_text())
    return found


def _step(step: str, name: str, folder: Path) -> None:
    environment = os.environ | {"SYNC_R1_GRAPHS": str(folder)}
    subprocess.run(
        [sys.executable, "-m", "benchmarks.fidelity", f"--step={step}", f"--work={folder}", name],
        check=True, env=environment,
    )  # fmt: skip


def _original_scores(model: str, network: Any) -> dict[str, list[float]]:
    import torch

    from sync_r1.reward_models.published.catalogue import MODELS

    with torch.inference_mode():
        return {
            "/".join(key): originals.ORIGINALS[key].scores(network, MODELS[model], originals.items())
            for key in variants_of(model)
        }


def _network(model: str) -> Any:
    import torch

    from sync_r1.reward_models.published import convert
    from sync_r1.reward_models.published.catalogue import MODELS

    torch.set_num_threads(1)
    return convert.load_model(MODELS[model], [convert.RANDOM])[0]


def step_original(model: str, folder: Path) -> None:
    """Scores by the original library."""
    (folder / f"{model}.original.json").write_text(json.dumps(_original_scores(model, _network(model))))


def step_measure(model: str, folder: Path) -> None:
    """Scores by our variants, compared with the original's and timed."""
    from sync_r1.reward_models.backends.local import LocalRunner

    profile, asked = load_profile("full"), samples_of(originals.items())
    if model in IN_TORCH:
        import torch

        network = _network(model)
        theirs = _original_scores(model, network)
        runner: GraphRunner = ModuleRunner(model, network)
        with torch.inference_mode():
            ours = {name: timed(*profile_variant(name), runner, asked) for name in theirs}
    else:
        theirs = json.loads((folder / f"{model}.original.json").read_text())
        with LocalRunner(profile) as local:
            ours = {name: timed(*profile_variant(name), local, asked) for name in theirs}
    found = {}
    for name, (values, ms) in ours.items():
        original = originals.ORIGINALS[tuple(name.split("/"))]  # type: ignore[index]
        found[f"full/{name}"] = {
            "original": original.library,
            "engine": "torch" if model in IN_TORCH else "onnx",
            "max abs difference": max(abs(a - b) for a, b in zip(values, theirs[name])),
            "CPU ms/item": ms,
            "note": original.note,
        }
    (folder / f"{model}.measured.json").write_text(json.dumps(found))


def step_profile(name: str, folder: Path) -> None:
    """Graphs of a profile's own variants, their scores and what they cost."""
    import torch

    torch.set_num_threads(1)
    fidelity_profiles.prepare(name, folder)
    (folder / f"{name}.measured.json").write_text(json.dumps(fidelity_profiles.measure(name, folder)))


def profile_variant(name: str) -> tuple[Reward, Release]:
    """A variant of `full` by "reward/variant", and a release that names its graphs (their files may not exist)."""
    served = load_profile("full").rewards[name.split("/")[0]]
    reward = served.variants[name.split("/")[1]]
    graphs = [served.graphs[name] for name in reward.graphs]
    pins = tuple(graph.pin if graph.file.is_file() else GraphPin(graph.name, graph.version, "") for graph in graphs)
    return reward, Release(served.name, reward.card.variant, reward.card.formula_version, pins)


_STEPS = {"original": step_original, "measure": step_measure, "profile": step_profile}


def main() -> None:
    """Entry point."""
    models = list(dict.fromkeys(original.model for original in originals.ORIGINALS.values()))
    names = [*fidelity_profiles.BASES, *models]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--work", type=Path, help="folder for exported graphs, kept; a temporary one if not given")
    parser.add_argument("--prepare", type=Path, metavar="DIR", help="measure nothing, only fill DIR")
    parser.add_argument("--page", action="store_true", help="measure nothing, only write docs/rewards.md again")
    parser.add_argument("--step", choices=tuple(_STEPS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(names):
        parser.error(f"there is nothing to measure for {sorted(unknown)}; there are {names}")
    if arguments.step:
        _STEPS[arguments.step](arguments.names[0], arguments.work)
        return
    chosen = [name for name in names if name in (arguments.names or names)]
    if arguments.prepare:
        arguments.prepare.mkdir(parents=True, exist_ok=True)
        for name in chosen:
            if name in models:
                prepare(name, arguments.prepare)
        return
    if not arguments.page:
        with tempfile.TemporaryDirectory() as temporary:
            work = arguments.work or Path(temporary)
            rows: dict[str, dict[str, Any]] = {}
            for name in chosen:
                if name in models:
                    prepare(name, work)
                rows |= measure(name, work)
        _report(_known_rows() | rows)
    rewards_page.write()


def _known_rows() -> dict[str, dict[str, Any]]:
    path = RESULTS / "fidelity.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    return {"/".join(row[:3]): dict(zip(COLUMNS[3:], row[3:])) for row in rows}


def _report(rows: dict[str, dict[str, Any]]) -> None:
    title = "Reward variants against their originals, random weights at full size, fp32"
    report = Report("fidelity", title, COLUMNS, command="python -m benchmarks.fidelity")
    for name in sorted(rows):
        row = rows[name]
        report.rows.append(
            (
                *name.split("/"),
                row.get("original", ""),
                row["engine"],
                _text(row.get("max abs difference", ""), ".1e"),
                _text(row["CPU ms/item"], ".3g"),
                row.get("note", ""),
            )
        )
    report.notes += [
        "difference: of scores, from encoded picture and text, over six pictures of odd sizes (faces, distortion: "
        "photographs; ocr: signs), in fp32 on this CPU",
        "CPU ms/item: one thread, six pictures in a request, decoding not counted, after a warm-up; the lesser of two",
        "engine torch: the graph's torch module in this process; files of these models are too large for this machine",
    ]
    report.finish()


def _text(value: float | str, form: str) -> str:
    return value if isinstance(value, str) else format(value, form)


if __name__ == "__main__":
    main()
