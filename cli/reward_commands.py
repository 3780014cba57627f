"""`sync-r1 rewards`, what a profile offers, and `new-reward`, a package to begin one's own with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sync_r1.cli.screen import console, errors_shown
from sync_r1.cli.serve_commands import ProfileOption

if TYPE_CHECKING:
    from sync_r1.reward_models.profiles.listing import ListedVariant


def rewards(
    profile: ProfileOption = "pocket",
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list instead of the table.")] = False,
) -> None:
    """Show every reward and variant of a profile, what it reads, and whether its weights are at hand."""
    import json
    from dataclasses import asdict
    from itertools import groupby

    from rich.markup import escape
    from rich.table import Column, Table

    from sync_r1.reward_models.profiles.listing import list_variants

    with errors_shown(profile):
        listed = list_variants(profile)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in listed], indent=2))
        return
    for reward, variants in groupby(listed, key=lambda one: (one.reward, one.judges)):
        table = Table(
            Column("variant (* default)", no_wrap=True), "kind", Column("needs", overflow="fold"), "reads too",
            "to \\[0, 1]", "weights", title="{} judges {}s".format(*reward), title_justify="left",
        )  # fmt: skip
        for one in variants:
            name = f"{one.variant} *" if one.is_default else one.variant
            needs, optional = ", ".join(one.required), ", ".join(one.optional)
            table.add_row(*map(escape, (name, one.kind, needs, optional, _map(one), one.weights)))
        console().print(table)
    for line in dict.fromkeys(line for one in listed for line in one.absent):
        console().print(line, markup=False, highlight=False, soft_wrap=True)


def _map(one: ListedVariant) -> str:
    """The card's map, as a formula of the raw score."""
    shift = "" if one.affine_shift == 0 else f" {'+' if one.affine_shift > 0 else '-'} {abs(one.affine_shift):.4g}"
    return f"{one.affine_scale:.4g} raw{shift}"


def new_reward(
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Folder of the package; must be empty or absent.")],
    name: Annotated[str, typer.Option("--name", help="Of the reward and the plugin; the folder's if empty.")] = "",
    kind: Annotated[
        Literal["python", "graph", "judge"], typer.Option("--kind", help="A function, an ONNX file or a prompt.")
    ] = "python",
) -> None:
    """Write a small package with a reward of your own, its card, a test and a profile that serves it as it is."""
    from sync_r1.reward_models.new_reward import write_package

    with errors_shown(folder):
        package = write_package(folder, name or folder.resolve().name, kind)
    console().print(
        f"{folder} holds the reward {package.name}\n"
        f"  test it:        pip install -e {folder} && pytest {folder}\n"
        f"  serve it:       sync-r1 up --profile {package.profile}{package.options}\n"
        f"  once installed: sync-r1 up --profile plugin:{package.name}{package.options}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
