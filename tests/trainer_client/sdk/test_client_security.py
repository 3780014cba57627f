"""TLS and bearer tokens as the client uses them, against a real TLS port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from certificates import Authority
from fronts import until
from scripted_service import ScriptedService

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client import (
    Backoff,
    ClientSettings,
    RewardClient,
    SecurityError,
    ServiceUnreachable,
    Timeout,
    Tls,
    Token,
    Unauthenticated,
    picture,
)
from sync_r1.trainer_client.sdk import pool
from sync_r1.trainer_client.sdk.security import Credentials, check_token_stays_private, from_environment

SAMPLES = [Sample(image=picture(np.full((4, 4, 3), 7, np.uint8)))]
QUICK = ClientSettings(Timeout(20, 1), backoff=Backoff(0.01, 0.05))


@pytest.fixture
def authority() -> Authority:
    return Authority()


@asynccontextmanager
async def serving(
    authority: Authority, *, mutual: bool = False, tokens: set[str] | None = None
) -> AsyncIterator[ScriptedService]:
    pair = authority.sign()
    credentials = grpc.ssl_server_credentials(
        [(pair.key, pair.cert)], root_certificates=authority.cert if mutual else None, require_client_auth=mutual
    )
    service = await ScriptedService(credentials=credentials, tokens=tokens or set()).start()
    try:
        yield service
    finally:
        await service.stop()


def ca_file(authority: Authority, folder: Path) -> Path:
    file = folder / "ca.crt"
    file.write_bytes(authority.cert)
    return file


async def test_mutual_tls_and_token_let_a_call_through(authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.sign("trainer").write(tmp_path, "trainer")
    settings = replace(QUICK, tls=Tls(ca_file(authority, tmp_path), cert, key), token=Token("s3cret"))
    async with serving(authority, mutual=True, tokens={"s3cret"}) as service:
        async with RewardClient(service.target, settings) as client:
            await client.wait_ready(10)
            assert (await client.score(SAMPLES)).timings[0].attempts == 1
        assert service.metadata[0]["authorization"] == "Bearer s3cret"
        assert int(service.metadata[0]["x-byte-size"]) == service.requests[0].ByteSize()


async def test_wrong_authority_missing_certificate_and_plaintext_are_refused_in_words(
    authority: Authority, tmp_path: Path
) -> None:
    other = ca_file(Authority("somebody else"), tmp_path)
    async with serving(authority, mutual=True) as service:
        for tls, words in (
            (Tls(other), "not one that Tls.ca signed"),
            (None, "nothing answers"),  # downgrade: the port speaks TLS or nothing
        ):
            async with RewardClient(service.target, replace(QUICK, tls=tls)) as client:
                with pytest.raises(ServiceUnreachable, match=words):
                    await client.score(SAMPLES)
        async with RewardClient(service.target, replace(QUICK, tls=Tls(ca_file(authority, tmp_path)))) as client:
            with pytest.raises(ServiceUnreachable):  # the service asks for a certificate, and there is none
                await client.score(SAMPLES)
        assert not service.requests


async def test_replaced_certificates_are_used_without_a_new_client_and_without_losing_a_call(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Authority and client certificate are replaced one file after the other, as a rotation does it."""
    monkeypatch.setattr(pool, "_TLS_LOOK_S", 0.0)
    cert, key = authority.sign("trainer").write(tmp_path, "trainer")
    ca = ca_file(authority, tmp_path)
    successor = Authority("the next CA")
    next_pair = successor.sign("trainer")
    async with (
        serving(authority, mutual=True) as old,
        serving(successor, mutual=True) as new,
        RewardClient(f"localhost:{old.port}", replace(QUICK, tls=Tls(ca, cert, key))) as client,
        RewardClient(f"localhost:{new.port}", replace(QUICK, tls=Tls(ca, cert, key))) as other,
    ):
        with pytest.raises(ServiceUnreachable):
            await other.score(SAMPLES)
        old.delay_s = 1.0
        slow = asyncio.ensure_future(client.score(SAMPLES))
        await until(lambda: len(old.requests) == 1)
        old.delay_s = 0.0
        cert.write_bytes(next_pair.cert)  # half a rotation
        assert (await client.score(SAMPLES)).timings[0].attempts == 1
        assert "the TLS files stay as they were" in caplog.text
        key.write_bytes(next_pair.key)
        ca.write_bytes(authority.cert + successor.cert)
        assert (await other.score(SAMPLES)).timings[0].attempts == 1
        with pytest.raises(ServiceUnreachable):  # the new certificate is none of its authority's
            await client.score(SAMPLES)
        assert (await slow).timings[0].attempts == 1  # the call from before ended on the connection it had
        assert len(old.requests) == 2


