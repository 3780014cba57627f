"""Drawing tokens from logits, the same on every device.

Where you are: every policy draws with `draw`. Random numbers come from the generator's own device (the trainer's is on
the processor, so that a checkpoint holds its state and a seed means the same draws everywhere).
"""

from __future__ import annotations

import torch
from torch import Tensor


def draw(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """One index per row of the last axis; greedy at temperature 0."""
    if temperature == 0:
        return logits.argmax(-1)
    # Inverse CDF, one random number per row: `multinomial` draws one per class, serially, and outweighs the network.
    cumulative = torch.softmax(logits.float() / temperature, -1).cumsum(-1)
    source = generator.device if generator is not None else cumulative.device
    uniform = torch.rand((*cumulative.shape[:-1], 1), generator=generator, device=source).to(cumulative.device)
    drawn = uniform * cumulative[..., -1:]
    return torch.searchsorted(cumulative, drawn, right=True)[..., 0].clamp(max=cumulative.shape[-1] - 1)
