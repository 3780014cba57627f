"""TLS and mutual TLS with real certificates and real handshakes: who gets in, who does not, and rotation."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from pathlib import Path

import grpc
import pytest
import toys
from certificates import Authority, Pair
from cryptography.hazmat.primitives import serialization
from fronts import Stub, refused, started
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sync_r1.services.access.tls import CertificateError, ServerCertificates
from sync_r1.services.config import ServiceConfig, TlsConfig
from sync_r1.services.local.embedded import EmbeddedTriton
from sync_r1.services.runners.triton import TritonRunner
from sync_r1.services.server import RewardServer


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def tls(folder: Path, server: Pair, client_ca: Authority | None = None) -> TlsConfig:
    cert, key = server.write(folder, "server")
    ca = None
    if client_ca is not None:
        ca = folder / "clients.crt"
        ca.write_bytes(client_ca.cert)
    return TlsConfig(cert=cert, key=key, client_ca=ca)


def channel(port: int, ca: Authority | None, client: Pair | None = None) -> grpc.aio.Channel:
    """A channel that trusts `ca` and shows `client`; without a CA, one in plain text."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    if ca is None:
        return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
    credentials = grpc.ssl_channel_credentials(
        ca.cert, client.key if client is not None else None, client.cert if client is not None else None
    )
    return grpc.aio.secure_channel(f"localhost:{port}", credentials, options=options)


async def score(port: int, ca: Authority | None, client: Pair | None = None) -> float:
    async with channel(port, ca, client) as opened:
        return (await Stub(opened).Score(toys.request(7), timeout=10)).outcomes[0].score.value


async def unavailable(port: int, ca: Authority | None, client: Pair | None = None) -> str:
    """The connection must not come about; what the client is told."""
    error = await refused(score(port, ca, client))
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    return str(error.details())


async def test_a_client_that_trusts_the_ca_gets_in_and_others_do_not(
    toy_triton: EmbeddedTriton, tmp_path: Path, authority: Authority
) -> None:
    async with started(toy_triton.url, ServiceConfig(tls=tls(tmp_path, authority.sign()))) as (_, port):
        assert await score(port, authority) == 7
        await unavailable(port, Authority("another CA"))


async def test_a_plain_text_client_cannot_talk_a_tls_service_down(
    toy_triton: EmbeddedTriton, tmp_path: Path, authority: Authority
) -> None:
    async with started(toy_triton.url, ServiceConfig(tls=tls(tmp_path, authority.sign()))) as (_, port):
        await unavailable(port, None)


async def test_an_expired_certificate_of_the_service_is_refused_by_its_clients(
    toy_triton: EmbeddedTriton, tmp_path: Path, authority: Authority
) -> None:
    async with started(toy_triton.url, ServiceConfig(tls=tls(tmp_path, authority.sign(days=-1)))) as (_, port):
        await unavailable(port, authority)


async def test_mutual_tls_lets_in_only_clients_of_its_ca(
    toy_triton: EmbeddedTriton, tmp_path: Path, authority: Authority
) -> None:
    clients = Authority("clients")
    config = ServiceConfig(tls=tls(tmp_path, authority.sign(), clients), health_port=0)
    async with started(toy_triton.url, config) as (server, port):
        assert await score(port, authority, clients.sign("trainer")) == 7
        await unavailable(port, authority)  # no certificate
        await unavailable(port, authority, clients.sign("trainer", days=-1))  # expired
        await unavailable(port, authority, Authority("another CA").sign("trainer"))
        await unavailable(port, authority, authority.sign("trainer"))  # of the service's CA, which is not the clients'
        # A kubelet has no certificate: health alone answers it, on a port of its own.
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.health_port}") as plain:
            answer = await health_pb2_grpc.HealthStub(plain).Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            error = await refused(Stub(plain).Score(toys.request(1), timeout=10))
            assert error.code() == grpc.StatusCode.UNIMPLEMENTED


