"""A tiny Janus: the configuration of every part of the real classes, small, and what tests ask of it."""

from __future__ import annotations

from transformers import JanusConfig, JanusVisionConfig, JanusVQVAEConfig, LlamaConfig

from sync_r1.trainer_client.config import LoraConfig
from sync_r1.trainer_client.policies.janus.random_weights import VOCABULARY

GRID = 4
CODES = 32
PROMPTS = ["<bo> wearing its hat.", "a red cat", "<bo> at the beach in summer"]
LORA = LoraConfig(rank=4, alpha=8.0)


def tiny_config() -> JanusConfig:
    """Every part of Janus, small: 32×32 pictures of 4×4 tokens."""
    width = 32
    return JanusConfig(
        text_config=LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=width, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=False,
        ),
        vision_config=JanusVisionConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8, mlp_ratio=2.0,
            projection_dim=width, num_image_tokens=GRID**2,
        ),
        vq_config=JanusVQVAEConfig(
            embed_dim=4, num_embeddings=CODES, latent_channels=32, base_channels=32, channel_multiplier=[1, 1, 1, 1],
            num_res_blocks=1, projection_dim=width, image_token_embed_dim=width,
        ),
        tie_word_embeddings=False,
    )  # fmt: skip
