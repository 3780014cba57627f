"""Variants whose graph gives the score itself, from their YAML to a `Reward`: part of `variants.py`."""

from __future__ import annotations

from dataclasses import replace

from sync_r1.reward_models.errors import nearest_first
from sync_r1.reward_models.graphs.spec import GraphSpec, TensorSpec
from sync_r1.reward_models.inputs.encoders import (
    ImageEncoder,
    PairEncoder,
    TextEncoder,
    minilm_text_encoder,
    pocket_text_encoder,
)
from sync_r1.reward_models.pocket.tokenizer import CONTEXT_LENGTH
from sync_r1.reward_models.profiles.card_texts import CardMaker
from sync_r1.reward_models.profiles.own_variant_files import GraphVariantFile
from sync_r1.reward_models.rewards import graph_score as formula
from sync_r1.reward_models.rewards.base import Reward
from sync_r1.reward_models.types import ProfileError

_READERS = {"pocket": pocket_text_encoder, "minilm": minilm_text_encoder}


def graph_score(file: GraphVariantFile, make: CardMaker, graph: GraphSpec) -> Reward:
    """The score that a graph gives by one of its outputs. Raises ProfileError."""
    for name in (file.output, *file.components):
        _check_output(graph, name)
    pixels, tokens = _pixels(graph), _tokens(graph)
    # Encoders know their inputs by the order: pixels, then what is made of the text.
    ordered = replace(graph, inputs=(*pixels, *tokens))
    reader = _READERS[graph.tokenizer](replace(graph, inputs=tokens)) if tokens else None
    if reader is None:
        encoder: ImageEncoder | TextEncoder | PairEncoder = ImageEncoder(ordered)
    else:
        encoder = PairEncoder(ordered, reader.encode) if pixels else reader
    required = (*(["image"] if pixels else []), *([file.text] if tokens else []))
    card = make.card(file.card, version=formula.FORMULA_VERSION, required=required, graphs=[ordered])
    return formula.GraphScore(card, encoder, reader, file.text, file.output, file.components)


def _check_output(graph: GraphSpec, name: str) -> None:
    outputs = {output.name: output for output in graph.outputs}
    if name not in outputs:
        raise ProfileError(f"graph {graph.name!r} states no output {name!r}; it has {nearest_first(name, outputs)}")
    if outputs[name].dtype != "float32" or outputs[name].shape != (1,):
        raise ProfileError(
            f"graph {graph.name!r}: its output {name!r} is {outputs[name].dtype} {list(outputs[name].shape)}, expected "
            "float32 [1]: one number for each item"
        )


def _pixels(graph: GraphSpec) -> tuple[TensorSpec, ...]:
    """The input that takes the picture, if there is one."""
    found = tuple(tensor for tensor in graph.inputs if len(tensor.shape) == 3)
    for tensor in found:
        fits = tensor.shape[0] > 0 and tensor.shape[2] == 3 and replace(graph, inputs=(tensor,)).takes_pictures
        if len(found) > 1 or not fits:
            raise ProfileError(
                f"graph {graph.name!r}: its input {tensor.name!r} is {tensor.dtype} {list(tensor.shape)}; expected one "
                "picture, uint8 [size, size, 3] (float32 with `resize: pad_bicubic`)"
            )
    return found


def _tokens(graph: GraphSpec) -> tuple[TensorSpec, ...]:
    """The inputs that take what the tokenizer makes of the text, if there are any."""
    found = tuple(tensor for tensor in graph.inputs if len(tensor.shape) != 3)
    if not found and not graph.tokenizer:
        return ()
    if graph.tokenizer not in _READERS:
        raise ProfileError(
            f"graph {graph.name!r}: its tokenizer is {graph.tokenizer or 'none'!r}, but its input "
            f"{found[0].name if found else 'tokens'!r} needs one of {', '.join(_READERS)}"
        )
    shapes = {tensor.name: (tensor.dtype, tensor.shape) for tensor in found}
    if graph.tokenizer == "pocket":
        expected = {next(iter(shapes), "tokens"): ("int64", (CONTEXT_LENGTH,))}
    else:
        expected = dict.fromkeys(("input_ids", "attention_mask"), ("int64", (-1,)))
    if shapes != expected:
        made = ", ".join(f"{name} {dtype} {list(shape)}" for name, (dtype, shape) in expected.items())
        raise ProfileError(
            f"graph {graph.name!r}: its inputs beside a picture are {', '.join(shapes) or 'none'}, but its tokenizer "
            f"{graph.tokenizer!r} makes {made}"
        )
    return found
