"""Which of Janus's networks train."""

from __future__ import annotations

from transformers import JanusForConditionalGeneration


def train_language_model(model: JanusForConditionalGeneration) -> None:
    """Freeze all but the language model and its head."""
    model.requires_grad_(False)
    for trained in (model.model.language_model, model.lm_head):
        trained.requires_grad_(True)
