"""Is the oracle right about what policies draw? `python -m benchmarks.experiments.oracle`

Renderings are not what it is asked about in training, so here it judges policy samples that were labelled by eye
before its verdicts were seen (`policy_samples/`). Pictures that nobody could label are left out and counted.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.harness import Report
from sync_r1.reward_models.pocket.oracle import Oracle
from sync_r1.trainer_client.tasks.pocketbench import CONCEPTS

_SAMPLES = Path(__file__).parent / "policy_samples"
_SIDE = 64


def main() -> None:
    """Entry point of the module."""
    samples = json.loads((_SAMPLES / "labels.json").read_text())["samples"]
    with Image.open(_SAMPLES / "pictures.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    columns = pixels.shape[1] // _SIDE
    pictures = [
        pixels[row * _SIDE : (row + 1) * _SIDE, column * _SIDE : (column + 1) * _SIDE]
        for row, column in (divmod(index, columns) for index in range(len(samples)))
    ]
    concepts = {concept.name: concept for concept in CONCEPTS}
    pairs = []
    for sample, reading in zip(samples, Oracle.load().read(np.stack(pictures))):
        concept = concepts[sample["concept"]]
        verdict = concept.is_seen_in(reading.scene) and concept.shows(sample["role"], reading.scene)
        if sample["shown"] is not None:
            pairs.append((sample["shown"], verdict))
    counts = {case: pairs.count(case) for case in ((True, True), (True, False), (False, True), (False, False))}
    report = Report("oracle", "The oracle on policy samples labelled by eye", ("figure", "value"))
    report.rows += [
        ("agreement", f"{sum(label == verdict for label, verdict in pairs) / len(pairs):.3f}"),
        ("shown and found", str(counts[True, True])),
        ("shown, missed by the oracle", str(counts[True, False])),
        ("not shown, taken for shown", str(counts[False, True])),
        ("not shown, not found", str(counts[False, False])),
    ]
    report.notes.append(f"{len(pairs)} of {len(samples)} pictures; a person could not decide about the others")
    report.notes.append("it errs towards missing, so success rates in the other tables are rather too low")
    report.finish()


if __name__ == "__main__":
    main()
