"""The observer: sees every Score call from outside, whatever becomes of it, and tells metrics, traces and log.

It is the outermost interceptor, so that calls the gate refuses are counted too. It reads only what the call itself
shows: the response, or the status and the trailers (`sync-r1-refused` names the bound that a refused call met).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from opentelemetry.trace import SpanKind, Status, StatusCode

from sync_r1.services.access.interceptor import SCORE, caller
from sync_r1.services.access.status import REFUSED
from sync_r1.services.telemetry.metrics import ServiceMetrics
from sync_r1.services.telemetry.tracing import incoming, tracer

logger = logging.getLogger(__name__)

_NOBODY = ""


class Observer(grpc.aio.ServerInterceptor):
    """Reports the Score calls of one service."""

    def __init__(self, metrics: ServiceMetrics) -> None:
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler of Score, also one that only refuses."""
        started_s = time.perf_counter()
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method != SCORE:
            return handler
        answer = handler.stream_unary  # the gate reads bodies itself, so its handlers are of this kind
        trace = incoming(handler_call_details.invocation_metadata or ())

        async def observed(request: Any, context: grpc.aio.ServicerContext) -> Any:
            with tracer.start_as_current_span(
                "score", context=trace, kind=SpanKind.SERVER, record_exception=False, set_status_on_exception=False
            ) as span:
                try:
                    response = await answer(request, context)
                except BaseException as error:
                    code = _code(context, error)
                    span.set_status(Status(StatusCode.ERROR, code))
                    self._aborted(context, code, time.perf_counter() - started_s)
                    if isinstance(error, grpc.aio.AbortError):
                        _forget_frames(error)
                    raise
                span.set_attributes(
                    {"variant": response.variant, "release": response.release, "items": len(response.outcomes)}
                )
                self._answered(response, time.perf_counter() - started_s)
                return response

        return grpc.stream_unary_rpc_method_handler(observed, response_serializer=handler.response_serializer)

    def _answered(self, response: Any, seconds: float) -> None:
        team = _team()
        self._metrics.answered(response, team=team, seconds=seconds)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "answered %d items in %.4f s", len(response.outcomes), seconds,
                extra={
                    "reward": response.reward, "variant": response.variant, "release": response.release, "team": team,
                    "request_id": response.request_id, "code": "OK", "items": len(response.outcomes),
                    "seconds": seconds,
                },
            )  # fmt: skip

    def _aborted(self, context: grpc.aio.ServicerContext, code: str, seconds: float) -> None:
        trailers = dict(context.trailing_metadata() or ())
        refused = str(trailers.get(REFUSED, ""))
        self._metrics.aborted(code, team=_team(), seconds=seconds, refused=refused)
        logger.info(
            "ended with %s after %.4f s%s", code, seconds, f" ({refused})" if refused else "",
            extra={"team": _team(), "code": code, "refused": refused, "seconds": seconds},
        )  # fmt: skip


def _forget_frames(error: BaseException) -> None:
    """Take the frames from what `context.abort` raised.

    gRPC's state of the call holds this error, and its frames hold that state and the request's bytes: a cycle, so that
    the bodies of refused calls would stay until a garbage collection (measured: 1.6 GB, `make drill NAME=strangers`).
    """
    error.__traceback__ = error.__context__ = None


def _team() -> str:
    team = caller.get(None)
    return team.name if team is not None else _NOBODY


def _code(context: grpc.aio.ServicerContext, error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "CANCELLED"
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    known = {status.value[0]: status.name for status in grpc.StatusCode}
    return known.get(code, "UNKNOWN")
