"""Makes brightness.onnx: its score is the mean of the pixels on [0, 1]. Needs torch and onnx, for this file alone."""

from pathlib import Path

import torch


class Brightness(torch.nn.Module):
    """Casts and normalises by itself: pictures come as uint8 from 0 to 255."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """`pixels` uint8 (N, 64, 64, 3), RGB; the score float32 (N, 1)."""
        return pixels.float().mean(dim=(1, 2, 3)).div(255).unsqueeze(1)


torch.onnx.export(
    Brightness(), (torch.zeros(2, 64, 64, 3, dtype=torch.uint8),), str(Path(__file__).with_name("brightness.onnx")),
    dynamo=False, input_names=["pixels"], output_names=["score"],
    dynamic_axes={"pixels": {0: "N"}, "score": {0: "N"}},
)  # fmt: skip
