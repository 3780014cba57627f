"""`evaluation`: what is measured before and after training, and by `sync-r1 evaluate`."""

from __future__ import annotations

from pydantic import Field

from sync_r1.trainer_client.config.section import MOST_SEED, Section


class UnifyBenchConfig(Section):
    """What `sync-r1 evaluate` measures beyond that: the variant behind each metric (`unifybench_metrics.py`)."""

    pictures: int = Field(default=4, ge=1)
    """Per DreamBooth prompt and per held-out condition."""
    prompts: int = Field(default=25, ge=1, le=25)
    """How many of DreamBooth's prompts."""
    recognition: str = "yes_no"
    answers: tuple[str, ...] = ("bleu", "judge")
    recall: str = "selection"
    clip_i: str = "clip_i"
    clip_t: str = "clip_t"
    face: str = "arcface"
    knowledge: str = "oracle"
    """ "oracle" (PocketBench has one) or a variant of text-faithfulness that gives 0, 0.5 or 1: "judge"."""


class EvaluationConfig(Section):
    """The measurement before and after, on held-out conditions and with the same seed both times."""

    pictures_per_condition: int = Field(default=8, ge=1)
    true_sentence_pictures: int = Field(default=0, ge=0)
    """Per condition, drawn from the right sentence instead of the policy's own answer: what the picture half can do by
    itself.
    """
    seed: int = Field(default=20_260, ge=0, le=MOST_SEED)
    """Not the run's seed: runs with different seeds are measured on the same draws."""
    shown: int = Field(default=16, ge=1)
    """Pictures kept for the report."""
    every: int = Field(default=0, ge=0)
    """Steps between further measurements during training (`evaluation/step-000010.json`, …); 0 = none."""
    unifybench: UnifyBenchConfig = UnifyBenchConfig()
