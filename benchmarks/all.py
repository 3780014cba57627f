"""Run every benchmark in turn and gather their tables in RESULTS.md: `make bench`, `python -m benchmarks.all [NAME …]`.

Without names: the serving benchmarks, about two minutes. `capacity`, `queue_policy` and `hpa` (minutes each) are what
docs/capacity.md rests on. `learning` and `learn_concept` (about half an hour each), `oracle`, `gradients` and
`likelihood` (minutes each) and `arms` (about two hours) are run when they are named.
`fidelity` and `full_profile` are modules of their own (docs/rewards.md, docs/full-profile.md).
`--gather` only writes RESULTS.md again from `benchmarks/results/*.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import RESULTS

SERVING = ("throughput", "front", "ensemble", "python_reward")
SCALING = ("capacity", "queue_policy", "hpa")
LEARNING = ("learning", "schedules", "oracle", "gradients", "likelihood", "arms", "learn_concept", "overlap")
TABLES = (
    *SERVING, *SCALING, "hpa_windows", "learning", "schedules", "oracle", "reward_variance", "reward_variance_trained",
    "gate_correlation", "gate_correlation_trained", "gradients", "gradients_trained", "likelihood", "arms_selectors",
    "arms_learning", "learn_concept", "learn_concept_training", "overlap", "fidelity", "full_profile",
)  # fmt: skip
"""Order of the tables; a benchmark may make several."""
_HEAD = """# Results

Each table stands beside the command that made it and the machine it ran on; ratios are formed within one run.
`make bench` makes the serving tables again, `python -m benchmarks.all NAME` the others.
Validity figures of the rewards stand on their cards (`sync-r1 describe HOST:PORT`), from
`reward_models/validity/validity.json` and `reward_models/pocket/artefacts/validity.json`, each with its command.
"""


FINDINGS = Path(__file__).parent / "findings.md"
"""What the tables say, written by hand; it comes first."""


def gather(target: Path = Path(__file__).parent / "RESULTS.md") -> None:
    """Write the findings and the tables of all results, in the order above, into one page."""
    order = TABLES
    paths = sorted(
        RESULTS.glob("*.json"), key=lambda path: (order.index(path.stem) if path.stem in order else 99, path.stem)
    )
    tables = [json.loads(path.read_text())["markdown"] for path in paths]
    target.write_text("\n".join([_HEAD, FINDINGS.read_text(), *(table + "\n" for table in tables)]))


def module(name: str) -> str:
    """The module of a benchmark or of an experiment (`experiments/`)."""
    folder = "experiments." if (Path(__file__).parent / "experiments" / f"{name}.py").is_file() else ""
    return f"benchmarks.{folder}{name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join((*SERVING, *SCALING, *LEARNING))}")
    parser.add_argument("--gather", action="store_true", help="run nothing, only write RESULTS.md")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - {*SERVING, *SCALING, *LEARNING}:
        parser.error(f"no benchmark is called {sorted(unknown)}; there are {[*SERVING, *SCALING, *LEARNING]}")
    failed = []
    for name in () if arguments.gather else (arguments.names or SERVING):
        if subprocess.run([sys.executable, "-m", module(name)], check=False).returncode != 0:
            failed.append(name)
    gather()
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the page shows their last results")


if __name__ == "__main__":
    main()