def handshake(port: int, version: ssl.TLSVersion) -> str:
    """The version that a client which speaks only that one agrees on. Raises ssl.SSLError or OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")  # else this Python would not even offer the old ones
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port), 10) as raw, context.wrap_socket(raw) as secure:
        return str(secure.version())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_versions_older_than_tls_1_2_are_refused(
    toy_triton: EmbeddedTriton, tmp_path: Path, authority: Authority
) -> None:
    async with started(toy_triton.url, ServiceConfig(tls=tls(tmp_path, authority.sign()))) as (_, port):
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            with pytest.raises(ssl.SSLError, match="EOF occurred"):  # the service hangs up on the offer
                await asyncio.to_thread(handshake, port, version)
        assert await asyncio.to_thread(handshake, port, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
        assert await asyncio.to_thread(handshake, port, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"


async def test_a_new_certificate_is_used_without_a_restart_and_without_losing_a_call(
    toy_triton: EmbeddedTriton, tmp_path: Path, authority: Authority
) -> None:
    successor = Authority("the next CA")
    config = ServiceConfig(tls=tls(tmp_path, authority.sign()))
    async with started(toy_triton.url, config) as (_, port), channel(port, authority) as old:
        await Stub(old).Score(toys.request(1), timeout=10)
        under_way = asyncio.ensure_future(Stub(old).Score(toys.request(9, variant="slow"), timeout=30))
        await asyncio.sleep(0.2)
        successor.sign().write(tmp_path, "server")
        assert await score(port, successor) == 7
        await unavailable(port, authority)
        assert (await under_way).outcomes[0].score.value == 9
        # The connection from before goes on.
        assert (await Stub(old).Score(toys.request(3), timeout=10)).outcomes[0].score.value == 3


async def test_clients_of_a_new_ca_get_in_and_those_of_the_old_one_no_more(
    toy_triton: EmbeddedTriton, tmp_path: Path, authority: Authority
) -> None:
    before, after = Authority("before"), Authority("after")
    config = ServiceConfig(tls=tls(tmp_path, authority.sign(), before))
    async with started(toy_triton.url, config) as (_, port):
        assert await score(port, authority, before.sign()) == 7
        (tmp_path / "clients.crt").write_bytes(before.cert + after.cert)
        assert await score(port, authority, before.sign()) == 7
        assert await score(port, authority, after.sign()) == 7
        (tmp_path / "clients.crt").write_bytes(after.cert)
        assert await score(port, authority, after.sign()) == 7
        await unavailable(port, authority, before.sign())


async def test_a_rotation_that_is_half_done_or_broken_changes_nothing(
    toy_triton: EmbeddedTriton, tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(toy_triton.url, ServiceConfig(tls=tls(tmp_path, authority.sign()))) as (_, port):
        following = authority.sign()
        (tmp_path / "server.crt").write_bytes(following.cert)  # its key has not been written yet
        assert await score(port, authority) == 7
        assert "the certificate stays as it was" in caplog.text
        (tmp_path / "server.key").write_bytes(b"")
        assert await score(port, authority) == 7
        (tmp_path / "server.key").unlink()
        assert await score(port, authority) == 7
        (tmp_path / "server.key").write_bytes(following.key)
        assert await score(port, authority) == 7
    assert "PRIVATE KEY" not in caplog.text


def test_a_swapped_directory_counts_as_a_change(tmp_path: Path, authority: Authority) -> None:
    """Kubernetes replaces a secret by pointing a link at another directory."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        for path in authority.sign().write(tmp_path / name, "tls"):
            os.utime(path, (1, 1))
    link = tmp_path / "data"
    link.symlink_to("first")
    certificates = ServerCertificates(TlsConfig(cert=link / "tls.crt", key=link / "tls.key"))
    assert certificates._changed() is None
    (tmp_path / "next").symlink_to("second")
    (tmp_path / "next").rename(link)
    assert certificates._changed() is not None
    assert certificates._changed() is None


@pytest.mark.parametrize("broken", ["cert", "key", "client_ca", "foreign key", "encrypted key"])
async def test_files_that_cannot_be_used_stop_the_start_with_their_names(
    toy_triton: EmbeddedTriton, tmp_path: Path, authority: Authority, broken: str
) -> None:
    config = tls(tmp_path, authority.sign(), authority)
    if broken == "foreign key":
        config.key.write_bytes(authority.sign().key)
    elif broken == "encrypted key":  # an error, not a question on the terminal
        key = serialization.load_pem_private_key(config.key.read_bytes(), None)
        password = serialization.BestAvailableEncryption(b"password")
        config.key.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, password)
        )
    else:
        getattr(config, broken).write_text("no PEM")
    with pytest.raises(CertificateError, match=r"server\.crt"):
        RewardServer(toys.served(), TritonRunner(toy_triton.url), ServiceConfig(tls=config))
