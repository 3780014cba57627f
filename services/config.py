"""What a service may be told: addresses, limits, times. Validated here, at the edge; inside everything is typed."""

from __future__ import annotations

import ipaddress
import os

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Limits(BaseModel):
    """Limits of one request and of the service; all inclusive. `Describe` serves them (`Limits` in rewards.proto)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_items: int = Field(default=256, ge=1)
    max_references: int = Field(default=16, ge=1)
    max_request_bytes: int = Field(default=64 * 1024 * 1024, ge=1024, le=1024 * 1024 * 1024)
    max_image_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    max_pixels: int = Field(default=16_000_000, ge=1)
    max_text_bytes: int = Field(default=8 * 1024, ge=1)
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


class ServiceConfig(BaseModel):
    """One reward service."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str = "127.0.0.1:0"
    """HOST:PORT to listen on; port 0 takes a free one."""
    insecure_bind: bool = False
    """Allow an address that other machines reach, although nothing is encrypted and nobody is asked who they are."""
    limits: Limits = Limits()
    decode_threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    reference_cache_bytes: int = Field(default=256 * 1024 * 1024, ge=0)
    """Decoded reference pictures kept, bytes."""
    reference_ttl_s: float = Field(default=1800.0, gt=0)
    """How long a reference picture is known after it was last used, seconds."""
    health_interval_s: float = Field(default=1.0, gt=0)
    """Time between two looks at Triton's readiness, seconds."""
    drain_s: float = Field(default=0.0, ge=0)
    """Time between NOT_SERVING and refusing new calls, so that load balancers can turn away first; seconds."""
    grace_s: float = Field(default=30.0, ge=0)
    """Time that admitted calls get to finish, seconds."""

    @model_validator(mode="after")
    def _loopback_unless_asked(self) -> ServiceConfig:
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"an address is HOST:PORT, got {self.address!r}")
        if not self.insecure_bind and not _is_loopback(host):
            raise ValueError(
                f"{self.address} can be reached from other machines, and this service neither encrypts nor asks for "
                "credentials; listen on 127.0.0.1, or say --insecure-bind if the network is yours"
            )
        return self


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
