"""Whatever an own function does, only its item fails, with a sentence; the worker is replaced and all others scored."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from fronts import refused, until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from own_functions import (
    BATCH,
    FAULTS,
    REWARD,
    VARIANT,
    Stub,
    asking,
    served,
    serving,
    told,
    write_distribution,
    write_profile,
)

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.reward_models.python_code.loading import LoadError
from sync_r1.services.local import processes, up
from sync_r1.services.runners import python_worker
from sync_r1.services.serve import ServeConfig

GOOD = 0.2
_INTERNAL, _NON_FINITE = rewards_pb2.FAILURE_CODE_INTERNAL, rewards_pb2.FAILURE_CODE_NON_FINITE


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("segfault", "its worker ended with SIGSEGV at this item"),
        ("exit", "its worker ended its process with code 3 at this item"),
        ("killed", r"its worker was killed \(SIGKILL, as happens where memory runs out\) at this item"),
        ("hang", "its worker did not answer within 1 s"),
        ("child hangs", "its worker ended its process with code 3"),
        ("prints", "its worker printed more than 2 MiB"),
    ],
)
async def test_one_item_that_takes_its_worker_along_leaves_the_others_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, sentence: str
) -> None:
    monkeypatch.setattr(python_worker, "_MAX_PRINTED_BYTES", 2 << 20)
    async with serving(served(tmp_path, FAULTS, timeout_s=1)) as (stub, pool):
        before = pool.pids
        outcomes = (await stub.Score(asking(["a", "b", fault, "c", "d", "e"]), timeout=60)).outcomes
        failed = told(outcomes[2])
        assert [told(outcome) for outcome in (*outcomes[:2], *outcomes[3:])] == [GOOD] * 5
        assert failed.code == _INTERNAL
        assert_says(failed.message, sentence)
        assert failed.retryable == (fault == "killed")
        if fault == "child hangs":
            child = int((tmp_path / "child").read_text())
            await until(lambda: processes.state(child)[1] in ("X", "Z"))
        again = (await stub.Score(asking(["a"] * 8), timeout=60)).outcomes
        assert [told(outcome) for outcome in again] == [GOOD] * 8
        assert pool.pids != before


@pytest.mark.parametrize(
    ("fault", "code", "sentence"),
    [
        ("raise", _INTERNAL, r"raised ValueError \(own\.py, line \d+; error [0-9a-f]{12}"),
        ("sys exit", _INTERNAL, r"raised SystemExit \(own\.py"),
        ("memory", _INTERNAL, r"raised MemoryError \(own\.py"),
        ("nan", _NON_FINITE, "returned nan as `score`; expected a finite number"),
        ("infinity", _NON_FINITE, "returned inf as `score`"),
        ("huge", _NON_FINITE, "returned inf as `score`"),
        ("nan part", _NON_FINITE, "returned nan as `red`"),
        ("string", _INTERNAL, "returned str as `score`; expected a number"),
        ("list", _INTERNAL, "returned list as `score`"),
        ("no score", _INTERNAL, "returned a mapping without `score`, with `red`"),
        ("bad part", _INTERNAL, "returned str as `red`"),
        ("many parts", _INTERNAL, "a mapping with 1000 components; expected at most 256"),
    ],
)
async def test_what_is_no_score_is_that_items_failure(tmp_path: Path, fault: str, code: int, sentence: str) -> None:
    async with serving(served(tmp_path, FAULTS)) as (stub, _):
        outcomes = (await stub.Score(asking(["a", fault, "b"]), timeout=60)).outcomes
        failed = told(outcomes[1])
        assert (told(outcomes[0]), told(outcomes[2]), failed.code) == (GOOD, GOOD, code)
        assert_says(failed.message, sentence)
        assert "these words" not in failed.message


async def test_the_trace_and_what_it_prints_are_in_the_service_s_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with serving(served(tmp_path, FAULTS)) as (stub, _):
        await stub.Score(asking(["raise", "says"]), timeout=60)
        await until(lambda: "said by the function" in caplog.text and "these words stay in the log" in caplog.text)


async def test_what_it_prints_without_end_is_dropped_from_the_log_and_its_item_scored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with serving(served(tmp_path, FAULTS)) as (stub, _):
        outcomes = (await stub.Score(asking(["says much", "says much", "a"]), timeout=60)).outcomes
        assert [told(outcome) for outcome in outcomes] == [GOOD] * 3
        await until(lambda: "prints too much; the rest is dropped" in caplog.text)
    assert 50_000 < caplog.text.count("y" * 9) * 9 < 200_000


async def test_calls_at_the_same_time_with_any_mix_of_faults_get_each_item_its_own_outcome(tmp_path: Path) -> None:
    draw = random.Random(0)
    kinds = ["a"] * 6 + ["exit", "raise", "nan", "none", "array"]
    calls = [[draw.choice(kinds) for _ in range(12)] for _ in range(4)]
    expected = {"a": GOOD, "array": 0.25, "exit": _INTERNAL, "raise": _INTERNAL, "nan": _NON_FINITE, "none": "none"}
    async with serving(served(tmp_path, FAULTS, workers=2, restarts=100)) as (stub, _):
        responses = await asyncio.gather(*(stub.Score(asking(call), timeout=120) for call in calls))
    for call, response in zip(calls, responses):
        assert [outcome.id for outcome in response.outcomes] == [str(number) for number in range(12)]
        for prompt, outcome in zip(call, response.outcomes):
            kind = outcome.WhichOneof("result")
            found = {"score": told(outcome), "failure": outcome.failure.code, "not_applicable": "none"}[kind]
            assert found == expected[prompt], (prompt, outcome)


async def test_numbers_mappings_and_none_are_what_they_say(tmp_path: Path) -> None:
    async with serving(served(tmp_path, FAULTS)) as (stub, _):
        array, parts, none = (await stub.Score(asking(["array", "parts", "none"]), timeout=60)).outcomes
    assert told(array) == 0.25
    assert told(parts) == 0.5
    assert {part.name: part.value for part in parts.score.components} == {"red": 1.0, "blue": 1.0}
    assert "returned None" in told(none).reason


@pytest.mark.parametrize("fault", ["exit", "raise", "more"])
async def test_one_item_of_a_batch_leaves_the_others_scores(tmp_path: Path, fault: str) -> None:
    async with serving(served(tmp_path, BATCH, batch_size=4)) as (stub, _):
        outcomes = (await stub.Score(asking(["a", "b", fault, "c", "d", "e"]), timeout=60)).outcomes
        assert [told(outcome) for outcome in (*outcomes[:2], *outcomes[3:])] == [GOOD] * 5
        sentence = {
            "exit": "ended its process with code 3",
            "raise": "raised ValueError",
            "more": "returned 2 results for 1 items; expected a list of as many",
        }
        assert_says(told(outcomes[2]).message, sentence[fault])


async def test_a_batch_has_at_most_its_size(tmp_path: Path) -> None:
    async with serving(served(tmp_path, BATCH, batch_size=4)) as (stub, _):
        outcomes = (await stub.Score(asking(["size"] * 6), timeout=60)).outcomes
    assert [told(outcome) for outcome in outcomes] == [4, 4, 4, 4, 2, 2]


async def test_a_worker_that_dies_idle_is_replaced_and_no_item_pays(tmp_path: Path) -> None:
    async with serving(served(tmp_path, FAULTS)) as (stub, pool):
        (pid,) = pool.pids
        os.kill(pid, signal.SIGKILL)
        await until(lambda: pool.pids != [] and pool.pids != [pid])
        (outcome,) = (await stub.Score(asking(["a"]), timeout=60)).outcomes
    assert told(outcome) == GOOD


async def test_too_many_lost_workers_end_in_unavailable_and_not_serving(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(served(tmp_path, FAULTS, restarts=2)) as (stub, pool):
        error = await refused(stub.Score(asking(["exit"] * 5), timeout=60))
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        health = health_pb2_grpc.HealthStub(stub.channel)
        status = health_pb2.HealthCheckResponse.SERVING
        while status != health_pb2.HealthCheckResponse.NOT_SERVING:
            status = (await health.Check(health_pb2.HealthCheckRequest(), timeout=10)).status
        error = await refused(stub.Score(asking(["a"]), timeout=60))
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert pool.pids == []
    assert "more than 2 workers of own:score were lost within 10 minutes, so it is given up" in caplog.text


async def test_a_call_ends_with_its_deadline_and_the_next_one_is_served(tmp_path: Path) -> None:
    async with serving(served(tmp_path, FAULTS, timeout_s=2)) as (stub, _):
        error = await refused(stub.Score(asking(["hang", "a"]), timeout=0.5))
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        (outcome,) = (await stub.Score(asking(["a"]), timeout=60)).outcomes
    assert told(outcome) == GOOD


async def test_workers_share_the_items_of_a_call(tmp_path: Path) -> None:
    async with serving(served(tmp_path, FAULTS, workers=2)) as (stub, pool):
        assert len(pool.pids) == 2
        seen: set[int] = set()
        while len(seen) < 2:
            outcomes = (await stub.Score(asking(["pid"] * 64), timeout=60)).outcomes
            seen |= {int(told(outcome)) for outcome in outcomes}
        assert seen == set(pool.pids)


async def test_a_class_is_constructed_once_in_a_worker_with_arguments_and_device(tmp_path: Path) -> None:
    source = """
