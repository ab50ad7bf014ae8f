"""The configuration of the whole pipeline: each part's `Config`, composed from one TOML file.

Precedence, highest first: command-line flags, `SPARC_...` variables (`SPARC_TRAINER__BATCH_SIZE`
for `batch_size` in the section `[trainer]`), the TOML file, the defaults in the code.
`sparc config show` prints the effective result in the form of the file.

Secrets (see `streaming.secret`) are shown and written as asterisks. The processes of a pipeline get
them by a variable; a question from another terminal takes them from its own variables, from the
file that the pipeline was started with (`secrets_file`), or from one given with `--config`.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_origin, get_type_hints

import orjson
import pydantic
import tomli_w
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from deploy.local import flink_cluster, kafka_broker, mlflow_server
from deploy.local.ports import Ports
from deploy.registry.config import RegistryConfig
from deploy.service.config import ServiceConfig
from deploy.usable_path import require_text, require_usable
from indexer.indexing.indexer import IndexerConfig
from indexer.search.soft_search import SearchConfig
from replay.config import ReplayConfig
from streaming.job import settings as job
from streaming.job.flink_tls import FlinkTls
from streaming.job.savepoints import local_uri
from streaming.secret import MASK, first_masked, is_secret, masked, remember, secrets_of
from streaming.security import Security
from streaming.topics import Topics

if TYPE_CHECKING:
    from deploy.studies.config import EvaluationConfig
    from model.learning.learner import LearnerConfig
    from model.training.trainer import TrainerConfig

C = TypeVar("C")

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
LATEST = DATA / "latest"
CONFIG = "config.toml"
SECRETS = "SPARC_SECRETS"
"""Variable with the secrets of a pipeline, as JSON: they stand in no file that it writes."""
CLIENT_SETTINGS = frozenset(KafkaConsumer.DEFAULT_CONFIG) & frozenset(
    KafkaProducer.DEFAULT_CONFIG.keys() & KafkaAdminClient.DEFAULT_CONFIG.keys()
)
"""What every client of kafka-python understands."""


class SettingsError(ValueError):
    """The configuration is wrong; the message names the setting."""


@dataclass(frozen=True)
class Kafka:
    """How to reach Kafka.

    Attributes:
        bootstrap: `host:port,...` of a running Kafka; empty: a local broker is started.
        heap_mb: Java heap of the local broker in MiB.
        security: TLS and SASL, for every client of the pipeline, the job's among them.
        client: further settings of kafka-python.
        prefix: put before every topic name.
        partitions: of `clicks` and `sequences`, when they are created.
        replication: of every topic, when it is created.
    """

    bootstrap: str = ""
    heap_mb: int = 512
    security: Security = field(default_factory=Security)
    client: dict[str, Any] = field(default_factory=dict, repr=False)
    prefix: str = ""
    partitions: int = 1
    replication: int = 1

    def __post_init__(self) -> None:
        for name in self.client.keys() - CLIENT_SETTINGS:  # it would print them, values and all
            near = difflib.get_close_matches(name, CLIENT_SETTINGS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"[kafka.client] kafka-python has no setting {name!r}{hint}")

    @property
    def client_settings(self) -> dict[str, Any]:
        """For kafka-python; by default it notices a broker that is back only after 30 s.

        Raises:
            SecurityError: if a file of `security` cannot be read.
            SettingsError: if a secret is only known to the pipeline that was started.
        """
        _require_secrets(self.client, "kafka.client")
        return {"reconnect_backoff_max_ms": 1000, **self.security.kafka_python(), **self.client}

    def topics(self) -> Topics:
        """The topic names."""
        return Topics().prefixed(self.prefix)


@dataclass(frozen=True)
class Flink:
    """How to reach Flink.

    Attributes:
        address: `host:port` of a session cluster's REST API; empty: a local cluster is started.
        security: TLS for that API. The local cluster has certificates of its own.
        checkpoints: a directory that the cluster and `sparc stream` can reach, as an absolute path
            or a URI; `file:` and the path as it is, as Flink does not percent-decode. Empty: a
            folder of the data directory.
        slots: task slots of the local cluster; the job takes as many as its parallelism.
        job_manager_heap_mb: Java heap of the local JobManager in MiB.
        task_manager_heap_mb: Java heap of the local TaskManager in MiB; it holds the job's state.
        managed_mb: memory for RocksDB in the local TaskManager in MiB; 0 with state on the heap.
    """

    address: str = ""
    security: FlinkTls = FlinkTls()
    checkpoints: str = ""
    slots: int = 2
    job_manager_heap_mb: int = 256
    task_manager_heap_mb: int = 640
    managed_mb: int = 0

    def __post_init__(self) -> None:
        if "://" in self.address:
            raise ValueError(
                f"[flink] address is {self.address!r}: give host:port; [flink.security] ca_file "
                "makes it https"
            )
        if masked(self.checkpoints) != self.checkpoints:
            raise ValueError(
                "[flink] checkpoints holds a password, and Flink's page shows it; give it to the "
                "cluster in Flink's own configuration (such as s3.secret-key)"
            )


class Settings(BaseSettings):
    """Everything that can be set; a section of the TOML file per field.

    The sections `[learner]`, `[trainer]` and `[evaluation]` are kept as they are written: their
    types need torch, and half a gigabyte of memory for a process that does not train is too much
    for a type check. `learner_config`, `trainer_config` and `evaluation_config` check them.

    Of `secrets_file`, a file of the same form, only the secrets are read.
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
    evaluation: dict[str, Any] = {}
    indexer: IndexerConfig = IndexerConfig()
    search: SearchConfig = SearchConfig()
    registry: RegistryConfig = RegistryConfig()
    service: ServiceConfig = ServiceConfig()

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
        return _with_absolute_paths(config)

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
        for name, field_info in cls.model_fields.items():
            _from_json(field_info.annotation, values.get(name))
            _refuse_unknown(field_info.annotation, values.get(name), f"[{name}]")
        return values

    @property
    def bootstrap(self) -> str:
        """`host:port,...` of Kafka, the local broker's where no other is configured."""
        return self.kafka.bootstrap or self.local_broker().bootstrap

    @property
    def flink_address(self) -> str:
        """`host:port` of Flink's REST API, the local cluster's where no other is configured."""
        return self.flink.address or self.local_cluster().address

    @property
    def flink_tls(self) -> FlinkTls:
        """How Flink's REST API is spoken to."""
        return self.flink.security if self.flink.address else self.local_cluster().tls

    @property
    def tracking_uri(self) -> str:
        """Of MLflow, the local server's where no other is configured."""
        return self.registry.tracking_uri or self.local_mlflow().tracking_uri

    def local_broker(self) -> kafka_broker.KafkaBrokerConfig:
        """The Kafka broker that the pipeline starts."""
        return kafka_broker.KafkaBrokerConfig(
            data_dir=self.data_dir / "kafka",
            port=self.ports.kafka,
            controller_port=self.ports.kafka_controller,
            heap_mb=self.kafka.heap_mb,
            jars=self.jars_dir / "kafka",
        )

    def local_cluster(self) -> flink_cluster.FlinkClusterConfig:
        """The Flink cluster that the pipeline starts."""
        return flink_cluster.FlinkClusterConfig(
            data_dir=self.data_dir / "flink",
            rest_port=self.ports.flink_rest,
            rpc_port=self.ports.flink_rpc,
            blob_port=self.ports.flink_blob,
            task_manager_port=self.ports.flink_task_manager,
            data_port=self.ports.flink_data,
            slots=self.flink.slots,
            job_manager_heap_mb=self.flink.job_manager_heap_mb,
            task_manager_heap_mb=self.flink.task_manager_heap_mb,
            managed_mb=self.flink.managed_mb,
        )

    def local_mlflow(self) -> mlflow_server.MlflowServerConfig:
        """The MLflow server that the pipeline starts."""
        return mlflow_server.MlflowServerConfig(port=self.ports.mlflow)

    def job_surroundings(self) -> job.JobEnvironment:
        """Where the streaming job runs, and what it takes along.

        Raises:
            SecurityError: if a file of `[kafka.security]` cannot be read.
            SettingsError: if a secret is only known to the pipeline that was started.
        """
        _require_secrets(self.streaming.properties, "streaming.properties")
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
        from model.learning import learner

        return _checked("learner", learner.LearnerConfig, self.learner)

    def trainer_config(self) -> TrainerConfig:
        """The section `[trainer]`, checked; imports torch.

        Raises:
            SettingsError: naming the setting that is wrong.
        """
        from model.training import trainer

        return _checked("trainer", trainer.TrainerConfig, self.trainer)

    def evaluation_config(self) -> EvaluationConfig:
        """The section `[evaluation]`, checked; imports torch.

        Raises:
            SettingsError: naming the setting that is wrong.
        """
        from deploy.studies import config

        return _checked("evaluation", config.EvaluationConfig, self.evaluation)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags over variables over what the pipeline passes on over the TOML file."""
        toml = TomlConfigSettingsSource(settings_cls, toml_file=_file_in_use)
        passed_on = orjson.loads(os.environ.get(SECRETS) or b"{}")
        aside = _secrets_aside(env_settings(), toml())
        return (
            init_settings,
            env_settings,
            InitSettingsSource(settings_cls, passed_on),
            InitSettingsSource(settings_cls, aside),
            toml,
        )


def _secrets_aside(*places: dict[str, Any]) -> dict[str, Any]:
    """The secrets of the `secrets_file` that the first of the places names."""
    named = next((str(p["secrets_file"]) for p in places if p.get("secrets_file")), None)
    if named is None:
        return {}
    try:
        return secrets_of(tomllib.loads(Path(named).read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"secrets_file {named}: not TOML: {error}") from error
    except (OSError, UnicodeDecodeError):
        return {}  # it may be readable to the pipeline's user alone


_file_in_use: Path | None = None


def load(
    config: Path | None = None,
    data_dir: Path | None = None,
    *,
    written: bool = True,
    **overrides: Any,
) -> Settings:
    """Read the effective configuration.

    Args:
        config: the TOML file; else `SPARC_CONFIG`; else what a pipeline has `written`.
        data_dir: else `SPARC_DATA_DIR`; else that of the last pipeline that was started.
        written: whether the `config.toml` that `sparc up` leaves in the data directory counts.
        overrides: values of flags, by field; those of a section as a mapping.

    Raises:
        SettingsError: naming the file or the setting that is wrong.
    """
    global _file_in_use  # pydantic-settings builds its sources inside the constructor
    if config is None and (given := os.environ.get("SPARC_CONFIG")):
        config = Path(given)
    if data_dir is None and (given := os.environ.get("SPARC_DATA_DIR")):
        data_dir = Path(given)
    if config is None:
        left = (data_dir or LATEST) / CONFIG
        config = left if written and left.is_file() else None
    elif not config.is_file():
        what = "a directory, not a" if config.is_dir() else "no such"
        raise SettingsError(f"{config}: {what} configuration file")
    if data_dir is not None:
        overrides["data_dir"] = data_dir
    _file_in_use = config
    remember(orjson.loads(os.environ.get(SECRETS) or b"{}"))
    try:
        settings = Settings(**{k: v for k, v in overrides.items() if v is not None})
    except ValidationError as error:
        raise SettingsError(f"{_first_problem(error)} (file: {config or 'none'})") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{config}: not TOML: {error}") from error
    finally:
        _file_in_use = None
    body = settings.model_dump()
    remember(secrets_of(body))
    ours = config is not None and config.resolve() == (settings.data_dir / CONFIG).resolve()
    if not ours and (name := first_masked(body)):
        raise SettingsError(
            f"{name} is {MASK}, which is shown in place of a secret; give the secret itself "
            f"(file: {config or 'none'})"
        )
    return settings


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without the variables that set something here.

    >>> without_settings({"SPARC_REPLAY__RATE": "5", "sparc_config": "a.toml", "HOME": "/root"})
    {'HOME': '/root'}
    """
    known = {"config", "secrets", *Settings.model_fields}
    prefix = Settings.model_config["env_prefix"].lower()
    return {
        name: value
        for name, value in environment.items()
        if not name.lower().startswith(prefix)
        or name.lower().removeprefix(prefix).split("__")[0] not in known
    }


