"""The embedded Triton is the real one, says why it cannot start, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
import toys
from tritonclient.grpc import service_pb2, service_pb2_grpc

from sync_r1.services.local.embedded import EmbeddedTriton, TritonStartError


def _running(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children]


def _gone(pids: list[int], within_s: float = 15.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not any(_running(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def test_it_is_a_real_triton_on_loopback_only(toy_triton: EmbeddedTriton) -> None:
    with grpc.insecure_channel(toy_triton.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        metadata = stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=5)
    assert (metadata.name, metadata.version) == ("triton", "2.51.0")
    port = int(toy_triton.url.rpartition(":")[2])
    with socket.socket() as other:
        other.settimeout(2)
        assert other.connect_ex((_outward_address(), port)) != 0


def _outward_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing: asks which address it would use
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(probe.getsockname()[0])


def test_a_model_that_fails_to_load_is_one_line_with_its_name_the_reason_and_the_cure(tmp_path: Path) -> None:
    toys.write_toy_repository(tmp_path)
    (tmp_path / "probe" / str(toys.VERSION) / "model.py").write_text("raise RuntimeError('weights are missing')")
    started = time.monotonic()
    expected = r"could not load graph 'probe' version \d+: RuntimeError: weights are missing; .* export the graph again"
    with pytest.raises(TritonStartError, match=expected) as caught:
        EmbeddedTriton(tmp_path).start()
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 60  # it gives up with Triton, not with its own timeout


def test_a_repository_that_is_not_there_is_an_error_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(TritonStartError, match="sync-r1 repository"):
        EmbeddedTriton(tmp_path / "nowhere").start()


def test_stop_ends_triton_and_its_stubs_and_removes_their_files(tmp_path: Path) -> None:
    with EmbeddedTriton(toys.write_toy_repository(tmp_path)) as triton:
        pids = [triton.pid, *_descendants(triton.pid)]
        assert len(pids) == 1 + sum(toys.INSTANCES.values())  # one stub for each instance
        prefix = triton._shm_prefix
        assert list(Path("/dev/shm").glob(f"{prefix}*"))
    assert _gone(pids)
    assert not list(Path("/dev/shm").glob(f"{prefix}*"))


def test_nothing_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from sync_r1.services.local.embedded import EmbeddedTriton\n"
        "triton = EmbeddedTriton(Path(sys.argv[1])).start(); print(triton.pid, flush=True); time.sleep(600)"
    )
    repository = toys.write_toy_repository(tmp_path)
    parent = subprocess.Popen([sys.executable, "-c", script, str(repository)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    triton = int(parent.stdout.readline())
    pids = [triton, *_descendants(triton)]
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(10)
    parent.stdout.close()
    assert _gone(pids)
