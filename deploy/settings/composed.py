"""Every section of the configuration, and what follows from several of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from deploy.privacy.config import PrivacyConfig
from deploy.registry.config import RegistryConfig
from deploy.service.config import ServiceConfig
from deploy.settings import sources
from deploy.settings.checking import (
    checked,
    from_json,
    refuse_unknown,
    require_secrets,
    with_absolute_paths,
)
from deploy.settings.former import refuse_former
from deploy.settings.servers import Flink, Kafka, Ports
from deploy.usable_path import require_usable
from indexer.evaluation.config import EvaluationConfig
from indexer.indexing.config import IndexerConfig
from indexer.search.config import SearchConfig
from replay.config import ReplayConfig
from streaming.item_lifetime import ItemsConfig
from streaming.job import settings as job
from streaming.job.flink_tls import TLS_FOLDER, FlinkTls
from streaming.job.savepoints import local_uri
from streaming.kafka_clients import KafkaConnection

if TYPE_CHECKING:
    from model.learning.config import LearnerConfig
    from model.training.config import TrainerConfig

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
LATEST = DATA / "latest"
CONFIG = "config.toml"
MARK = ".sparc"
"""File that marks a data directory as ours: `--fresh` empties no other one."""
HERE = "127.0.0.1"
"""Where the servers listen that the pipeline starts by itself."""


class Settings(BaseSettings):
    """Everything that can be set; a section of the TOML file per field.

    The sections `[learner]` and `[trainer]` are kept as they are written: their types need torch,
    and half a gigabyte of memory for a process that does not train is too much for a type check.
    `learner_config` and `trainer_config` check them.

    Attributes:
        data_dir: state of the pipeline.
        secrets_file: a file of the same form, of which only the secrets are read.
        jars_dir: the jars that `deploy/fetch_jars.sh` lays out.
        log_level: "debug", "info", "warning" or "error".
        drain_timeout_seconds: how long a drain may stand still until it is given up.
        kafka: how to reach Kafka.
        flink: how to reach Flink.
        ports: of the local processes.
        replay: the log, and how it is replayed.
        streaming: the streaming job.
        learner: the model, and how it learns.
        trainer: the process that trains it.
        evaluation: the protocol of `sparc evaluate`.
        items: how long items live.
        indexer: when lists are rebuilt, and what is kept.
        search: how a query is answered.
        registry: where and how snapshots are registered.
        service: how the retrieval service runs.
        privacy: how long what users did is kept.
    """

    model_config = SettingsConfigDict(
        env_prefix="SPARC_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,  # a traceback shows no secret
    )

    data_dir: Path = LATEST
    secrets_file: Path | None = None
    jars_dir: Path = ROOT / ".deploy" / "jars"
    log_level: str = "info"
    drain_timeout_seconds: float = 300.0
    kafka: Kafka = Kafka()
    flink: Flink = Flink()
    ports: Ports = Ports()
    replay: ReplayConfig = ReplayConfig()
    streaming: job.JobConfig = job.JobConfig()
    learner: dict[str, Any] = {}
    trainer: dict[str, Any] = {}
    items: ItemsConfig = ItemsConfig()
    indexer: IndexerConfig = IndexerConfig()
    search: SearchConfig = SearchConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    registry: RegistryConfig = RegistryConfig()
    service: ServiceConfig = ServiceConfig()
    privacy: PrivacyConfig = PrivacyConfig()

    @pydantic.field_validator("data_dir", "jars_dir")
    @classmethod
    def _usable(cls, path: Path) -> Path:
        found = path.expanduser().resolve()
        require_usable(found)
        return found

    @pydantic.field_validator("kafka", "replay", "flink")
    @classmethod
    def _absolute(cls, config: Any) -> Any:
        # The parts run in another directory than the one that reads the file first.
        return with_absolute_paths(config)

    @pydantic.field_validator("flink")
    @classmethod
    def _place_of_checkpoints(cls, config: Flink) -> Flink:
        place = Path(config.checkpoints).expanduser()
        if place.is_absolute():
            return replace(config, checkpoints=local_uri(place))
        if config.checkpoints and ":" not in config.checkpoints:
            raise ValueError(
                f"checkpoints is {config.checkpoints!r}: an absolute path, or a URI such as "
                "s3://bucket/checkpoints"
            )
        return config

    @pydantic.model_validator(mode="before")
    @classmethod
    def _known_settings_only(cls, values: Any) -> Any:
        refuse_former(values)
        for name, field_info in cls.model_fields.items():
            from_json(field_info.annotation, values.get(name))
            refuse_unknown(field_info.annotation, values.get(name), f"[{name}]")
        return values

    @property
    def bootstrap(self) -> str:
        """`host:port,...` of Kafka, the local broker's where no other is configured."""
        return self.kafka.bootstrap or f"{HERE}:{self.ports.kafka}"

    @property
    def kafka_connection(self) -> KafkaConnection:
        """How the pipeline's own clients reach Kafka.

        Raises:
            SecurityError: if a file of `[kafka.security]` cannot be read.
            SettingsError: if a secret is only known to the pipeline that was started.
        """
        return KafkaConnection(self.bootstrap, self.kafka.client_settings)

    @property
    def flink_address(self) -> str:
        """`host:port` of Flink's REST API, the local cluster's where no other is configured."""
        return self.flink.address or f"{HERE}:{self.ports.flink_rest}"

    @property
    def flink_dir(self) -> Path:
        """What the local Flink cluster keeps."""
        return self.data_dir / "flink"

    @property
    def flink_tls(self) -> FlinkTls:
        """How Flink's REST API is spoken to."""
        if self.flink.address:
            return self.flink.security
        return FlinkTls.in_folder(self.flink_dir / TLS_FOLDER)

    @property
    def tracking_uri(self) -> str:
        """Of MLflow, the local server's where no other is configured."""
        return self.registry.tracking_uri or f"http://{HERE}:{self.ports.mlflow}"

    def job_environment(self) -> job.JobEnvironment:
        """Where the streaming job runs, and what it takes along.

        Raises:
            SecurityError: if a file of `[kafka.security]` cannot be read.
            SettingsError: if a secret is only known to the pipeline that was started.
        """
        require_secrets(self.streaming.properties, "streaming.properties")
        return job.JobEnvironment(
            bootstrap=self.bootstrap,
            flink=self.flink_address,
            jars=tuple(str(p) for p in sorted((self.jars_dir / "flink").glob("*.jar"))),
            checkpoints=self.flink.checkpoints
            or local_uri(self.data_dir.resolve() / "checkpoints"),
            topics=self.kafka.topics(),
            client=self.kafka.security.java(),
            tls=self.flink_tls,
        )

    def learner_config(self) -> LearnerConfig:
        """The section `[learner]`, checked; imports torch.

        Raises:
            SettingsError: naming the setting that is wrong.
        """
        from model.learning.config import LearnerConfig

        return checked("learner", LearnerConfig, self.learner)

    def trainer_config(self) -> TrainerConfig:
        """The section `[trainer]`, checked.

        Raises:
            SettingsError: naming the setting that is wrong.
        """
        from model.training.config import TrainerConfig

        return checked("trainer", TrainerConfig, self.trainer)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """See `deploy.settings.sources`."""
        return sources.in_order(settings_cls, init_settings, env_settings)
