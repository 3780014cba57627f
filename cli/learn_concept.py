"""`sync-r1 learn-concept`: thin over `trainer_client.learn_concept`, which is imported when the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sync_r1.cli.screen import console, errors_shown
from sync_r1.cli.train_commands import _progress


def learn_concept(
    images: Annotated[
        Path, typer.Option("--images", help="Folder of pictures; questions beside them are used (docs/policies.md).")
    ],
    info: Annotated[Path, typer.Option("--info", help="info.json: class, and an info such as <bo> is a cat.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the policy that knows the concept.")],
    policy: Annotated[
        str, typer.Option("--policy", help='"pocket" or a folder that a policy was saved to.')
    ] = "pocket",
    magvit: Annotated[str, typer.Option("--magvit", help="Show-o as published: the magvitv2 folder.")] = "",
    phi: Annotated[str, typer.Option("--phi", help="Show-o as published: the phi-1.5 folder.")] = "",
    seed: Annotated[int, typer.Option("--seed", help="Of the rows drawn and the tokens' start.")] = 0,
) -> None:
    """Teach a policy a new concept from a few pictures; only the concept's own tokens are trained."""
    from sync_r1.trainer_client.config import PolicyConfig
    from sync_r1.trainer_client.policies.learn_concept import learn_from_folder

    # Published folders say nothing about their kind; a folder that a policy was saved to does, and wins.
    section = PolicyConfig(
        kind="showo" if magvit else "pocket",
        weights="" if policy == "pocket" else policy,
        image_tokenizer=magvit,
        text_tokenizer=phi,
    )
    with errors_shown(), _progress(1) as report:
        before, after = learn_from_folder(images, info, out, policy=section, seed=seed, progress=report)
    for task, old, new in (
        ("understanding", before.understanding, after.understanding),
        ("generation", before.generation, after.generation),
    ):
        console().print(f"{task}: {old:.3f} → {new:.3f} nats per token")
    console().print(f"policy: {out}")
