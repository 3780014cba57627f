"""Encoder and decoder of the image tokenizer (`image_tokenizer.py`): residual convolutions, one attention.

The module tree has the key names of Show-o's published tokenizer, so that its weights load as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

_GROUPS = 32
"""Groups of every GroupNorm, as in the published tokenizer: channel counts are multiples of it."""


@dataclass(frozen=True)
class StageSizes:
    """Sizes of the encoder or of the decoder; level 0 has the finest resolution in both."""

    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: tuple[int, ...]


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(_GROUPS, channels, eps=1e-6)


class ResBlock(nn.Module):
    """Two 3×3 convolutions, each after GroupNorm and SiLU, plus the input (through a 1×1 convolution where channels
    change).
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = _norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = _norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        if channels_in != channels_out:
            self.nin_shortcut = nn.Conv2d(channels_in, channels_out, 1)
        self._project = channels_in != channels_out

    def forward(self, x_NCHW: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x_NCHW)))
        h = self.conv2(F.silu(self.norm2(h)))
        return cast(Tensor, h + (self.nin_shortcut(x_NCHW) if self._project else x_NCHW))


class SpatialAttention(nn.Module):
    """One head of full attention over the positions of the coarsest grid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        h = self.norm(x_NCHW)
        q_NPC, k_NPC, v_NPC = (conv(h).flatten(2).transpose(1, 2) for conv in (self.q, self.k, self.v))
        out_NPC = F.scaled_dot_product_attention(q_NPC, k_NPC, v_NPC)
        return cast(Tensor, x_NCHW + self.proj_out(out_NPC.transpose(1, 2).reshape(x_NCHW.shape)))


class Downsample(nn.Module):
    """Halve the resolution: a strided convolution with one row and column of zeros after the picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return cast(Tensor, self.conv(F.pad(x_NCHW, (0, 1, 0, 1))))


class Upsample(nn.Module):
    """Double the resolution: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return cast(Tensor, self.conv(F.interpolate(x_NCHW, scale_factor=2.0, mode="nearest")))


class _Level(nn.Module):
    """The blocks of one resolution, and the change of resolution after them where there is one."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int, resample: str | None) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResBlock(channels_in if i == 0 else channels_out, channels_out) for i in range(blocks)
        )
        if resample == "down":
            self.downsample = Downsample(channels_out)
        elif resample == "up":
            self.upsample = Upsample(channels_out)
        self._resample = resample

    def forward(self, h: Tensor) -> Tensor:
        for block in self.block:
            h = block(h)
        if self._resample == "down":
            h = self.downsample(h)
        elif self._resample == "up":
            h = self.upsample(h)
        return h


class _Middle(nn.Module):
    """Block, attention, block at the coarsest resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels)
        self.attn_1 = SpatialAttention(channels)
        self.block_2 = ResBlock(channels, channels)

    def forward(self, h: Tensor) -> Tensor:
        return cast(Tensor, self.block_2(self.attn_1(self.block_1(h))))


class Encoder(nn.Module):
    """Pixels in −1…1 to the hidden values whose signs are the bits."""

    def __init__(self, sizes: StageSizes, bits: int, patch: int) -> None:
        super().__init__()
        widths = [sizes.ch * m for m in sizes.ch_mult]
        self._patch = patch
        self.conv_in = nn.Conv2d(3 * patch**2, sizes.ch, 3, padding=1)
        self.down = nn.ModuleList(
            _Level(before, after, blocks, "down" if i < len(widths) - 1 else None)
            for i, (before, after, blocks) in enumerate(
                zip([sizes.ch, *widths], widths, sizes.num_res_blocks, strict=False)
            )
        )
        self.mid = _Middle(widths[-1])
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], bits, 3, padding=1)
        self.quant_conv = nn.Conv2d(bits, bits, 1)

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        h = self.conv_in(F.pixel_unshuffle(pixels_NCHW, self._patch))
        for level in self.down:
            h = level(h)
        return cast(Tensor, self.quant_conv(self.conv_out(F.silu(self.norm_out(self.mid(h))))))


class Decoder(nn.Module):
    """Quantised values (±1 per bit) to pixels in about −1…1."""

    def __init__(self, sizes: StageSizes, bits: int, patch: int) -> None:
        super().__init__()
        widths = [sizes.ch * m for m in sizes.ch_mult]
        self._patch = patch
        self.post_quant_conv = nn.Conv2d(bits, bits, 1)
        self.conv_in = nn.Conv2d(bits, widths[-1], 3, padding=1)
        self.mid = _Middle(widths[-1])
        # Level i takes the channels of the coarser level i + 1; the coarsest takes the middle's.
        coarser = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(
            _Level(before, after, blocks, "up" if i > 0 else None)
            for i, (before, after, blocks) in enumerate(zip(coarser, widths, sizes.num_res_blocks, strict=True))
        )
        self.norm_out = _norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3 * patch**2, 3, padding=1)

    def forward(self, quantised_NCHW: Tensor) -> Tensor:
        h = self.mid(self.conv_in(self.post_quant_conv(quantised_NCHW)))
        for level in reversed(self.up):
            h = level(h)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self._patch)
