"""Arguments of an own function: named after the fields of `Sample`, and annotated with what they should come as.

A field of the concept is named with its path: `concept_name`, `concept_references`. A function is called per item, or
with lists where every argument is annotated as a list of what stands here:

    image: np.ndarray                   uint8 (height, width, 3), RGB; or PIL's Image
    concept_references: list[…]         of the same
    prompt, question, answer: str       concept_name, concept_class_noun, concept_info,
                                        concept_conversation_type: str
    reference_answers: list[str]        choices, nouns, concept_extra_info: list[str]
    target: int                         the index into `choices`
    metadata: dict[str, str]            the caller's own notes

`id` and `group` are none: they are labels, and a score that depended on them would be taken for that of an equal row.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

_ARRAY, _PIL = "np.ndarray", "Image"
_PICTURE = (_ARRAY, _PIL)
_PICTURES = tuple(f"list[{one}]" for one in _PICTURE)
_TEXT, _TEXTS = ("str",), ("list[str]",)


@dataclass(frozen=True)
class Field:
    """One field of `Sample` that an argument may be named after."""

    path: str
    types: tuple[str, ...]
    """What one item's may be annotated as, in the words of `type_of`."""
    needed: bool = True
    """Whether an item without it cannot be scored; another is given as it is, empty or not."""


FIELDS = {
    "image": Field("image", _PICTURE),
    "prompt": Field("prompt", _TEXT),
    "question": Field("question", _TEXT),
    "answer": Field("answer", _TEXT),
    "reference_answers": Field("reference_answers", _TEXTS),
    "choices": Field("choices", _TEXTS),
    "target": Field("target", ("int",)),
    "nouns": Field("nouns", _TEXTS),
    "concept_name": Field("concept.name", _TEXT),
    "concept_class_noun": Field("concept.class_noun", _TEXT),
    "concept_references": Field("concept.references", _PICTURES),
    "concept_info": Field("concept.info", _TEXT),
    "concept_extra_info": Field("concept.extra_info", _TEXTS),
    "concept_conversation_type": Field("concept.conversation_type", _TEXT),
    "metadata": Field("metadata", ("dict[str, str]",), needed=False),
}


@dataclass(frozen=True)
class Parameter:
    """One argument that an item fills."""

    name: str
    type: str
    """One of its field's types, of one item also where the function takes a batch."""
    optional: bool = False
    """Whether the function has a default, which is used where the item lacks the field."""

    @property
    def field(self) -> Field:
        """What fills it."""
        return FIELDS[self.name]

    @property
    def is_picture(self) -> bool:
        """Whether it is one picture."""
        return self.type in _PICTURE

    @property
    def is_pictures(self) -> bool:
        """Whether it is several pictures."""
        return self.type in _PICTURES

    @property
    def as_pil(self) -> bool:
        """Whether its pictures come as PIL's Image."""
        return _PIL in self.type


_NAMES = {
    "str": "str", "int": "int", "dict": "dict[str, str]", "Mapping": "dict[str, str]", "Dict": "dict[str, str]",
    "ndarray": _ARRAY, "NDArray": _ARRAY, "Pixels": _ARRAY, "Image": _PIL,
}  # fmt: skip
_LISTS = {"list", "List", "Sequence"}


def type_of(annotation: ast.expr | None) -> str:
    """An annotation in the words of `FIELDS`, whichever module its names came from; empty for what none of them is."""
    match annotation:
        case ast.Constant(value=str(text)):
            try:
                return type_of(ast.parse(text, mode="eval").body)
            except SyntaxError:
                return ""
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return _NAMES.get(name, "")
        case ast.BinOp(op=ast.BitOr(), left=left, right=ast.Constant(value=None)):
            return type_of(left)
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner):
            if name in _LISTS:
                return f"list[{of}]" if (of := type_of(inner)) else ""
            if name == "Optional":
                return type_of(inner)
            if name == "Annotated" and isinstance(inner, ast.Tuple) and inner.elts:
                return type_of(inner.elts[0])
            return _NAMES.get(name, "")
    return ""
