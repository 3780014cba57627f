"""What a service may be told: addresses, callers, limits, times. Validated here, at the edge; inside all is typed."""

from __future__ import annotations

import ipaddress
import math
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


def usable_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs that this process may use: those it may run on, or fewer where its cgroup has a quota (a pod's limit)."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        if (cgroup / "cpu.max").is_file():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if quota.strip() != "max" and int(quota) > 0:
            cpus = min(cpus, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return cpus  # no quota that could be read
    return max(1, cpus)


class Limits(BaseModel):
    """Limits of one request and of the service; all inclusive. `Describe` serves them (`Limits` in rewards.proto)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_items: int = Field(default=256, ge=1)
    max_references: int = Field(default=16, ge=1)
    max_request_bytes: int = Field(default=64 * 1024 * 1024, ge=1024, le=1024 * 1024 * 1024)
    max_image_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    max_pixels: int = Field(default=16_000_000, ge=1)
    max_text_bytes: int = Field(default=8 * 1024, ge=1)
    max_texts: int = Field(default=64, ge=1)
    """Texts in one list of an item (choices, say), and entries of its metadata."""
    max_request_text_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    """Of a request, pictures excepted. This and the next bound how long parsing holds everybody else up."""
    max_request_fields: int = Field(default=65_536, ge=64)
    """Fields of a serialised request, nested ones included; see `front/wire_scan.py`."""
    max_request_tokens: int = Field(default=131_072, ge=64)
    """Token ids that the texts of a request take in one run of a graph, padding included."""
    max_inflight_items: int = Field(default=1024, ge=1)
    """Items admitted at once; a request beyond that is refused at once."""
    max_deadline_ms: int = Field(default=120_000, ge=1)
    """Longest deadline honoured, and the deadline of a call that has none."""

    @model_validator(mode="after")
    def _largest_request_can_be_admitted(self) -> Limits:
        if self.max_items > self.max_inflight_items:
            raise ValueError(
                f"max_items ({self.max_items}) is more than max_inflight_items ({self.max_inflight_items}): "
                "such a request could never be admitted"
            )
        return self


class TlsConfig(BaseModel):
    """Files of PEM text; read again whenever they change, for the connections made from then on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cert: Path
    """The service's certificate, followed by those between it and its CA."""
    key: Path
    client_ca: Path | None = None
    """CAs of the clients. With it a client without a certificate of theirs cannot connect (mutual TLS)."""


class ServiceConfig(BaseModel):
    """One reward service. On loopback it may be open; elsewhere it must encrypt and know its callers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(default="127.0.0.1", min_length=1)
    """Name or address to listen on; 0.0.0.0 or :: for all."""
    port: int = Field(default=0, ge=0, le=65535)
    """0 takes a free one."""
    tls: TlsConfig | None = None
    tokens: Path | None = None
    """File of teams and the hashes of their bearer tokens (`tokens.py`); read again whenever it changes."""
    routes: Path | None = None
    """File of default releases and shadows (`routing.py`); read again whenever it changes."""
    insecure: bool = False
    """Allow a host that other machines reach although callers or traffic are not protected."""
    health_port: int | None = Field(default=None, ge=0, le=65535)
    """A second port with `grpc.health.v1` alone, in plain text, for a kubelet; it has neither certificate nor token."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Port of the Prometheus page /metrics, plain HTTP."""
    otlp_endpoint: str = ""
    """http(s)://HOST:PORT of an OpenTelemetry collector (OTLP over gRPC); empty = no traces."""
    log_format: Literal["text", "json"] = "text"
    log_metadata: bool = False
    """Log the metadata of every request's samples, as its callers sent them; off, they are written nowhere."""
    limits: Limits = Limits()
    max_inflight_bytes: int = Field(default=512 * 1024 * 1024, ge=1024)
    """Bytes of requests in memory at once, as declared by `x-byte-size` or as they came."""
    body_timeout_s: float = Field(default=30.0, gt=0)
    """Time that the body of a call may take to arrive, seconds."""
    unannounced_timeout_s: float = Field(default=5.0, gt=0)
    """The same for a call that does not say its size, its wait for its turn included, seconds."""
    max_decoded_bytes: int = Field(default=768 * 1024 * 1024, ge=1024)
    """Bytes of what is made of the pictures of all calls in work, by their headers: twice what their graphs take."""
    decode_threads: int = Field(default_factory=lambda: min(usable_cpus(), 16), ge=1)
    """Pictures decoded at once. Each takes up to 14 bytes a pixel meanwhile (224 MB at the default `max_pixels`), so of
    those above a megapixel never more than two are."""
    reference_cache_bytes: int = Field(default=256 * 1024 * 1024, ge=0)
    """Decoded reference pictures kept, bytes."""
    reference_ttl_s: float = Field(default=1800.0, gt=0)
    """How long a reference picture is known after it was last used, seconds."""
    health_interval_s: float = Field(default=1.0, gt=0)
    """Time between two looks at Triton's readiness, seconds."""
    max_connection_age_s: float = Field(default=600.0, gt=0)
    """Then a client is asked to connect anew, so that new replicas get their share; its calls are finished first."""
    drain_s: float = Field(default=0.0, ge=0)
    """Time between NOT_SERVING and refusing new calls, so that load balancers can turn away first; seconds."""
    grace_s: float = Field(default=30.0, ge=0)
    """Time that admitted calls get to finish, seconds."""

    @property
    def address(self) -> str:
        """HOST:PORT as gRPC wants it."""
        return host_and_port(self.host, self.port)

    @model_validator(mode="after")
    def _loopback_unless_protected(self) -> ServiceConfig:
        lacking = []
        if self.tls is None:
            lacking.append("--tls-cert and --tls-key (nothing is encrypted)")
        if self.tokens is None and (self.tls is None or self.tls.client_ca is None):
            lacking.append("--tokens or --tls-client-ca (nobody is asked who they are)")
        if lacking and not self.insecure and not is_loopback(self.host):
            raise ValueError(
                f"{self.address} can be reached from other machines, and this service lacks {' and '.join(lacking)}; "
                "add them, listen on 127.0.0.1, or say --insecure if something else protects this network"
            )
        return self

    @model_validator(mode="after")
    def _largest_request_fits_the_byte_budget(self) -> ServiceConfig:
        if self.limits.max_request_bytes > self.max_inflight_bytes:
            raise ValueError(
                f"max_request_bytes ({self.limits.max_request_bytes}) is more than max_inflight_bytes "
                f"({self.max_inflight_bytes}): such a request could never be admitted"
            )
        return self


def channel_options(target: str) -> list[tuple[str, int]]:
    """gRPC's options that depend on where a channel goes: to this machine never through the environment's proxy."""
    return [("grpc.enable_http_proxy", 0)] if is_loopback(target.rpartition(":")[0]) else []


def host_and_port(host: str, port: int) -> str:
    """HOST:PORT; an IPv6 address gets its brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether a host, a name or an address, is this machine and nothing but."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
