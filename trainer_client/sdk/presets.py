"""Published combinations of rewards by name: which variants, with which weights, and where that is from.

A preset is data for the ensemble's weighted sum, nothing more. Where the original adds raw scores, the map to [0, 1] is
fixed here instead of taken from the card, and the weight undoes its scale, so that the sum is the original's. What the
original has and no service offers is named in `departs`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sync_r1.trainer_client.sdk.reward_use import AffineMap, RewardUse

_AS_IS = AffineMap(1.0, 0.0)
_TENTH = AffineMap(0.1, 0.0)


@dataclass(frozen=True)
class Preset:
    """A named weighted sum."""

    name: str
    formula: str
    source: str
    departs: str
    """How it differs from its source, "" if it does not."""
    uses: dict[str, RewardUse]
    """By name of the use (see `reward_use.py`)."""


_ALL = (
    Preset(
        "default",
        "R = 0.65 (0.4 concept + 0.4 text + 0.2 aesthetic) + 0.35 understanding",
        "this project: the released Sync-R1's two halves, its judge's part given to text and aesthetic",
        "",
        {
            "concept-consistency": RewardUse(0.65 * 0.4),
            "text-faithfulness": RewardUse(0.65 * 0.4),
            "aesthetic": RewardUse(0.65 * 0.2),
            "understanding-correctness": RewardUse(0.35),
        },
    ),
    Preset(
        "sync_r1_released",
        "R = 0.65 (0.4 identity + 0.6 judge) + 0.35 understanding, judge = 0.4 structure + 0.6 identity by the judge",
        "sync_r1_paper_grpo/grpo_paper.py and glm_api.py of github.com/chawuciren11/UniCTokens.github.io",
        "the judge's two criteria are asked for one by one, where the release has one number; the release moves both "
        "parts to a batch mean of 0.8, which cancels within a group of one kind; recall (task r) is BLEU to the right "
        "item, because the release's formula rates a perfect answer 0.56 to 0.71",
        {
            "concept-consistency/sync_r1": RewardUse(0.65 * 0.4, affine=_AS_IS),
            "aesthetic/visual_judge": RewardUse(0.65 * 0.6 * 0.4, affine=_AS_IS),
            "concept-consistency/judge": RewardUse(0.65 * 0.6 * 0.6, affine=_AS_IS),
            "understanding-correctness/bleu": RewardUse(0.35, affine=_AS_IS),
        },
    ),
    Preset(
        "t2i_r1",
        "R = HPSv2.1 + P(yes) of GIT, attribute by attribute",
        "T2I-R1 (arXiv 2505.00703), --reward_funcs of src/scripts/run_grpo.sh in github.com/CaraJ7/T2I-R1",
        "without GroundingDINO's detections, which no service offers",
        {
            "aesthetic/hps_v2_1": RewardUse(1.0, affine=_AS_IS),
            "text-faithfulness/vqa_yes": RewardUse(1.0, affine=_AS_IS),
        },
    ),
    Preset(
        "flow_grpo",
        "R = 0.5 PickScore / 26 + 0.2 OCR + 0.3 LAION aesthetic, the last on its scale of 1 to 10",
        "Flow-GRPO (arXiv 2505.05470), multi-reward training in the README of github.com/yifan123/flow_grpo, summed by "
        "multi_score of flow_grpo/rewards.py",
        "",
        {
            "aesthetic/pickscore": RewardUse(0.5, affine=_AS_IS),
            "text-faithfulness/ocr": RewardUse(0.2, affine=_AS_IS),
            "aesthetic/laion_v2": RewardUse(0.3 * 10, affine=_TENTH),
        },
    ),
)
PRESETS = {preset.name: preset for preset in _ALL}
"""Name -> preset."""


def preset_named(name: str) -> Preset:
    """Raises ValueError that lists those there are."""
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
