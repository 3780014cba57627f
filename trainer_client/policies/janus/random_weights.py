"""A Janus policy with random weights and a byte tokenizer: full size for memory and time, tiny for tests.

Where you are: `benchmarks/experiments/full_size_step.py` and the tests make one; nothing is trained or judged with it.
Network and processor are the real classes; only weights and vocabulary are made up.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    JanusConfig,
    JanusForConditionalGeneration,
    JanusImageProcessor,
    JanusProcessor,
    PreTrainedTokenizerFast,
)

from sync_r1.trainer_client.config import LoraConfig
from sync_r1.trainer_client.policies.janus.policy import JanusPolicy
from sync_r1.trainer_client.policies.janus.weights import add_adapters

_SPECIAL = ("<pad>", "<bos>", "<eos>", "<image_placeholder>", "<begin_of_image>", "<end_of_image>")
VOCABULARY = 256 + len(_SPECIAL)
_TEMPLATE = (
    "{% for message in messages %}<|User|>: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image_placeholder>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n\n"
    "{% endfor %}{% if add_generation_prompt %}<|Assistant|>:{% endif %}"
)


def stand_in_processor(config: JanusConfig) -> JanusProcessor:
    """A processor whose tokens are bytes, for pictures of `config`'s size."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate((*_SPECIAL, *alphabet))}, []))
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    side = config.vision_config.image_size
    return JanusProcessor(
        JanusImageProcessor(size={"height": side, "width": side}, min_size=1),
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="<pad>",
            bos_token="<bos>",
            eos_token="<eos>",
            extra_special_tokens=dict(zip(("image_token", "boi_token", "eoi_token"), _SPECIAL[3:])),
        ),
        chat_template=_TEMPLATE,
        use_default_system_prompt=True,
        num_image_tokens=(side // config.vision_config.patch_size) ** 2,
    )


def random_policy(
    config: JanusConfig,
    *,
    dtype: torch.dtype,
    device: torch.device,
    lora: LoraConfig | None = None,
    guidance: float = 5.0,
    answer_tokens: int = 100,
) -> JanusPolicy:
    """A policy of `config`'s size; torch's global seed decides its weights. The image placeholder's id is changed to
    the stand-in tokenizer's.
    """
    config.image_token_id = _SPECIAL.index("<image_placeholder>")
    processor = stand_in_processor(config)
    with torch.device(device):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model = JanusForConditionalGeneration(config)
        finally:
            torch.set_default_dtype(before)
    adapters = add_adapters(model, lora) if lora is not None else None
    return JanusPolicy(model, processor, adapters=adapters, guidance=guidance, answer_tokens=answer_tokens)
