"""Show-o's published folders: what is in them, checked key by key, and the same layout written again.

Where you are: `ShowoPolicy.from_pretrained` and `save` call these. Three local folders, as published:

    show-o-512x512/  config.json  and weights with keys `showo.model.…`, `showo.lm_head.…`
    magvitv2/        weights with keys `encoder.…`, `decoder.…`, `quantize.…`
    phi-1.5/         config.json (the network's sizes) and tokenizer.json

Weights are one `*.safetensors` or one `pytorch_model.bin` (read with `weights_only`, so that a file cannot run code).
The key names are our modules' own, so nothing is renamed; what is checked is that every one is there, that none is
left over, and that sizes agree. A folder that a policy was saved to has the same layout; its `config.json` also names
the other two folders, the settings of sampling and the concepts learned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.trainer_client.policies.showo.image_tokenizer import Magvit, MagvitConfig
from sync_r1.trainer_client.policies.showo.image_tokenizer_layers import StageSizes
from sync_r1.trainer_client.policies.showo.network import SPECIAL_TOKENS, Showo, ShowoConfig
from sync_r1.trainer_client.policies.showo.text import PhiText

WEIGHT_FILES = ("model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin")
_SAMPLING = {"steps": int, "guidance": float, "noise": float}


class WeightsError(SyncR1Error, ValueError):
    """A folder of weights is not what it should be; the message names file, key and cure."""


@dataclass(frozen=True)
class Folders:
    """The three folders of a Show-o policy."""

    showo: Path
    magvit: Path
    phi: Path


@dataclass(frozen=True)
class Settings:
    """What the configuration files say."""

    folders: Folders
    sizes: ShowoConfig
    learned: tuple[str, ...]
    sampling: dict[str, Any]
    """`steps`, `guidance` and `noise`, as far as the folder says."""


def read_settings(showo: Path, magvit: Path | None, phi: Path | None) -> Settings:
    """Read both `config.json` files. Raises WeightsError."""
    own = _read_config(showo / "config.json", "the published show-o-512x512 folder")
    folders = Folders(
        showo,
        *(given or _remembered(own, name, showo / "config.json") for name, given in (("magvit", magvit), ("phi", phi))),
    )
    file = folders.phi / "config.json"
    phi_config = _read_config(file, "the published phi-1.5 folder")
    if own.get("w_clip_vit"):
        raise WeightsError(
            f"{showo / 'config.json'}: key 'w_clip_vit': expected false, got true; take show-o-512x512, not the "
            "variant that sees through CLIP"
        )
    sizes = ShowoConfig(
        text_vocab=_number(own, "llm_vocab_size", showo / "config.json"),
        image_codes=_number(own, "codebook_size", showo / "config.json"),
        image_tokens=_number(own, "num_vq_tokens", showo / "config.json"),
        hidden_size=_number(phi_config, "hidden_size", file),
        intermediate_size=_number(phi_config, "intermediate_size", file),
        layers=_number(phi_config, "num_hidden_layers", file),
        heads=_number(phi_config, "num_attention_heads", file),
        max_positions=_number(phi_config, "max_position_embeddings", file),
        pad_first=True,
    )
    if (said := _number(own, "vocab_size", showo / "config.json")) != sizes.vocab_size:
        raise WeightsError(
            f"{showo / 'config.json'}: key 'vocab_size': expected llm_vocab_size + {len(SPECIAL_TOKENS)} special "
            f"tokens + codebook_size + 1 mask = {sizes.vocab_size}, got {said}; the file belongs to another model"
        )
    sampling = {name: form(own[name]) for name, form in _SAMPLING.items() if name in own}
    return Settings(folders, sizes, tuple(own.get("learned", ())), sampling)


def read_text(settings: Settings) -> PhiText:
    """Read Phi-1.5's tokenizer. Raises WeightsError if it is missing or its size is not the network's."""
    file = settings.folders.phi / "tokenizer.json"
    try:
        words = PhiText(file, settings.learned)
    except (FileNotFoundError, ValueError) as error:
        raise WeightsError(str(error)) from None
    if len(words) != settings.sizes.text_vocab:
        raise WeightsError(
            f"{file}: expected {settings.sizes.text_vocab} tokens (llm_vocab_size of "
            f"{settings.folders.showo / 'config.json'}, learned concepts included), got {len(words)}; take the "
            "tokenizer of phi-1.5 as published, without further tokens"
        )
    return words


def read_showo(settings: Settings, dtype: torch.dtype) -> Showo:
    """Read the network. Raises WeightsError."""
    file = weights_file(settings.folders.showo)
    weights = read_weights(file)
    with torch.device("meta"):
        model = Showo(settings.sizes, attention="sdpa")
    check_keys(file, model.state_dict(), weights, "is this show-o-512x512, and phi-1.5's config.json beside it?")
    model.load_state_dict({key: value.to(dtype) for key, value in weights.items()}, assign=True)
    # Rotary frequencies are computed, not stored: these alone have to be made anew after the meta device.
    rotary = model.showo.model.rotary_emb
    model.showo.model.rotary_emb = type(rotary)(config=model.showo.config)
    return model


def read_magvit(settings: Settings) -> Magvit:
    """Read the image tokenizer; its sizes are those of its weights. Raises WeightsError."""
    file = weights_file(settings.folders.magvit)
    weights = {key: value for key, value in read_weights(file).items() if not key.startswith("quantize.")}
    config = magvit_config(file, weights, round(settings.sizes.image_tokens**0.5))
    if 2**config.bits != settings.sizes.image_codes:
        raise WeightsError(
            f"{file}: key 'encoder.quant_conv.weight': expected {settings.sizes.image_codes} codes (codebook_size of "
            f"{settings.folders.showo / 'config.json'}), got 2^{config.bits} = {2**config.bits}; the two folders "
            "belong to different models"
        )
    model = Magvit(config)
    constants = {f"quantize.{key}": value for key, value in model.quantize.state_dict().items()}
    check_keys(file, model.state_dict(), {**weights, **constants}, "is this the magvitv2 folder?")
    model.load_state_dict({**weights, **constants})
    return model.eval()


def write_showo(
    folder: Path, model: Showo, folders: Folders | None, learned: Sequence[str], sampling: Mapping[str, Any]
) -> None:
    """Write the network as `model.safetensors` with a `config.json` that names the tokenizers' folders.

    Raises:
        ValueError: there are no such folders to name.
    """
    if folders is None:
        raise ValueError("only a policy made by from_pretrained can be saved: its tokenizers' folders are not known")
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, str(folder / WEIGHT_FILES[0]))
    sizes = model.config
    values = {
        "kind": "showo",
        "vocab_size": sizes.vocab_size,
        "llm_vocab_size": sizes.text_vocab,
        "codebook_size": sizes.image_codes,
        "num_vq_tokens": sizes.image_tokens,
        "w_clip_vit": False,
        "learned": list(learned),
        **sampling,
        **{name: str(path.resolve()) for name, path in asdict(folders).items() if name != "showo"},
    }
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n")


def weights_file(folder: Path) -> Path:
    """The folder's file of weights. Raises WeightsError if there is none."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(f"{folder}: no weights; expected one of {', '.join(WEIGHT_FILES)}; download the folder in full")


