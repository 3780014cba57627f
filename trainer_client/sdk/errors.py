"""What can go wrong between a caller and a reward service, as the caller sees it.

    RewardClientError
    ├── ServiceUnreachable   nobody answers, or every replica is draining; retried within the budget
    ├── Overloaded           the service is full and said when to come back; retried within the budget
    ├── DeadlineExceeded     the caller's time is up; not retried
    ├── RequestRejected      the request is wrong (argument, variant, release); never retried
    │   └── Unauthenticated  no or a wrong credential; retried once if the token's source has another one by now
    ├── ServiceBug           the service broke its contract, or says it has a bug; never retried
    └── RewardFailed         an item has no score, and its reward's policy in the ensemble is `required`

An item that could not be scored is no exception: it is a `Failure` among the outcomes, and the rest of its batch
counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import grpc.aio

from sync_r1.reward_models.errors import SyncR1Error

if TYPE_CHECKING:
    from sync_r1.trainer_client.sdk.stats import Attempt

PUSHBACK_TRAILER = "grpc-retry-pushback-ms"


class RewardClientError(SyncR1Error):
    """Base of every error the SDK raises about a call."""

    attempts: tuple[Attempt, ...] = ()
    """What was tried before this was raised."""
    sent: bool = True
    """Whether a service had to look at the call; False for a connection that never came about."""


class ServiceUnreachable(RewardClientError):
    """No replica answers."""


class Overloaded(RewardClientError):
    """The service refused for lack of room; `pushback_s` is how long it asked to be left alone."""

    def __init__(self, message: str, pushback_s: float) -> None:
        super().__init__(message)
        self.pushback_s = pushback_s


class DeadlineExceeded(RewardClientError):
    """The time the caller gave has passed."""


class RequestRejected(RewardClientError):
    """The request can never succeed as it is; the message names the field or limit."""


class Unauthenticated(RequestRejected):
    """The service does not know who asks: no token, a wrong one or an expired one."""


class ServiceBug(RewardClientError):
    """The service failed in a way that is not the caller's fault; the message carries its error id, if it gave one."""


class RewardFailed(RewardClientError):
    """A reward of an ensemble whose failure policy is `required` could not score an item."""


def without_frames(error: RewardClientError) -> RewardClientError:
    """The same error, forgetting the frames that it and its cause went through.

    They hold the request, and whoever keeps the error in a variable closes a circle with them: megabytes of pictures
    would stay until a garbage collection (25 MB for each retry of a request of 8.7 MB).
    """
    error.__traceback__ = None
    if error.__cause__ is not None:
        error.__cause__.__traceback__ = None
    return error


def nothing_answers(target: str, reason: str = "") -> ServiceUnreachable:
    """The error of a port where no gRPC service listens, or not in the way it is spoken to: names it and the cure."""
    cure = "is `sync-r1 up` running?"
    lowered = reason.lower()
    if "certificate_verify_failed" in lowered or "peer name" in lowered or "hostname verification" in lowered:
        cure = "its certificate is not one that Tls.ca signed for that name"
    elif "wrong_version_number" in lowered or "ssl handshake" in lowered or "tls handshake" in lowered:
        cure = "TLS failed: it may speak plaintext (then give no Tls), or ask for a certificate (Tls.cert, Tls.key)"
    error = ServiceUnreachable(f"nothing answers at {target}; {cure}{f' ({reason})' if reason else ''}")
    error.sent = False
    return error


def from_rpc_error(target: str, error: grpc.aio.AioRpcError) -> RewardClientError:
    """The SDK's error for a failed call to `target` (host:port)."""
    code, details = error.code(), error.details() or "no details given"
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):  # not by us: a stopping server says CANCELLED
        return ServiceUnreachable(f"{target} is unavailable: {details}")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        pushback_s = _pushback_s(error)
        if pushback_s is not None:
            return Overloaded(f"{target} is overloaded: {details}", pushback_s)
        # Without pushback it is gRPC itself, complaining about a message limit: the same call would fail again.
        return RequestRejected(f"{target} refused the call: {details}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"{target} did not answer in time: {details}")
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return Unauthenticated(f"{target} does not know who asks: {details}; check the token, or give Token(…)")
    if code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS):
        return ServiceBug(f"{target} failed with {code.name}: {details}")
    return RequestRejected(f"{target} answered {code.name}: {details}")


def _pushback_s(error: grpc.aio.AioRpcError) -> float | None:
    """Seconds the service asks the caller to wait; None if it gave no valid number or a negative one (do not retry)."""
    for key, value in error.trailing_metadata() or ():
        if key == PUSHBACK_TRAILER:
            try:
                milliseconds = int(value)
            except ValueError:
                return None
            return milliseconds / 1000 if milliseconds >= 0 else None
    return None
