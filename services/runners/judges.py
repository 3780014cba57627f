"""Runs judges (`reward_models/graphs/judges.py`) at OpenAI-compatible endpoints, the chat completions API.

    one question ─▶ slot ─▶ POST ─▶ answer, or why this item has none (refused, cut off, garbage)
                     ▲        └ 408, 425, 429, 5xx, connection lost, attempt timed out: again after a pause
                     └────────┘ until the caller's deadline or the last attempt, then GraphOverloaded, GraphUnavailable

Answers are kept by the question's digest: a call that failed half-way, or is hedged, and comes again, asks for what it
lacks only. Keys, pictures and questions are never logged; what the endpoint said is, cut to 4000 characters.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import random
import ssl
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.reward_models.graphs.judges import FirstToken, Judge, texts
from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.rewards.base import failure_of
from sync_r1.reward_models.runner import RunContext, RunResult, Tensors
from sync_r1.reward_models.types import GraphDeadline, GraphError, GraphOverloaded, GraphUnavailable
from sync_r1.services.file_stamp import stamp
from sync_r1.services.runners.judge_endpoints import JudgeEndpoint, JudgesError, read_key
from sync_r1.services.telemetry.tracing import tracer

logger = logging.getLogger(__name__)

_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
_ABOUT_THE_ITEM = frozenset({400, 413, 422})
"""Statuses by which endpoints refuse one question: a picture too large, a text they will not read."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 20.0
_LONGEST_LOGGED, _LONGEST_KEPT = 4000, 65_536


@dataclass(frozen=True)
class _Answer:
    """What came back for one question; `problem` says why it cannot be used, or is empty."""

    text: str = ""
    problem: str = ""
    first_token: FirstToken = ()


