"""What a run can see of its calls: spans from ensemble to attempt, and counters of attempts as well as outcomes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

import grpc
import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from scripted_service import ScriptedService, aborting

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client import Backoff, ClientSettings, RewardClient, RewardEnsemble, RewardUse, Timeout, picture
from sync_r1.trainer_client.sdk import tracing as sdk_tracing

SAMPLES = [Sample(image=picture(np.full((4, 4, 3), i, np.uint8))) for i in range(3)]
QUICK = ClientSettings(Timeout(20, 1), backoff=Backoff(0.01, 0.05))


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What this test's spans become; the process's own tracer provider stays as it is."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


async def test_spans_lead_from_the_ensemble_to_every_attempt_and_on_to_the_service(
    spans: InMemorySpanExporter,
) -> None:
    service = await ScriptedService(script=[aborting(grpc.StatusCode.UNAVAILABLE, "draining")]).start()
    ensemble = RewardEnsemble({"aesthetic": (RewardClient(service.target, QUICK), RewardUse(1.0))})
    with sdk_tracing.span("trainer step"):
        await ensemble.score(SAMPLES)
    await ensemble.close()
    await service.stop()
    by_id = {span.context.span_id: span for span in spans.get_finished_spans() if span.context}

    def path(span: ReadableSpan) -> list[str]:
        names = [span.name]
        while span.parent is not None:
            span = by_id[span.parent.span_id]
            names.append(span.name)
        return names[::-1]

    attempts = [span for span in by_id.values() if span.name == "sync_r1.attempt"]
    above = ["trainer step", "sync_r1.ensemble", "sync_r1.reward", "sync_r1.attempt"]
    assert [path(span) for span in attempts] == [above] * 3  # Describe, the failed one, the other
    assert [span.status.is_ok for span in attempts] == [True, False, True]
    assert attempts[2].attributes == {"sync_r1.endpoint": service.target, "sync_r1.hedge": False}
    sent = attempts[2].context
    assert sent is not None
    assert service.metadata[1]["traceparent"].startswith(f"00-{sent.trace_id:032x}-{sent.span_id:016x}-")


async def test_without_a_tracer_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdk_tracing, "trace", None)  # as where OpenTelemetry is not installed
    service = await ScriptedService().start()
    async with RewardClient(service.target, QUICK) as client:
        await client.score(SAMPLES)
    await service.stop()
    assert "traceparent" not in service.metadata[0]


async def test_stats_and_timings_show_attempts_as_well_as_outcomes_and_fit_a_log() -> None:
    service = await ScriptedService(script=[aborting(grpc.StatusCode.UNAVAILABLE, "draining")]).start()
    ensemble = RewardEnsemble({"aesthetic": (RewardClient(service.target, QUICK), RewardUse(1.0))})
    result = await ensemble.score(SAMPLES)
    stats = json.loads(json.dumps(ensemble.stats()))["aesthetic"]
    timing = json.loads(json.dumps(asdict(result.rewards["aesthetic"].timings[0])))
    await ensemble.close()
    await service.stop()
    assert {key: stats[key] for key in ("calls", "items", "requests", "attempts", "retries", "hedges")} == {
        "calls": 1, "items": 3, "requests": 1, "attempts": 3, "retries": 1, "hedges": 0,
    }  # fmt: skip
    assert stats["outcomes"] == {"OK": 2, "ServiceUnreachable": 1}
    assert stats["by_endpoint"] == {service.target: 3}
    assert stats["bytes_sent"] == 2 * service.requests[0].ByteSize()
    assert stats["replicas"][service.target] == {"breaker": "closed", "healthy": True, "in_flight": 0}
    assert [attempt["outcome"] for attempt in timing["tries"]] == ["ServiceUnreachable", "OK"]
    assert (timing["items"], timing["release"], timing["admission_ns"]) == (3, "a" * 64, 1)
