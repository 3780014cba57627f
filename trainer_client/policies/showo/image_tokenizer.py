"""The image tokenizer of the policy: a MAGVIT-v2-style convolutional autoencoder with lookup-free quantisation.

Where you are: `network.py` writes and reads image *tokens*; this module turns pictures into tokens and back. The module
tree has the key names of Show-o's published tokenizer (`encoder.down.0.block.0.conv1.weight`,
`decoder.post_quant_conv.weight`, …), so that its weights load as they are; `MagvitConfig()` is the published size,
the pocket size is in `artefacts/tokenizer.json`.

Lookup-free quantisation (Yu et al., "Language Model Beats Diffusion", arXiv 2310.05737): each of the `bits` channels
is replaced by its sign; the token is the binary number that the signs spell, first channel most significant. There is
no codebook to learn.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sync_r1.reward_models.images import resize
from sync_r1.trainer_client.policies.showo.image_tokenizer_layers import Decoder, Encoder, StageSizes

_PUBLISHED_ENCODER = StageSizes(128, (1, 2, 2, 4, 4), (4, 3, 4, 3, 4))
_PUBLISHED_DECODER = StageSizes(128, (1, 1, 2, 2, 4), (4, 4, 3, 4, 3))


@dataclass(frozen=True)
class MagvitConfig:
    """Sizes of the tokenizer; the defaults are the published ones (512×512 pictures, 32×32 tokens of 13 bits).

    `patch` > 1 folds patch×patch pixels into channels before the first and after the last convolution: the pocket
    size saves the convolutions at full resolution that way. 1 is the published network.
    """

    encoder: StageSizes = _PUBLISHED_ENCODER
    decoder: StageSizes = _PUBLISHED_DECODER
    bits: int = 13
    image_size: int = 512
    patch: int = 1

    @property
    def grid(self) -> int:
        """Tokens along one side of a picture."""
        return self.image_size // (self.patch * 2 ** (len(self.encoder.ch_mult) - 1))

    @classmethod
    def from_json(cls, text: str) -> MagvitConfig:
        """Read what `to_json` wrote."""
        raw = json.loads(text)
        stages = {
            name: StageSizes(raw[name]["ch"], tuple(raw[name]["ch_mult"]), tuple(raw[name]["num_res_blocks"]))
            for name in ("encoder", "decoder")
        }
        return cls(stages["encoder"], stages["decoder"], raw["bits"], raw["image_size"], raw["patch"])

    def to_json(self) -> str:
        """The sizes as JSON text."""
        return json.dumps(asdict(self), indent=1)


class LookupFreeQuantiser(nn.Module):
    """Signs to token numbers and back; its two buffers are constants that the published file carries."""

    embedding: Tensor
    power_vals: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        power_vals = 2 ** torch.arange(bits - 1, -1, -1)
        codes = torch.arange(2**bits)
        signs = (codes[:, None].bitwise_and(power_vals) != 0).float() * 2 - 1
        self.register_buffer("power_vals", power_vals)
        self.register_buffer("embedding", signs)

    def forward(self, hidden_NCHW: Tensor) -> Tensor:
        """±1 per value, with the gradient passed straight through."""
        signs = (hidden_NCHW > 0).to(hidden_NCHW.dtype) * 2 - 1
        return hidden_NCHW + (signs - hidden_NCHW).detach()

    def codes(self, hidden_NCHW: Tensor) -> Tensor:
        """Token numbers (N, H·W) of hidden or quantised values, rows of the grid one after the other."""
        bits_NPC = (hidden_NCHW > 0).flatten(2).transpose(1, 2)
        return (bits_NPC * self.power_vals).sum(-1)

    def values(self, codes_N_I: Tensor, grid: int) -> Tensor:
        """Quantised values (N, bits, grid, grid) of token numbers."""
        return self.embedding[codes_N_I].transpose(1, 2).reshape(codes_N_I.shape[0], -1, grid, grid)


class Magvit(nn.Module):
    """Pictures to tokens (`encode`) and back (`decode`)."""

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder, config.bits, config.patch)
        self.decoder = Decoder(config.decoder, config.bits, config.patch)
        self.quantize = LookupFreeQuantiser(config.bits)

    def forward(self, pixels_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction and hidden values, for training; pixels in −1…1."""
        hidden = self.encoder(pixels_NCHW)
        return self.decoder(self.quantize(hidden)), hidden

    @torch.no_grad()
    def encode(self, pictures_NHWC: npt.NDArray[np.uint8] | Sequence[npt.NDArray[np.uint8]]) -> Tensor:
        """Token numbers (N, grid²) of RGB pictures of the tokenizer's own size.

        Raises:
            ValueError: pictures of another size or type.
        """
        pictures = np.asarray(pictures_NHWC)
        size = self.config.image_size
        if pictures.dtype != np.uint8 or pictures.shape[1:] != (size, size, 3):
            raise ValueError(
                f"expected uint8 pictures (N, {size}, {size}, 3), got {pictures.dtype} {pictures.shape}; "
                "resize them before encoding"
            )
        device = self.quantize.embedding.device
        parts = [to_pixels(pictures[i : i + 64]).to(device) for i in range(0, len(pictures), 64)]
        return torch.cat([self.quantize.codes(self.encoder(part)) for part in parts])

    @torch.no_grad()
    def decode(self, codes_N_I: Tensor) -> npt.NDArray[np.uint8]:
        """RGB pictures uint8 (N, H, W, 3) of token numbers (N, grid²)."""
        codes_N_I = codes_N_I.to(self.quantize.embedding.device)
        parts = [self.decoder(self.quantize.values(part, self.config.grid)) for part in codes_N_I.split(64)]
        return to_pictures(torch.cat(parts))

    def save(self, path: Path, *, dtype: torch.dtype = torch.float16) -> None:
        """Write the weights to `path` (safetensors) and the sizes beside it (.json); the quantiser's constants are
        left out.
        """
        weights = {k: v.to(dtype).contiguous() for k, v in self.state_dict().items() if not k.startswith("quantize.")}
        save_file(weights, str(path))
        path.with_suffix(".json").write_text(self.config.to_json() + "\n")

    @classmethod
    def load(cls, path: Path) -> Magvit:
        """Read what `save` wrote, in float32.

        Raises:
            FileNotFoundError: no such file. RuntimeError: keys or shapes differ from the sizes in the .json.
        """
        model = cls(MagvitConfig.from_json(path.with_suffix(".json").read_text()))
        model.load_weights(path)
        return model

    def load_weights(self, path: Path) -> None:
        """Load a safetensors file with Show-o's key names; the quantiser's constants may be absent."""
        weights = {k: v.float() for k, v in load_file(str(path)).items() if not k.startswith("quantize.")}
        constants = {f"quantize.{k}": v for k, v in self.quantize.state_dict().items()}
        self.load_state_dict({**weights, **constants})
        self.eval()


def prepared(picture: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """A picture (H, W, 3) of any size as Show-o's `image_transform` prepares it before it is normalised: the shorter
    side to `size` (bicubic), then the centre square.
    """
    return resize(picture, size, "crop_bicubic")


def to_pixels(pictures_NHWC: npt.NDArray[np.uint8]) -> Tensor:
    """uint8 pictures to float pixels (N, 3, H, W) in −1…1."""
    return torch.from_numpy(np.ascontiguousarray(pictures_NHWC)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_pictures(pixels_NCHW: Tensor) -> npt.NDArray[np.uint8]:
    """Pixels in −1…1 (clipped) to uint8 pictures (N, H, W, 3)."""
    scaled = ((pixels_NCHW.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return cast("npt.NDArray[np.uint8]", scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy())
