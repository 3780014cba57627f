"""Groups stay whole on the way to a judge: in the SDK's requests, and over the parts and runs of `sync-r1 score`."""

from __future__ import annotations

import json
from pathlib import Path

import judge_endpoint as played
import pytest
from judge_endpoint import JudgeEndpoint
from judge_services import judging, png

from sync_r1.reward_models.types import Score
from sync_r1.trainer_client import Concept, RewardClient, Sample, picture
from sync_r1.trainer_client.sdk import score_file
from sync_r1.trainer_client.sdk.errors import RequestRejected


def sample(group: str, number: int) -> Sample:
    grey = {"a": 10, "b": 100, "": 200}[group] + number
    return Sample(
        id=f"{group}{number}", group=group, image=picture(png(grey)), concept=Concept(references=(picture(png(255)),))
    )


async def test_the_sdk_sends_each_group_in_one_request(tmp_path: Path) -> None:
    with JudgeEndpoint() as endpoint:
        async with judging(tmp_path, "aesthetic", endpoint.url, max_items=4) as where, RewardClient(where) as client:
            mixed = [sample(group, number) for number in range(3) for group in ("a", "b")]
            batch = await client.score([*mixed, sample("", 0)])
            assert sorted(len(played.pictures(body)) for body in endpoint.asked) == [2, 4, 4]
            assert all(hasattr(outcome, "value") for outcome in batch.outcomes)
            with pytest.raises(RequestRejected, match=r"group 'a' has 5 samples.*at most 4"):
                await client.score([sample("a", number) for number in range(5)])


async def test_a_judges_reason_reaches_the_caller(tmp_path: Path) -> None:
    with JudgeEndpoint() as endpoint:
        service = judging(tmp_path, "understanding-correctness", endpoint.url)
        async with service as where, RewardClient(where) as client:
            answered = Sample(question="What colour?", answer="half", reference_answers=("red",))
            (outcome,) = (await client.score([answered])).outcomes
    assert outcome == Score(0.5, {}, "it says half")


async def test_score_keeps_groups_whole_over_its_parts_and_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_file, "BATCH", 2)
    rows = []
    for number in range(2):
        for group in ("a", "b"):
            (tmp_path / f"{group}{number}.png").write_bytes(png({"a": 10, "b": 100}[group] + number))
            concept = {"references": ["r.png"]}
            rows.append({"id": f"{group}{number}", "group": group, "image": f"{group}{number}.png", "concept": concept})
    (tmp_path / "r.png").write_bytes(png(255))
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with JudgeEndpoint() as endpoint:
        service = judging(tmp_path, "aesthetic", endpoint.url, cached_answers=0)
        async with service as where, RewardClient(where) as client:
            first = await score_file.score_file(client, source, target)
            assert [len(played.pictures(body)) for body in endpoint.asked] == [3, 3], "rows of a group came together"
            whole = {line["id"]: line for line in map(json.loads, target.read_text().splitlines())}
            target.write_text("".join(json.dumps(whole[key]) + "\n" for key in ("a0", "a1", "b0")))
            again = await score_file.score_file(client, source, target)
    assert [len(played.pictures(body)) for body in endpoint.asked[2:]] == [3], "the half-done group came as a whole"
    assert {line["id"]: line for line in map(json.loads, target.read_text().splitlines())} == whole
    assert (first.scored, again.scored, again.done_before) == (4, 4, 3)
