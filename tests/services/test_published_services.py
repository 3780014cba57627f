"""Published models served: tiny sisters of them, run by a real Triton, give over gRPC what their originals give."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import yaml
from counting_runner import Counting
from parity import TOLERANCE, Exported, largest

from benchmarks.originals import ORIGINALS, items
from sync_r1.reward_models.backends.local import LocalRunner
from sync_r1.reward_models.backends.repository import model_config, write_repository
from sync_r1.reward_models.graphs.spec import GraphSpec, TensorSpec, graph_sha256
from sync_r1.reward_models.images import decode
from sync_r1.reward_models.profiles import Profile, load_profile
from sync_r1.reward_models.published import catalogue, convert
from sync_r1.reward_models.releases import Release
from sync_r1.reward_models.runner import RunContext
from sync_r1.reward_models.types import Concept, Failure, FailureCode, NotApplicable, Sample, Score
from sync_r1.services.config import ServiceConfig
from sync_r1.services.local.embedded import EmbeddedTriton
from sync_r1.services.runners.triton import TritonRunner
from sync_r1.services.server import RewardServer
from sync_r1.trainer_client import RewardClient
from sync_r1.trainer_client.tasks.pocketbench import write_pocketbench
from sync_r1.trainer_client.tasks.tasks import gate_sample, load_pixels, recall_task, reward_nouns, sample
from sync_r1.trainer_client.tasks.unifybench import load_unifybench

if TYPE_CHECKING:
    from parity import TinyModels

FULL = Path(__file__).parents[2] / "reward_models" / "profiles" / "full.yaml"
VARIANTS = {
    "concept-consistency": ("dino",),
    "text-faithfulness": ("clip_t", "vqa_yes"),
    "aesthetic": ("laion_v2", "hps_v2_1", "pickscore", "image_reward"),
}
"""At least one of every family, and every kind of formula over published graphs."""
EVERY = [(reward, variant) for reward, variants in VARIANTS.items() for variant in variants]
HALF, BF16 = "clip_half", "dino_torch"


@pytest.fixture(scope="module")
def profile(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Profile]:
    """`full` with the variants above, over tiny models in a graph store of their own."""
    store = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        for name in {ORIGINALS[key].model for key in EVERY}:
            exported = tiny(name)
            for file in exported.folder.iterdir():
                (store / file.name).hardlink_to(file)
            for key, graph in exported.model.graphs.items():
                patch.setitem(catalogue.GRAPHS, graph.name, replace(graph, **tensors(exported, key)))
        patch.setenv("SYNC_R1_GRAPHS", str(store))
        raw = yaml.safe_load(FULL.read_text())
        for reward, variants in VARIANTS.items():
            of = raw["rewards"][reward]
            raw["rewards"][reward] = {
                "default": variants[0],
                "variants": {name: of["variants"][name] for name in variants},
            }
        del raw["base"]
        raw["rewards"]["understanding-correctness"] = {
            "default": "exact",
            "variants": {"exact": {"kind": "string", "card": {"summary": "s", "source": "s", "licence": "none"}}},
        }
        path = store / "tiny.yaml"
        path.write_text(yaml.safe_dump(raw))
        loaded = load_profile(str(path))
        used = {graph for served in loaded.rewards.values() for one in served.variants.values() for graph in one.graphs}
        yield Profile(loaded.name, {name: loaded.graphs[name] for name in used}, loaded.rewards)


def tensors(exported: Exported, key: str) -> dict[str, tuple[TensorSpec, ...]]:
    """Inputs and outputs of a tiny graph, by its file."""
    session, graph = exported.session(key), exported.graph(key)
    found = zip(graph.outputs, session.get_outputs())
    return {"inputs": graph.inputs, "outputs": tuple(replace(spec, shape=(out.shape[1],)) for spec, out in found)}


@pytest.fixture(scope="module")
def engines(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """The same models by other engines: a half-precision ONNX file, and bf16 in torch."""
    half = tiny("clip_vit_b_32", "fp16")
    folder = tmp_path_factory.mktemp("torch")
    dino = tiny("dino_vit_s_16")
    convert.export_model(dino.model, [convert.RANDOM], folder, precision="bf16", engine="torch")
    graphs = {
        HALF: replace(half.graph("image"), name=HALF, **tensors(half, "image")),
        BF16: replace(
            dino.graph("image"), name=BF16, engine="torch", file=folder / "dino_vit_s_16_image.safetensors",
            **tensors(dino, "image"),
        ),
    }  # fmt: skip
    return Profile("engines", graphs, {})


@pytest.fixture(scope="module")
def triton(profile: Profile, engines: Profile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTriton]:
    repository = tmp_path_factory.mktemp("models")
    write_repository(profile, repository, backend="python", also=[engines])
    with EmbeddedTriton(repository) as running:
        yield running


@asynccontextmanager
async def serving(profile: Profile, reward: str, triton: EmbeddedTriton) -> AsyncIterator[RewardClient]:
    """The reward's service in this process, and a client of it."""
    runner = TritonRunner(triton.url, shared_memory=True)

    async def ready() -> bool:
        return await runner.ready({pin for one in served.releases.values() for pin in one.graphs})

    served = profile.rewards[reward]
    server = RewardServer([served], runner, ServiceConfig(), ready=ready)
    try:
        async with RewardClient(f"127.0.0.1:{await server.start()}") as client:
            yield client
    finally:
        await server.drain()
        await runner.close()