def _with_absolute_paths(config: Any) -> Any:
    """A dataclass with its paths made absolute, those of the dataclasses in it, too."""
    changed = {}
    for each in fields(config):
        value = getattr(config, each.name)
        if isinstance(value, Path):
            require_text(value)
            changed[each.name] = value.expanduser().absolute()
        elif is_dataclass(value):
            changed[each.name] = _with_absolute_paths(value)
    return replace(config, **changed)


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the configuration"
    given = first.get("input")
    # A whole section may hold a password, and a name that there is not may have been meant for one.
    tellable = isinstance(given, str | int | float) and first["type"] not in UNTOLD
    if not tellable or any(is_secret(str(part)) for part in first["loc"]):
        return f"{where}: {first['msg']}"
    return f"{where}: {first['msg']}, not {_short(masked(given))!r}"


UNTOLD = ("extra_forbidden", "dataclass_type", "dict_type")


def _short(given: Any) -> Any:
    return f"{given[:60]}..." if isinstance(given, str) and len(given) > 60 else given


def _require_secrets(section: Mapping[str, Any], where: str) -> None:
    """Refuse to use a section whose secrets are not known in this process."""
    if name := first_masked(section, where):
        variable = f"SPARC_{name.replace('.', '__').upper()}" if name.count(".") < 3 else SECRETS
        raise SettingsError(
            f"{name} is not written into files: set {variable}, or give the --config that holds it"
        )