def test_certificate_and_key_of_a_client_must_belong_together(authority: Authority, tmp_path: Path) -> None:
    cert, _ = authority.sign("one").write(tmp_path, "one")
    _, key = authority.sign("two").write(tmp_path, "two")
    with pytest.raises(SecurityError, match=r"its own unencrypted key in .*one\.crt and .*two\.key"):
        Tls(cert=cert, key=key).credentials()


async def test_rotated_token_is_read_again_once_and_a_wrong_one_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    service = await ScriptedService(tokens={"first"}).start()
    async with RewardClient(service.target, replace(QUICK, token=Token(file=file))) as client:
        await client.score(SAMPLES)
        service.tokens = {"second"}
        file.write_text("second\n")
        batch = await client.score(SAMPLES)
        assert [attempt.outcome for attempt in batch.timings[0].tries] == ["Unauthenticated", "OK"]
        service.tokens = {"third"}
        asked = len(service.requests)
        with pytest.raises(Unauthenticated, match=r"no valid token; check the token"):
            await client.score(SAMPLES)
        assert len(service.requests) == asked + 1  # there was no other token, so nothing was sent again
    await service.stop()


def test_token_never_travels_readable_to_another_machine() -> None:
    token = Token("s3cret")
    for target in ("rewards.example:9001", "10.0.0.1:9001", "dns:///rewards:9001"):
        with pytest.raises(SecurityError, match="would travel unencrypted"):
            check_token_stays_private(target, None, token)
        check_token_stays_private(target, Tls(), token)
        check_token_stays_private(target, None, replace(token, over_plaintext=True))
        check_token_stays_private(target, None, None)
    for target in ("localhost:9001", "127.0.0.2:9001", "[::1]:9001", "unix:/run/rewards.sock"):
        check_token_stays_private(target, None, token)


def test_settings_can_be_printed_and_nonsense_is_refused(tmp_path: Path) -> None:
    assert "s3cret" not in repr(ClientSettings(token=Token("s3cret")))
    with pytest.raises(SecurityError, match="exactly one source"):
        Token("a", env="B")
    with pytest.raises(SecurityError, match="needs cert and key"):
        Tls(cert=tmp_path / "a")
    with pytest.raises(SecurityError, match=r"cannot read .*missing"):
        Tls(ca=tmp_path / "missing").credentials()
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(SecurityError, match="holds no token"):
        Credentials(Token(file=tmp_path / "empty")).metadata()


def test_environment_says_whom_to_trust_and_who_we_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert from_environment() == (None, None)
    monkeypatch.setenv("SYNC_R1_TLS_CA", "ca.crt")
    monkeypatch.setenv("SYNC_R1_TOKEN", "s3cret")
    tls, token = from_environment()
    assert (tls, token) == (Tls(Path("ca.crt")), Token(env="SYNC_R1_TOKEN"))
    assert Credentials(token).authorization() == "Bearer s3cret"
    monkeypatch.setenv("SYNC_R1_TOKEN_FILE", str(tmp_path / "token"))
    assert from_environment()[1] == Token(file=tmp_path / "token")
