"""A profile with a reward of pictures and one of answers beside the four of `pocket`, as a team writes it."""

from __future__ import annotations

from pathlib import Path

PICTURES, ANSWERS = "sentence-likeness", "spelling"
"""The fifth and the sixth reward."""
REWARDS = ("concept-consistency", "text-faithfulness", "understanding-correctness", "aesthetic", PICTURES, ANSWERS)

PAGE = (Path(__file__).parents[2] / "docs" / "profiles.md").read_text()
OWN = PAGE.partition("```yaml\n")[2].partition("```")[0]
"""The example of the page."""


def write_own_profile(folder: Path, text: str = OWN, name: str = "my-team.yaml") -> Path:
    """The file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name
