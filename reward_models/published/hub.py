"""Models of the `transformers` library: published weights into its classes, by its own translation of old key names."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.utils import logging

from sync_r1.reward_models.published.weights import WeightsError


def load_pretrained(kind: Any, config: Any, state: dict[str, Tensor], file: str, **options: Any) -> Any:
    """`kind(config)` with the tensors of `state`, whichever version's names they have. Raises WeightsError.

    Extra tensors are let be; missing ones and ones of another shape are errors, not warnings.
    """
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, report = kind.from_pretrained(
            None,
            config=config,
            state_dict=dict(state),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
    if report["mismatched_keys"]:
        name, found, wanted = sorted(report["mismatched_keys"])[0]
        raise WeightsError(
            f"{file}: tensor {name!r} has shape {tuple(found)}, expected {tuple(wanted)}; "
            "it belongs to a model of another size"
        )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise WeightsError(
            f"{file} lacks {len(missing)} tensors, among them {missing[0]!r} "
            f"(it has {', '.join(sorted(state)[:3]) or 'nothing'}, …); "
            "give the weights of this very model in the publisher's form"
        )
    return model.float().eval()


def eager(config: Any) -> Any:
    """The configuration with plain attention: the fused one has no form that every runtime knows."""
    config._attn_implementation = "eager"
    return config
