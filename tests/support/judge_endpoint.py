"""A language model's endpoint, played by a real HTTP server on loopback: well-behaved, and at fault when told so.

    with JudgeEndpoint() as endpoint:
        endpoint.faults.append(status(429, {"Retry-After": "0"}))   # for the next request; then it behaves again

Good answers follow what is asked: the answer "half" is half right, one that is among the right answers is right; the
k-th picture of a group has structure 10 k and identity 10 k + 1; bright pictures show the subject, and the scene is
right where the text says "red"; the probability of yes is 0.75 + 0.125.
"""

from __future__ import annotations

import base64
import io
import json
import math
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

Fault = Callable[[BaseHTTPRequestHandler], None]


class JudgeEndpoint:
    """The server, what it was asked, and the faults it will have, first come first served."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.open = 0
        """Requests under way."""
        self.most_open = 0
        self.pause_s = 0.0
        self._lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                endpoint._serve(self)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> JudgeEndpoint:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self._lock:
            self.asked.append(body)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            self.open += 1
            self.most_open = max(self.open, self.most_open)
            fault = self.faults.pop(0) if self.faults else self.always
        try:
            time.sleep(self.pause_s)
            (fault or completion(good_answer(body), top=TOP if body.get("logprobs") else None))(handler)
        except OSError:
            pass  # the client has gone
        finally:
            with self._lock:
                self.open -= 1


TOP = {"Yes": math.log(0.75), " yes": math.log(0.125), "No": math.log(0.0625), "The": math.log(0.03125)}


def good_answer(body: dict[str, Any]) -> str:
    """What a judge that does as it is told answers."""
    name = body.get("response_format", {}).get("json_schema", {}).get("name")
    if name == "answer":
        item = json.loads(user_text(body))
        mark = 0.5 if item["given_answer"] == "half" else float(item["given_answer"] in item["right_answers"])
        return json.dumps({"reason": f"it says {item['given_answer']}", "score": mark})
    if name == "scene":
        reference, drawn = pictures(body)
        red = "red" in json.loads(user_text(body))["text"]
        bright = bool(drawn.mean() > 99)
        return json.dumps({"reason": f"beside {reference.mean():.0f}", "subject": bright, "scene": red})
    if name == "pictures":
        count = len(pictures(body)) - 1
        return marks({k: (10 * k, 10 * k + 1) for k in range(1, count + 1)})
    return "Yes"


def marks(of: dict[int, tuple[int, int]]) -> str:
    """An answer with (structure, identity) by the picture's number."""
    return json.dumps({"marks": [{"picture": k, "structure": s, "identity": i} for k, (s, i) in of.items()]})


def user_text(body: dict[str, Any]) -> str:
    """The text of the question."""
    return str(body["messages"][1]["content"][-1]["text"])


def pictures(body: dict[str, Any]) -> list[np.ndarray]:
    """The question's pictures (H, W, 3), in order."""
    urls = [part["image_url"]["url"] for part in body["messages"][1]["content"] if part["type"] == "image_url"]
    prefix = "data:image/png;base64,"
    assert all(url.startswith(prefix) for url in urls)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.removeprefix(prefix))))) for url in urls]


def completion(text: Any, *, finish: str = "stop", top: dict[str, float] | None = None, **message: Any) -> Fault:
    """A chat completion; faultless in form."""
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    if top is not None:
        entries = [{"token": token, "logprob": logprob} for token, logprob in top.items()]
        choice["logprobs"] = {"content": [{"token": entries[0]["token"], "top_logprobs": entries}]}
    return raw(json.dumps({"choices": [choice]}).encode())


def raw(body: bytes, code: int = 200, headers: dict[str, str] | None = None) -> Fault:
    """Any bytes."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return send


def status(code: int, headers: dict[str, str] | None = None) -> Fault:
    """An error of the endpoint."""
    return raw(b'{"error": {"message": "as told"}}', code, headers)


def cut_off(handler: BaseHTTPRequestHandler) -> None:
    """Promises more than it sends."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """Closes the connection without a word."""
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def hang(handler: BaseHTTPRequestHandler) -> None:
    """Says nothing until the client goes."""
    handler.connection.settimeout(30)
    handler.connection.recv(1)
    handler.close_connection = True


def dribble(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then, so that no read ever times out; ends when the client goes."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b" ")
        time.sleep(0.02)


def endless(handler: BaseHTTPRequestHandler) -> None:
    """Never stops talking."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(1 << 40))
    handler.end_headers()
    while True:
        handler.wfile.write(b"x" * 65536)
