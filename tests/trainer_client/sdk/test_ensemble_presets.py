"""Published combinations by name: each gives its source's number, on the wire, in a configuration and in the docs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import numpy as np
import pytest
from scripted_service import ScriptedService

from sync_r1.protos.rewards.v1 import rewards_pb2 as pb
from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client import PRESETS, RequestRejected, RewardClient, RewardEnsemble, RewardUse, picture
from sync_r1.trainer_client.config import ConfigError, TrainConfig, load_config
from sync_r1.trainer_client.jobs.train import reward_clients, reward_ensemble
from sync_r1.trainer_client.sdk.reward_use import reward_of, variant_of

CONFIGS = Path(__file__).parents[3] / "trainer_client" / "configs"
CLIENT_PAGE = Path(__file__).parents[3] / "docs" / "client.md"
SAMPLE = Sample(image=picture(np.zeros((2, 2, 3), np.uint8)))


@dataclass
class Zoo(ScriptedService):
    """A service with several variants, each of which gives one raw score."""

    raw: dict[str, float] = field(default_factory=dict)

    async def Describe(self, request: pb.DescribeRequest, context: grpc.aio.ServicerContext) -> pb.DescribeResponse:
        description = await super().Describe(request, context)
        plain = description.variants.pop()
        for name in self.raw:
            description.variants.add().MergeFrom(plain)
            description.variants[-1].name = name
            description.default_releases[name] = self.release
        description.default_variant = next(iter(self.raw))
        return description

    def scored(self, request: pb.ScoreRequest) -> pb.ScoreResponse:
        response = super().scored(request)
        response.variant = request.variant or next(iter(self.raw))
        for outcome in response.outcomes:
            outcome.score.value = self.raw[response.variant]
        return response


RAW = {
    "concept-consistency": {"sync_r1": 0.8, "judge": 0.7},
    "text-faithfulness": {"vqa_yes": 0.9, "ocr": 0.25},
    "understanding-correctness": {"bleu": 0.4},
    "aesthetic": {"visual_judge": 0.5, "hps_v2_1": 0.28, "pickscore": 0.85, "laion_v2": 5.5},
}


@asynccontextmanager
async def zoo(raw: dict[str, dict[str, float]]) -> AsyncIterator[dict[str, str]]:
    """Endpoints of services whose cards give maps that are no preset's."""
    services = [await Zoo(reward=name, raw=scores, affine=(0.5, 0.25)).start() for name, scores in raw.items()]
    yield {service.reward: service.target for service in services}
    for service in services:
        await service.stop()


async def total(ensemble: RewardEnsemble) -> float:
    await ensemble.wait_ready(5)
    result = await ensemble.score([SAMPLE])
    await ensemble.close()
    return float(result.total_N[0])


@pytest.mark.parametrize(
    ("preset", "by_hand"),
    [
        # 0.4 · 0.8 + 0.6 · (0.4 · 0.5 + 0.6 · 0.7) = 0.32 + 0.372 = 0.692 of the picture
        ("sync_r1_released", 0.65 * 0.692 + 0.35 * 0.4),
        ("t2i_r1", 0.28 + 0.9),
        ("flow_grpo", 0.5 * 0.85 + 0.2 * 0.25 + 0.3 * 5.5),
    ],
)
async def test_a_preset_gives_its_sources_number(preset: str, by_hand: float) -> None:
    async with zoo(RAW) as endpoints:
        assert await total(RewardEnsemble.from_endpoints(endpoints, preset=preset)) == pytest.approx(by_hand)
        config = TrainConfig(preset=preset, selector={"kind": "none"})
        ensemble = reward_ensemble(config, reward_clients(config, endpoints))
        assert await total(ensemble) == pytest.approx(by_hand)


async def test_the_default_is_the_documented_formula_on_the_cards_maps() -> None:
    raw = {"concept-consistency": {"a": 0.9}, "text-faithfulness": {"b": 0.3}, "aesthetic": {"c": 0.5}}
    concept, text, aesthetic, understanding = (0.25 + 0.5 * value for value in (0.9, 0.3, 0.5, 1.0))
    by_hand = 0.65 * (0.4 * concept + 0.4 * text + 0.2 * aesthetic) + 0.35 * understanding
    async with zoo(raw | {"understanding-correctness": {"d": 1.0}}) as endpoints:
        assert await total(RewardEnsemble.from_endpoints(endpoints)) == pytest.approx(by_hand)
    assert sum(use.weight for use in PRESETS["default"].uses.values()) == pytest.approx(1)


async def test_a_service_without_the_variant_is_refused_before_anything_is_scored() -> None:
    raw = RAW | {"aesthetic": {"laion_v2": 5.0}}
    async with zoo(raw) as endpoints:
        ensemble = RewardEnsemble.from_endpoints(endpoints, preset="t2i_r1")
        with pytest.raises(RequestRejected, match=r"aesthetic at .* has no variant 'hps_v2_1'.* it has \['laion_v2'\]"):
            await ensemble.wait_ready(5)
        await ensemble.close()


def test_a_preset_needs_an_endpoint_for_each_of_its_services() -> None:
    with pytest.raises(ValueError, match=r"no endpoint for \['text-faithfulness'\]"):
        RewardEnsemble.from_endpoints({"aesthetic": "localhost:1"}, preset="t2i_r1")
    with pytest.raises(ValueError, match=r"no preset 'best'; there are default, sync_r1_released, t2i_r1, flow_grpo"):
        RewardEnsemble.from_endpoints({"aesthetic": "localhost:1"}, preset="best")


def test_a_name_and_its_use_cannot_disagree_on_the_variant() -> None:
    client = RewardClient("localhost:1")
    with pytest.raises(ValueError, match="names the variant 'ocr', but its use says 'clip_t'"):
        RewardEnsemble({"text-faithfulness/ocr": (client, RewardUse(1.0, "clip_t"))})
    ensemble = RewardEnsemble({"text-faithfulness/ocr": (client, RewardUse(1.0))})
    assert ensemble.rewards["text-faithfulness/ocr"][1].variant == "ocr"
    asyncio.run(ensemble.close())


def test_a_configuration_with_a_preset_is_itself_again_when_it_is_read_back() -> None:
    overrides = ["preset=sync_r1_released", "rewards={text-faithfulness: {weight: 0}}"]
    config = load_config(CONFIGS / "showo_512.yaml", overrides)
    assert set(config.rewards) == {*PRESETS["sync_r1_released"].uses, "text-faithfulness"}
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("preset=sync", "there is no preset 'sync'"),
        ("preset=t2i_r1", "may only add some of weight 0, got concept-consistency"),
    ],
)
def test_a_wrong_preset_says_what_is_wrong(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(CONFIGS / "pocket.yaml", [override])
    assert said in str(caught.value)


def test_the_docs_name_every_preset_with_its_variants_and_weights() -> None:
    page = CLIENT_PAGE.read_text()
    for preset in PRESETS.values():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{preset.name}` |")]
        assert preset.formula in row
        assert preset.source in row
        for name in preset.uses:
            assert reward_of(name) in row
            assert f"`{variant_of(name)}`" in row or not variant_of(name)