def read_weights(file: Path) -> dict[str, Tensor]:
    """All tensors of a file. Raises WeightsError if it cannot be read."""
    try:
        if file.suffix == ".safetensors":
            return load_file(str(file))
        weights: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        return weights
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{file}: cannot be read as weights ({reason}); download it again") from None
    except Exception as error:  # pickle raises its own errors for what weights_only refuses
        raise WeightsError(
            f"{file}: holds more than weights or is cut short ({type(error).__name__}); download it again, or save "
            "it as safetensors"
        ) from None


def check_keys(file: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor], cure: str) -> None:
    """Raises WeightsError at the first key that is missing, left over or of another shape."""
    for key, value in expected.items():
        if key not in found:
            raise WeightsError(f"{file}: key {key!r} is missing ({len(found)} keys are there); {cure}")
        if found[key].shape != value.shape:
            raise WeightsError(
                f"{file}: key {key!r}: expected shape {tuple(value.shape)}, got {tuple(found[key].shape)}; {cure}"
            )
    if extra := sorted(set(found) - set(expected)):
        raise WeightsError(f"{file}: key {extra[0]!r} ({len(extra)} such) is not part of this model; {cure}")


def magvit_config(file: Path, weights: Mapping[str, Tensor], grid: int) -> MagvitConfig:
    """The tokenizer's sizes from its weights' shapes, for pictures of `grid` tokens a side. Raises WeightsError."""

    def stage(prefix: str, first: str) -> StageSizes:
        levels = _count(weights, f"{prefix}.")
        blocks = [_count(weights, f"{prefix}.{level}.block.") for level in range(levels)]
        try:
            widths = [weights[f"{prefix}.{level}.block.0.conv1.weight"].shape[0] for level in range(levels)]
            ch = weights[first].shape[0]
            return StageSizes(ch, tuple(width // ch for width in widths), tuple(blocks))
        except KeyError as error:
            raise WeightsError(f"{file}: key {error} is missing; is this the magvitv2 folder?") from None

    # The finest level of the decoder has the base width, so its last convolution tells it, as the encoder's first does.
    encoder = stage("encoder.down", "encoder.conv_in.weight")
    decoder = stage("decoder.up", "decoder.norm_out.weight")
    if "encoder.quant_conv.weight" not in weights:
        raise WeightsError(f"{file}: key 'encoder.quant_conv.weight' is missing; is this the magvitv2 folder?")
    bits = weights["encoder.quant_conv.weight"].shape[0]
    return MagvitConfig(encoder, decoder, bits, grid * 2 ** (len(encoder.ch_mult) - 1))


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    return len({key[len(prefix) :].split(".")[0] for key in weights if key.startswith(prefix)})


def _read_config(file: Path, what: str) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text())
    except FileNotFoundError:
        raise WeightsError(f"{file}: the file is missing; it is part of {what}") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file}: not a JSON file ({error}); take it from {what}") from None
    if not isinstance(values, dict):
        raise WeightsError(f"{file}: expected a mapping, got {type(values).__name__}; take it from {what}")
    return values


def _number(values: Mapping[str, Any], key: str, file: Path) -> int:
    value = values.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise WeightsError(f"{file}: key {key!r}: expected a positive whole number, got {value!r}; restore the file")
    return value


def _remembered(own: Mapping[str, Any], name: str, file: Path) -> Path:
    if name not in own:
        raise WeightsError(
            f"{file}: key {name!r} is missing, as in published folders; give the folder of "
            f"{'the image tokenizer (magvitv2)' if name == 'magvit' else 'the text tokenizer (phi-1.5)'} beside it"
        )
    return Path(str(own[name]))
