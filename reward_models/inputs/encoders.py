"""From pictures and texts to a graph's outputs: preprocessing and deduplication, shared by all four rewards.

Equal pictures (by digest) and equal texts of one call are prepared and run once: a GRPO group repeats one prompt and
one set of references G times. Preparation runs in a worker thread, so that an event loop stays free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sync_r1.reward_models.graphs.spec import GraphFileMissing, GraphSpec
from sync_r1.reward_models.inputs.preparation import Preparation, Square
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.threads import in_thread
from sync_r1.reward_models.types import Picture, RequestTooLong, RewardError

Outputs = dict[str, npt.NDArray[np.float32]]
"""One item's outputs by name, without the batch axis."""
_PAIRS_AT_ONCE = 64
Encode = Callable[[Sequence[str]], dict[str, npt.NDArray[np.int64]]]


class TextError(RewardError):
    """A text that cannot be encoded; the message says what came, what is expected and the cure."""


@dataclass(frozen=True)
class ImageEncoder:
    """A graph that takes `pixels` (N, size, size, 3): uint8, or float32 where its preprocessing gives that."""

    graph: GraphSpec

    @property
    def preparations(self) -> tuple[Preparation, ...]:
        """What it needs of each picture."""
        return (Square(self.graph.preprocessing, self.graph.picture_size),)

    async def run(self, pictures: Iterable[Picture], runner: GraphRunner, context: RunContext) -> dict[str, Outputs]:
        """Outputs by picture digest, each picture run once. Raises GraphError."""
        distinct = {picture.sha256: picture for picture in pictures}
        if not distinct:
            return {}
        (by,) = self.preparations
        pixels = await in_thread(
            context.deadline_s, lambda: np.stack([picture.prepared(by) for picture in distinct.values()])
        )
        result = await runner.run(context, self.graph.name, {self.graph.inputs[0].name: pixels})
        return _by_key(list(distinct), result.outputs)


def _anything(text: str) -> bool:
    return True


@dataclass(frozen=True)
class TextEncoder:
    """A graph that takes token ids. `encode` turns texts into its inputs and raises TextError for a text it refuses.

    `knows` says whether a text holds anything that the graph was trained on; `encode` need not care.
    """

    graph: GraphSpec
    encode: Encode
    knows: Callable[[str], bool] = _anything

    def unreadable(self, text: str) -> str:
        """Why `text` cannot be encoded; empty if it can."""
        try:
            self.encode([text])
        except TextError as error:
            return str(error)
        return ""

    def refusal(self, text: str) -> str:
        """Why `text` cannot be scored; empty if it can."""
        if refusal := self.unreadable(text):
            return refusal
        if text.strip() and not self.knows(text):
            return f"{text[:40]!r} has no word that {self.graph.name} knows; say it in other words"
        return ""

    async def run(self, texts: Iterable[str], runner: GraphRunner, context: RunContext) -> dict[str, Outputs]:
        """Outputs by text, each distinct text run once. Raises TextError, RequestTooLong and GraphError."""
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return {}
        inputs = await in_thread(context.deadline_s, lambda: _token_ids(self.encode, distinct, context))
        result = await runner.run(context, self.graph.name, inputs)
        return _by_key(distinct, result.outputs)


@dataclass(frozen=True)
class PairEncoder:
    """A graph that reads a picture and a text together; `encode` turns texts into its other inputs."""

    graph: GraphSpec
    encode: Encode

    @property
    def preparations(self) -> tuple[Preparation, ...]:
        """What it needs of each picture."""
        return (Square(self.graph.preprocessing, self.graph.picture_size),)

    async def run(
        self, pairs: Iterable[tuple[Picture, str]], runner: GraphRunner, context: RunContext
    ) -> dict[tuple[str, str], Outputs]:
        """Outputs by picture digest and text, each distinct pair run once. Raises TextError and GraphError."""
        distinct = {(picture.sha256, text): picture for picture, text in pairs}
        if not distinct:
            return {}
        (by,) = self.preparations

        def prepare() -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[np.int64]]]:
            token_ids = _token_ids(self.encode, [text for _, text in distinct], context)
            pictures = {picture.sha256: picture for picture in distinct.values()}
            return {digest: picture.prepared(by) for digest, picture in pictures.items()}, token_ids

        ready, token_ids = await in_thread(context.deadline_s, prepare)
        keys = list(distinct)
        outputs: dict[tuple[str, str], Outputs] = {}
        for start in range(0, len(keys), _PAIRS_AT_ONCE):  # a picture is held once for each text it goes with
            part = slice(start, start + _PAIRS_AT_ONCE)
            inputs: dict[str, npt.NDArray[Any]] = {name: array[part] for name, array in token_ids.items()}
            inputs[self.graph.inputs[0].name] = np.stack([ready[digest] for digest, _ in keys[part]])
            result = await runner.run(context, self.graph.name, inputs)
            for row, key in enumerate(keys[part]):
                outputs[key] = {name: array[row] for name, array in result.outputs.items()}
        return outputs


