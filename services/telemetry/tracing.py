"""OpenTelemetry in a service: the caller's trace goes on here, and on to Triton.

    trainer ── traceparent ──▶ front: "score" ──▶ "prepare", one "infer GRAPH" per call ── traceparent ──▶ Triton

Without `configure` every span is a no-op of the API, which costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

tracer = trace.get_tracer("sync_r1.services")
_FLUSH_MS = 5000


def configure(endpoint: str, *, reward: str) -> Callable[[], None]:
    """Export spans to the OTLP collector at `endpoint` (http(s)://HOST:PORT); returns what flushes and ends it.

    A collector that does not answer loses spans, never requests.
    """
    provider = TracerProvider(resource=Resource.create({"service.name": f"sync-r1-{reward}"}))
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://")))
    )
    trace.set_tracer_provider(provider)

    def close() -> None:
        provider.force_flush(_FLUSH_MS)
        provider.shutdown()

    return close


def incoming(metadata: Iterable[tuple[str, str | bytes]]) -> Context:
    """The context that the caller's `traceparent` names; an empty one without it."""
    return propagate.extract({key: value for key, value in metadata if isinstance(value, str)})


def outgoing() -> dict[str, str]:
    """Headers that continue the current span elsewhere; empty where nothing is traced."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers
