"""Parts of the services with promises of their own: the reference cache, admission, and what may be configured."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.reward_models.rewards.fields import finite_score
from sync_r1.reward_models.types import Failure, FailureCode, MissingReferences, Picture, Sample, Score
from sync_r1.services.access.admission import Admission, Overloaded
from sync_r1.services.access.status import InvalidRequest
from sync_r1.services.config import Limits, ServiceConfig, TlsConfig
from sync_r1.services.front import codec
from sync_r1.services.front.reference_cache import ReferenceCache


def _picture(kilobytes: int = 3) -> Picture:
    return Picture(np.zeros((kilobytes, 1024 // 3, 3), np.uint8), "0" * 64)


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_cache_keeps_what_was_used_last_within_its_bytes() -> None:
    size = _picture().pixels.nbytes
    cache = ReferenceCache(2 * size, 60.0)
    cache.put("team", "a", _picture())
    cache.put("team", "b", _picture())
    assert cache.get("team", "a") is not None
    cache.put("team", "c", _picture())
    assert cache.get("team", "b") is None
    assert cache.get("team", "a") is not None
    cache.put("team", "huge", _picture(100))
    assert cache.get("team", "huge") is None
    assert cache.get("team", "c") is not None


def test_the_cache_forgets_what_nobody_used_for_its_lifetime() -> None:
    clock = _Clock()
    cache = ReferenceCache(1 << 20, 60.0, clock)
    cache.put("team", "a", _picture())
    cache.put("team", "b", _picture())
    clock.now = 50.0
    assert cache.get("team", "a") is not None
    clock.now = 61.0
    assert cache.get("team", "b") is None
    assert cache.get("team", "a") is not None


def test_a_team_cannot_reach_the_references_of_another() -> None:
    cache = ReferenceCache(1 << 20, 60.0)
    cache.put("team", "a", _picture())
    assert cache.get("other", "a") is None


def test_room_is_given_back_even_when_the_work_fails() -> None:
    admission = Admission(4)
    with pytest.raises(KeyError), admission.admit(3):
        raise KeyError
    with admission.admit(4), pytest.raises(Overloaded) as caught, admission.admit(1):
        pass
    assert 50 <= caught.value.pushback_ms <= 5000
    assert admission.inflight_items == 0


def test_the_peak_of_a_burst_is_known_for_a_minute_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [1000.5]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    admission = Admission(100)
    assert admission.peak_items == 0
    with admission.admit(70), admission.admit(20):
        assert admission.peak_items == 90
        now_s[0] += 300  # a long call counts until a minute after its end
    assert (admission.inflight_items, admission.peak_items) == (0, 90)
    now_s[0] += 30
    with admission.admit(7):
        pass
    now_s[0] += 29
    assert admission.peak_items == 90
    now_s[0] += 1
    assert admission.peak_items == 7
    now_s[0] += 60
    assert admission.peak_items == 0


_TLS = TlsConfig(cert=Path("cert.pem"), key=Path("key.pem"))
_MUTUAL = TlsConfig(cert=Path("cert.pem"), key=Path("key.pem"), client_ca=Path("ca.pem"))
_TOKENS = Path("tokens.yaml")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "reward.example"])
@pytest.mark.parametrize(
    ("protection", "lacking"),
    [
        ({}, "--tls-cert .* and --tokens"),
        ({"tls": _TLS}, "--tokens"),  # encrypted, but for whom?
        ({"tokens": _TOKENS}, "--tls-cert"),  # a token that all can read is everybody's
    ],
)
def test_a_host_that_others_reach_needs_encryption_and_credentials(
    host: str, protection: dict[str, Any], lacking: str
) -> None:
    with pytest.raises(ValidationError, match=f"lacks {lacking}.*--insecure"):
        ServiceConfig(host=host, **protection)
    assert ServiceConfig(host=host, insecure=True, **protection).host == host


@pytest.mark.parametrize("protection", [{"tls": _MUTUAL}, {"tls": _TLS, "tokens": _TOKENS}])
def test_a_protected_service_may_listen_anywhere(protection: dict[str, Any]) -> None:
    assert ServiceConfig(host="0.0.0.0", **protection).address == "0.0.0.0:0"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_no_asking(host: str) -> None:
    assert ServiceConfig(host=host, port=9001).address in ("127.0.0.1:9001", "localhost:9001", "[::1]:9001")


def test_a_request_larger_than_the_byte_budget_cannot_be_allowed() -> None:
    with pytest.raises(ValidationError, match="never be admitted"):
        ServiceConfig(max_inflight_bytes=1024 * 1024)


def test_a_request_that_could_never_be_admitted_cannot_be_allowed() -> None:
    with pytest.raises(ValidationError, match="never be admitted"):
        Limits(max_items=10, max_inflight_items=9)


_IMAGES = st.one_of(
    st.builds(rewards_pb2.Image),
    st.builds(rewards_pb2.Image, encoded=st.binary(max_size=64)),
    st.builds(rewards_pb2.Image, sha256=st.text(max_size=70)),
    st.builds(
        rewards_pb2.Image,
        raw=st.builds(
            rewards_pb2.RawImage,
            pixels=st.binary(max_size=48),
            height=st.integers(0, 2**32 - 1) | st.integers(0, 4),
            width=st.integers(0, 2**32 - 1) | st.integers(0, 4),
        ),
    ),
)
_SAMPLES = st.builds(
    rewards_pb2.Sample,
    image=_IMAGES,
    prompt=st.text(max_size=40),
    choices=st.lists(st.text(max_size=5), max_size=3),
    target=st.integers(0, 2**32 - 1),
    concept=st.builds(rewards_pb2.Concept, references=st.lists(_IMAGES, max_size=4)),
)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=300))
def test_whatever_bytes_come_the_request_is_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        assert codec.parse(body, Limits()).samples


@settings(deadline=None, max_examples=200)
@given(st.lists(_SAMPLES, min_size=1, max_size=5))
def test_whatever_an_item_holds_it_has_one_outcome(messages: list[rewards_pb2.Sample]) -> None:
    limits = Limits(max_references=3, max_text_bytes=32)
    decoder = codec.Codec(limits, ReferenceCache(1 << 20, 60.0), 2)
    fields = ("image", "concept.references")
    work = decoder.samples(messages, team="", required_fields=fields, deadline_s=time.monotonic() + 60)
    outcomes = asyncio.run(work)
    decoder.close()
    assert len(outcomes) == len(messages)
    for outcome in outcomes:
        assert isinstance(outcome, Sample | Failure | MissingReferences)
        assert not isinstance(outcome, Failure) or (outcome.field and outcome.message)


@given(st.sampled_from([float("nan"), float("inf"), -float("inf")]), st.booleans(), st.floats(-10, 10))
def test_a_number_that_is_not_finite_becomes_no_score(bad: float, in_component: bool, sound: float) -> None:
    value, components = (sound, {"part": bad}) if in_component else (bad, {"part": sound})
    with pytest.raises(ValueError, match="must be finite"):
        Score(value, components)
    outcome = finite_score(value, components, ("graph",))
    assert isinstance(outcome, Failure)
    assert outcome.code == FailureCode.NON_FINITE
