"""The pages as a reader gets them: opened in headless Chromium, without an error, a missing picture or a request."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from table_runs import picture, score, serving
from toy_trainer import ToyPolicy, ToyScorer, toy_config

from sync_r1.reward_models.types import Failure, FailureCode, NotApplicable, Outcome, Score
from sync_r1.trainer_client.evaluation.bench_items import bench_items
from sync_r1.trainer_client.evaluation.compare_scores import ScoredSide, compare
from sync_r1.trainer_client.evaluation.metric import Metric
from sync_r1.trainer_client.evaluation.outputs import policy_outputs
from sync_r1.trainer_client.evaluation.result import BenchEvaluation
from sync_r1.trainer_client.monitoring.alarms import Alarm
from sync_r1.trainer_client.reports import comparison_page
from sync_r1.trainer_client.reports.evaluation_page import write_pages
from sync_r1.trainer_client.reports.run_page import write_report
from sync_r1.trainer_client.reports.table_page import write_table_page
from sync_r1.trainer_client.rollouts.scorer import Scorers
from sync_r1.trainer_client.sdk.sample_file import SampleRow
from sync_r1.trainer_client.tasks.pocketbench import write_pocketbench
from sync_r1.trainer_client.tasks.unifybench import load_unifybench
from sync_r1.trainer_client.training.loop import train
from sync_r1.trainer_client.training.run import Run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_TIMEOUT_MS = 60_000


@pytest.fixture(scope="module")
def browser(pages: dict[str, Path]) -> Iterator[Browser]:
    """Comes after the pages: Playwright's loop, once running, leaves none for the training run that makes them."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(
            executable_path=chromium, timeout=_TIMEOUT_MS,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )  # fmt: skip
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A real report of a toy run with every optional section, and an evaluation page with every kind of content."""
    folder = tmp_path_factory.mktemp("pages")
    write_pocketbench(folder / "benchmark")
    bench = load_unifybench(folder / "benchmark")
    config = toy_config(steps=3, selector={"kind": "dgs", "preview_at": 0.5})
    run = folder / "run"
    run.mkdir()
    (run / "config.json").write_text(config.model_dump_json())
    asyncio.run(
        train(
            Run(
                config, run, policy=ToyPolicy(), reference=ToyPolicy(), bench=bench,
                scorers=Scorers(ToyScorer(), ToyScorer()),
            )
        )
    )  # fmt: skip
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for step in steps:
        step["hygiene"]["alarms"] = [asdict(Alarm("drift", "aesthetic", "<script>too long</script>"))]
    (run / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))

    items = [item for item in bench_items(bench, prompts=2, seed=0) if item.concept.name in ("bo", "cup")]
    outputs = policy_outputs(ToyPolicy(), items, folder / "outputs", pictures=2, seed=0, batch=64)
    large = next(iter(outputs.pictures.values()))[0]
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8)).save(large)
    metrics = [
        Metric("clip_i", "CLIP-I", 0.4, 0.3, 0.5, {"bo": 0.3, "cup": 0.5}, 8, 1, 2, "concept-consistency", "clip_i"),
        Metric("face", "face similarity", unavailable="not available: concept-consistency offers <dino>"),
    ]
    scores = {"clip_i": {(item.key, 0): 0.4 for item in items if item.task == "dreambooth"}}
    write_pages(folder, BenchEvaluation("a <b>system</b>", "pocket", metrics, scores, items, outputs, None, config))
    return {
        "report": write_report(run), "evaluation": folder / "evaluation.html", "comparison": write_comparison(folder),
        "table": write_scored_table(folder / "table"),
    }  # fmt: skip


def write_comparison(folder: Path) -> Path:
    """Twelve pictures that two variants see differently, two of them not at all."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"item-{number}.png")
        rows.append(SampleRow(id=f"<{number}>", image=f"item-{number}.png", prompt="a red dog & a <b>cat</b>"))
    sides = []
    for variant, refusal, at in (
        ("laion_v2", Failure(FailureCode.BAD_IMAGE, "image: <script>not decodable</script>", "image"), 0),
        ("pickscore", NotApplicable("a landscape"), 1),
    ):
        scores_N = rng.uniform(size=12)
        outcomes: list[Outcome] = [Score(value) for value in scores_N.tolist()]
        outcomes[at], scores_N[at] = refusal, np.nan
        sides.append(ScoredSide("localhost:9001", "aesthetic", variant, "a" * 64, tuple(outcomes), scores_N, scores_N))
    found = compare([row.id for row in rows], *sides)
    file = folder / "comparison.html"
    file.write_text(comparison_page.page(found, *sides, rows, folder), encoding="utf-8")
    return file


