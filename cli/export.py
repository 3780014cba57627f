"""`sync-r1 export`: weights become graphs in the graph store, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sync_r1.cli.screen import console, errors_shown
from sync_r1.cli.serve_commands import ProfileOption
from sync_r1.reward_models.errors import UserError


def export(
    model: Annotated[
        str, typer.Argument(help="A published model or one of its graphs; without it, a profile's packaged graphs.")
    ] = "",
    weights: Annotated[
        list[str] | None,
        typer.Option("--weights", help="File, folder, OWNER/NAME of the hub, or random; once for each part."),
    ] = None,
    sha256: Annotated[
        list[str] | None, typer.Option("--sha256", help="What the weights file must have; once for each --weights.")
    ] = None,
    dtype: Annotated[Literal["fp32", "fp16", "bf16"], typer.Option("--dtype", help="What the graph computes in.")] = (
        "fp32"
    ),
    engine: Annotated[
        Literal["onnx", "torch"], typer.Option("--engine", help="ONNX Runtime, or torch on safetensors.")
    ] = "onnx",
    out: Annotated[Path | None, typer.Option("--out", help="Folder; else the graph store (env SYNC_R1_GRAPHS).")] = (
        None
    ),
    profile: ProfileOption = "pocket",
) -> None:
    """Make graphs of a published model's weights, or (without MODEL) of the packages that a profile uses."""
    if not model and (weights or sha256):
        raise typer.BadParameter("--weights and --sha256 go with a MODEL")
    if model and not weights:
        raise typer.BadParameter("a MODEL needs --weights: a file, a folder, OWNER/NAME of the hub, or random")
    with errors_shown(out, *(weights or ())):
        if not model:
            _export_packages(profile, out)
            return
        try:
            from sync_r1.reward_models.published import convert
        except ModuleNotFoundError as error:
            raise UserError(f"exporting needs {error.name!r}; install the `export` extra") from error
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        from sync_r1.reward_models.graphs.spec import graph_store

        found = convert.find_model(model)
        with Progress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console(), transient=True
        ) as progress:
            bar = progress.add_task("", total=None)
            written = convert.export_model(
                found, weights or [], out or graph_store(), precision=dtype, engine=engine, sha256=sha256 or (),
                on_step=lambda step: progress.update(bar, description=step),
            )  # fmt: skip
    for one in written:
        console().print(
            f"{one.file}  sha256 {one.sha256[:12]}…, differs from torch by {one.difference:.1e}", highlight=False,
            soft_wrap=True,
        )  # fmt: skip
    if not written[0].weights_sha256:
        console().print("[bold]RANDOM WEIGHTS[/bold]: for trying out; the scores say nothing about pictures.")


def _export_packages(profile: str, out: Path | None) -> None:
    from sync_r1.reward_models.backends.graph_store import ensure_graphs
    from sync_r1.reward_models.profiles import load_profile

    if out is not None:
        raise typer.BadParameter("--out goes with a MODEL; for packaged graphs set the env SYNC_R1_GRAPHS")
    loaded = load_profile(profile)
    with console().status("exporting graphs that are missing"):
        ensure_graphs(loaded)
    for graph in loaded.graphs.values():
        console().print(f"{graph.name} version {graph.version}: {graph.file}")
