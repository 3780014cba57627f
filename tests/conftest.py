"""Real parts that many tests share, started once: a Triton with toy graphs, and the pocket profile's four services."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from parity import TinyModels

    from sync_r1.services.local.embedded import EmbeddedTriton
    from sync_r1.services.local.up import Up

# Fixtures import what they start: tests of other parts must not need it.

# One thread per process, here and in all that is started here, unless the caller says otherwise: models of tests are so
# small that a second thread mostly spins until the first is done, on busy cores for nine tenths of all CPU time.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data that is shared beside the sources; tests that need it skip when it is absent."""
    shared = Path(os.environ.get("SYNC_R1_SHARED") or Path(__file__).parents[1].parent / "shared")
    if not (shared / "data").is_dir():
        pytest.skip(f"no shared data at {shared}")
    return shared / "data"


@pytest.fixture(scope="session")
def toy_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTriton]:
    """A real Triton over the graphs of `toys.py`."""
    import toys

    from sync_r1.services.local.embedded import EmbeddedTriton

    with EmbeddedTriton(toys.write_toy_repository(tmp_path_factory.mktemp("toys"))) as triton:
        yield triton


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """(published model, precision) -> its tiny sister, exported with random weights."""
    from parity import TinyModels

    base = tmp_path_factory.getbasetemp()  # each of several test processes has one in the run's
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tiny-models"
    folder.mkdir(exist_ok=True)
    return TinyModels(folder)


@pytest.fixture(scope="session")
def services() -> Iterator[Up]:
    """The four services of the pocket profile on a real Triton, as `sync-r1 up` starts them."""
    from sync_r1.services.local import up

    with up.start("pocket") as running:
        yield running
