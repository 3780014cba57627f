"""What can go wrong between a caller and a reward service, as the caller sees it.

    RewardClientError
    ├── ServiceUnreachable   nobody answers, or every replica is draining; retried within the budget
    ├── Overloaded           the service is full and said when to come back; retried within the budget
    ├── DeadlineExceeded     the caller's time is up; not retried
    ├── RequestRejected      the request is wrong (argument, variant, release); never retried
    │   ├── BadArgument      an argument or setting has no meaning; a ValueError too, raised before anything is sent
    │   ├── ReleaseNotFound  no replica that answers serves the release that was asked for
    │   └── Unauthenticated  no or a wrong credential; retried once if the token's source has another one by now
    ├── SecurityError        TLS files or a token that cannot be used (now); a ValueError too (`security.py`)
    ├── ServiceBug           the service broke its contract, says it has a bug, or dies of the call; never retried
    └── RewardFailed         an item has no score, and its reward's policy in the ensemble is `required`

    ClientMisused            a RuntimeError: the client is used in a forked process or on another event loop, or was
                             closed while the call was under way

An item that could not be scored is no exception: it is a `Failure` among the outcomes, and the rest of its batch
counts. All of these pickle, so that they cross process pools; a traceback does not.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from sync_r1.reward_models.errors import SyncR1Error

if TYPE_CHECKING:
    from sync_r1.trainer_client.sdk.stats import Attempt

PUSHBACK_TRAILER = "grpc-retry-pushback-ms"
_LOST = re.compile("socket closed|connection reset|broken pipe|connection termination", re.IGNORECASE)
"""How gRPC, and Envoy before a replica, name a connection that broke under a call, as when the process dies. What a
service says itself differs, and so does a replica that only falls silent ("ping timeout").
"""
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # in the order in which gRPC reads them


class RewardClientError(SyncR1Error):
    """Base of every error the SDK raises about a call."""

    attempts: tuple[Attempt, ...] = ()
    """What was tried before this was raised."""
    sent: bool = True
    """Whether a service had to look at the call; False for a connection that never came about."""


class ClientMisused(SyncR1Error, RuntimeError):
    """The client is used where it cannot work, or was closed under a call; the message says what to do instead."""


class ServiceUnreachable(RewardClientError):
    """No replica answers."""

    lost: bool = False
    """Whether the connection broke while the call was under way there: the call may be what killed the replica."""


class Overloaded(RewardClientError):
    """The service refused for lack of room; `pushback_s` is how long it asked to be left alone."""

    def __init__(self, message: str, pushback_s: float) -> None:
        super().__init__(message)
        self.pushback_s = pushback_s

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.pushback_s), vars(self)


class DeadlineExceeded(RewardClientError):
    """The time the caller gave has passed."""


class RequestRejected(RewardClientError):
    """The request can never succeed as it is; the message names the field or limit."""


class BadArgument(RequestRejected, ValueError):
    """An argument or a setting has no meaning; the message names it, what was expected and what came."""


class ReleaseNotFound(RequestRejected):
    """No replica that answers serves the release that was asked for."""


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


def nothing_answers(target: str, reason: str = "", *, proxied: bool = False) -> ServiceUnreachable:
    """The error of a port where no gRPC service listens, or not in the way it is spoken to: names it and the cure.

    `proxied`: gRPC would go there through the HTTP proxy that the environment names, if it names one.
    """
    proxy = next((name for name in _PROXIES if os.environ.get(name)), "") if proxied else ""
    proxy_hint = f"; {proxy} is set, so gRPC goes through that proxy unless no_proxy lists the host" if proxy else ""
    cure = "is `sync-r1 up` running?"
    lowered = reason.lower()
    if "certificate_verify_failed" in lowered or "peer name" in lowered or "hostname verification" in lowered:
        cure = "its certificate is not one that Tls.ca signed for that name"
    elif "wrong_version_number" in lowered or "ssl handshake" in lowered or "tls handshake" in lowered:
        cure = "TLS failed: it may speak plaintext (then give no Tls), or ask for a certificate (Tls.cert, Tls.key)"
    error = ServiceUnreachable(f"nothing answers at {target}; {cure}{proxy_hint}{f' ({reason})' if reason else ''}")
    error.sent = False
    return error


def from_rpc_error(target: str, error: grpc.aio.AioRpcError) -> RewardClientError:
    """The SDK's error for a failed call to `target` (host:port)."""
    code, details = error.code(), error.details() or "no details given"
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):  # not by us: a stopping server says CANCELLED
        unreachable = ServiceUnreachable(f"{target} is unavailable: {details}")
        unreachable.lost = _LOST.search(details) is not None
        return unreachable
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
    if code is grpc.StatusCode.NOT_FOUND:
        return ReleaseNotFound(f"{target} answered NOT_FOUND: {details}")
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
