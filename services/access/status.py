"""From causes to gRPC statuses: the one table, and the one place where a call is aborted.

Clients decide by these whether to retry, so each cause has exactly one status:

    malformed, over a limit, unknown variant   INVALID_ARGUMENT     never retried
    unknown release                            NOT_FOUND            never retried
    admission, quota or Triton queue full      RESOURCE_EXHAUSTED   retried after `grpc-retry-pushback-ms`
    deadline passed                            DEADLINE_EXCEEDED    retried within the caller's budget
    Triton down, service draining              UNAVAILABLE          another replica
    no token, or nothing like one              UNAUTHENTICATED      never retried
    a token that is not active                 PERMISSION_DENIED    never retried
    our bug                                    INTERNAL             never retried blindly; carries an error id

Texts of exceptions that we did not write for clients stay in the log.
"""

from __future__ import annotations

import logging
import uuid
from typing import NoReturn

import grpc

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.reward_models.types import (
    GraphDeadline,
    GraphOverloaded,
    GraphUnavailable,
    RequestTooLong,
    UnknownRelease,
    UnknownVariant,
)
from sync_r1.services.access.admission import OutOfBytes, Overloaded
from sync_r1.services.access.quotas import BeyondQuota, OverQuota

logger = logging.getLogger(__name__)

_MESSAGE_BYTES = 1024
PUSHBACK = "grpc-retry-pushback-ms"
REFUSED = "sync-r1-refused"
"""Trailer of RESOURCE_EXHAUSTED: which bound it was, inflight, bytes, quota or queue (Triton's); or `draining`."""


class InvalidRequest(SyncR1Error):
    """The request as a whole cannot be served; the message names the field, what was expected and what came."""


class Unauthenticated(SyncR1Error):
    """The call says nothing about whose it is, or nothing that could be read."""


class UnknownToken(SyncR1Error):
    """The call's token is not an active one."""


class Draining(SyncR1Error):
    """This replica takes no more calls."""


class BodyTooSlow(SyncR1Error):
    """The body of the call did not arrive in time."""


def _within_a_trailer(message: str) -> str:
    """The message, cut where it is so long that it could not travel: a list of ours, what `echoed` never saw."""
    if len(message.encode(errors="replace")) <= _MESSAGE_BYTES:
        return message
    return message.encode(errors="replace")[:_MESSAGE_BYTES].decode(errors="ignore") + "…"


# Messages of these are written for clients.
_SAID_AS_IT_IS: dict[type[Exception], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownVariant: grpc.StatusCode.INVALID_ARGUMENT,
    BeyondQuota: grpc.StatusCode.INVALID_ARGUMENT,
    RequestTooLong: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownRelease: grpc.StatusCode.NOT_FOUND,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    OutOfBytes: grpc.StatusCode.RESOURCE_EXHAUSTED,
    OverQuota: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    UnknownToken: grpc.StatusCode.PERMISSION_DENIED,
    BodyTooSlow: grpc.StatusCode.DEADLINE_EXCEEDED,
    Draining: grpc.StatusCode.UNAVAILABLE,
}
# Messages of these name hosts and models of ours: clients get these sentences instead.
_SAID_IN_OUR_WORDS: dict[type[Exception], tuple[grpc.StatusCode, str]] = {
    GraphOverloaded: (grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue of a graph is full; try again later"),
    GraphDeadline: (grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the graphs had answered"),
    GraphUnavailable: (grpc.StatusCode.UNAVAILABLE, "what runs the graphs does not answer; try another replica"),
}


async def abort(context: grpc.aio.ServicerContext, error: Exception, *, request_id: str, pushback_ms: int) -> NoReturn:
    """End the call with the status of `error`. Logs whatever the client is not told.

    Then `error` and its cause forget the frames they went through: tasks hold the error, its frames hold the tasks and
    the pictures, and all would stay until a garbage collection (30 MB a call of 8.7 MB that found a full queue).
    """
    trailers: tuple[tuple[str, str], ...] = ()
    kind = type(error)
    if kind in _SAID_AS_IT_IS:
        code, message = _SAID_AS_IT_IS[kind], str(error)
    elif kind in _SAID_IN_OUR_WORDS:
        code, message = _SAID_IN_OUR_WORDS[kind]
        logger.warning("request %r: %s: %s", request_id, code.name, error)
    else:
        error_id = uuid.uuid4().hex[:12]
        code, message = grpc.StatusCode.INTERNAL, f"internal error {error_id}; the service's log says more"
        logger.error("request %r: error %s", request_id, error_id, exc_info=error)
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        trailers = (
            (PUSHBACK, str(getattr(error, "pushback_ms", pushback_ms))),
            (REFUSED, getattr(error, "reason", "queue")),
        )
    elif isinstance(error, Draining):
        trailers = ((REFUSED, "draining"),)
    error.__traceback__ = None
    if error.__cause__ is not None:
        error.__cause__.__traceback__ = None
    await context.abort(code, _within_a_trailer(message), trailers)
    raise AssertionError("context.abort always raises")
