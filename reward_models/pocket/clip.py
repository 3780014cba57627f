"""pocket-clip: open_clip's CLIP in a small configuration, for 64x64 pictures and the closed vocabulary of
`captions.py`.

Both towers are open_clip's own classes. Two things differ from its big models: the patch embedding is a small
convolutional stem (a patch of 8x8 raw pixels learns too slowly for a training run of minutes), and texts may be
shorter than the context. Needs the `export` extra (torch, open_clip); services run the exported graphs instead.
"""

from __future__ import annotations

from pathlib import Path

from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.transformer import text_global_pool
from safetensors.torch import load_file
from torch import Tensor, nn

from sync_r1.reward_models.pocket.tokenizer import CONTEXT_LENGTH, END_ID, VOCABULARY_SIZE

ARTEFACTS = Path(__file__).parent / "artefacts"
EMBED_DIM = 256
WIDTH = 128
VISION = CLIPVisionCfg(layers=3, width=WIDTH, head_width=32, patch_size=8, image_size=64)
TEXT = CLIPTextCfg(
    context_length=CONTEXT_LENGTH, vocab_size=VOCABULARY_SIZE, width=WIDTH, heads=4, layers=3, eos_id=END_ID
)


def _stem(width: int) -> nn.Sequential:
    """64x64x3 to 8x8xwidth, in place of the 8x8 patch convolution."""
    blocks: list[nn.Module] = []
    for entering, leaving, stride in ((3, 32, 2), (32, 64, 2), (64, width, 2), (width, width, 1)):
        blocks += [
            nn.Conv2d(entering, leaving, 3, stride, 1, bias=False),
            nn.BatchNorm2d(leaving),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*blocks, nn.Conv2d(width, width, 1))


class PocketClip(CLIP):
    """open_clip's CLIP with the configuration above: `encode_image` takes float (N, 3, 64, 64) in [-1, 1],
    `encode_text` int64 (N, L)."""

    def __init__(self) -> None:
        super().__init__(EMBED_DIM, VISION, TEXT)
        self.visual.conv1 = _stem(WIDTH)

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Like open_clip's, for any L up to the context: training cuts the padding off, which a causal mask never
        reads."""
        length = text.shape[1]
        x = self.token_embedding(text) + self.positional_embedding[:length]
        x = self.ln_final(self.transformer(x, attn_mask=self.attn_mask[:length, :length]))
        pooled = text_global_pool(x, text, self.text_pool_type, eos_token_id=self.text_eos_id)
        embedding = pooled @ self.text_projection
        return nn.functional.normalize(embedding, dim=-1) if normalize else embedding


def pixels_to_input(pixels: Tensor) -> Tensor:
    """uint8 (N, 64, 64, 3) RGB to float (N, 3, 64, 64) in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float() * (2 / 255) - 1


def load_pocket_clip(path: Path = ARTEFACTS / "pocket_clip.safetensors") -> PocketClip:
    """The trained model in evaluation mode. Raises `FileNotFoundError` where it has not been trained yet."""
    model = PocketClip()
    weights = load_file(path)
    model.load_state_dict({name[6:]: tensor.float() for name, tensor in weights.items() if name.startswith("model.")})
    return model.eval()
