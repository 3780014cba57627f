"""The images of `make k8s-test`, made on this machine from Debian's packages: no registry is asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from k8s_manifests import ROOT
from podman_pods import configuration, podman

TOOLS = {"podman": "podman", "buildah": "buildah", "mmdebstrap": "mmdebstrap", "runc": "runc"}
"""Command -> Debian package."""
_WITH_THEM = ("catatonit", "netavark", "aardvark-dns", "iptables", "uidmap")
BASE = "localhost/sync-r1/base:bookworm"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def build() -> None:
    """Install the tools where that is possible and build front, models and embedded; skips, saying why, where not."""
    _tools()
    if not _exists(BASE):
        _make("k8s-base", timeout_s=900)
    # Where the machine trusts a CA of its own, so must the build.
    certificates = f"-v {_CERTIFICATES}:{_CERTIFICATES}:ro" if _CERTIFICATES.is_file() else ""
    flags = f"BUILD_FLAGS=--runtime runc --network host {certificates}"
    _make("k8s-front", "k8s-models", "k8s-embedded", "CONTAINER=buildah", f"BASE={BASE}", flags, timeout_s=1800)


def size_mb(image: str) -> float:
    """Of all its layers, uncompressed."""
    return int(podman("image", "inspect", "--format", "{{.Size}}", image).strip()) / 1e6


def _exists(image: str) -> bool:
    return bool(podman("images", "--quiet", image).strip())


def _tools() -> None:
    missing = [package for command, package in TOOLS.items() if shutil.which(command) is None]
    if missing and (os.geteuid() != 0 or shutil.which("apt-get") is None):
        _skip(f"{', '.join(missing)} not installed, and only root on a Debian system can have them installed")
    if missing:
        environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing, *_WITH_THEM]):
            done = subprocess.run(
                ["apt-get", "-qq", *command], env=environment, capture_output=True, text=True, timeout=900, check=False
            )
            if done.returncode != 0:
                _skip(f"apt-get {command[0]} failed: {done.stderr.strip()[-300:]}")
    said = podman("info", check=False)
    if "graphDriverName" not in said:
        _skip(f"podman does not work on this machine: {said.strip()[-300:]}")


def _skip(why: str) -> None:
    print(f"SKIPPED: {why}", file=sys.stderr)
    pytest.skip(f"SKIPPED: {why}")


def _make(*arguments: str, timeout_s: float) -> None:
    environment = dict(os.environ, CONTAINERS_CONF=str(configuration()))
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"make {' '.join(arguments)}:\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
