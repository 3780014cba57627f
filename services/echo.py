"""How a message repeats what a caller sent."""

from __future__ import annotations

_ECHOED_CHARACTERS = 64


def echoed(text: str) -> str:
    """A caller's own text as a message may repeat it: quoted, in ASCII, and its beginning only where it is long.

    A status travels in trailers, of which gRPC takes 8 KiB: a longer one reaches the client as RESOURCE_EXHAUSTED, so
    that an error that must not be retried would be.
    """
    if len(text) <= _ECHOED_CHARACTERS:
        return ascii(text)
    return f"{text[:_ECHOED_CHARACTERS]!a}… ({len(text)} characters)"
