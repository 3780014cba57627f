"""`answer_of`: await a gRPC call that its caller may give up."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio


async def answer_of(call: Any) -> Any:
    """The answer of a `grpc.aio` call; when the awaiting task is cancelled, the call is ended in gRPC's core.

    Cancelling gRPC's own task, as `await call` and `call.cancel()` do, leaks about 1 kB a call (grpc/grpc#43360):
    who loses hedges, or serves clients that are killed or out of time, would grow for ever. Measured by
    `make drill NAME=clients_killed`. Raises grpc.aio.AioRpcError, CANCELLED where somebody else ended the call.
    """
    answer = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(answer)
    except asyncio.CancelledError:
        if answer.done() and answer.cancelled():  # not we are cancelled: somebody has ended the call
            nothing = grpc.aio.Metadata()
            details = "the connection is dead"
            raise grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, nothing, nothing, details) from None
        if not answer.done():
            call._cython_call.cancel("given up")
        raise
    finally:
        del answer  # it holds the error of a failed call, whose frames, this one too, hold the request