@dataclass(frozen=True)
class _Question:
    """One item's question; its body is made when its turn has come, because pictures take room."""

    judge: Judge
    text: str
    pictures: tuple[bytes, ...]

    @property
    def digest(self) -> str:
        """Of everything that decides the answer."""
        parts = [self.judge.sha256.encode(), self.text.encode(), *self.pictures]
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()

    def body(self) -> bytes:
        """The request's JSON: pictures as data URLs, then the text."""
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(file).decode()}"}}
            for file in self.pictures
        ]
        content.append({"type": "text", "text": self.text})
        prompt = self.judge.prompt
        body: dict[str, Any] = {
            "model": self.judge.model,
            "messages": [{"role": "system", "content": prompt.system}, {"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": prompt.max_tokens,
        }
        if prompt.schema:
            schema = {"name": prompt.name, "strict": True, "schema": prompt.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        if prompt.top_logprobs:
            body |= {"logprobs": True, "top_logprobs": prompt.top_logprobs}
        return json.dumps(body).encode()


class _Transient(SyncR1Error):
    """An attempt that failed for a reason that may pass. `cause` is raised when no further attempt is made."""

    def __init__(self, cause: GraphError, retry_after_s: float | None = None) -> None:
        super().__init__(str(cause))
        self.cause, self.retry_after_s = cause, retry_after_s


class JudgeRunner:
    """A `GraphRunner` of judges: every version of `judges`, each at the endpoint of its graph's name.

    Raises JudgesError when a file of an endpoint cannot be used.
    """

    def __init__(self, judges: Sequence[GraphSpec], endpoints: Mapping[str, JudgeEndpoint]) -> None:
        # By what they are asked, not by version: two profiles may give two judges of one name the same version.
        self._judges = {(spec.name, spec.sha256): spec.judge for spec in judges if spec.judge is not None}
        self._endpoints = {name: _Endpoint(name, endpoints[name]) for name in {name for name, _ in self._judges}}

    async def close(self) -> None:
        """End the connections."""
        for endpoint in self._endpoints.values():
            await endpoint.close()

    async def run(self, context: RunContext, graph: str, inputs: Tensors) -> RunResult:
        """See `GraphRunner.run`; inputs and outputs are those of `reward_models/graphs/judges.py`."""
        started_ns = time.perf_counter_ns()
        try:
            pin = context.release.pin_of(graph)
            judge, endpoint = self._judges[graph, pin.sha256], self._endpoints[graph]
        except KeyError as error:
            raise GraphError(f"judge {graph!r} as the release pins it is not served: {error}") from error
        questions = [_Question(judge, text, tuple(row)) for text, row in zip(inputs["text"], inputs["pictures"])]
        remaining_s = context.deadline_s - time.monotonic()
        tasks = [asyncio.ensure_future(endpoint.ask_alone(context, question)) for question in questions]
        try:
            with tracer.start_as_current_span(f"ask {graph}", attributes={"version": pin.version, "items": len(tasks)}):
                answers = await asyncio.wait_for(asyncio.gather(*tasks), max(0.0, remaining_s))
        except asyncio.TimeoutError:
            raise GraphDeadline(f"judge {graph}: no answer within {remaining_s:.3f} s") from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # connections are given back before we are gone
        first_tokens = np.empty(len(answers), object)
        first_tokens[:] = [answer.first_token for answer in answers]
        outputs = {
            "answer": texts([answer.text for answer in answers]),
            "problem": texts([answer.problem for answer in answers]),
            "first_token": first_tokens,
        }
        return RunResult(outputs, pin.version, time.perf_counter_ns() - started_ns)


class _Endpoint:
    """One endpoint: its connections, its slots, its key, and the answers it gave."""

    def __init__(self, name: str, config: JudgeEndpoint) -> None:
        self._name, self._config = name, config
        self._url = config.url.rstrip("/") + "/chat/completions"
        try:
            verify = ssl.create_default_context(cafile=str(config.ca_file)) if config.ca_file is not None else True
        except (OSError, ssl.SSLError) as error:
            raise JudgesError(f"judge {name}: ca_file {config.ca_file} cannot be used: {error}") from None
        # No redirects and nothing of the environment (proxies, .netrc): pictures go where the operator's file says.
        self._client = httpx.AsyncClient(
            verify=verify, timeout=config.timeout_s, trust_env=False, follow_redirects=False,
            limits=httpx.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency),
        )  # fmt: skip
        self._slots = asyncio.Semaphore(config.concurrency)
        self._known: OrderedDict[str, _Answer] = OrderedDict()
        self._key, self._key_stamp = "", stamp(config.api_key_file) if config.api_key_file is not None else None
        if config.api_key_file is not None:
            self._key = read_key(name, config.api_key_file)

    async def close(self) -> None:
        await self._client.aclose()

    async def ask_alone(self, context: RunContext, question: _Question) -> _Answer:
        """As `ask`; a bug that one question meets is that question's problem."""
        try:
            return await self.ask(context, question)
        except GraphError:
            raise
        except Exception as error:
            return _Answer(problem=f"the judge was not asked: {failure_of(error, context.request_id).message}")

    async def ask(self, context: RunContext, question: _Question) -> _Answer:
        """The answer to one question. Raises GraphUnavailable, GraphOverloaded, GraphError."""
        digest = await asyncio.to_thread(lambda: question.digest)
        if digest in self._known:
            self._known.move_to_end(digest)
            return self._known[digest]
        for attempt in range(1, self._config.attempts + 1):
            try:
                async with self._slots:
                    answer = await self._attempt(context, question)
                break
            except _Transient as error:
                pause_s = error.retry_after_s if error.retry_after_s is not None else _pause_s(attempt)
                if attempt == self._config.attempts or time.monotonic() + pause_s >= context.deadline_s:
                    raise error.cause from None
                logger.info("request %r: %s; again in %.1f s", context.request_id, error, pause_s)
                await asyncio.sleep(pause_s)
        if not answer.problem and len(answer.text) <= _LONGEST_KEPT:
            self._known[digest] = answer
            while len(self._known) > self._config.cached_answers:
                self._known.popitem(last=False)
        return answer

    async def _attempt(self, context: RunContext, question: _Question) -> _Answer:
        body = await asyncio.to_thread(question.body)
        try:
            status, headers, content = await asyncio.wait_for(self._post(body), self._config.timeout_s)
        except asyncio.TimeoutError:
            cause = GraphUnavailable(f"judge {self._name}: no answer in {self._config.timeout_s:g} s")
            raise _Transient(cause) from None
        except httpx.TransportError as error:
            cause = GraphUnavailable(f"judge {self._name}: {type(error).__name__}: {error}")
            raise _Transient(cause) from None
        said = content[:_LONGEST_LOGGED].decode(errors="replace")
        if self._key:
            said = said.replace(self._key, "…")  # some endpoints repeat a wrong key
        if status == 429:
            full = GraphOverloaded(f"judge {self._name}: its endpoint takes no more questions now (429): {said!r}")
            raise _Transient(full, _retry_after_s(headers))
        if status in _TRANSIENT:
            cause = GraphUnavailable(f"judge {self._name}: its endpoint answered {status}: {said!r}")
            raise _Transient(cause, _retry_after_s(headers))
        if status in _ABOUT_THE_ITEM:
            answer = _Answer(problem=f"the judge refused this item (HTTP {status}); the service's log says why")
        elif status != 200:
            raise GraphError(
                f"judge {self._name}: its endpoint answered {status}, which asking again does not change; look at its "
                f"`url`, its key and the profile's `model`: {said!r}"
            )
        elif len(content) > self._config.max_answer_bytes:
            answer = _Answer(problem="the judge's answer was longer than max_answer_bytes; see the service's log")
        else:
            answer = _parse(content)
        if answer.problem:
            logger.warning("request %r: judge %s: %s; raw: %r", context.request_id, self._name, answer.problem, said)
        return answer

    async def _post(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        # Uncompressed, so that the bound below is one of memory too.
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        self._reload_key_if_changed()
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        limit = self._config.max_answer_bytes
        async with self._client.stream("POST", self._url, content=body, headers=headers) as response:
            content = bytearray()
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > limit:
                    break
            return response.status_code, response.headers, bytes(content)

    def _reload_key_if_changed(self) -> None:
        file = self._config.api_key_file
        if file is None or (now := stamp(file)) == self._key_stamp:
            return
        self._key_stamp = now
        try:
            self._key = read_key(self._name, file)
        except JudgesError as error:
            logger.error("the key stays as it was: %s", error)


def _parse(content: bytes) -> _Answer:
    """The first choice of a chat completion. Whatever else comes is a problem of the item."""
    try:
        choice = json.loads(content)["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text = message["content"]
        logprobs = (choice.get("logprobs") or {}).get("content") or []
        likeliest = logprobs[0]["top_logprobs"] if logprobs else []
        first_token = tuple((str(entry["token"]), float(entry["logprob"])) for entry in likeliest)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
        return _Answer(problem="the judge's endpoint sent no chat completion; the service's log has it")
    if message.get("refusal") or finish == "content_filter":
        return _Answer(problem="the judge refused this item; the service's log says why")
    if not isinstance(text, str):
        return _Answer(problem="the judge's endpoint sent no text; the service's log has what it sent")
    if finish == "length" and not first_token:
        return _Answer(problem="the judge's answer was cut off at its longest; the service's log has it")
    return _Answer(text, "", first_token)


def _pause_s(attempt: int) -> float:
    """Twice as long after each attempt, and random, so that callers do not come back together."""
    return random.uniform(0.5, 1.0) * min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (attempt - 1))


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The endpoint's own word on when to come back, if it is a number of seconds."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None
