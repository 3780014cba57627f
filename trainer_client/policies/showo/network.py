"""The unified model of the policy: one Phi transformer for text and image tokens, with Show-o's layouts and attention.

Where you are: `image_tokenizer.py` makes image tokens, `policies/pocket/text.py` and `text.py` text tokens; this module
holds the network that predicts both, `policy.py` samples from it. The blocks are transformers' `PhiForCausalLM`
(LayerNorm on queries and keys), so that Show-o's published weights load under their own keys
(`showo.model.layers.0.…`); `ShowoConfig()` is the published size (Show-o 512 with Phi-1.5).

Vocabulary, in order: text (a learned concept's tokens last), ten special tokens, image codes, the mask token. Layouts
(Xie et al., arXiv 2408.12528): drawing `<|t2i|> text <|soi|> image <|eoi|>`, answering `<|mmu|> <|soi|> image <|eoi|>
text`, both padded on the left. Text attends causally, an image attends fully within itself (an image that comes first
together with its task token), padding is never attended.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, PhiConfig, PhiForCausalLM

SPECIAL_TOKENS = (
    "<|soi|>", "<|eoi|>", "<|sov|>", "<|eov|>", "<|t2i|>", "<|mmu|>", "<|t2v|>", "<|v2v|>", "<|lvg|>", "<|pad|>",
)  # fmt: skip

Prefix = list[tuple[Tensor, Tensor]]
"""Keys and values (N, heads, L, head size) of each layer for tokens that were already read."""


@dataclass(frozen=True)
class ShowoConfig:
    """Sizes of the model; the defaults are the published ones."""

    text_vocab: int = 50295
    image_codes: int = 8192
    image_tokens: int = 1024
    hidden_size: int = 2048
    intermediate_size: int = 8192
    layers: int = 24
    heads: int = 32
    max_positions: int = 2048
    pad_first: bool = False
    """The padding token is the first special token (the published weights) instead of the last (the pocket policy)."""

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return self.text_vocab + len(SPECIAL_TOKENS) + self.image_codes + 1

    @property
    def first_code_id(self) -> int:
        """Token id of image code 0."""
        return self.text_vocab + len(SPECIAL_TOKENS)

    @property
    def mask_id(self) -> int:
        """Token id of an image token that is not decided yet."""
        return self.vocab_size - 1

    def special(self, name: str) -> int:
        """Token id of a special token such as `<|soi|>`."""
        index = SPECIAL_TOKENS.index(name)
        return self.text_vocab + ((index + 1) % len(SPECIAL_TOKENS) if self.pad_first else index)

    @classmethod
    def from_json(cls, text: str) -> ShowoConfig:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """The sizes as JSON text."""
        return json.dumps(asdict(self), indent=1)


def attention_allowed(ids_N_L: Tensor, config: ShowoConfig, *, image_first: bool) -> Tensor:
    """Which token may attend to which: bool (N, 1, L, L), rows are queries.

    `image_first` is the answering layout, in which everything up to `<|eoi|>` attends fully; a row without an image
    is plain causal text.
    """
    length = ids_N_L.shape[1]
    real = ids_N_L != config.special("<|pad|>")
    is_end = ids_N_L == config.special("<|eoi|>")
    ends_before = is_end.cumsum(1) - is_end.long()
    if image_first:
        block = real & (ends_before == 0) & is_end.any(1, keepdim=True)
    else:
        block = ((ids_N_L == config.special("<|soi|>")).cumsum(1) > 0) & (ends_before == 0)
    causal = torch.ones(length, length, dtype=torch.bool, device=ids_N_L.device).tril()
    allowed = causal | (block[:, :, None] & block[:, None, :])
    # A padding row attends to padding only: its output is never used, and an empty row would be NaN.
    return (allowed & (real[:, :, None] == real[:, None, :]))[:, None]


class Showo(nn.Module):
    """The network; `showo` is the Phi language model over the joint vocabulary."""

    def __init__(self, config: ShowoConfig, *, attention: str = "eager") -> None:
        """`attention` is transformers' name of the kernel.

        "eager", plain matrix products, because on a CPU the fused kernel's backward pass takes three times as long at
        the pocket's lengths; "sdpa" at Show-o's lengths, where the N × heads × L × L weights would not fit.
        """
        super().__init__()
        self.config = config
        self.precision = torch.float32
        """Of the matrix products: bfloat16 halves the time on processors that have it; weights stay as they are."""
        self.showo = PhiForCausalLM(
            PhiConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                max_position_embeddings=config.max_positions,
                partial_rotary_factor=0.5,
                qk_layernorm=True,
                # The same formula as Phi's "gelu_new", as one fused kernel: half the time of the backward pass.
                hidden_act="gelu_pytorch_tanh",
                attn_implementation=attention,
                pad_token_id=None,
                bos_token_id=None,
                eos_token_id=None,
            )
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.showo.lm_head.weight.device

    @torch.no_grad()
    def append_text_tokens(self, embeddings_K_H: Tensor, head_K_H: Tensor, bias_K: Tensor) -> None:
        """Let the text vocabulary end with K more tokens; the ids of everything that follows it rise by K.

        `head_K_H` and `bias_K` make the logits by which answers choose the tokens.
        """
        at, old, head = self.config.text_vocab, self.showo.model.embed_tokens, self.showo.lm_head
        self.config = replace(self.config, text_vocab=at + len(bias_K))

        def grown(values: Tensor, new: Tensor) -> nn.Parameter:
            return nn.Parameter(torch.cat([values[:at], new.to(values), values[at:]]))

        embedding = nn.Embedding(self.config.vocab_size, self.config.hidden_size, device="meta")
        embedding.weight = grown(old.weight, embeddings_K_H)
        self.showo.model.embed_tokens = embedding
        head.weight, head.bias = grown(head.weight, head_K_H), grown(head.bias, bias_K)
        head.out_features = self.showo.config.vocab_size = self.config.vocab_size

    def hidden(self, ids_N_L: Tensor, allowed: Tensor, prefix: Prefix | None = None) -> tuple[Tensor, Prefix]:
        """Last hidden states (N, L, H) and the keys and values of all tokens read so far.

        `allowed` is bool (N or 1, 1, L, prefix length + L). Positions count from the start of the prefix, padding
        included: rotary attention sees only differences, so left padding changes nothing.
        """
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(prefix or []):
            cache.update(keys, values, layer)
        past = prefix[0][0].shape[2] if prefix else 0
        positions = torch.arange(past, past + ids_N_L.shape[1], device=ids_N_L.device)[None]
        embedded = self.showo.model.embed_tokens(ids_N_L)
        bias = torch.zeros(allowed.shape, dtype=embedded.dtype, device=allowed.device)
        bias.masked_fill_(~allowed, torch.finfo(embedded.dtype).min)
        with self._precision():
            out = self.showo.model(
                inputs_embeds=embedded,
                attention_mask=bias,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
        return out.last_hidden_state, [(layer.keys, layer.values) for layer in cache.layers]

    def logits(self, hidden: Tensor, first: int, count: int) -> Tensor:
        """Logits of the `count` token ids from `first` on: only the rows of the head that are needed."""
        head = self.showo.lm_head
        with self._precision():
            return F.linear(hidden, head.weight[first : first + count], cast(Tensor, head.bias)[first : first + count])

    def _precision(self) -> AbstractContextManager[object]:
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.precision)

    def text_logits(self, hidden: Tensor) -> Tensor:
        """Logits over the text vocabulary."""
        return self.logits(hidden, 0, self.config.text_vocab)

    def code_logits(self, hidden: Tensor) -> Tensor:
        """Logits over the image codes."""
        return self.logits(hidden, self.config.first_code_id, self.config.image_codes)


def repeat_prefix(prefix: Prefix, times: int) -> Prefix:
    """Each row `times` times in a row, with gradient."""
    return [(keys.repeat_interleave(times, 0), values.repeat_interleave(times, 0)) for keys, values in prefix]
