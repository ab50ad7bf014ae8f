"""How clients get into a Flink cluster that speaks TLS and asks who they are.

Whoever reaches Flink's REST API runs code on the cluster: a submitted job is a Java object that the
JobManager deserialises. A cluster that is open on 127.0.0.1 is open to every other user of the
machine and to every page in a browser on it, so the API answers to a certificate only.

The certificates are given as PEM files, as to Kafka's clients. Flink itself takes Java's key
stores, which are written where and when they are needed, under a password that nobody has to know.
"""

from __future__ import annotations

import os
import secrets
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
TLS_FOLDER = "tls"
"""Folder of a local cluster with its key and certificate."""


class FlinkTlsError(ValueError):
    """The settings contradict each other, or a file cannot be read; the message names it."""


@dataclass(frozen=True)
class FlinkTls:
    """Whom we trust, and who we are; without files Flink is spoken to in plain HTTP.

    Attributes:
        ca_file: PEM, the authorities that the JobManager's certificate may be signed by, or that
            certificate itself.
        certificate_file: PEM, our own certificate, where Flink asks for one
            (`security.ssl.rest.authentication-enabled`).
        key_file: PEM (not encrypted), its key.
    """

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    def __post_init__(self) -> None:
        if bool(self.certificate_file) != bool(self.key_file):
            raise FlinkTlsError(
                "[flink.security] certificate_file and key_file: give both, or neither"
            )
        if self.certificate_file and not self.ca_file:
            raise FlinkTlsError(
                "[flink.security] ca_file is missing: the certificates that Flink's own may be "
                "signed by"
            )

    @classmethod
    def in_folder(cls, folder: Path) -> FlinkTls:
        """The one pair that a local cluster and its clients hold, made or not made yet."""
        certificate = folder / "certificate.pem"
        return cls(certificate, certificate, folder / "key.pem")

    def url(self, address: str) -> str:
        """The address of the REST API, given as `host:port`."""
        return f"{'https' if self.ca_file else 'http'}://{address}"

    def context(self) -> ssl.SSLContext | bool:
        """For httpx: what it verifies with.

        Raises:
            FlinkTlsError: if a file cannot be read, or holds no certificate.
        """
        if self.ca_file is None:
            return True
        try:
            context = ssl.create_default_context(cafile=str(self.ca_file))
            if self.certificate_file is not None:
                context.load_cert_chain(str(self.certificate_file), str(self.key_file))
        except (OSError, ssl.SSLError) as error:
            raise FlinkTlsError(f"[flink.security] {self._files()}: {error}") from error
        return context

    def java_settings(
        self, folder: Path, *kinds: str, called: Path | None = None
    ) -> dict[str, str]:
        """Write Java's key stores into `folder`; the settings of Flink that lead there.

        Args:
            folder: private, as the settings are; a new password is made each time.
            kinds: what is encrypted: "rest" (a client's side of it is the same), "internal".
            called: the folder as the settings are to name it, where that is not its own path.

        Raises:
            FlinkTlsError: if a file cannot be read, or holds no certificate.
        """
        if self.ca_file is None:
            return {}
        password = secrets.token_urlsafe(32)
        stores = {"truststore": self._trusted(password)}
        if self.certificate_file is not None:
            stores["keystore"] = self._own(password)
        settings = {}
        for store, content in stores.items():
            write_private(folder / f"{store}.p12", content)
            for kind in kinds:
                settings[f"security.ssl.{kind}.enabled"] = "true"
                settings[f"security.ssl.{kind}.{store}"] = str((called or folder) / f"{store}.p12")
                settings[f"security.ssl.{kind}.{store}-type"] = "PKCS12"
                settings[f"security.ssl.{kind}.{store}-password"] = password
                if store == "keystore":
                    settings[f"security.ssl.{kind}.key-password"] = password
        if "keystore" in stores and "rest" in kinds:
            settings["security.ssl.rest.authentication-enabled"] = "true"
        return settings

    def _trusted(self, password: str) -> bytes:
        from cryptography.hazmat.primitives.serialization import pkcs12

        certificates = [
            pkcs12.PKCS12Certificate(certificate, f"ca-{number}".encode())
            for number, certificate in enumerate(self._certificates(self.ca_file))
        ]
        return pkcs12.serialize_java_truststore(certificates, _encryption(password))

    def _own(self, password: str) -> bytes:
        from cryptography.hazmat.primitives.serialization import load_pem_private_key, pkcs12

        own, *chain = self._certificates(self.certificate_file)
        try:
            key: Any = load_pem_private_key(_read(self.key_file), None)
        except (ValueError, TypeError) as error:
            raise FlinkTlsError(f"[flink.security] {self.key_file}: {error}") from error
        return pkcs12.serialize_key_and_certificates(
            b"sparc", key, own, chain, _encryption(password)
        )

    def _certificates(self, path: Path | None) -> list[Any]:
        from cryptography.x509 import load_pem_x509_certificates

        try:
            return load_pem_x509_certificates(_read(path))
        except ValueError as error:
            raise FlinkTlsError(f"[flink.security] {path}: {error}") from error

    def _files(self) -> str:
        files = (self.ca_file, self.certificate_file, self.key_file)
        return ", ".join(str(path) for path in files if path is not None)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, at no moment anybody else."""
    path.unlink(missing_ok=True)  # one that was left with another mode keeps it
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE), "wb") as file:
        file.write(content)


def _encryption(password: str) -> Any:
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption

    return BestAvailableEncryption(password.encode())


def _read(path: Path | None) -> bytes:
    if path is None:
        raise FlinkTlsError("[flink.security] a file is missing")
    try:
        return path.read_bytes()
    except OSError as error:
        raise FlinkTlsError(f"[flink.security] cannot read {path}: {error}") from error