def samples() -> list[Sample]:
    return [
        Sample(
            id=str(number), image=decode(item.image), prompt=item.prompt, nouns=item.nouns,
            concept=Concept(references=tuple(map(decode, item.references))),
        )
        for number, item in enumerate(items())
    ]  # fmt: skip


@pytest.mark.parametrize(("reward", "variant"), EVERY)
async def test_scores_over_grpc_equal_the_original_librarys(
    reward: str, variant: str, profile: Profile, triton: EmbeddedTriton, tiny: TinyModels
) -> None:
    original = ORIGINALS[reward, variant]
    exported = tiny(original.model)
    with torch.inference_mode():
        expected = original.scores(exported.original, exported.model, items())
    async with serving(profile, reward, triton) as client:
        got = (await client.score(samples(), variant=variant)).outcomes
    assert all(isinstance(outcome, Score) for outcome in got), got
    assert largest([outcome.value for outcome in got], expected) <= TOLERANCE
    assert np.ptp(expected) > 10 * TOLERANCE, "pictures and texts must matter"


@pytest.mark.parametrize(("reward", "variant"), EVERY)
async def test_order_is_kept_work_is_shared_and_a_missing_field_fails_its_item_only(
    reward: str, variant: str, profile: Profile
) -> None:
    served, group = profile.rewards[reward], samples()
    made, context = served.variants[variant], RunContext(served.release(variant), time.monotonic() + 60)
    lacking = replace(group[0], image=None)
    with LocalRunner(profile) as local:
        runner = Counting(local)
        together = await made.score(group, runner, context)
        once = dict(runner.items)
        again = await made.score([lacking, *reversed(group), *group], runner, context)
    assert isinstance(again[0], Failure)
    assert (again[0].code, again[0].field) == (FailureCode.MISSING_FIELD, "image")
    for other, outcome in zip([*reversed(again[1 : len(group) + 1]), *again[len(group) + 1 :]], [*together, *together]):
        assert isinstance(outcome, Score)
        assert other.value == pytest.approx(outcome.value, abs=1e-5)
    assert runner.items == {graph: 2 * count for graph, count in once.items()}, "a group's repeats are run once"


async def test_a_sample_without_nouns_is_not_applicable_to_questions(profile: Profile, triton: EmbeddedTriton) -> None:
    one, *_ = samples()
    async with serving(profile, "text-faithfulness", triton) as client:
        batch = await client.score([replace(one, id="a", nouns=(" ",)), one], variant="vqa_yes")
    without, with_nouns = batch.outcomes
    assert isinstance(without, NotApplicable)
    assert isinstance(with_nouns, Score)
    assert set(with_nouns.components) == {"noun_0", "noun_1"}


