"""Everything at once: every published model, faces and libraries behind one Triton and four services, on this machine.

    python -m benchmarks.full_profile [--work DIR] [--without MODEL …]

Exports what `FURTHER` and the profile `full` need with random weights in half precision (4 billion parameters, some
8 GB of files; kept in DIR if given), runs `sync-r1 up` on them as a user would, lets every release score a batch, runs
`sync-r1 describe` and `sync-r1 compare`, and stops it. The numbers scored mean nothing; that they come, how long it
takes and how much memory, is what is measured. `--without` leaves out models, where there is not room for all.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import yaml

from benchmarks.harness import Report, tree_memory_gb
from benchmarks.library_originals import photographs, signs
from benchmarks.variant_runs import samples_of
from sync_r1.reward_models import profiles
from sync_r1.reward_models.graphs.spec import pin_path
from sync_r1.reward_models.profiles import load_profile
from sync_r1.reward_models.types import Sample, Score
from sync_r1.trainer_client import SyncRewardClient
from sync_r1.trainer_client.sdk.errors import RewardClientError

FULL, FURTHER = "full", ("faces", "scorers")
READY_TIMEOUT_S, SCORE_TIMEOUT_S, STOP_TIMEOUT_S = 3600.0, 115.0, 120.0
_COMMAND = (sys.executable, "-m", "sync_r1.cli.main")


def full_without(models: Sequence[str], folder: Path) -> str:
    """The profile `full`, or a file of it without the variants that run any of these models."""
    if not models:
        return FULL
    profile = load_profile(FULL)
    raw = yaml.safe_load((Path(profiles.__file__).parent / f"{FULL}.yaml").read_text())
    left_out = {name for name, graph in profile.graphs.items() if graph.published in models}
    for reward, content in raw["rewards"].items():
        kept = profile.rewards[reward].variants.items()
        content["variants"] = {
            name: content["variants"][name] for name, variant in kept if not left_out & set(variant.graphs)
        }
    raw["graphs"] = {name: graph for name, graph in raw["graphs"].items() if name not in left_out}
    file = folder / "full.yaml"
    file.write_text(yaml.safe_dump(raw))
    return str(file)


def prepare(profile: str) -> None:
    """Random weights of every published model that is missing in the graph store, in half precision."""
    graphs = [graph for name in (profile, *FURTHER) for graph in load_profile(name).graphs.values()]
    models = {graph.published for graph in graphs if graph.published and not pin_path(graph.file).is_file()}
    for model in sorted(models):
        subprocess.run([*_COMMAND, "export", model, "--weights", "random", "--dtype", "fp16"], check=True)


class Running:
    """`sync-r1 up` as a child process: where its services are, and the most memory it has used."""

    def __init__(self, profile: str, folder: Path) -> None:
        also = [word for name in FURTHER for word in ("--also", name)]
        self._file, self._log = folder / "endpoints.json", folder / "up.log"
        self._file.unlink(missing_ok=True)
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [*_COMMAND, "up", "--profile", profile, *also, "--endpoints-file", str(self._file)],
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.peak_gb = 0.0
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()

    def endpoints(self) -> dict[str, str]:
        """Waits until all services are healthy. Raises RuntimeError with the end of the log if that does not come."""
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while not self._file.exists():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"`sync-r1 up` did not start; its log ends:\n{self._log.read_text()[-3000:]}")
            time.sleep(0.1)
        found: dict[str, str] = json.loads(self._file.read_text())
        return found

    def memory_gb(self) -> float:
        """Memory of all its processes now."""
        return tree_memory_gb(self._process.pid)

    def stop(self) -> int:
        """Ask it to drain; killed after STOP_TIMEOUT_S. Returns its exit code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # what it started dies with it
            code = self._process.wait()
        self._ended.set()
        self._watcher.join()
        return code

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            self.peak_gb = max(self.peak_gb, self.memory_gb())


@contextmanager
def started(profile: str, folder: Path) -> Iterator[Running]:
    """`sync-r1 up` while the block lasts."""
    running = Running(profile, folder)
    try:
        yield running
    finally:
        running.stop()


def samples(items: int) -> list[Sample]:
    """Samples that every variant can score: faces, a quoted text, nouns, and a question with its answer."""
    wanted = signs()[0].prompt
    return [
        replace(
            sample, prompt=wanted, nouns=("red hat",), question="What does <bo> wear?", answer="<bo> wears a red hat.",
            reference_answers=("yes, a red hat.", "B"), choices=("a red hat", "a sofa"), target=0,
        )
        for sample in samples_of(photographs()[:items])
    ]  # fmt: skip


