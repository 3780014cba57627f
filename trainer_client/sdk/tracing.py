"""OpenTelemetry spans of the SDK: ensemble → reward → attempt; nothing at all where OpenTelemetry is not installed.

The SDK uses the API only; who wants to see the spans sets up a tracer provider (`docs/client.md`). The context travels
to the service as W3C `traceparent` (https://www.w3.org/TR/trace-context/).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    trace = None  # type: ignore[assignment]

Value = str | int | float | bool


class Span:
    """A span, or what stands for it where there is none."""

    def __init__(self, span: trace.Span | None) -> None:
        self._span = span

    def set(self, **attributes: Value) -> None:
        """Add attributes, named `sync_r1.…`."""
        if self._span is not None:
            self._span.set_attributes({f"sync_r1.{name}": value for name, value in attributes.items()})


@contextmanager
def span(name: str, **attributes: Value) -> Iterator[Span]:
    """A span around a block, child of the current one; an exception is recorded on it."""
    if trace is None:
        yield Span(None)
        return
    with trace.get_tracer("sync_r1.trainer_client").start_as_current_span(name) as current:
        opened = Span(current)
        opened.set(**attributes)
        yield opened


def context_metadata() -> tuple[tuple[str, str], ...]:
    """The current span as gRPC metadata; empty without one."""
    if trace is None:
        return ()
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return tuple(carrier.items())
