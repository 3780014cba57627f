"""What every command shows: one console, and errors as one sentence instead of a trace."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sync_r1.reward_models.errors import is_deliberate, sentence

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """Standard output."""
    from rich.console import Console

    return Console(stderr=False)


@contextmanager
def errors_shown(*files: Path | str | None) -> Iterator[None]:
    """A deliberate error becomes one sentence and exit code 1; a bug keeps its trace (`is_deliberate`).

    `files`: what the command was told to read or write, None where it was not.
    """
    try:
        yield
    except Exception as error:
        if not is_deliberate(error, [file for file in files if file]):
            raise
        from rich.markup import escape  # "[size, size, 3]" of a message is no markup

        console().print(f"[bold red]error:[/bold red] {escape(sentence(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
