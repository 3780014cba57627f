"""Atheris (libFuzzer) on what a caller sends: parse, then decode every picture of every item.

    python -m benchmarks.reliability.fuzz_codec CORPUS_DIR -atheris_runs=100000 -seed=1

Pillow's Python parts and our own are instrumented, so that mutations are steered by what they reach. Anything but
`InvalidRequest`, a wrong number of outcomes or a failure with the code INTERNAL ends it with the input's file.
"""

from __future__ import annotations

import asyncio
import sys
import time

import atheris

with atheris.instrument_imports(include=["PIL", "sync_r1.services.front.codec", "sync_r1.reward_models.images"]):
    from sync_r1.reward_models.types import Failure, FailureCode, MissingReferences, Sample
    from sync_r1.services.access.status import InvalidRequest
    from sync_r1.services.config import Limits
    from sync_r1.services.front import codec, responses
    from sync_r1.services.front.reference_cache import ReferenceCache

LIMITS = Limits(max_items=16, max_inflight_items=16, max_references=4, max_text_bytes=256, max_pixels=1 << 20)
_DECODER = codec.Codec(LIMITS, ReferenceCache(8 << 20, 60.0), 1)
_LOOP = asyncio.new_event_loop()


def one_input(data: bytes) -> None:
    """What the fuzzer calls."""
    try:
        request = codec.parse(data, LIMITS)
    except InvalidRequest:
        return
    outcomes = _LOOP.run_until_complete(
        _DECODER.samples(
            request.samples,
            team="",
            required_fields=("image", "concept.references"),
            deadline_s=time.monotonic() + 30,
        )
    )
    assert len(outcomes) == len(request.samples), "one outcome for each item"
    for outcome in outcomes:
        assert isinstance(outcome, Sample | Failure | MissingReferences), type(outcome)
        if isinstance(outcome, Failure):
            assert outcome.code is not FailureCode.INTERNAL, outcome.message
            assert outcome.field, outcome.message
            assert outcome.message
    responses.response(request, [o for o in outcomes if not isinstance(o, Sample)], reward="", variant="", release="")


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
