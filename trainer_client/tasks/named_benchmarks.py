"""The PocketBenches that have a name, so that `benchmark: pocket` needs no folder.

Where you are: `jobs/train.py` and `sync-r1 learn-concept` ask here for a benchmark's folder; `pocketbench.py` writes
it. `pocket` has the concepts that the checked-in cold start was trained with. `pocket-unseen` has eight that it never
heard of: names, looks and facts are new, so its cold start is to learn them (`sync-r1 learn-concept --data
pocket-unseen`), and everything else is as in `pocket`: one figure of each kind, the same roles held out.

What "unseen" means. The name and its soft tokens are new. The look is not: the cold start drew figures of every look
that have no name (`<sks>`), and nothing kept the facts of these eight away from them, as is done for the concepts of
`pocket` (`cold_start.data.gives_a_held_out_fact_away`). The facts were therefore chosen by what it was trained on: none
of its 24,000 pictures shows one of these looks with a held-out hat, scarf, toy or charm; 61 show one before a held-out
place or home, which no choice avoids, because every look was drawn before every background
(`tests/trainer_client/tasks/test_pocketbench.py` counts both).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from sync_r1.trainer_client.tasks.pocketbench import CONCEPTS, Concept, write_pocketbench

UNSEEN_CONCEPTS = (
    Concept("tom", "boy", "yellow", "spotted", "orange", "green", "city", "snow",
            ("blue", "ball"), ("red", "box"), ("hat", "home")),
    Concept("ada", "girl", "purple", "striped", "blue", "orange", "beach", "room",
            ("red", "star"), ("green", "flower"), ("scarf", "toy")),
    Concept("mog", "cat", "brown", "striped", "green", "red", "room", "forest",
            ("yellow", "flower"), ("blue", "ball"), ("place", "charm")),
    Concept("pip", "dog", "green", "striped", "yellow", "red", "city", "beach",
            ("orange", "star"), ("purple", "ball"), ("scarf", "toy")),
    Concept("ned", "bird", "red", "spotted", "purple", "yellow", "forest", "beach",
            ("blue", "flower"), ("green", "star"), ("hat", "home")),
    Concept("gil", "fish", "pink", "spotted", "blue", "orange", "beach", "snow",
            ("yellow", "box"), ("green", "star"), ("place", "charm")),
    Concept("lu", "mug", "orange", "plain", "purple", "green", "snow", "forest",
            ("red", "ball"), ("yellow", "flower"), ("hat", "toy")),
    Concept("dash", "car", "blue", "plain", "yellow", "red", "snow", "beach",
            ("orange", "box"), ("pink", "flower"), ("home", "charm")),
)  # fmt: skip

POCKET_BENCHMARKS = {"pocket": CONCEPTS, "pocket-unseen": UNSEEN_CONCEPTS}
"""Name -> the concepts that are rendered."""


def benchmark_folder(name: str, rendered: Path) -> Path:
    """Where the benchmark `name` is: a PocketBench in `rendered/NAME`, written now if it is not there yet; any other
    name is that of a folder.
    """
    if name not in POCKET_BENCHMARKS:
        return Path(name)
    folder, partial = rendered / name, rendered / f".{name}.partial"
    if not folder.exists():
        shutil.rmtree(partial, ignore_errors=True)
        write_pocketbench(partial, concepts=POCKET_BENCHMARKS[name])
        partial.rename(folder)
    return folder
