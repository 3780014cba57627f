"""The embedded Triton: NVIDIA's real `tritonserver`, taken from the `nvidia-pytriton` wheel, on loopback.

For one machine and for tests. That Triton is 2.51 and old: it listens on 127.0.0.1 only and never goes into a cluster
image. It has the Python backend alone, so its model repository is written with `backend: "python"`
(`reward_models/backends/repository.py`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.services.config import channel_options
from sync_r1.services.local import processes

_START_ATTEMPTS = 3
# Another program took the port between our choosing it and Triton's binding it; a starved stub did not let go of a lock
# in time, upon which Triton ends itself.
_START_AGAIN = ("Address already in use", "boost::interprocess::lock_exception")
_STUB = "triton_python_b"  # the kernel keeps 15 letters of a process's name
_ENDED, _STOPPED = "ZX", "Tt"
"""States of a process in /proc."""
_PLAIN_PATH = re.compile(r"[A-Za-z0-9._/-]+")
# What Triton logs of a model that it gives up, up to the first line's end of what Python raised.
_LOAD_FAILURE = re.compile(r"failed to load '([^']+)' version (\d+): \w+: (.*?)\.?(?:\\n|\"?$)", re.MULTILINE)


class TritonStartError(SyncR1Error, RuntimeError):
    """The embedded Triton could not be started; the message says why and carries the end of its log."""


class EmbeddedTriton:
    """A running `tritonserver` over one model repository.

        with EmbeddedTriton(repository) as triton:
            TritonRunner(triton.url)

    `start` returns when every model answers, or raises TritonStartError after `ready_timeout_s` (or as soon as Triton
    gives up). `stop` ends it with SIGTERM, and with SIGKILL after `stop_timeout_s`. `port` is where fronts that are
    running already look for it; 0 takes a free one.
    """

    def __init__(
        self, repository: Path, *, ready_timeout_s: float = 120.0, stop_timeout_s: float = 10.0, port: int = 0
    ) -> None:
        self._repository = Path(repository).resolve()
        self._fixed_port = port
        self._ready_timeout_s = ready_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._directory: Path | None = None
        self._log = Path()
        self._url = ""
        self._given_up = threading.Event()

    @property
    def url(self) -> str:
        """`127.0.0.1:PORT` of Triton's gRPC endpoint."""
        if not self._url:
            raise RuntimeError("the embedded Triton is not running; call start() first")
        return self._url  # also while it is restarted

    @property
    def pid(self) -> int:
        """Process id of `tritonserver`."""
        if self._process is None:
            raise RuntimeError("the embedded Triton is not running; call start() first")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether `tritonserver` is alive."""
        return self._process is not None and self._process.poll() is None

    def trouble(self) -> str:
        """Why it cannot do its work, in half a sentence: it or a Python process of a graph ended; empty if none did."""
        if self._process is None or (code := self._process.poll()) is not None:
            return f"the embedded Triton ended with code {code if self._process is not None else 0}"
        if processes.state(self._process.pid)[1] in _STOPPED:
            return "the embedded Triton is stopped"
        for pid in processes.children(self._process.pid):
            name, state = processes.state(pid)
            if name.startswith(_STUB) and state in (*_ENDED, *_STOPPED):
                return f"a Python process of the embedded Triton {'is stopped' if state in _STOPPED else 'was killed'}"
        return ""

    def restart(self) -> None:
        """End it at once, and start it again on the same port. Raises TritonStartError."""
        self._fixed_port = int(self._url.rpartition(":")[2])
        if self._process is not None:
            processes.stop(self._process, grace_s=0.0)
        self.stop()
        self.start()

    def give_up_starting(self) -> None:
        """Let a start that is under way in another thread end with TritonStartError, and each later one."""
        self._given_up.set()

    def log_tail(self, lines: int = 30) -> str:
        """The last lines that Triton wrote."""
        return processes.tail(self._log, lines)

    def start(self) -> EmbeddedTriton:
        """Start Triton and wait until all its models are ready."""
        if not self._repository.is_dir():
            raise TritonStartError(f"no model repository at {self._repository}; write one with `sync-r1 repository`")
        self._directory = plain_directory("sync-r1-triton-")
        try:
            # Under a name without blanks: Triton starts the processes of its Python backend through a shell.
            (self._directory / "models").symlink_to(self._repository)
            backends = _link_backend(self._directory)
            for attempt in range(1, _START_ATTEMPTS + 1):
                self._log = self._directory / f"triton-{attempt}.log"
                if self._start_once(backends, self._log):
                    return self
            raise TritonStartError(
                f"the embedded Triton could not start in {_START_ATTEMPTS} attempts. The end of its log:\n"
                f"{self.log_tail()}"
            )
        except BaseException:
            self.stop()
            raise

    def _start_once(self, backends: Path, log: Path) -> bool:
        """True when ready, False when another attempt may do; raises TritonStartError for anything else."""
        port = self._fixed_port or _free_port()
        self._url = f"127.0.0.1:{port}"
        command = [
            str(_wheel() / "bin" / "tritonserver"),
            f"--model-repository={backends.parent / 'models'}",
            f"--backend-directory={backends}",
            f"--backend-config=python,shm-region-prefix-name={self._shm_prefix}",
            "--disable-auto-complete-config",
            "--strict-readiness=true",
            "--exit-on-error=true",
            f"--exit-timeout-secs={max(1, int(self._stop_timeout_s) - 1)}",
            "--allow-http=false",
            "--allow-metrics=false",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={port}",
        ]
        self._process = processes.spawn(command, log=log, environment=_environment())
        deadline = time.monotonic() + self._ready_timeout_s
        # By default a channel that was refused for minutes tries again after two minutes, when the bound may be over.
        options = [("grpc.max_reconnect_backoff_ms", 1000), *channel_options(self._url)]
        with grpc.insecure_channel(self._url, options=options) as channel:
            service = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            while time.monotonic() < deadline and not self._given_up.is_set():
                if self._process.poll() is not None:
                    if any(words in log.read_text(errors="replace") for words in _START_AGAIN):
                        return False
                    raise TritonStartError(_why_it_ended(log, self._process.returncode))
                try:
                    if service.ServerReady(service_pb2.ServerReadyRequest(), timeout=1.0).ready:
                        return True
                except grpc.RpcError:
                    pass  # not listening yet
                time.sleep(0.05)
        raise TritonStartError(
            f"the embedded Triton was not ready after {self._ready_timeout_s:g} s. The end of its log:\n"
            f"{processes.tail(log)}"
        )

    @property
    def _shm_prefix(self) -> str:
        """Names our shared memory regions, so that those a killed Triton leaves can be told from anybody else's."""
        assert self._directory is not None
        return self._directory.name.replace("-", "_") + "_"

    def stop(self) -> None:
        """End Triton and remove what it left; harmless when it is not running."""
        if self._process is not None:
            processes.stop(self._process, grace_s=self._stop_timeout_s)
            self._process = None
        if self._directory is not None:
            for region in Path("/dev/shm").glob(f"{self._shm_prefix}*"):
                region.unlink(missing_ok=True)
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def __enter__(self) -> EmbeddedTriton:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def plain_directory(prefix: str) -> Path:
    """A new directory for temporary files whose path a shell takes as it is. Triton's Python backend puts its own paths
    into a command line without quotes, so that a TMPDIR with a blank or a quote in it would keep it from starting.

    Raises TritonStartError where there is none.
    """
    for place in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm")):
        if _PLAIN_PATH.fullmatch(place):
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    raise TritonStartError(
        f"the embedded Triton needs a writable directory for temporary files whose path has letters, digits and ._/- "
        f"only; TMPDIR is {tempfile.gettempdir()!r} and /tmp cannot be used: set TMPDIR to another directory"
    )


