"""`sync-r1 serve`, what a pod runs, and `sync-r1 token`, which mints what its callers show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sync_r1.cli.screen import console, errors_shown
from sync_r1.reward_models.errors import UserError

if TYPE_CHECKING:
    from sync_r1.services.config import Limits

ProfileOption = Annotated[
    str, typer.Option("--profile", help="A built-in profile (pocket), plugin:NAME or a YAML file.")
]
AlsoOption = Annotated[
    list[str] | None, typer.Option("--also", help="A further profile, whose releases are served side by side.")
]
RoutesOption = Annotated[
    Path | None,
    typer.Option("--routes", exists=True, dir_okay=False, help="YAML: default releases, shadows; read anew on change."),
]
JudgesOption = Annotated[
    Path | None,
    typer.Option("--judges", exists=True, dir_okay=False, help="YAML: where the profile's judges are, and their keys."),
]
RewardArgument = Annotated[str, typer.Argument(help="A reward of the profile, such as aesthetic.")]

TritonTimeoutOption = Annotated[
    float, typer.Option("--triton-timeout", min=1, help="Seconds until Triton must have had every graph once.")
]
SharedMemoryOption = Annotated[
    bool, typer.Option("--shared-memory", help="Hand pictures over in shared memory: Triton is on this machine.")
]
HostOption = Annotated[
    str, typer.Option("--host", help="Where to listen; other than loopback needs TLS and callers' credentials.")
]
TlsCertOption = Annotated[
    Path | None, typer.Option("--tls-cert", exists=True, dir_okay=False, help="Its certificate chain, PEM.")
]
TlsKeyOption = Annotated[
    Path | None, typer.Option("--tls-key", exists=True, dir_okay=False, help="Its private key, PEM.")
]
TlsClientCaOption = Annotated[
    Path | None, typer.Option("--tls-client-ca", exists=True, dir_okay=False, help="Clients of these CAs only, PEM")
]
TokensOption = Annotated[
    Path | None, typer.Option("--tokens", exists=True, dir_okay=False, help="YAML: teams, token hashes, quotas.")
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Listen where other machines reach it, although it is not protected.")
]
HealthPortOption = Annotated[
    int | None, typer.Option("--health-port", min=0, max=65535, help="grpc.health.v1 in plain text, for a kubelet.")
]
MetricsPortOption = Annotated[
    int | None, typer.Option("--metrics-port", min=0, max=65535, help="Prometheus page /metrics.")
]
DrainOption = Annotated[
    float, typer.Option("--drain-seconds", min=0, help="From NOT_SERVING to refusing calls, on SIGTERM.")
]
ConnectionAgeOption = Annotated[
    float, typer.Option("--max-connection-age-s", min=1, help="Then clients are asked to connect anew.")
]
InflightBytesOption = Annotated[
    int, typer.Option("--max-inflight-bytes", min=1024, help="Bytes of requests in memory at once.")
]
DecodedBytesOption = Annotated[
    int, typer.Option("--max-decoded-bytes", min=1024, help="Bytes of decoded pictures in work at once.")
]
LogMetadataOption = Annotated[
    bool, typer.Option("--log-metadata", help="Log what callers put into the metadata of samples.")
]
OtlpOption = Annotated[
    str, typer.Option("--otlp-endpoint", help="http(s)://HOST:PORT of an OpenTelemetry collector (OTLP over gRPC).")
]


def serve(
    reward: RewardArgument,
    triton: Annotated[
        str, typer.Option("--triton", help="HOST:PORT of Triton's gRPC endpoint; needed where a variant runs on it.")
    ] = "",
    profile: ProfileOption = "pocket",
    also: AlsoOption = None,
    routes: RoutesOption = None,
    judges: JudgesOption = None,
    triton_timeout: TritonTimeoutOption = 600.0,
    shared_memory: SharedMemoryOption = False,
    host: HostOption = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 9001,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    tls_client_ca: TlsClientCaOption = None,
    tokens: TokensOption = None,
    insecure: InsecureOption = False,
    health_port: HealthPortOption = None,
    metrics_port: MetricsPortOption = None,
    drain_seconds: DrainOption = 0.0,
    max_connection_age_s: ConnectionAgeOption = 600.0,
    max_inflight_bytes: InflightBytesOption = 512 * 1024 * 1024,
    max_decoded_bytes: DecodedBytesOption = 768 * 1024 * 1024,
    otlp_endpoint: OtlpOption = "",
    log_format: Annotated[Literal["text", "json"], typer.Option("--log-format")] = "text",
    log_metadata: LogMetadataOption = False,
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", help="NAME=NUMBER of a limit that Describe publishes, as max_inflight_items=512."),
    ] = None,
) -> None:
    """Serve one reward in front of a Triton that runs already; SIGTERM drains it."""
    import asyncio

    from pydantic import ValidationError

    from sync_r1.services.config import ServiceConfig, TlsConfig
    from sync_r1.services.serve import ServeConfig
    from sync_r1.services.serve import serve as run

    if (tls_cert is None) != (tls_key is None) or (tls_client_ca is not None and tls_cert is None):
        raise typer.BadParameter("--tls-cert and --tls-key belong together, and --tls-client-ca needs both")
    with errors_shown(profile, routes, judges, tls_cert, tls_key, tls_client_ca, tokens):
        try:
            tls = TlsConfig(cert=tls_cert, key=tls_key, client_ca=tls_client_ca) if tls_cert and tls_key else None
            service = ServiceConfig(
                max_inflight_bytes=max_inflight_bytes, host=host, port=port, tls=tls, tokens=tokens, insecure=insecure,
                health_port=health_port, metrics_port=metrics_port, drain_s=drain_seconds,
                max_decoded_bytes=max_decoded_bytes, max_connection_age_s=max_connection_age_s,
                otlp_endpoint=otlp_endpoint, log_format=log_format, log_metadata=log_metadata,
                routes=routes, limits=_limits(limit or ()),
            )  # fmt: skip
        except ValidationError as error:
            raise UserError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        config = ServeConfig(
            reward=reward, triton=triton, profile=profile, also=tuple(also or ()), shared_memory=shared_memory,
            judges=judges, service=service, triton_timeout_s=triton_timeout,
        )  # fmt: skip
        asyncio.run(run(config, on_listening=lambda where: console().print(f"{reward} listens on {where}")))


def _limits(pairs: Sequence[str]) -> Limits:
    """The limits of `--limit NAME=NUMBER`; no request may hold more items than the service may.

    Raises UserError naming the option and the names there are.
    """
    from pydantic import ValidationError

    from sync_r1.services.config import Limits

    given = {name: value for name, _, value in (pair.partition("=") for pair in pairs)}
    if (inflight := given.get("max_inflight_items", "")).isdecimal() and int(inflight) < Limits().max_items:
        given.setdefault("max_items", inflight)
    try:
        return Limits.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join(["--limit", *map(str, first["loc"])])
        known = ", ".join(Limits.model_fields)
        raise UserError(f"{where}: {first['msg'].removeprefix('Value error, ')}; limits are {known}") from None


def token() -> None:
    """Mint a bearer token: it is shown once; its hash goes under the team in the file of --tokens."""
    from sync_r1.services.access.tokens import mint

    secret, digest = mint()
    console().print(f"token (give it to the team, keep no copy): {secret}", highlight=False, soft_wrap=True)
    console().print(f"tokens_sha256: [{digest}]", markup=False, highlight=False, soft_wrap=True)
