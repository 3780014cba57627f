"""TLS and mutual TLS, with certificates that can be replaced while the service runs.

gRPC asks for the certificates before every handshake: files that have changed are read then, for that connection and
those after it; connections that exist keep what they had. Files that do not belong together yet (a rotation replaces
them one by one) are not used: the former certificate stays and the reason is logged.

gRPC speaks TLS 1.2 and 1.3 and nothing older; its Python interface cannot raise that floor.
"""

from __future__ import annotations

import logging
import ssl
import threading
from pathlib import Path
from typing import Any

import grpc

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.services.config import TlsConfig
from sync_r1.services.file_stamp import Stamp, stamp

logger = logging.getLogger(__name__)


class CertificateError(SyncR1Error, ValueError):
    """The files cannot be used; the message names them and says what was expected."""


class ServerCertificates:
    """The certificate, key and client CAs of a service, as they lie in their files now. Safe to use from any thread."""

    def __init__(self, config: TlsConfig) -> None:
        """Raises CertificateError."""
        self._config = config
        self._lock = threading.Lock()
        self._stamp = _stamps(config)
        self._current = _read(config)

    def credentials(self) -> grpc.ServerCredentials:
        """For `server.add_secure_port`."""
        return grpc.dynamic_ssl_server_credentials(
            self._current, self._changed, require_client_authentication=self._config.client_ca is not None
        )

    def _changed(self) -> Any:
        """Called by gRPC before a handshake: the new certificates, or None where they are as before."""
        with self._lock:
            now = _stamps(self._config)
            if now == self._stamp:
                return None
            self._stamp = now
            try:
                self._current = _read(self._config)
            except CertificateError as error:
                logger.error("the certificate stays as it was: %s", error)
                return None
            logger.info("read the certificate again: %s", self._config.cert)
            return self._current


def _files(config: TlsConfig) -> list[Path]:
    return [path for path in (config.cert, config.key, config.client_ca) if path is not None]


def _stamps(config: TlsConfig) -> list[Stamp]:
    return [stamp(path) for path in _files(config)]


def _read(config: TlsConfig) -> Any:
    """gRPC's certificate configuration, checked first: gRPC itself would only fail the handshakes."""
    try:
        # An empty password: a key that needs one is an error here, not a question on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.cert, config.key, password="")
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