def _why_it_ended(log: Path, code: int) -> str:
    """The graphs that could not be loaded, in one line; the end of the log where it names none."""
    failures = dict.fromkeys(_LOAD_FAILURE.findall(log.read_text(errors="replace")))
    if not failures:
        end = processes.tail(log)
        return f"the embedded Triton ended with code {code} before it was ready. The end of its log:\n{end}"
    graphs = "; ".join(f"graph {name!r} version {version}: {reason}" for name, version, reason in failures)
    return f"the embedded Triton could not load {graphs}; if the file is damaged, delete it and export the graph again"


def _wheel() -> Path:
    """`pytriton/tritonserver/` of the installed wheel (found without importing it: only its binary is used)."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise TritonStartError(
            "the embedded Triton needs the `embedded` extra (package nvidia-pytriton): install sync-r1[embedded], "
            "or point `sync-r1 serve` at a Triton of yours with --triton HOST:PORT"
        )
    return Path(spec.origin).parent / "tritonserver"


def _link_backend(directory: Path) -> Path:
    """A backend directory with the Python backend and the stub built for the running Python; returns its path."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = _wheel() / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        have = sorted(path.name for path in (_wheel() / "python_backend_stubs").iterdir())
        raise TritonStartError(f"the embedded Triton has no stub for Python {version}; it has {', '.join(have)}")
    python = directory / "backends" / "python"
    python.mkdir(parents=True)
    for path in (_wheel() / "backends" / "python").iterdir():
        (python / path.name).symlink_to(path)
    (python / stub.name).unlink(missing_ok=True)
    (python / stub.name).symlink_to(stub)
    return python.parent


def _environment() -> dict[str, str]:
    """Environment of `tritonserver`: its libraries, and the running Python (with its packages) for the stub."""
    libraries = [str(_libpython_directory()), str(_wheel().parents[1] / "nvidia_pytriton.libs")]
    environment = dict(os.environ)
    # The running Python's own directory comes first: the stub takes the first libpython of its version that it meets.
    environment["LD_LIBRARY_PATH"] = os.pathsep.join([*libraries, environment.get("LD_LIBRARY_PATH", "")]).rstrip(":")
    # As in `serve.keep_freed_memory`: Triton and its stubs copy pictures too.
    environment |= {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
    # The stub embeds an isolated Python: it ignores PYTHONPATH and finds its packages from the first `python3` on PATH.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    return environment


def _libpython_directory() -> Path:
    """Where the shared library of the running Python lies. Raises TritonStartError if it has none."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    libdir = Path(sysconfig.get_config_var("LIBDIR") or "")
    multiarch = str(sysconfig.get_config_var("MULTIARCH") or "")
    places = [libdir, libdir / multiarch, Path(sys.base_prefix) / "lib", Path(sys.base_prefix) / "lib" / multiarch]
    for place in places:
        if (place / name).exists():
            return place
    raise TritonStartError(
        f"{name} was not found in {', '.join(str(place) for place in dict.fromkeys(places))}: the Python backend of "
        "Triton needs a Python with a shared library (configured with --enable-shared, or the package libpython)"
    )


def _free_port() -> int:
    """A port of 127.0.0.1 that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
