"""Masked decoding follows the published schedule and leaves nothing masked."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from sync_r1.trainer_client.policies.masked_decoding import (
    cosine_schedule,
    guided_log_probs,
    masked_again,
    masked_counts,
    noise_temperatures,
)

SHARED = Path(os.environ.get("SYNC_R1_SHARED", Path(__file__).parents[1].parent / "shared" / "data"))
GOLDEN = SHARED / "showo_golden" / "golden.npz"
golden_needed = pytest.mark.skipif(not GOLDEN.exists(), reason="golden values of Show-o are not in this checkout")


@golden_needed
def test_schedule_masks_and_guidance_give_the_published_numbers() -> None:
    with np.load(GOLDEN) as golden:
        schedule = cosine_schedule(torch.from_numpy(golden["schedule_t"]))
        np.testing.assert_allclose(schedule, golden["schedule_cosine"], atol=1e-6)
        probs, noise, lengths = (torch.from_numpy(golden[f"keep_{name}"]) for name in ("probs", "gumbel", "mask_len"))
        for tau in (0.0, 1.8):
            np.testing.assert_array_equal(masked_again(probs, noise, lengths, tau), golden[f"keep_mask_tau{tau}"])
        # Rows 0 and 1 are the conditional and unconditional rows; codes are ids 210…273 at the 16 image positions
        # before <|eoi|>.
        logits = torch.from_numpy(golden["logits_t2i"])[:2, -17:-1, 210:274]
        guided = guided_log_probs(logits[:1], logits[1:], 5.0)
        np.testing.assert_allclose(guided, golden["guided_logprobs"], atol=1e-4)


@pytest.mark.parametrize(("tokens", "steps"), [(64, 8), (1024, 50), (16, 16), (64, 1)])
def test_every_step_decides_something_and_the_last_leaves_no_mask(tokens: int, steps: int) -> None:
    counts = masked_counts(tokens, steps)
    assert len(counts) == steps
    assert counts[-1] == 0
    assert all(after < before for before, after in zip([tokens, *counts], counts, strict=False))


def test_more_steps_than_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="number of tokens"):
        masked_counts(4, 5)


def test_noise_scale_compounds_to_zero() -> None:
    assert noise_temperatures(1.8, 4) == pytest.approx([1.8 * 0.75, 1.8 * 0.75 * 0.5, 1.8 * 0.75 * 0.5 * 0.25, 0.0])
