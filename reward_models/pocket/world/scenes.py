"""The pocket domain in one import: scene graphs (`scene_graph.py`), their pictures (`drawing.py`) and captions
(`captions.py`).

You are in `reward_models/pocket/world`, the small domain on which the whole loop runs on two cores: 64x64 pictures of
one figure, perhaps with an accessory and companions, before a background.

    from sync_r1.reward_models.pocket.world.scenes import Scene, sample_scene, render, short_caption

numpy and Pillow only: the policy's side, the benchmark and the services may import it without torch.
"""

from sync_r1.reward_models.pocket.world.captions import (
    WORDS,
    CaptionPlan,
    dense_caption,
    noun_phrases,
    plan_caption,
    short_caption,
    write_caption,
)
from sync_r1.reward_models.pocket.world.drawing import RGB, render
from sync_r1.reward_models.pocket.world.negatives import caption_pair, negatives, one_changed
from sync_r1.reward_models.pocket.world.scene_graph import (
    ACCESSORIES,
    BACKGROUNDS,
    COLOURS,
    KINDS,
    MAX_COUNT,
    PATTERNS,
    PICTURE_SIZE,
    RELATIONS,
    THINGS,
    UNSEEN_PAIRS,
    Accessory,
    Scene,
    Things,
    opposite,
    pick,
    sample_scene,
)

__all__ = [
    "ACCESSORIES",
    "BACKGROUNDS",
    "COLOURS",
    "KINDS",
    "MAX_COUNT",
    "PATTERNS",
    "PICTURE_SIZE",
    "RELATIONS",
    "RGB",
    "THINGS",
    "UNSEEN_PAIRS",
    "WORDS",
    "Accessory",
    "CaptionPlan",
    "Scene",
    "Things",
    "caption_pair",
    "dense_caption",
    "negatives",
    "noun_phrases",
    "one_changed",
    "opposite",
    "pick",
    "plan_caption",
    "render",
    "sample_scene",
    "short_caption",
    "write_caption",
]