async def test_what_the_trainer_sends_is_asked_about(profile: Profile, triton: EmbeddedTriton, tmp_path: Path) -> None:
    """A picture of PocketBench, as previews and finished trajectories are sent: one question per noun of its text."""
    write_pocketbench(tmp_path)
    bo = load_unifybench(tmp_path).concepts[0]
    task = recall_task(bo, bo.train_conditions[0], np.random.default_rng(0))
    pixels = load_pixels(bo.train_images[0])
    sent = [
        sample(task, identifier="finished", group="g", pixels=pixels, answer=task.reference_answer),
        gate_sample(task, identifier="preview", group="g", pixels=pixels),
    ]
    async with serving(profile, "text-faithfulness", triton) as client:
        finished, preview = (await client.score(sent, variant="vqa_yes")).outcomes
    assert isinstance(finished, Score)
    assert isinstance(preview, Score)
    assert len(finished.components) == len(reward_nouns(task)) == 2
    assert finished.value == pytest.approx(np.mean(list(finished.components.values())))
    assert preview.value == pytest.approx(finished.value, abs=1e-6)


async def test_cards_of_random_weights_say_so(profile: Profile, triton: EmbeddedTriton) -> None:
    async with serving(profile, "aesthetic", triton) as client:
        description = await client.describe()
    for variant in description.variants.values():
        assert variant.summary.startswith("RANDOM WEIGHTS")


@pytest.mark.parametrize(("name", "tolerance"), [(HALF, 5e-3), (BF16, 5e-2)])
async def test_other_engines_give_the_same_numbers_on_triton(
    name: str, tolerance: float, engines: Profile, triton: EmbeddedTriton, tiny: TinyModels
) -> None:
    exported = tiny("clip_vit_b_32" if name == HALF else "dino_vit_s_16")
    pixels = exported.pixels("image")
    expected = exported.run("image", {"pixels": pixels})["embedding"]
    release = Release("engines", name, "1", (engines.graphs[name].pin,))
    runner = TritonRunner(triton.url)
    result = await runner.run(RunContext(release, time.monotonic() + 60), name, {"pixels": pixels})
    await runner.close()
    assert result.outputs["embedding"].dtype == np.float32
    scale = np.abs(expected).max()
    assert largest(result.outputs["embedding"] / scale, expected / scale) <= tolerance


def test_production_runs_onnx_by_tritons_own_backend_and_torch_in_python(engines: Profile) -> None:
    half, bf16 = (model_config(engines.graphs[name], backend="onnxruntime", threads=1) for name in (HALF, BF16))
    assert 'backend: "onnxruntime"' in half
    assert "optimization { graph { level: 1 } }" in half, "the level above crashes on half precision"
    assert 'backend: "python"' in bf16
    assert 'key: "engine" value { string_value: "torch" }' in bf16
    gpu = model_config(engines.graphs[HALF], backend="onnxruntime", threads=1, device="gpu")
    assert "kind: KIND_GPU" in gpu
    assert "level: 1" not in gpu


def test_tensors_of_large_models_lie_beside_the_file_that_names_them(tmp_path: Path) -> None:
    file = tmp_path / "large.onnx"
    file.write_bytes(b"graph")
    (tmp_path / "large.onnx.data").write_bytes(b"tensors")
    (tmp_path / "large.onnx.json").write_text(json.dumps({"sha256": graph_sha256(file)}))
    spec = TensorSpec("x", "float32", (1,))
    graph = GraphSpec("large", 1, file, (spec,), (spec,), 1, published="hps_v2_1")
    write_repository(Profile("p", {"large": graph}, {}), tmp_path / "models", backend="onnxruntime")
    version = tmp_path / "models" / "large" / str(graph.pin.triton_version)
    assert (version / "model.onnx").read_bytes() == b"graph"
    assert (version / "large.onnx.data").read_bytes() == b"tensors"
