"""Small random weights in the layout of Show-o's three published folders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from sync_r1.trainer_client.policies.showo.image_tokenizer import Magvit, MagvitConfig
from sync_r1.trainer_client.policies.showo.image_tokenizer_layers import StageSizes
from sync_r1.trainer_client.policies.showo.network import Showo, ShowoConfig
from sync_r1.trainer_client.policies.showo.policy import ShowoPolicy

TEXTS = [
    "A photo of a red cat wearing its hat.",
    "What colour is it? USER: ASSISTANT: yes, no.",
    "a blue striped boy is in the picture",
    "Is it in the picture?",
]


@dataclass(frozen=True)
class Published:
    """The folders and what was written into them."""

    showo: Path
    magvit: Path
    phi: Path
    model: Showo
    tokenizer: Magvit

    def load(self, **sampling: float) -> ShowoPolicy:
        """The policy of the three folders."""
        policy = ShowoPolicy.from_pretrained(showo=self.showo, magvit=self.magvit, phi=self.phi)
        for name, value in sampling.items():
            setattr(policy, name, value)
        return policy


def write_tokenizer(file: Path, size: int = 300) -> int:
    """A byte-level BPE like Phi-1.5's, with at most `size` tokens; returns how many."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=size, special_tokens=["<|endoftext|>"], initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.save(str(file))
    return int(tokenizer.get_vocab_size())


def write_published(root: Path, *, binary: bool = False) -> Published:
    """Three folders: 16 image tokens of 6 bits, two layers; weights large enough for distributions far from uniform."""
    folders = {name: root / name for name in ("show-o-512x512", "magvitv2", "phi-1.5")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    showo, magvit, phi = folders.values()
    torch.manual_seed(0)
    text_vocab = write_tokenizer(phi / "tokenizer.json")
    sizes = ShowoConfig(text_vocab, 64, 16, 32, 64, 2, 2, 256, pad_first=True)
    model = Showo(sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    stages = StageSizes(32, (1, 2), (1, 2)), StageSizes(32, (1, 2), (2, 1))
    tokenizer = Magvit(MagvitConfig(*stages, bits=6, image_size=8)).eval()
    for folder, module in ((showo, model), (magvit, tokenizer)):
        weights = {key: value.clone().contiguous() for key, value in module.state_dict().items()}
        if binary:
            torch.save(weights, folder / "pytorch_model.bin")
        else:
            save_file(weights, str(folder / "model.safetensors"))
    settings = {
        "_class_name": "Showo",
        "codebook_size": 64,
        "llm_vocab_size": text_vocab,
        "num_new_special_tokens": 10,
        "num_vq_tokens": 16,
        "vocab_size": sizes.vocab_size,
        "w_clip_vit": False,
    }
    (showo / "config.json").write_text(json.dumps(settings))
    phi_sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
    }
    (phi / "config.json").write_text(json.dumps(phi_sizes))
    return Published(showo, magvit, phi, model, tokenizer)
