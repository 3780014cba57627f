"""docs/rewards.md says what cards and measurements say: it is made from them and never edited."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import rewards_page
from benchmarks.originals import ORIGINALS
from sync_r1.reward_models.profiles import load_profile


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
