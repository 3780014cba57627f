"""TLS and mutual TLS, with certificates that can be replaced while the service runs.

gRPC asks for the certificates before every handshake: files that have changed are read then, for that connection and
those after it; connections that exist keep what they had. Files that do not belong together yet (a rotation replaces
them one by one) are not used: the former certificate stays and the reason is logged.

gRPC speaks TLS 1.2 and 1.3 and nothing older; its Python interface cannot raise that floor.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from sync_r1.services.config import TlsConfig

logger = logging.getLogger(__name__)


class CertificateError(ValueError):
    """The files cannot be used; the message names them and says what was expected."""


class ServerCertificates:
    """The certificate, key and client CAs of a service, as they lie in their files now. Safe to use from any thread."""

    def __init__(self, config: TlsConfig) -> None:
        """Raises CertificateError."""
        self._config = config
        self._lock = threading.Lock()
        self._stamp = _stamp(config)
        self._current = _read(config)

    def credentials(self) -> grpc.ServerCredentials:
        """For `server.add_secure_port`."""
        return grpc.dynamic_ssl_server_credentials(
            self._current, self._changed, require_client_authentication=self._config.client_ca is not None
        )

    def _changed(self) -> Any:
        """Called by gRPC before a handshake: the new certificates, or None where they are as before."""
        with self._lock:
            stamp = _stamp(self._config)
            if stamp == self._stamp:
                return None
            self._stamp = stamp
            try:
                self._current = _read(self._config)
            except CertificateError as error:
                logger.error("the certificate stays as it was: %s", error)
                return None
            logger.info("read the certificate again: %s", self._config.cert)
            return self._current


@dataclass(frozen=True)
class _Stamp:
    """What changes whenever a file does, also where the directory of a Kubernetes secret is swapped."""

    modified_ns: int
    inode: int
    size: int


def _files(config: TlsConfig) -> list[Path]:
    return [path for path in (config.cert, config.key, config.client_ca) if path is not None]


def _stamp(config: TlsConfig) -> tuple[_Stamp | None, ...]:
    stamps: list[_Stamp | None] = []
    for path in _files(config):
        try:
            found = os.stat(path)
        except OSError:
            stamps.append(None)
        else:
            stamps.append(_Stamp(found.st_mtime_ns, found.st_ino, found.st_size))
    return tuple(stamps)


def _read(config: TlsConfig) -> Any:
    """gRPC's certificate configuration, checked first: gRPC itself would only fail the handshakes."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.cert, config.key)
        pair = (config.key.read_bytes(), config.cert.read_bytes())
        if config.client_ca is None:
            return grpc.ssl_server_certificate_configuration([pair])
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(config.client_ca)
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=config.client_ca.read_bytes())
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        names = ", ".join(str(path) for path in _files(config))
        raise CertificateError(
            f"expected PEM files of a certificate and its own unencrypted key (and CAs) in {names}: {error}"
        ) from None