class Scorer:
    made = 0
    def __init__(self, weight: float, device: str):
        Scorer.made += 1
        self.weight, self.device = weight, device
    def __call__(self, answer: str) -> dict:
        return {"score": self.weight, "made": Scorer.made, "on_gpu": self.device == "cuda:1"}
"""
    keys = {"function": "own:Scorer", "judges": "answer", "arguments": {"weight": 0.75}, "device": "cuda:1"}
    async with serving(served(tmp_path, source, **keys)) as (stub, _):
        request = rewards_pb2.ScoreRequest(samples=[rewards_pb2.Sample(answer="a"), rewards_pb2.Sample(answer="b")])
        for _ in range(2):
            outcomes = (await stub.Score(request, timeout=60)).outcomes
            for outcome in outcomes:
                assert told(outcome) == 0.75
                assert {one.name: one.value for one in outcome.score.components} == {"made": 1, "on_gpu": 1}


async def test_modules_beside_the_profile_are_imported_and_cannot_be_written_over_for_others(tmp_path: Path) -> None:
    source = """
import numpy as np
from numbers_of_ours import HALF

def score(image: np.ndarray, prompt: str):
    image[:] = 255
    return HALF
"""
    (tmp_path / "numbers_of_ours.py").write_text("HALF = 0.5\n")
    async with serving(served(tmp_path, source)) as (stub, _):
        outcomes = (await stub.Score(asking(["a", "b"]), timeout=60)).outcomes
    assert [told(outcome) for outcome in outcomes] == [0.5, 0.5]


async def test_a_distribution_that_was_exchanged_is_not_taken_for_the_one_of_the_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))
    write_distribution(site, "1.0", "import os\ndef score(answer: str): return 1 if answer else os._exit(3)\n")
    reward = served(tmp_path, "", function="team_rewards.scores:score", judges="answer", restarts=1)
    request = rewards_pb2.ScoreRequest(samples=[rewards_pb2.Sample(answer="a")])
    async with serving(reward) as (stub, _):
        (outcome,) = (await stub.Score(request, timeout=60)).outcomes
        assert told(outcome) == 1
        write_distribution(site, "1.1", "def score(answer: str): return 2\n")
        request.samples.add()
        first, second = (await stub.Score(request, timeout=60)).outcomes
        assert told(first) == 1
        assert "code 3" in told(second).message
        error = await refused(stub.Score(request, timeout=60))
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert "team-rewards 1.0 was exchanged (now 1.1) while it was in use; start again" in caplog.text


async def test_a_replaced_worker_runs_the_source_of_its_release_also_after_an_edit(tmp_path: Path) -> None:
    async with serving(served(tmp_path, FAULTS)) as (stub, _):
        (tmp_path / "own.py").write_text("import numpy as np\ndef score(image: np.ndarray, prompt: str): return 0.9\n")
        outcomes = (await stub.Score(asking(["exit", "a"]), timeout=60)).outcomes
    assert told(outcomes[1]) == GOOD


TAKES = "def score(answer: str): ..."


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("import cv3_of_nobody", r"importing own failed: ModuleNotFoundError: .* 'cv3_of_nobody' \(own\.py, line 1\)"),
        ("import os\nos._exit(7)", "ended its process with code 7 while it was loaded"),
        ("import time\ntime.sleep(1000)", "did not answer within 1 s while it was loaded"),
        ("raise SystemExit(2)", r"importing own failed: SystemExit: 2 \(own\.py, line 1\)"),
        ("__import__('hel' + 'per')", "helper lies beside the profile, but no `import` statement"),
    ],
)
async def test_what_cannot_be_loaded_stops_the_start_with_a_sentence(
    tmp_path: Path, source: str, sentence: str
) -> None:
    (tmp_path / "helper.py").write_text("")
    reward = served(tmp_path, f"{source}\n{TAKES}", judges="answer", start_timeout_s=1 if "sleep" in source else 60)
    with pytest.raises(LoadError, match=sentence) as caught:
        async with serving(reward):
            pytest.fail("it was served")
    assert str(caught.value).startswith(f"rewards.{REWARD}.variants.{VARIANT}.function: ")
    assert "\n" not in str(caught.value)


def test_a_class_that_cannot_be_constructed_stops_the_process_with_one_sentence(tmp_path: Path) -> None:
    source = (
        "class Scorer:\n    def __init__(self): open('weights_of_nobody')\n    def __call__(self, answer: str): ...\n"
    )
    profile = write_profile(tmp_path, source, function="own:Scorer", judges="answer")
    config = ServeConfig(reward=REWARD, profile=str(profile)).model_dump_json()
    ended = subprocess.run(
        [sys.executable, "-m", "sync_r1.services.serve", config], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 1
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    where = rf"profile .*own\.yaml: rewards\.{REWARD}\.variants\.{VARIANT}\.function: constructing Scorer failed: "
    assert_says(line, where + r"FileNotFoundError: .*weights_of_nobody' \(own\.py, line 2\)")
    assert "Traceback" not in ended.stderr


def test_up_serves_the_page_s_example_without_triton_and_describes_it(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "python-rewards.md").read_text()
    for file in ("brightness.py", "team.yaml"):
        text = re.search(rf"```\w+\n(# {re.escape(file)}\n.*?)```", page, re.DOTALL)
        assert text is not None
        (tmp_path / file).write_text(text[1])
    with up.start(str(tmp_path / "team.yaml")) as running:
        assert running.triton_pid is None
        with grpc.insecure_channel(running.endpoints["brightness"]) as channel:
            (outcome,) = Stub(channel).Score(asking(["a"]), timeout=60).outcomes
            described = Stub(channel).Describe(rewards_pb2.DescribeRequest(), timeout=10)
    assert told(outcome) == GOOD
    (variant,) = described.variants
    assert list(variant.required_fields) == ["image"]
    assert json.loads(variant.card)["required_fields"] == ["image"]
    (graph,) = described.releases[0].graphs
    assert len(graph.sha256) == 64


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_die_with_their_service(tmp_path: Path, number: signal.Signals) -> None:
    with up.start(str(write_profile(tmp_path, FAULTS, workers=2))) as running:
        service = running.pids[REWARD]
        workers = processes.children(service)
        assert len(workers) == 2
        os.kill(service, number)
        asyncio.run(until(lambda: all(processes.state(pid)[1] in ("X", "Z") for pid in workers)))


def assert_says(message: str, pattern: str) -> None:
    assert re.search(pattern, message), message
