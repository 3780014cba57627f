"""What a profile file may say of variants over the operator's own files: an ONNX graph, a judge's prompt."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sync_r1.reward_models.profiles.file_parts import BesideProfile, CardFile, Strict


class GraphVariantFile(Strict):
    """What one graph gives as score, of a picture, a text or both."""

    kind: Literal["graph"]
    graph: str
    output: str = "score"
    """Which of its outputs is the score."""
    components: tuple[str, ...] = ()
    """Further outputs that come with it."""
    text: Literal["prompt", "answer", "question"] = "prompt"
    """What its token inputs are made of, if it has any."""
    card: CardFile


class JudgeVariantFile(Strict):
    """What a judge says that is asked by a prompt file: see `judge_files.py`."""

    kind: Literal["judge"]
    judge: BesideProfile
    max_group: int = Field(default=16, ge=1, le=64)
    """Pictures of a group that are shown at once, if the judge is shown groups."""
    card: CardFile
