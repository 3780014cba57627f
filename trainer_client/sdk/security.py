"""Who the client is and whom it trusts: TLS files and a bearer token.

Both are read when they are used, not when they are written down, so that settings hold no secrets and can be printed.
Either may be replaced while a client runs (a trainer lives longer than a certificate): the token is read again when a
service refuses it, TLS files when they have changed (`pool.py`).
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from sync_r1.reward_models.errors import SyncR1Error

ENVIRONMENT = {
    "token": "SYNC_R1_TOKEN", "token_file": "SYNC_R1_TOKEN_FILE",
    "ca": "SYNC_R1_TLS_CA", "cert": "SYNC_R1_TLS_CERT", "key": "SYNC_R1_TLS_KEY",
}  # fmt: skip


class SecurityError(SyncR1Error, ValueError):
    """TLS files or a token that cannot be used; the message names the file or variable and the cure."""


@dataclass(frozen=True)
class Tls:
    """PEM files: whom to trust, and for mutual TLS who we are."""

    ca: Path | None = None
    """Certificates that sign the service's; None = the ones gRPC ships."""
    cert: Path | None = None
    key: Path | None = None
    server_name: str = ""
    """Name the service's certificate must carry; "" = the host of the endpoint."""

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise SecurityError(f"mutual TLS needs cert and key, got cert={self.cert} and key={self.key}")

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """CA, key and certificate as they are now.

        Raises SecurityError for a file that cannot be read and for a pair that does not belong together: gRPC itself
        would only fail the handshakes.
        """
        ca, key, cert = (None if path is None else _read(path) for path in (self.ca, self.key, self.cert))
        if self.cert is not None:
            try:
                # An empty password: a key that needs one is an error here, not a question on the terminal.
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(self.cert, self.key, password="")
            except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
                raise SecurityError(
                    f"expected PEM files of a certificate and its own unencrypted key in {self.cert} and {self.key}: "
                    f"{error}"
                ) from error
        return ca, key, cert

    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel, of the files as they are now. Raises SecurityError, see `read`."""
        ca, key, cert = self.read()
        return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert)


@dataclass(frozen=True, repr=False)
class Token:
    """A bearer token: its value, or the environment variable or file that has it; exactly one of them."""

    value: str = ""
    env: str = ""
    file: Path | None = None
    over_plaintext: bool = False
    """Send it over unencrypted connections to other machines too: only where a mesh encrypts them."""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.value, self.env, self.file))) != 1:
            raise SecurityError("a token has exactly one source: value, env or file")

    def __repr__(self) -> str:
        return f"Token({self.env or self.file or 'given by value'})"

    def read(self) -> str:
        """The token as it is now. Raises SecurityError when its source has none."""
        if self.file is not None:
            token = _read(self.file).decode("ascii", "replace").strip()
        else:
            token = (self.value or os.environ.get(self.env, "")).strip()
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise SecurityError(f"{self!r} holds no token; expected one line of printable ASCII without spaces")
        return token


class Credentials:
    """The token of one client, read at its first use and again when the service says that it is wrong."""

    def __init__(self, token: Token | None) -> None:
        self._token = token
        self._value = ""

    def authorization(self) -> str:
        """What is sent now: "Bearer …", or "" without a token. Raises SecurityError."""
        if self._token is None:
            return ""
        self._value = self._value or self._token.read()
        return f"Bearer {self._value}"

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """`authorization` as gRPC metadata."""
        return (("authorization", self.authorization()),) if self._token is not None else ()

    def renewed(self, refused: str) -> bool:
        """Whether the source has another token than the `refused` one by now, as it does while tokens are rotated."""
        self._value = ""
        return self.authorization() != refused


def check_token_stays_private(target: str, tls: Tls | None, token: Token | None) -> None:
    """Raises SecurityError when the token would travel readable to another machine."""
    if token is None or token.over_plaintext or tls is not None or target.startswith("unix:"):
        return
    host = target.rpartition("/")[2].rpartition(":")[0].strip("[]")
    try:
        private = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        private = False
    if not private:
        raise SecurityError(
            f"the token would travel unencrypted to {target}; give tls=Tls(ca=…), or Token(over_plaintext=True) where "
            "the network itself encrypts"
        )


def from_environment() -> tuple[Tls | None, Token | None]:
    """TLS and token as the variables in `ENVIRONMENT` say; None for what they do not mention."""
    found = {name: os.environ.get(variable, "") for name, variable in ENVIRONMENT.items()}
    ca, cert, key = (Path(found[name]) if found[name] else None for name in ("ca", "cert", "key"))
    tls = Tls(ca, cert, key) if ca or cert or key else None
    if found["token_file"]:
        return tls, Token(file=Path(found["token_file"]))
    return tls, Token(env=ENVIRONMENT["token"]) if found["token"] else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SecurityError(f"cannot read {path}: {error.strerror}") from error
