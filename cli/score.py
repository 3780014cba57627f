"""`sync-r1 score`: a data set, or a JSONL file, scored resumably; `sync-r1 view` looks at the table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sync_r1.cli.score_screen import Screen, show_summary
from sync_r1.cli.screen import console, errors_shown
from sync_r1.cli.serve_commands import JudgesOption, ProfileOption
from sync_r1.reward_models.errors import UserError

if TYPE_CHECKING:
    from sync_r1.trainer_client.sdk.reward_use import RewardUse
    from sync_r1.trainer_client.tables.files import InputOptions
    from sync_r1.trainer_client.tables.run import RunOptions
    from sync_r1.trainer_client.tables.summary import Summary

SOME_FAILED = 3
"""Exit code of a run that is finished, but has rows that failed; 1 is an error, 2 a wrong option."""

RewardsArgument = Annotated[
    str | None, typer.Argument(metavar="REWARD[/VARIANT],…", help="One reward or several; left out with --preset.")
]
InputArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="INPUT", help="A folder, or a CSV, Parquet, JSONL or tar (WebDataset) file; docs/tables.md."
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="OUT.parquet, .csv or .jsonl; what it has scores of is not scored again."),
]
SourceOption = Annotated[
    Path | None,
    typer.Option(
        "--input", exists=True, dir_okay=False, help="In place of INPUT: JSONL in, a JSONL file of scores out."
    ),
]
EndpointOption = Annotated[str | None, typer.Option("--endpoint", help="HOST:PORT of the reward's service.")]
EndpointsOption = Annotated[
    Path | None, typer.Option("--endpoints", help="JSON, reward -> HOST:PORT or several, as of `up --endpoints-file`.")
]
UpOption = Annotated[bool, typer.Option("--up", help="Start an embedded Triton and the services for it.")]
VariantOption = Annotated[str, typer.Option("--variant", help="The service's default if empty.")]
PresetOption = Annotated[
    str, typer.Option("--preset", help="The rewards of a published combination, and its total: docs/client.md.")
]
ColumnsOption = Annotated[
    list[str] | None, typer.Option("--columns", help="FIELD=COLUMN,… where a column's name is not its field's.")
]
PicturesOption = Annotated[
    Path | None,
    typer.Option("--pictures", exists=True, file_okay=False, help="Folder of the pictures; INPUT's own if left out."),
]
ShardOption = Annotated[str, typer.Option("--shard", metavar="I/N", help="Only part I of N, counted from 0.")]
RescoreOption = Annotated[
    bool, typer.Option("--rescore", help="Score rows again that another variant, release or version scored.")
]
MaxFailedOption = Annotated[
    int | None, typer.Option("--max-failed", min=0, help="Break off when more rows than this have failed.")
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the summary and the failures to this file.")]


def score(
    rewards: RewardsArgument = None,
    source: InputArgument = None,
    target: OutputOption = None,
    jsonl: SourceOption = None,
    endpoint: EndpointOption = None,
    endpoints: EndpointsOption = None,
    start_up: UpOption = False,
    variant: VariantOption = "",
    preset: PresetOption = "",
    columns: ColumnsOption = None,
    pictures: PicturesOption = None,
    shard: ShardOption = "",
    rescore: RescoreOption = False,
    max_failed: MaxFailedOption = None,
    json_file: JsonOption = None,
    profile: ProfileOption = "pocket",
    judges: JudgesOption = None,
) -> None:
    """Score a data set with one reward or several, resumably. Ends with 0 if no row failed, 3 if some did, 1 if it
    broke off."""
    where = _Where(endpoint, endpoints, start_up, profile, judges)
    if target is None:
        raise typer.BadParameter("say where the scores go: --output OUT.parquet, .csv or .jsonl")
    if jsonl is not None:
        of_tables = (source, preset, columns, pictures, shard, json_file, endpoints, max_failed)
        if rewards is None or any(one not in (None, "", []) for one in of_tables):
            raise typer.BadParameter("--input takes one REWARD and none of the options of tables; give INPUT instead")
        _score_jsonl(rewards, jsonl, target, variant, rescore, where)
        return
    if preset and source is None and rewards is not None:
        source, rewards = Path(rewards), None
    if source is None or (rewards is None) == (not preset):
        raise typer.BadParameter("say what scores and what is scored: REWARD[/VARIANT],… INPUT, or --preset NAME INPUT")
    from sync_r1.trainer_client.tables.files import InputOptions
    from sync_r1.trainer_client.tables.run import RunOptions
    from sync_r1.trainer_client.tables.table import Shard

    with errors_shown(source, target, endpoints, json_file, profile, judges):
        how = InputOptions(tuple(columns or ()), pictures, shard, preset)
        options = RunOptions(Shard.parse(shard) if shard else Shard(0, 1), rescore, max_failed)
        summary = _score_table(source, target, _uses(rewards, variant, preset), (how, options), where)
        if json_file is not None:
            json_file.write_text(json.dumps(summary.to_json(), indent=1) + "\n", encoding="utf-8")
    if summary.failed_rows:
        raise typer.Exit(SOME_FAILED)


@dataclass(frozen=True)
class _Where:
    """Where the services are."""

    endpoint: str | None
    endpoints: Path | None
    start_up: bool
    profile: str
    judges: Path | None

    def __post_init__(self) -> None:
        if sum((self.endpoint is not None, self.endpoints is not None, self.start_up)) != 1:
            raise typer.BadParameter(
                "say either --endpoint HOST:PORT or --endpoints FILE, or --up to start a service for this file"
            )

    @contextmanager
    def opened(self, rewards: Sequence[str]) -> Iterator[dict[str, str | list[str]]]:
        """Reward -> where it is served, while the block lasts. Raises UserError for one that is nowhere."""
        rewards = list(dict.fromkeys(rewards))
        if self.start_up:
            from sync_r1.services.local import up

            with up.start(
                self.profile, rewards=rewards, judges=self.judges,
                on_step=lambda step: console().print(f"starting {step} …"),
            ) as running:  # fmt: skip
                yield dict(running.endpoints)
            return
        known = dict.fromkeys(rewards, self.endpoint) if self.endpoint is not None else self._read()
        if self.endpoint is not None and len(rewards) > 1:
            raise UserError("--endpoint is one service's; give --endpoints FILE for several rewards")
        if missing := [reward for reward in rewards if reward not in known]:
            raise UserError(f"{self.endpoints} has no endpoint of {', '.join(missing)}; it has {', '.join(known)}")
        yield {reward: known[reward] for reward in rewards}

    def _read(self) -> dict[str, str | list[str]]:
        assert self.endpoints is not None
        expected = 'expected {"reward": "host:port" or a list of them, …}, as `sync-r1 up --endpoints-file` writes it'
        try:
            found = json.loads(self.endpoints.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {self.endpoints}: {error}; {expected}") from error
        if not isinstance(found, dict) or not all(_is_endpoint(one) for one in found.values()):
            raise UserError(f"{self.endpoints}: {expected}, got {str(found)[:80]}")
        return found


def _is_endpoint(value: object) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)
    )


def _uses(rewards: str | None, variant: str, preset: str) -> dict[str, RewardUse]:
    """Name of the use -> how it takes part. Raises UserError."""
    from sync_r1.trainer_client.sdk.presets import PRESETS
    from sync_r1.trainer_client.sdk.reward_use import RewardUse, named_use

    if preset:
        if preset not in PRESETS:
            raise UserError(f"there is no preset {preset!r}; there are {', '.join(PRESETS)}")
        return {name: named_use(name, use) for name, use in PRESETS[preset].uses.items()}
    names = [name.strip() for name in (rewards or "").split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise UserError(f"expected rewards that differ, as aesthetic,text-faithfulness, got {rewards!r}")
    if variant and len(names) > 1:
        raise UserError("--variant is one reward's; write REWARD/VARIANT for each of several")
    return {name: named_use(name, RewardUse(0.0, variant)) for name in names}


def _score_table(
    source: Path, target: Path, uses: dict[str, RewardUse], how: tuple[InputOptions, RunOptions], where: _Where
) -> Summary:
    """The summary of a run, shown too."""
    import asyncio

    from sync_r1.trainer_client import RewardClient, settings_from_environment
    from sync_r1.trainer_client.sdk.reward_use import reward_of
    from sync_r1.trainer_client.tables.files import TableFiles

    async def run(files: TableFiles, endpoints: Mapping[str, str | list[str]], screen: Screen) -> Summary:
        clients = {reward: RewardClient(at, settings_from_environment()) for reward, at in endpoints.items()}
        rewards = {name: (clients[reward_of(name)], use) for name, use in uses.items()}
        try:
            return await files.score(rewards, replace(how[1], on_progress=screen.show))
        finally:
            for client in clients.values():
                await client.close()

    wanted = [reward_of(name) for name in uses]
    with TableFiles(source, target, list(uses), how[0]) as files, where.opened(wanted) as endpoints:
        with Screen(target.name) as screen:
            summary = asyncio.run(run(files, endpoints, screen))
        show_summary(summary, files.source.unused, target)
    return summary


def _score_jsonl(reward: str, source: Path, target: Path, variant: str, rescore: bool, where: _Where) -> None:
    """JSONL in, JSONL of scores out."""
    import asyncio

    from rich.progress import Progress

    from sync_r1.trainer_client import RewardClient, settings_from_environment
    from sync_r1.trainer_client.sdk.score_file import ScoreFileResult, ScoreFiles

    async def run(at: str | list[str], files: ScoreFiles, progress: Progress) -> ScoreFileResult:
        bar = progress.add_task(reward)
        async with RewardClient(at, settings_from_environment()) as client:
            served = (await client.describe(timeout_s=10.0)).reward
            if served != reward:
                raise UserError(f"{at} serves {served}, not {reward}")
            return await files.score(
                client, variant=variant, rescore=rescore,
                on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
            )  # fmt: skip

    with (
        errors_shown(source, target, where.profile, where.judges),
        ScoreFiles(source, target) as files,
        where.opened([reward]) as endpoints,
        Progress(console=console()) as progress,
    ):
        result = asyncio.run(run(endpoints[reward], files, progress))
    mean = f", mean {result.mean:.4f}" if result.scored else ""
    console().print(
        f"{result.scored} scored{mean}; {result.failed} failed, {result.not_applicable} not applicable, "
        f"{result.done_before} done before: {target}",
        markup=False,
    )
    if result.superseded:
        console().print(f"{result.superseded} scores of other rows, or by others: {target}.superseded", markup=False)
    if result.failed:
        raise typer.Exit(SOME_FAILED)


def view(
    table: Annotated[Path, typer.Argument(metavar="OUT", exists=True, dir_okay=False, help="What `score` wrote.")],
    html_file: Annotated[Path | None, typer.Option("--html", help="The page; OUT.html if left out.")] = None,
    source: Annotated[
        Path | None, typer.Option("--input", help="What was scored, for the pictures; the journal says where it is.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, max=200, help="Rows in each part of the page.")] = 12,
) -> None:
    """Write a page about a table of scores: best, worst, most disagreed, failed, with pictures; distributions."""
    from sync_r1.trainer_client.reports.table_page import write_table_page

    page = html_file or table.with_name(f"{table.name}.html")
    with errors_shown(table, page, source):
        write_table_page(table, page, source=source, top=top)
    console().print(f"written: {page}", markup=False, highlight=False, soft_wrap=True)
