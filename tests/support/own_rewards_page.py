"""The page of own rewards: its files, and its commands in their order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "own-rewards.md").read_text()


def page_file(folder: Path, name: str) -> Path:
    """A file that the page shows, by the name in its first line."""
    for block in re.findall(r"```(?:python|yaml)\n(.*?)```", PAGE, re.DOTALL):
        if re.match(rf"# {re.escape(name)}\b", block):
            (folder / name).write_text(block)
            return folder / name
    raise AssertionError(f"the page shows no {name}")


def page_commands(section: str) -> list[list[str]]:
    """The words of each command of a section, without its comment."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    assert blocks, f"the page has no commands under {section!r}"
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