def write_scored_table(folder: Path) -> Path:
    """Fifteen pictures that two rewards see differently, one of them broken."""
    for number in range(15):
        picture(folder / f"<{number}> & more.png", number)
        (folder / f"<{number}> & more.txt").write_text("a red dog & a <b>cat</b>")
    (folder / "a broken one.txt").write_text("fail")
    (folder / "a broken one.png").write_bytes(b"<script>no picture</script>")
    table = folder.parent / "scores.parquet"

    async def scored() -> None:
        async with serving("aesthetic") as one, serving("text-faithfulness", affine=(1 / 100, -0.5)) as other:
            await score([*one, *other], folder, table)

    asyncio.run(scored())
    page = folder.parent / "scores.html"
    write_table_page(table, page)
    return page


def opened(browser: Browser, file: Path, scheme: Any) -> tuple[Page, list[str], list[str]]:
    """(the page, errors on its console, addresses it asked for)."""
    page = browser.new_page(color_scheme=scheme, viewport={"width": 1180, "height": 900})
    errors: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri(), timeout=_TIMEOUT_MS)
    return page, errors, asked


@pytest.mark.parametrize("name", ["report", "evaluation", "comparison", "table"])
def test_a_page_opens_without_errors_requests_or_missing_pictures(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    page, errors, asked = opened(browser, pages[name], "light")
    widths = page.eval_on_selector_all("img", "all => all.map(one => one.naturalWidth)")
    outside = [url for url in asked if not url.startswith("data:") and url != pages[name].as_uri()]
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    page.close()
    assert errors == []
    assert outside == []
    assert len(widths) >= 8
    assert min(widths) > 0
    assert overflow <= 0


@pytest.mark.parametrize("name", ["report", "evaluation", "comparison", "table"])
def test_a_page_is_dark_where_the_reader_wants_it_and_white_on_paper(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    seen = {}
    for scheme in ("light", "dark"):
        page, errors, _ = opened(browser, pages[name], scheme)
        assert errors == []
        seen[scheme] = page.evaluate(background)
        if scheme == "dark":
            page.emulate_media(media="print")
            seen["print"] = page.evaluate(background)
        page.close()
    assert seen == {"light": "rgb(246, 245, 241)", "dark": "rgb(20, 23, 27)", "print": "rgb(255, 255, 255)"}


def test_every_section_named_at_the_top_is_there(browser: Browser, pages: dict[str, Path]) -> None:
    page, _, _ = opened(browser, pages["report"], "light")
    targets = page.eval_on_selector_all("nav a", "all => all.map(one => one.hash.slice(1))")
    found = page.eval_on_selector_all("section", "all => all.map(one => one.id)")
    alarms = page.locator(".alarms li").all_inner_texts()
    page.close()
    assert targets == found
    assert {"reward-hygiene", "dynamic-group-scaling", "where-the-time-went", "configuration"} <= set(found)
    assert alarms == ["Alarm (drift), steps 1 to 3: <script>too long</script>."]


def test_the_page_of_a_table_shows_best_worst_disagreed_and_failed_rows(
    browser: Browser, pages: dict[str, Path]
) -> None:
    page, _, _ = opened(browser, pages["table"], "light")
    parts = page.eval_on_selector_all("h2", "all => all.map(one => one.innerText)")
    best = page.locator("h2:has-text('aesthetic: best') + .shots figcaption").all_inner_texts()
    charts = page.locator("svg rect").count()
    failed = page.locator(".answers tr").all_inner_texts()
    page.close()
    rewards = ("aesthetic", "text-faithfulness")
    ranked = [f"{reward}: {kind}" for reward in rewards for kind in ("best", "worst")]
    assert parts == ["Rewards", *ranked, "Most disagreed", "Failed"]
    scores = [float(text.partition("aesthetic ")[2].split()[0]) for text in best]
    assert len(scores) == 12
    assert scores == sorted(scores, reverse=True)
    assert all("a red dog & a <b>cat</b>" in text for text in best)
    assert charts == 2 * 20
    assert [line.split("\t")[1] for line in failed[1:]] == ["a broken one.png"] * 2
