"""`docs/rewards.md`: every variant of the built-in profiles, from its card and what `benchmarks.fidelity` measured.

Written by `python -m benchmarks.fidelity` (with `--page`, from the figures there are); a test compares.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS
from benchmarks.library_originals import LIBRARY_ORIGINALS
from benchmarks.originals import ORIGINALS
from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.profiles import load_profile

PAGE = Path(__file__).parents[1] / "docs" / "rewards.md"
PROFILES = ("pocket", "full", "scorers", "faces", "arcface", "judges")
_HEAD = """\
# Rewards

Every variant of the built-in profiles: `pocket` runs on two CPU cores with weights that come with the project, `full`
runs the published models once `sync-r1 export MODEL --weights …` has made their graphs, `scorers` runs libraries
(faces, text in pictures, distortion), `faces` and `arcface` need published face models, `judges` an endpoint of yours
(docs/judges.md); `--also PROFILE` serves several side by side. This page is made from the
variants' cards (`sync-r1 describe HOST:PORT --card VARIANT` shows one of a running service) and
`benchmarks/results/fidelity.json` by `python -m benchmarks.fidelity`; do not edit it.

## Against the originals

* **original**: the library that defines the score. **difference**: largest absolute difference of scores, from encoded
  picture and text to the number, on the same weights at full size, fp32: random ones where they are published, the real
  ones of what packages bring. At small size tests compare every model (`tests/reward_models/test_parity_*.py`), and
  one of every family through Triton and gRPC (`tests/services/test_published_services.py`). *no original*: this
  project defines it, from a paper or by itself (its card says which).
* **validity**: the card's first figure; all stand below. *weights not at hand*: the published weights (or the model
  behind a judge) were not to be had where this page was made.
* **CPU ms/item**: time of one core of the machine named below, decoding not counted; a GPU is what the large are for.
  (torch): the graph's torch module ran, for the difference too; writing its file takes more memory than there is.
* **suggested map** (on the cards below): takes raw scores to [0, 1]. No map was fitted. Where the card has figures of
  validity its ends were set by hand beside them; where it has none (all of `full`, `faces`, `arcface`), they are the
  typical range of the paper or of practice, set by hand and never measured: measure it on pictures of yours before you
  weigh such rewards with one another.
"""


def write() -> None:
    """Write the page."""
    PAGE.write_text(render())


def render() -> str:
    """The page's text."""
    path = RESULTS / "fidelity.json"
    measured = json.loads(path.read_text()) if path.is_file() else {"rows": [], "columns": [], "machine": {}}
    rows = {tuple(row[:3]): dict(zip(measured["columns"], row)) for row in measured["rows"]}
    lines = [
        _HEAD,
        "| profile | reward | variant | original | max abs difference | validity | CPU ms/item |",
        "|" + "---|" * 7,
    ]
    sections: list[str] = []
    for (profile, reward, variant), card in _cards():
        row = rows.get((profile, reward, variant), {})
        lines.append("| " + " | ".join((profile, reward, f"`{variant}`", *_figures(profile, card, row))) + " |")
        sections += _section(profile, card, row)
    machine = ", ".join(f"{key}: {value}" for key, value in measured["machine"].items())
    return "\n".join([*lines, "", f"Machine: {machine}.", "", "## Cards", "", *sections]).rstrip() + "\n"


def _figures(profile: str, card: Card, row: dict[str, Any]) -> tuple[str, str, str, str]:
    """Original, difference, validity and cost: each a figure, or in two words why there is none."""
    published = ORIGINALS.get((card.reward, card.variant)) if profile == "full" else None
    original = published or LIBRARY_ORIGINALS.get((profile, card.reward, card.variant))
    validity = "weights not at hand"
    if card.validity:  # the figure that says most: the first area under a curve, else the first of all
        name = next((name for name in card.validity if name.endswith("_auc")), next(iter(card.validity)))
        validity = f"{card.validity[name]:.3f} ({name})"
    cost = "the endpoint's" if profile == "judges" else "not measured"
    if row:
        cost = row["CPU ms/item"] + (" (torch)" if row["engine"] == "torch" else "")
    if original is None:
        return "this project", "no original", validity, cost
    return original.library, row.get("max abs difference") or "not measured", validity, cost


def _map(card: Card) -> str:
    """The suggested map, and what its ends rest on."""
    if (card.affine_scale, card.affine_shift + 0.0, card.raw_min, card.raw_max) == (1, 0, 0, 1):
        return "the raw score itself"
    rests = "set by hand beside the figures below" if card.validity else "typical range, set by hand, not measured"
    return f"clip({card.affine_scale:.4g} · raw {card.affine_shift + 0.0:+.4g}, 0, 1), {rests}"


def _section(profile: str, card: Card, row: dict[str, Any]) -> list[str]:
    lines = [
        f"### {card.reward}: `{card.variant}` ({profile})",
        "",
        f"{card.summary}.",
        "",
        f"* definition: {card.source}",
        f"* licence of the weights: {card.licence}",
        f"* needs: {', '.join(f'`{field}`' for field in card.required_fields)}"
        + ("; scores a whole group at a time" if card.groupwise else ""),
        f"* raw range {card.raw_min:g} … {card.raw_max:g}; suggested map: {_map(card)}",
    ]
    if card.preprocessing:
        lines.append(f"* preprocessing: {card.preprocessing}")
    if row.get("note"):
        lines.append(f"* original: {row['note']}")
    if card.validity:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in card.validity.items())
        lines.append(f"* validity (`{card.validity_command}`): {figures}")
    lines += [f"* fails: {mode}" for mode in card.failure_modes]
    return [*lines, ""]


def _cards() -> Iterator[tuple[tuple[str, str, str], Card]]:
    """(profile, reward, variant) and its card, as it is where nothing was exported. A base's variants appear once."""
    seen: set[str] = set()
    with _no_graphs():
        for profile in PROFILES:
            for reward, served in load_profile(profile).rewards.items():
                for variant, made in served.variants.items():
                    if made.card.to_json() not in seen:
                        yield (profile, reward, variant), made.card
                    seen.add(made.card.to_json())


@contextmanager
def _no_graphs() -> Iterator[None]:
    """Cards tell of random weights in the graph store; the page is about none."""
    before = os.environ.get("SYNC_R1_GRAPHS")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SYNC_R1_GRAPHS"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["SYNC_R1_GRAPHS"]
            else:
                os.environ["SYNC_R1_GRAPHS"] = before
