"""TLS and bearer tokens as the client uses them, against a real TLS port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from certificates import Authority
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
