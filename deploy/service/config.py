"""How the retrieval service runs; whoever reads the settings imports nothing else of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from deploy.http.connections import Limits
from deploy.release.config import JudgeConfig
from streaming.secret import MASK, remember

if TYPE_CHECKING:
    from indexer.search.config import SearchConfig
    from streaming.kafka_clients import KafkaConnection
    from streaming.topics import Topics

MOST_WORKERS = 64
GPU_WAIT_MS, LONGEST_WAIT_MS = 2.0, 1000.0
"""How long a query waits for others: where nothing is said and lists are on a GPU; at most."""


class ServiceError(RuntimeError):
    """The service cannot start, or its server ended; the message says why."""


@dataclass(frozen=True)
class AnswerLogConfig:
    """How much is logged.

    Attributes:
        enabled: whether answers are logged at all.
        rows: answers per file.
        seconds: after which a file is written however few they are.
        keep_files: newest files that are kept; older ones are removed.
    """

    enabled: bool = True
    rows: int = 4096
    seconds: float = 60.0
    keep_files: int = 1000

    def __post_init__(self) -> None:
        for name in ("rows", "keep_files"):
            if getattr(self, name) < 1:
                raise ValueError(f"service.answers.{name} is {getattr(self, name)}: use 1 or more")
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"service.answers.seconds is {self.seconds}: use more than 0")


@dataclass(frozen=True)
class ServiceConfig:
    """How the service runs.

    Attributes:
        host: address to bind; anything but loopback exposes an unauthenticated service.
        workers: processes that answer on the port, see `deploy.service.workers`.
        threads: queries that each of them answers at the same time. They share an interpreter, so
            more than one helps little; further workers do.
        poll_seconds: how often the pointer is looked at.
        body_limit_bytes: longest request body.
        queue: requests that may wait for a thread; further ones are answered 429.
        timeout_seconds: after which a request is given up with 504.
        batch_wait_ms: how long a query waits for others that are searched together with it, at most
            64; 0: not at all, each is searched alone; none: 2 where lists are searched on a GPU,
            else 0.
        hosts: names that requests may come under beside `localhost`, `host` and addresses: those
            of a proxy's public site, or of a container; `*` for any.
        limits: of connections and of what they may cost.
        token: asked of every request as `Authorization: Bearer ...`; empty: nobody is asked.
            Better in `SPARC_SERVICE__TOKEN`, or in a file.
        token_file: holds the token, and nothing else but a line's end.
        judge: how a newer version is compared with the served one before it takes over.
        answers: the log of what was answered, with the probability of each item.
    """

    host: str = "127.0.0.1"
    workers: int = 1
    threads: int = 1
    poll_seconds: float = 0.2
    body_limit_bytes: int = 1_048_576
    queue: int = 64
    timeout_seconds: float = 2.0
    batch_wait_ms: float | None = None
    token: SecretStr = SecretStr("")
    token_file: Path | None = None
    hosts: tuple[str, ...] = ()
    limits: Limits = Limits()
    judge: JudgeConfig = JudgeConfig()
    answers: AnswerLogConfig = AnswerLogConfig()

    def __post_init__(self) -> None:
        if isinstance(self.token, str):
            object.__setattr__(self, "token", SecretStr(self.token))
        if not 1 <= self.workers <= MOST_WORKERS:
            raise ValueError(f"service.workers is {self.workers}: use 1 to {MOST_WORKERS}")
        for name, least in (("threads", 1), ("queue", 0), ("body_limit_bytes", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"service.{name} is {getattr(self, name)}: use {least} or more")
        for name in ("poll_seconds", "timeout_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"service.{name} is {getattr(self, name)}: use more than 0")
        if not 0 <= (self.batch_wait_ms or 0) <= LONGEST_WAIT_MS:
            raise ValueError(
                f"service.batch_wait_ms is {self.batch_wait_ms}: use 0 to {LONGEST_WAIT_MS}"
            )
        if (self.batch_wait_ms or 0) >= self.timeout_seconds * 1000:
            raise ValueError(
                f"service.batch_wait_ms is {self.batch_wait_ms}, and requests are given up after "
                f"timeout_seconds = {self.timeout_seconds}: wait for less"
            )

    def bearer(self) -> str:
        """The token, from wherever it is; empty where none is asked.

        Raises:
            ServiceError: if the file cannot be read, or only the service that runs knows it.
        """
        token = self.token.get_secret_value()
        if not token and self.token_file is not None:
            try:
                token = self.token_file.read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                raise ServiceError(
                    f"[service] token_file: cannot read {self.token_file}: {error}"
                ) from error
            if not token:
                raise ServiceError(f"[service] token_file: {self.token_file} is empty")
        if token == MASK:
            raise ServiceError(
                "[service] token is not written into files: set SPARC_SERVICE__TOKEN, name a "
                "token_file, or give the --config that holds it"
            )
        remember(token)
        return token


@dataclass(frozen=True)
class Worker:
    """One process of the service: what it answers with, and where that comes from.

    Attributes:
        config: limits and threads.
        data_dir: holds `snapshots/` and `current.json`; `service/` is the service's own.
        kafka: where the sequences are.
        topic: of the sequences.
        search: how queries are searched.
        port: to listen on; 0 picks a free one, which the status tells.
        number: which of `config.workers` it is.
        topics: where clicks and items that come over HTTP go; None: none are taken.
        delay_ms: how far behind the clock the job lets clicks be.
        keep_days: how long answers are kept, and what the topics hold; 0 for ever.
    """

    config: ServiceConfig
    data_dir: Path
    kafka: KafkaConnection
    topic: str
    search: SearchConfig
    port: int = 0
    number: int = 1
    topics: Topics | None = None
    delay_ms: int = 0
    keep_days: float = 0.0

    @property
    def first(self) -> bool:
        """The first one is the service: it judges, measures and reports, the others only answer."""
        return self.number == 1

    @property
    def folder(self) -> Path:
        """What it keeps on disk."""
        folder = self.data_dir / "service"
        return folder if self.first else folder / f"worker-{self.number}"
