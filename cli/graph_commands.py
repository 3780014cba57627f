"""`sync-r1 repository`, what Triton loads, `bundle`, how graphs travel to a cluster, `overlay`, how a profile does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sync_r1.cli.screen import console, errors_shown
from sync_r1.cli.serve_commands import AlsoOption, ProfileOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sync_r1.reward_models.profiles import Profile


def repository(
    out: Annotated[Path, typer.Option("--out", help="Folder to write into.")],
    profile: ProfileOption = "pocket",
    backend: Annotated[
        Literal["python", "onnxruntime"],
        typer.Option("--backend", help="onnxruntime for NVIDIA's image, python for the embedded Triton."),
    ] = "onnxruntime",
    also: AlsoOption = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="ONNX Runtime's threads per graph.")] = None,
    device: Annotated[Literal["cpu", "gpu"], typer.Option("--device", help="Where the graphs run.")] = "cpu",
    reward: Annotated[list[str] | None, typer.Option("--reward", help="Only the graphs of this reward.")] = None,
    bundle: Annotated[
        str,
        typer.Option(
            "--bundle",
            envvar="SYNC_R1_BUNDLE",
            help="Folder or http(s) address of a bundle: graphs come from it, not by export.",
        ),
    ] = "",
    digest: Annotated[
        str,
        typer.Option(
            "--digest", envvar="SYNC_R1_BUNDLE_DIGEST", help="sha256:… of that bundle; other bytes are refused."
        ),
    ] = "",
) -> None:
    """Write the Triton model repository of a profile (and of further ones, their versions side by side)."""
    from sync_r1.reward_models.backends.graph_store import ensure_graphs
    from sync_r1.reward_models.backends.repository import write_repository
    from sync_r1.reward_models.profiles import load_profile
    from sync_r1.services.bundle_source import fetch_bundle

    if bool(bundle) != bool(digest):
        raise typer.BadParameter("--bundle and --digest belong together: a bundle is only trusted by its digest")
    with errors_shown(out, profile, *(also or ())):
        names = (profile, *(also or ()))
        profiles = [load_profile(name, before_fetch=bool(bundle)) for name in names]
        graphs = graphs_of(profiles, reward)
        if bundle:
            shown = lambda name: console().print(f"fetching {name}")  # noqa: E731
            fetched = fetch_bundle(bundle, digest, profiles, graphs=graphs, on_file=shown)
            console().print(f"bundle {digest[:19]}… of {bundle}: {fetched:,} bytes fetched, all verified")
            profiles = [load_profile(name) for name in names]  # own graphs are checked once they are there
        with console().status("exporting graphs that are missing"):
            for one in profiles:
                ensure_graphs(one, graphs=[name for name in graphs if name in one.graphs])
        write_repository(
            profiles[0], out, backend=backend, graphs=graphs, threads=threads, also=profiles[1:], device=device
        )
    console().print(f"{len(graphs)} graphs for the {backend} backend on the {device}: {out}")


def bundle(
    out: Annotated[Path, typer.Option("--out", help="Folder of bundles; what it holds already stays.")],
    profile: ProfileOption = "pocket",
    also: AlsoOption = None,
) -> None:
    """Put the graph files of a profile into a folder of blobs for pods to fetch, and print the bundle's digest."""
    from sync_r1.reward_models.backends.bundles import write_bundle
    from sync_r1.reward_models.backends.graph_store import ensure_graphs
    from sync_r1.reward_models.profiles import load_profile

    with errors_shown(out, profile, *(also or ())):
        profiles = [load_profile(name) for name in (profile, *(also or ()))]
        for one in profiles:
            ensure_graphs(one)
        digest = write_bundle(profiles, out)
    console().print(digest, highlight=False, soft_wrap=True)


def overlay(
    out: Annotated[Path, typer.Option("--out", help="Folder of the overlay; must not exist.")],
    profile: Annotated[Path, typer.Option("--profile", dir_okay=False, help="Your profile, a YAML file.")],
    source: Annotated[
        Path, typer.Option("--from", file_okay=False, help="An overlay of the checkout that it is served as.")
    ] = Path("k8s/overlays/cpu-pocket"),
    file: Annotated[
        list[Path] | None, typer.Option("--file", help="A file beside the profile that it names, such as a module.")
    ] = None,
) -> None:
    """Write an overlay for Kubernetes that serves the rewards of an own profile."""
    from sync_r1.services.overlay import write_overlay

    with errors_shown(out, profile, source, *(file or ())):
        rewards = write_overlay(profile, source, out, file or ())
    console().print(f"{out} serves {', '.join(rewards)}: kubectl apply -k {out}", soft_wrap=True)


def graphs_of(profiles: Sequence[Profile], rewards: Sequence[str] | None) -> list[str]:
    """Names of the graphs that these rewards run in any of their variants; of all graphs where none is named.

    Raises UserError naming the rewards there are.
    """
    if not rewards:
        return sorted({name for profile in profiles for name in profile.graphs})
    from sync_r1.services.serve import rewards_of

    served = [one for name in rewards for one in rewards_of(profiles, name)]
    variants = [variant for one in served for variant in one.variants.values()]
    return sorted({graph for variant in variants for graph in variant.graphs})
