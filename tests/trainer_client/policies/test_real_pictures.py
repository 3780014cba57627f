"""Photos of any size, as they come: each policy prepares them as its original does, and every job takes them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from showo_folders import write_published
from test_policy_janus import LORA
from test_policy_janus import tiny as tiny_janus
from torchvision import transforms
from toy_trainer import ToyScorer, toy_config

from sync_r1.trainer_client.config import PolicyConfig
from sync_r1.trainer_client.evaluation.bench_items import bench_items
from sync_r1.trainer_client.evaluation.held_out import evaluate
from sync_r1.trainer_client.evaluation.outputs import policy_outputs
from sync_r1.trainer_client.policies.base import Policy, Question
from sync_r1.trainer_client.policies.concepts.data import benchmark_files, read_concept
from sync_r1.trainer_client.policies.concepts.embeddings import POCKET_TRAINING
from sync_r1.trainer_client.policies.concepts.learn import learn_concepts
from sync_r1.trainer_client.policies.loading import load_policy
from sync_r1.trainer_client.policies.showo.image_tokenizer import prepared
from sync_r1.trainer_client.rollouts.scorer import Scorers
from sync_r1.trainer_client.tasks.unifybench import load_unifybench
from sync_r1.trainer_client.training.loop import train
from sync_r1.trainer_client.training.run import Run

SIZES = [(256, 256), (512, 512), (300, 700), (1023, 767), (90, 91), (41, 1000), (3, 5), (513, 512)]
KINDS = ["pocket", "showo", "janus"]
ONCE = replace(POCKET_TRAINING, understanding_steps=1, generation_steps=1)


def noise(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resolution", [512, 64, 256])
def test_showo_prepares_a_picture_as_its_original_does(size: tuple[int, int], resolution: int) -> None:
    picture = noise(*size)
    original = transforms.Compose(
        [
            transforms.Resize(resolution, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop((resolution, resolution)),
        ]
    )
    np.testing.assert_array_equal(prepared(picture, resolution), np.asarray(original(Image.fromarray(picture))))


def policy_config(kind: str, folder: Path) -> PolicyConfig:
    if kind == "pocket":
        return PolicyConfig()
    published = write_published(folder)
    return PolicyConfig(
        kind="showo", weights=str(published.showo), image_tokenizer=str(published.magvit),
        text_tokenizer=str(published.phi), answer_tokens=8, steps=4,
    )  # fmt: skip


def policy_of(kind: str, folder: Path) -> Policy:
    return tiny_janus(LORA) if kind == "janus" else load_policy(policy_config(kind, folder), "fp32")


@pytest.mark.parametrize("kind", KINDS)
def test_questions_about_pictures_of_different_sizes_are_answered_together_as_alone(kind: str, tmp_path: Path) -> None:
    policy = policy_of(kind, tmp_path)
    questions = [Question("what is it ?", noise(*size)) for size in SIZES if min(size) > 2 and max(size) < 800]
    together = policy.answer(questions, temperature=0.0)
    assert together.images_codes_N_I is not None
    for number, question in enumerate(questions):
        alone = policy.answer([question], temperature=0.0)
        assert alone.images_codes_N_I is not None
        np.testing.assert_array_equal(together.images_codes_N_I[number].numpy(), alone.images_codes_N_I[0].numpy())


def test_janus_never_takes_three_rows_for_three_colours() -> None:
    policy = tiny_janus()
    flat = np.full((3, 40, 3), (250, 10, 10), np.uint8)
    seen = policy.text.questions([Question("what is it ?", flat)])[1]
    tall = policy.text.questions([Question("what is it ?", np.ascontiguousarray(flat.transpose(1, 0, 2)))])[1]
    assert seen is not None
    assert tall is not None
    np.testing.assert_allclose(seen[0].numpy(), tall[0].numpy().transpose(0, 2, 1), atol=1e-5)


@pytest.fixture
def photos(shared_data: Path, tmp_path: Path) -> Path:
    """Two concepts of the photos; one picture has another size, one is turned by its EXIF alone."""
    root = tmp_path / "photos"
    shutil.copytree(shared_data / "photos", root)
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    names = json.loads((root / "concepts_list.json").read_text())
    for name in names[2:]:
        shutil.rmtree(root / "concept" / "train" / name)
        shutil.rmtree(root / "concept" / "test" / name)
    (root / "concepts_list.json").write_text(json.dumps(names[:2]))
    file = root / "concept" / "train" / "train_images.json"
    listed = json.loads(file.read_text())
    file.write_text(json.dumps({name: listed[name] for name in names[:2]}))
    first, second = root / "concept" / "train" / names[0] / "0.png", root / "concept" / "test" / names[1] / "0.png"
    Image.open(first).resize((320, 200)).save(first)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(second).resize((100, 333)).save(second, exif=exif)
    return root


@pytest.mark.parametrize("kind", KINDS)
async def test_a_policy_trains_a_step_on_photos(kind: str, photos: Path, tmp_path: Path) -> None:
    policy = policy_of(kind, tmp_path / "weights")
    reference = policy.reference() if kind == "janus" else policy_of(kind, tmp_path / "again")
    config = toy_config(
        steps=1,
        sampling={"prompts": 2, "group_size": 2, "rollout_rows_max": 8, "recall_share": 0.0},
        objective={"answer_tokens": 8, "beta": 0.01},
        optimiser={"learning_rate": 1e-3, "warmup_steps": 0, "micro_batch": 4, "micro_steps": 2},
        evaluation={"pictures_per_condition": 1, "shown": 1},
    )  # fmt: skip
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    await train(
        Run(
            config, tmp_path / "run", policy=policy, reference=reference, bench=load_unifybench(photos),
            scorers=Scorers(ToyScorer(), ToyScorer()),
        )
    )  # fmt: skip
    (line,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["trajectories"] == 4
    assert any(not now.equal(then) for now, then in zip(policy.parameters(), before))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_policy_is_evaluated_on_photos(kind: str, photos: Path, tmp_path: Path) -> None:
    policy, bench = policy_of(kind, tmp_path / "weights"), load_unifybench(photos)
    config = toy_config()
    items = bench_items(bench, prompts=1, seed=0)
    outputs = policy_outputs(
        policy, items, tmp_path / "outputs", pictures=1, seed=0, batch=8, on_progress=lambda what, done, total: None
    )
    assert outputs.answers
    assert outputs.pictures
    measured = await evaluate(config, policy, bench, scorer=ToyScorer(), picture_scorer=None, oracle=None)
    assert measured.means


@pytest.mark.parametrize("kind", ["pocket", "showo"])
def test_concepts_are_learned_from_photos(kind: str, photos: Path, tmp_path: Path) -> None:
    files = benchmark_files(photos)
    learned = learn_concepts(files, tmp_path / "out", policy=policy_config(kind, tmp_path / "w"), settings=ONCE)
    assert [entry.name for entry in learned] == [entry.name for entry in files]
    assert all(entry.pictures == len(concept.pictures) for entry, concept in zip(learned, files))


def test_a_photo_is_learned_from_as_the_policy_sees_it(photos: Path) -> None:
    data = read_concept(benchmark_files(photos)[0], 64)
    with Image.open(benchmark_files(photos)[0].pictures[0]) as image:
        np.testing.assert_array_equal(data.pictures[0], prepared(np.asarray(image.convert("RGB")), 64))
