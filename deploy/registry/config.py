"""Where the model registry is, how it is asked, and what it keeps."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr

from deploy.release.errors import RegistryError
from streaming.secret import MASK, remember


@dataclass(frozen=True)
class RegistryConfig:
    """Where and how snapshots are registered.

    Attributes:
        tracking_uri: of a running MLflow server; empty: the pipeline starts its own.
        username: with which it is asked; may stand in the URI, too.
        password: likewise; better in `SPARC_REGISTRY__PASSWORD`.
        model_name: registered model.
        experiment: MLflow experiment that holds one run per pipeline.
        poll_seconds: how often the snapshots on disk are looked at.
        longest_retry_seconds: the wait between attempts doubles from 1 s up to this.
        request_timeout_seconds: of one request to the registry.
        alias_seconds: how often the registry is asked whether somebody moved `champion`.
        live_seconds: how often the run of the pipeline gets live metrics; 0 turns them off.
        keep_versions: versions kept in the registry with their artifacts; older ones are deleted
            unless an alias names them or they are still on disk here. 0 keeps all of them.
    """

    tracking_uri: str = ""
    username: str = ""
    password: SecretStr = SecretStr("")
    model_name: str = "sparc"
    experiment: str = "sparc-stream"
    poll_seconds: float = 0.5
    longest_retry_seconds: float = 30.0
    request_timeout_seconds: int = 30
    alias_seconds: float = 1.5
    live_seconds: float = 15.0
    keep_versions: int = 50

    def __post_init__(self) -> None:
        if isinstance(self.password, str):
            object.__setattr__(self, "password", SecretStr(self.password))
        parts = urlsplit(self.tracking_uri)
        if "@" in parts.netloc:  # a URI is printed, logged and sent to Kafka
            host = parts.netloc.rpartition("@")[2]
            object.__setattr__(self, "tracking_uri", parts._replace(netloc=host).geturl())
            object.__setattr__(self, "username", unquote(parts.username or ""))
            object.__setattr__(self, "password", SecretStr(unquote(parts.password or "")))

    def basic(self) -> tuple[str, str] | None:
        """Name and password, where the server asks for them.

        Raises:
            RegistryError: if the password is only known to the pipeline that was started.
        """
        password = self.password.get_secret_value()
        if password == MASK:
            raise RegistryError(
                "[registry] password is not written into files: set SPARC_REGISTRY__PASSWORD, or "
                "give the --config that holds it"
            )
        remember(password)
        return (self.username, password) if self.username else None

    def let_in(self, tracking_uri: str) -> str:
        """Have MLflow's client ask with our name and password; returns the URI to give it.

        A server is told them by the variables that MLflow reads, a database in its URI.

        Raises:
            RegistryError: as `basic`.
        """
        if (basic := self.basic()) is None:
            return tracking_uri
        username, password = basic
        parts = urlsplit(tracking_uri)
        if parts.scheme not in ("http", "https"):
            both = f"{quote(username, safe='')}:{quote(password, safe='')}"
            return parts._replace(netloc=f"{both}@{parts.netloc}").geturl()
        os.environ["MLFLOW_TRACKING_USERNAME"] = username
        os.environ["MLFLOW_TRACKING_PASSWORD"] = password
        return tracking_uri
