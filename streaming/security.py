"""How clients get into a Kafka that asks who they are, said once and told to each kind of client.

The pipeline's clients are kafka-python's (every part), Java's (the job) and librdkafka's (the
optional fast ones); each has other names for the same settings. Files are read here, and the
certificates travel inside the job: nothing has to lie on the machines of the Flink cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from streaming.secret import MASK, remember

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = {
    "PLAIN": "plain.Plain",
    "SCRAM-SHA-256": "scram.Scram",
    "SCRAM-SHA-512": "scram.Scram",
}
# The connector of Flink SQL brings the Kafka client under names of its own.
LOGIN_MODULE = "org.apache.flink.kafka.shaded.org.apache.kafka.common.security.{}LoginModule"


class SecurityError(ValueError):
    """The settings contradict each other, or a file cannot be read; the message names it."""


@dataclass(frozen=True)
class Security:
    """Who we are, and whom we trust.

    Attributes:
        protocol: "PLAINTEXT", "SSL" (TLS), "SASL_PLAINTEXT" or "SASL_SSL".
        mechanism: of SASL: "PLAIN", "SCRAM-SHA-256" or "SCRAM-SHA-512".
        username: of SASL.
        password: of SASL; better in `SPARC_KAFKA__SECURITY__PASSWORD`, or in a file.
        password_file: holds the password, and nothing else but a line's end.
        ca_file: PEM, the authorities that the broker's certificate may be signed by; without one,
            those that the system trusts.
        certificate_file: PEM, our own certificate, where the broker asks for one.
        key_file: PEM (PKCS #8, not encrypted), its key.
        check_hostname: whether the broker's certificate has to name the host.
    """

    protocol: str = "PLAINTEXT"
    mechanism: str = ""
    username: str = ""
    password: SecretStr = SecretStr("")
    password_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    check_hostname: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.password, str):
            object.__setattr__(self, "password", SecretStr(self.password))
        if self.protocol not in PROTOCOLS:
            raise SecurityError(
                f"[kafka.security] protocol is {self.protocol!r}: one of {PROTOCOLS}"
            )
        if self._sasl and self.mechanism not in MECHANISMS:
            raise SecurityError(
                f"[kafka.security] mechanism is {self.mechanism!r}: one of {tuple(MECHANISMS)}"
            )
        if self._sasl and not (self.username and (self.password or self.password_file)):
            raise SecurityError(
                "[kafka.security] SASL needs a username, and a password or a password_file"
            )
        if bool(self.certificate_file) != bool(self.key_file):
            raise SecurityError(
                "[kafka.security] certificate_file and key_file: give both, or neither"
            )

    @property
    def _sasl(self) -> bool:
        return self.protocol.startswith("SASL_")

    @property
    def _tls(self) -> bool:
        return self.protocol.endswith("SSL")

    def _secret(self) -> str:
        password = self.password.get_secret_value()
        if not password:
            password = _read("password_file", self.password_file).rstrip("\r\n")
        if password == MASK:
            raise SecurityError(
                "[kafka.security] password is not written into files: set "
                "SPARC_KAFKA__SECURITY__PASSWORD, name a password_file, or give the --config that "
                "holds it"
            )
        remember(password)
        return password

    def kafka_python(self) -> dict[str, Any]:
        """For kafka-python.

        Raises:
            SecurityError: if a file cannot be read.
        """
        settings: dict[str, Any] = {}
        if self._sasl or self._tls:
            settings["security_protocol"] = self.protocol
        if self._sasl:
            settings |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self._secret(),
            }
        if self._tls:
            files = {
                "ssl_cafile": self.ca_file,
                "ssl_certfile": self.certificate_file,
                "ssl_keyfile": self.key_file,
            }
            for name, path in files.items():
                if path is not None:
                    _read(name.replace("ssl_", ""), path)
                    settings[name] = str(path)
            settings["ssl_check_hostname"] = self.check_hostname
        return settings

    def _dotted(self) -> dict[str, str]:
        """What Java's and librdkafka's clients call by the same names."""
        settings = {}
        if self._sasl or self._tls:
            settings["security.protocol"] = self.protocol
        if self._sasl:
            settings["sasl.mechanism"] = self.mechanism
        return settings

    def java(self) -> dict[str, str]:
        """For the Kafka clients in Flink.

        Raises:
            SecurityError: if a file cannot be read.
        """
        settings = self._dotted()
        if self._sasl:
            module = LOGIN_MODULE.format(MECHANISMS[self.mechanism])
            settings |= {
                "sasl.jaas.config": f"{module} required username={_jaas(self.username)} "
                f"password={_jaas(self._secret())};",
            }
        if self._tls and self.ca_file is not None:
            settings |= {
                "ssl.truststore.type": "PEM",
                "ssl.truststore.certificates": _read("ca_file", self.ca_file),
            }
        if self._tls and self.certificate_file is not None:
            settings |= {
                "ssl.keystore.type": "PEM",
                "ssl.keystore.certificate.chain": _read("certificate_file", self.certificate_file),
                "ssl.keystore.key": _read("key_file", self.key_file),
            }
        if self._tls and not self.check_hostname:
            settings["ssl.endpoint.identification.algorithm"] = ""
        return settings

    def librdkafka(self) -> dict[str, str]:
        """For confluent-kafka.

        Raises:
            SecurityError: if a file cannot be read.
        """
        settings = self._dotted()
        if self._sasl:
            settings |= {
                "sasl.username": self.username,
                "sasl.password": self._secret(),
            }
        if self._tls:
            files = {
                "ssl.ca.location": self.ca_file,
                "ssl.certificate.location": self.certificate_file,
                "ssl.key.location": self.key_file,
            }
            settings |= {name: str(path) for name, path in files.items() if path is not None}
            if not self.check_hostname:
                settings["ssl.endpoint.identification.algorithm"] = "none"
        return settings


def _read(name: str, path: Path | None) -> str:
    if path is None:
        raise SecurityError(f"[kafka.security] {name} is missing")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SecurityError(f"[kafka.security] {name}: cannot read {path}: {error}") from error


def _jaas(text: str) -> str:
    """A value of a JAAS configuration, quoted."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
