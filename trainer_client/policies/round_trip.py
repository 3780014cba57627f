"""Pictures as the checked-in pocket tokenizer hands them back: what rewards and oracle must be able to read.

Named on the command line of `sync_r1.reward_models.pocket.train --reconstruct-with`: reward models import nothing from
here.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import torch

from sync_r1.trainer_client.policies.pocket.policy import ARTEFACTS
from sync_r1.trainer_client.policies.showo.image_tokenizer import Magvit


@functools.cache
def _tokenizer() -> Magvit:
    return Magvit.load(ARTEFACTS / "tokenizer.safetensors").eval()


@torch.no_grad()
def round_trip(pictures_N: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """uint8 (N, 64, 64, 3) RGB, encoded to tokens and decoded again."""
    tokenizer = _tokenizer()
    return tokenizer.decode(tokenizer.encode(pictures_N))
