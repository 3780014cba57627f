"""`sync-r1 train`, `evaluate`, `densify` and `report`: thin over `trainer_client`, imported late."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from sync_r1.cli.screen import errors_shown

if TYPE_CHECKING:
    from sync_r1.trainer_client.config import TrainConfig
    from sync_r1.trainer_client.training.run import Progress as Report

# Of several processes (torchrun, accelerate launch) the first one talks; `errors_shown` shows those of every one.
console = Console(quiet=os.environ.get("RANK", "0") != "0")

_PLANNED_PROCESSES = 8

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="YAML file; its keys are documented in trainer_client/config/.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override one key, e.g. --set objective.beta=0")]
EndpointsOption = Annotated[
    Path | None,
    typer.Option("--endpoints", help="File written by `sync-r1 up --endpoints-file`; without it, `up` is started."),
]


def train(
    config: ConfigOption = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the run.")] = Path("runs/pocket"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest checkpoint in --out.")] = False,
    seed: Annotated[int | None, typer.Option("--seed", help="The run's seed.")] = None,
    overrides: SetOption = None,
    endpoints: EndpointsOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only check the configuration and print what a step needs.")
    ] = False,
    world: Annotated[
        int | None, typer.Option("--world-size", min=1, help="With --check: processes to check and plan for.")
    ] = None,
) -> None:
    """Train a policy with Sync-GRPO against live reward services, and measure it before and after."""
    from sync_r1.trainer_client.jobs.train import run_training

    settings = _settings(config, [*(overrides or []), *([f"seed={seed}"] if seed is not None else [])])
    if check:
        _check(settings, world, endpoints)
        return
    with errors_shown(out, endpoints, *_named(settings)), _interruptible(), _progress(settings.steps) as report:
        start, end = run_training(settings, out, resume=resume, endpoints_file=endpoints, progress=report)
    _show(start.means if start else {}, end.means, end.se)
    console.print(f"report: {out / 'report.html'}")


def evaluate(
    policy: Annotated[
        str, typer.Option("--policy", help='"pocket" or a folder that a policy was saved to.')
    ] = "pocket",
    data: Annotated[
        str, typer.Option("--data", help='"pocket", "pocket-unseen" or a folder in the UnifyBench layout.')
    ] = "pocket",
    outputs: Annotated[
        Path | None, typer.Option("--outputs", help="Measure what another system put out: see docs/evaluation.md.")
    ] = None,
    items: Annotated[
        Path | None, typer.Option("--items", help="Only write what must be answered and drawn to this JSONL file.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of figures and pages.")] = Path("runs/evaluation"),
    config: ConfigOption = None,
    overrides: SetOption = None,
    endpoints: EndpointsOption = None,
) -> None:
    """Measure a policy, or another system's outputs, with UnifyBench's metrics, through the reward services."""
    from sync_r1.trainer_client.jobs.evaluate import run_evaluation, write_bench_items

    settings = _settings(config, [*(overrides or []), f"policy={policy}", f"benchmark={data}"])
    named = (out, outputs, items, endpoints, *_named(settings))
    with errors_shown(*named), _progress(1) as report:
        if items is not None:
            console.print(f"{write_bench_items(settings, items, out)} items: {items}")
            return
        result = run_evaluation(settings, out, outputs=outputs, endpoints_file=endpoints, progress=report)
    table = Table("metric", "value", "95 % interval", "rests on", "scored by")
    for metric in result.metrics:
        table.add_row(escape(metric.title), *(escape(text) for text in metric.cells()))
    console.print(table)
    if result.held_out is not None:
        _show({}, result.held_out.means, result.held_out.se)
    console.print(f"pages: {out / 'evaluation.html'}, {out / 'evaluation.md'}; figures: {out / 'metrics.json'}")


def densify(
    data: Annotated[Path, typer.Option("--data", help="A folder in the UnifyBench layout.")],
    out: Annotated[Path, typer.Option("--out", help="The copy with dense descriptions; must not exist.")],
    endpoint: Annotated[
        str, typer.Option("--endpoint", help="Base URL of an OpenAI-compatible server, e.g. http://host:8000/v1; its "
                          "key is read from OPENAI_API_KEY. Without one the descriptions are made by rules.")
    ] = "",
    model: Annotated[str, typer.Option("--model", help="The model's name at --endpoint.")] = "",
) -> None:  # fmt: skip
    """Copy a benchmark and add a dense description of every fact's picture, as UnifyBench++ has them."""
    from sync_r1.trainer_client.tasks.densify import ChatEndpoint, densify_benchmark

    with errors_shown(data, out):
        writer = ChatEndpoint(endpoint, model) if endpoint else None
        count = densify_benchmark(data, out, writer, on_progress=lambda line: console.print(escape(line)))
        console.print(f"{count} descriptions: {out}")


def report(run: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Write a run's self-contained HTML report."""
    from sync_r1.trainer_client.reports.run_page import write_report

    with errors_shown(run):
        console.print(f"report: {write_report(run)}")


def _check(settings: TrainConfig, world: int | None, endpoints: Path | None) -> None:
    """`world` as the caller gave it; without it, the plan shows what several processes would need."""
    from sync_r1.cli.plan import show_plan
    from sync_r1.trainer_client.config import ConfigError, processes_error
    from sync_r1.trainer_client.jobs.local_services import read_endpoints
    from sync_r1.trainer_client.planning.plan import make_plan

    with errors_shown(endpoints, *_named(settings)):
        served = None if endpoints is None else read_endpoints(endpoints)
        if world is not None and (why := processes_error(settings, world)):
            raise ConfigError(why)
        plan = make_plan(settings, _PLANNED_PROCESSES if world is None else world, served)
    show_plan(plan, console)
    if plan.errors:
        sys.exit(1)
    console.print("the configuration is sound")


def _settings(config: Path | None, overrides: list[str]) -> TrainConfig:
    import sync_r1.trainer_client.config as configuration

    default = Path(configuration.__file__).parents[1] / "configs" / "pocket.yaml"
    with errors_shown(config):
        return configuration.load_config(config or default, overrides)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends a run that can be continued with exit code 130 (as shells do), and says how."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("stopped; continue with --resume")
        sys.exit(130)


def _named(settings: TrainConfig) -> tuple[str, ...]:
    """The files and folders that a configuration names."""
    policy = settings.policy
    return (policy.weights, policy.image_tokenizer, policy.text_tokenizer, settings.benchmark, settings.profile)


@contextmanager
def _progress(total: int) -> Iterator[Report]:
    """A bar that stays, and one line per event above it (the lines alone where the output is no terminal)."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=total)

        def report_event(message: str, done: int, steps: int) -> None:
            progress.update(task, completed=done, total=steps)
            console.print(message, highlight=False)

        yield report_event


def _show(start: Mapping[str, float], end: Mapping[str, float], se: Mapping[str, Any]) -> None:
    table = Table("held out", *(["before"] if start else []), "after" if start else "mean", "± standard error")
    for name, after in end.items():
        before = [f"{start[name]:.3f}" if name in start else ""] if start else []
        table.add_row(name, *before, f"{after:.3f}", f"{se[name]:.3f}" if name in se else "")
    console.print(table)
