"""What every command shows: one console, and errors as one sentence instead of a trace."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """Standard output."""
    from rich.console import Console

    return Console(stderr=False)


@contextmanager
def errors_shown() -> Iterator[None]:
    """Errors that we raise on purpose become one sentence and exit code 1; bugs keep their trace."""
    from sync_r1.reward_models.types import RewardError
    from sync_r1.trainer_client.sdk.errors import RewardClientError

    try:
        yield
    except (RewardError, RewardClientError, RuntimeError, ValueError, OSError) as error:
        from rich.markup import escape  # "[size, size, 3]" of a message is no markup

        console().print(f"[bold red]error:[/bold red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