def _from_json(kind: Any, value: Any) -> None:
    """A list or a table in a variable is JSON: pydantic does not look into standard dataclasses."""
    if not (is_dataclass(kind) and isinstance(value, dict)):
        return
    for name, part_kind in get_type_hints(kind).items():
        part = value.get(name)
        if isinstance(part, str) and get_origin(part_kind) in (tuple, list, dict):
            with suppress(ValueError):  # what it is instead is said with the setting's name
                value[name] = orjson.loads(part)
        _from_json(part_kind, value.get(name))


def _refuse_unknown(kind: Any, value: Any, where: str) -> None:
    """Refuse a setting that no dataclass knows: pydantic ignores those of standard dataclasses."""
    if not (is_dataclass(kind) and isinstance(value, Mapping)):
        return
    known = get_type_hints(kind)
    for name, part in value.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(sorted(known))}"
            raise ValueError(f"{where} has no setting {name!r}{hint}")
        _refuse_unknown(known[name], part, f"{where[:-1]}.{name}]")


def _checked(section: str, kind: type[C], value: dict[str, Any]) -> C:
    try:
        _refuse_unknown(kind, value, f"[{section}]")
        return pydantic.TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise SettingsError(f"[{section}] {_first_problem(error)}") from error
    except ValueError as error:
        raise SettingsError(str(error)) from error


def complete(settings: Settings) -> dict[str, Any]:
    """Every setting with its value, also those that are kept unchecked; imports torch."""
    body = settings.model_dump(mode="json")
    body["learner"] = asdict(settings.learner_config())
    body["trainer"] = asdict(settings.trainer_config())
    body["evaluation"] = asdict(settings.evaluation_config())
    shown: dict[str, Any] = masked(body)
    return shown


def as_toml(settings: Settings | dict[str, Any]) -> str:
    """The configuration in the form of the file, secrets masked, without what is unset."""
    body = settings if isinstance(settings, dict) else settings.model_dump(mode="json")
    return tomli_w.dumps(_without_null(masked(body)))


def passed_on(settings: Settings) -> dict[str, str]:
    """The variable by which the processes of a pipeline get what `as_toml` leaves out."""
    found = secrets_of(settings.model_dump())
    return {SECRETS: orjson.dumps(found).decode()} if found else {}


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_null(v) for k, v in value.items() if v is not None}
    return [_without_null(v) for v in value] if isinstance(value, list | tuple) else value
