"""`sync-r1 learn-concept`: thin over `trainer_client`, which is imported when the command runs."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from sync_r1.cli.screen import console, errors_shown
from sync_r1.cli.train_commands import _progress

if TYPE_CHECKING:
    from sync_r1.trainer_client.policies.concepts.data import ConceptFiles


def learn_concept(
    out: Annotated[Path, typer.Option("--out", help="Folder for the policy that knows the concepts.")],
    images: Annotated[
        Path | None,
        typer.Option("--images", help="One concept: its pictures; questions beside them are used (docs/policies.md)."),
    ] = None,
    info: Annotated[
        Path | None, typer.Option("--info", help="With --images: info.json: class, and an info such as <bo> is a cat.")
    ] = None,
    data: Annotated[
        str,
        typer.Option("--data", help='All concepts of a benchmark: a folder in the UnifyBench layout, "pocket-unseen".'),
    ] = "",
    policy: Annotated[
        str, typer.Option("--policy", help='"pocket" or a folder that a policy was saved to.')
    ] = "pocket",
    magvit: Annotated[str, typer.Option("--magvit", help="Show-o as published: the magvitv2 folder.")] = "",
    phi: Annotated[str, typer.Option("--phi", help="Show-o as published: the phi-1.5 folder.")] = "",
    seed: Annotated[int, typer.Option("--seed", help="Of the rows drawn and the tokens' start.")] = 0,
) -> None:
    """Teach a policy new concepts from a few pictures each; only the concepts' own tokens are trained."""
    from sync_r1.trainer_client.config import PolicyConfig
    from sync_r1.trainer_client.policies.concepts.learn import learn_concepts

    # Published folders say nothing about their kind; a folder that a policy was saved to does, and wins.
    section = PolicyConfig(
        kind="showo" if magvit else "pocket",
        weights="" if policy == "pocket" else policy,
        image_tokenizer=magvit,
        text_tokenizer=phi,
    )
    named = (out, images, info, data, policy, magvit, phi)
    with errors_shown(*named), TemporaryDirectory() as rendered, _progress(1) as report:
        concepts = _concepts(images, info, data, Path(rendered))
        for learned in learn_concepts(concepts, out, policy=section, seed=seed, progress=report):
            before, after = learned.before, learned.after
            console().print(
                f"{learned.name}: nats per token, understanding {before.understanding:.3f} → "
                f"{after.understanding:.3f}, generation {before.generation:.3f} → {after.generation:.3f}",
                highlight=False,
            )
    console().print(f"policy: {out}")


def _concepts(images: Path | None, info: Path | None, data: str, rendered: Path) -> list[ConceptFiles]:
    from sync_r1.trainer_client.config import ConfigError
    from sync_r1.trainer_client.policies.concepts.data import benchmark_files, concept_files
    from sync_r1.trainer_client.tasks.named_benchmarks import benchmark_folder

    if data and images is None and info is None:
        return benchmark_files(benchmark_folder(data, rendered))
    if images is not None and info is not None and not data:
        return [concept_files(images, info)]
    given = [name for name, value in (("--images", images), ("--info", info), ("--data", data)) if value]
    raise ConfigError(
        "give either --images and --info (one concept) or --data (a whole benchmark), got "
        + (" and ".join(given) or "none of them")
    )