def _token_ids(encode: Encode, texts: Sequence[str], context: RunContext) -> dict[str, npt.NDArray[np.int64]]:
    """The inputs of the texts. Raises TextError, and RequestTooLong where they are more than the call may take."""
    most = context.max_tokens
    _check_tokens(len(texts), most)  # before they are encoded: each takes one at least
    inputs = encode(texts)
    _check_tokens(max(array.size for array in inputs.values()), most)
    return inputs


def _check_tokens(count: int, most: int | None) -> None:
    if most is not None and count > most:
        raise RequestTooLong(
            f"the distinct texts of this call take {count} token ids or more, the limit is {most} "
            "(max_request_tokens); send fewer items in one call, or shorter texts"
        )


def pocket_text_encoder(graph: GraphSpec) -> TextEncoder:
    """Texts of the pocket domain's closed vocabulary, as pocket-clip was trained."""

    def to_inputs(texts: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
        from sync_r1.reward_models.pocket.tokenizer import encode  # the domain's words, only where they are needed

        try:
            return {graph.inputs[0].name: encode(texts)}
        except ValueError as error:
            raise TextError(str(error)) from error

    return TextEncoder(graph, to_inputs)


def tokenizer_beside(graph: GraphSpec) -> Path:
    """Where the tokenizer of MiniLM's kind lies: beside the graph's file."""
    return graph.file.with_name(graph.file.stem + ".tokenizer.json")


MINILM_MAX_TOKENS = 128
_MINILM_BUCKET = 16


def minilm_text_encoder(graph: GraphSpec) -> TextEncoder:
    """Texts for MiniLM by the `tokenizers` library, with the tokenizer file that was exported beside the graph.

    At most 128 tokens; longer texts are refused, because cutting one would silently score another text; so are texts of
    unknown words only (emoji, rare scripts), which would all be one text. Lengths are
    padded to multiples of 16, so that Triton can batch requests of similar length; the mask keeps padding out.
    """

    def to_inputs(texts: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
        tokenizer = read_tokenizer(tokenizer_beside(graph))
        encodings = tokenizer.encode_batch(list(texts))
        longest = max(len(encoding.ids) for encoding in encodings)
        if longest > MINILM_MAX_TOKENS:
            text = next(text for text, e in zip(texts, encodings) if len(e.ids) > MINILM_MAX_TOKENS)
            raise TextError(
                f"the text {text[:40]!r}… has {longest} tokens, the limit is {MINILM_MAX_TOKENS}; shorten or split it"
            )
        length = -(-longest // _MINILM_BUCKET) * _MINILM_BUCKET
        input_ids_N_L = np.zeros((len(texts), length), np.int64)
        attention_mask_N_L = np.zeros((len(texts), length), np.int64)
        for row, encoding in enumerate(encodings):
            input_ids_N_L[row, : len(encoding.ids)] = encoding.ids
            attention_mask_N_L[row, : len(encoding.ids)] = 1
        return {"input_ids": input_ids_N_L, "attention_mask": attention_mask_N_L}

    def knows(text: str) -> bool:
        tokenizer = read_tokenizer(tokenizer_beside(graph))
        return set(tokenizer.encode(text, add_special_tokens=False).ids) != {tokenizer.token_to_id("[UNK]")}

    return TextEncoder(graph, to_inputs, knows)


def cosine(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Cosine of two vectors in [-1, 1], by float64; NaN if either is zero or not finite."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        return float(np.clip(a64 @ b64 / (np.linalg.norm(a64) * np.linalg.norm(b64)), -1, 1))


def _by_key(keys: list[str], outputs: Any) -> dict[str, Outputs]:
    return {key: {name: array[row] for name, array in outputs.items()} for row, key in enumerate(keys)}


@cache
def read_tokenizer(file: Path) -> Any:
    """The tokenizer in `file`, which neither cuts nor pads of its own accord. Raises GraphFileMissing."""
    from tokenizers import Tokenizer

    if not file.is_file():
        raise GraphFileMissing(f"there is no tokenizer {file}; export its graph again")
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