def score_all(endpoints: dict[str, str], items: int, report: Report) -> None:
    """A row for each release of each reward: what came of a batch, and how long it took."""
    asked = samples(items)
    for reward, where in endpoints.items():
        with SyncRewardClient(where) as client:
            releases = client.describe(timeout_s=30).releases
            for digest, variant in sorted(releases.items(), key=lambda one: one[1]):
                started_s = time.monotonic()
                try:
                    batch = client.score(asked, variant=variant, release=digest, timeout_s=SCORE_TIMEOUT_S)
                    scored = sum(isinstance(one, Score) for one in batch.outcomes)
                    others = [str(one) for one in batch.outcomes if not isinstance(one, Score)]
                    said = "; ".join([f"{scored} of {items} scored", *others[:1]])
                except RewardClientError as error:
                    said = f"failed: {error}"
                took_s = time.monotonic() - started_s
                report.rows.append((f"{reward} `{variant}`, release {digest[:12]}", f"{said}, {took_s:.1f} s"))


def commands(endpoints: dict[str, str], folder: Path) -> list[tuple[str, str]]:
    """Exit codes of the commands that a user asks services with."""
    lines = []
    for number, item in enumerate(photographs()[:2]):
        (folder / f"{number}.png").write_bytes(item.image)
        (folder / "reference.png").write_bytes(item.references[0])
        concept = {"name": "<bo>", "references": ["reference.png"], "conversation_type": "person"}
        lines.append(json.dumps({"id": str(number), "image": f"{number}.png", "prompt": "a face", "concept": concept}))
    source = folder / "pictures.jsonl"
    source.write_text("\n".join(lines) + "\n")
    where = endpoints["concept-consistency"]
    asked = {f"describe {reward}": ["describe", endpoint] for reward, endpoint in endpoints.items()}
    asked["compare dino sync_r1"] = ["compare", "dino", "sync_r1", "--endpoint", where, "--input", str(source)]
    return [(f"`sync-r1 {name}`", _exit(words)) for name, words in asked.items()]


def _exit(words: Sequence[str]) -> str:
    done = subprocess.run([*_COMMAND, *words], capture_output=True, text=True, timeout=SCORE_TIMEOUT_S)
    return f"exit code {done.returncode}" + (f": {done.stdout[-300:]}" if done.returncode else "")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for exported graphs, kept; a temporary one if not given")
    parser.add_argument("--without", nargs="+", default=[], metavar="MODEL", help="of the profile full, to be left out")
    parser.add_argument("--items", type=int, default=2, help="samples in a batch")
    arguments = parser.parse_args()
    title = f"sync-r1 up --profile {' '.join((FULL, *(f'--also {name}' for name in FURTHER)))}: random weights, fp16"
    without = f" --without {' '.join(arguments.without)}" if arguments.without else ""
    command = f"python -m benchmarks.full_profile --items {arguments.items}{without}"
    report = Report("full_profile", title, ("measurement", "value"), command=command)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.work or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["SYNC_R1_GRAPHS"] = str(folder)
        profile = full_without(arguments.without, folder)
        prepare(profile)
        began_s = time.monotonic()
        with started(profile, folder) as running:
            endpoints = running.endpoints()
            report.rows.append(("start until all four services are healthy", f"{time.monotonic() - began_s:.0f} s"))
            report.rows.append(("memory when healthy, all processes", f"{running.memory_gb():.1f} GB"))
            score_all(endpoints, arguments.items, report)
            report.rows += commands(endpoints, folder)
            report.rows.append(("memory after scoring, all processes", f"{running.memory_gb():.1f} GB"))
            began_s = time.monotonic()
            code = running.stop()
            report.rows.append(("stop", f"{time.monotonic() - began_s:.0f} s, exit code {code}"))
            report.rows.append(("most memory at any time, all processes", f"{running.peak_gb:.1f} GB"))
            files = [file for file in folder.iterdir() if file.suffix in (".onnx", ".data", ".zip")]
            size_gb = sum(file.stat().st_size for file in files) / 1e9
    if arguments.without:
        report.notes.append(f"left out for want of room: {', '.join(arguments.without)}")
    report.notes += [
        f"{len(files)} files of graphs, {size_gb:.1f} GB",
        f"items in a batch: {arguments.items}, with two references each; a batch may take {SCORE_TIMEOUT_S:g} s",
        "memory: what processes share is counted once (PSS), files that the system caches are not counted",
        "the scores mean nothing; random weights in half precision, which a CPU computes in fp32, one thread per graph",
    ]
    report.finish()


if __name__ == "__main__":
    main()
