"""docs/rewards.md says what cards and measurements say: it is made from them and never edited."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import rewards_page
from benchmarks.fidelity_profiles import own_variants
from benchmarks.library_originals import LIBRARY_ORIGINALS
from benchmarks.originals import ORIGINALS
from sync_r1.reward_models.profiles import load_profile

PROFILES = rewards_page.PROFILES
TOLERANCE = 1e-4


def test_the_page_is_what_cards_and_figures_make() -> None:
    assert rewards_page.PAGE.read_text() == rewards_page.render(), "run `python -m benchmarks.fidelity --page`"


def test_the_page_does_not_depend_on_what_was_exported_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "laion_v2.onnx.json").write_text('{"source_weights_sha256": ""}')
    monkeypatch.setenv("SYNC_R1_GRAPHS", str(tmp_path))
    assert load_profile("full").rewards["aesthetic"].variants["laion_v2"].card.summary.startswith("RANDOM WEIGHTS")
    assert "RANDOM WEIGHTS" not in rewards_page.render()


def test_every_variant_over_a_published_graph_has_an_original_to_be_compared_with() -> None:
    profile = load_profile("full")
    published = {
        (reward, variant)
        for reward, served in profile.rewards.items()
        for variant, made in served.variants.items()
        if any(profile.graphs[graph].published for graph in made.graphs)
    }
    assert published <= set(ORIGINALS)


def test_every_variant_over_faces_text_or_distortion_has_an_original_to_be_compared_with() -> None:
    own = {
        (profile, served.name, variant)
        for profile in ("scorers", "faces", "arcface")
        for served, variant in own_variants(profile)
    }
    assert own == set(LIBRARY_ORIGINALS)


def test_every_row_has_a_figure_or_says_why_there_is_none() -> None:
    rows = [line for line in rewards_page.render().splitlines() if line.startswith(tuple(f"| {p} |" for p in PROFILES))]
    variants = sum(len(served.variants) for served in load_profile("full").rewards.values())
    assert len(rows) > variants
    for row in rows:
        *_, original, difference, validity, cost = [cell.strip() for cell in row.strip("|").split("|")]
        assert original
        assert difference == "no original" or float(difference) <= TOLERANCE, row
        assert validity == "weights not at hand" or 0 <= float(validity.split()[0]) <= 1, row
        assert cost == "the endpoint's" or float(cost.removesuffix(" (torch)")) > 0, row


def test_every_suggested_map_says_what_its_ends_rest_on() -> None:
    page = rewards_page.render()
    maps = [line for line in page.splitlines() if "suggested map: " in line]
    assert len(maps) == page.count("\n### ")
    said = ("the raw score itself", "set by hand beside the figures below", "typical range, set by hand, not measured")
    assert all(line.endswith(said) for line in maps)
    full = page.split("`laion_v2` (full)")[1].split("###")[0]
    assert "typical range, set by hand, not measured" in full
