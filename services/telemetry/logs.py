"""How a service writes its log: text for people, or one JSON object a line for machines.

Neither form ever holds pictures, texts of samples or credentials: messages name sizes, digests and ids instead, and
fields come from a fixed list (`FIELDS`), so that a careless `extra=` cannot leak one. Only metadata of samples are
written, where `ServiceConfig.log_metadata` asks for them, and what an own function (`kind: python`) prints.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Literal, TextIO

from opentelemetry import trace

LogFormat = Literal["text", "json"]

FIELDS = (
    "reward", "variant", "release", "request_id", "team", "code", "refused", "items", "outcomes", "bytes", "seconds",
)  # fmt: skip
"""What a record may carry beside its message (`logger.info(…, extra={…})`)."""


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time (UTC), level, logger, message, trace id where there is one, and `FIELDS`."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line["trace_id"] = trace.format_trace_id(span.trace_id)
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(form: LogFormat, *, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send the root logger's records to `stream` (stderr if None) in this form; replaces earlier handlers."""
    handler = logging.StreamHandler(stream or sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
