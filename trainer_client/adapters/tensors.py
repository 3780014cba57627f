"""Images as trainers hold them, in the shape that `picture` takes; torch is never imported."""

from __future__ import annotations

from typing import Any

import numpy as np

from sync_r1.trainer_client.sdk.errors import BadArgument, RewardFailed

_EXPECTED = "expected uint8 images of shape (N, 3, H, W)"


def images_of(images: Any) -> list[Any]:
    """What `picture` takes, one for each image of a batch.

    A torch tensor is (N, 3, H, W), uint8 or floats from 0 to 1; an array is uint8, (N, 3, H, W) or (N, H, W, 3); a list
    stays as it is. Raises BadArgument for anything else, RewardFailed for pixels that are NaN or infinite.
    """
    if isinstance(images, list | tuple):
        return list(images)
    if hasattr(images, "detach"):  # a torch tensor; bfloat16 is unknown to numpy
        tensor = images.detach().cpu()
        array = tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
        if array.ndim == 4 and array.shape[1] == 3:
            return list((_bytes(array) if array.dtype == np.float32 else _uint8(array)).transpose(0, 2, 3, 1))
        raise BadArgument(f"{_EXPECTED} or floats from 0 to 1, got a tensor {array.dtype} {array.shape}")
    array = _uint8(np.asarray(images))
    if array.ndim == 4 and (array.shape[1] == 3) != (array.shape[3] == 3):  # where both are, either may be meant
        return list(array if array.shape[3] == 3 else array.transpose(0, 2, 3, 1))
    raise BadArgument(f"{_EXPECTED} or (N, H, W, 3), got {array.dtype} {array.shape}")


def _uint8(array: Any) -> Any:
    if array.dtype != np.uint8:
        raise BadArgument(f"{_EXPECTED}, got {array.dtype} {array.shape}")
    return array


def _bytes(floats: Any) -> Any:
    """Floats from 0 to 1 as bytes, rounded as flow_grpo's own scorers do."""
    finite_N = np.isfinite(floats).all((1, 2, 3))
    if not finite_N.all():
        broken = np.flatnonzero(~finite_N).tolist()
        raise RewardFailed(f"images {broken[:10]} hold NaN or infinity: the policy drew no picture there")
    if floats.size and (floats.min() < -0.01 or floats.max() > 1.01):
        raise BadArgument(f"expected floats from 0 to 1, got {floats.min():g} to {floats.max():g}")
    return np.rint(floats * 255).clip(0, 255).astype(np.uint8)
