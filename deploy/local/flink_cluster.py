"""A standalone Flink session cluster on this machine, run from the apache-flink wheel.

The wheel is a whole Flink: JobManager and TaskManager are started as two foreground Java
processes, without Flink's shell scripts, so that a supervisor's signals reach the JVM itself and
a restart costs one JVM start. What the scripts would compute, the split of a process's memory,
is written out here; see "Set up TaskManager Memory" in Flink's documentation.

They run in the cluster's data directory, and every path of theirs in there is relative to it: Flink
takes a comma or a colon in a path for two paths, and log4j has its own use for `%` and `${`.

Every port of it, those between JobManager and TaskManager too, speaks TLS and takes nobody without
the certificate of the data directory: what reaches one of them runs code.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.local.cluster_identity import make_identity
from deploy.local.java import class_path, empty_temporary, find_jars, find_java
from streaming.job.flink_tls import PRIVATE_FOLDER, TLS_FOLDER, FlinkTls, write_private

if TYPE_CHECKING:
    from deploy.settings import Settings

JOB_MANAGER_HEAP_MB = 256
"""Of Java; it holds no state, and one job's graph takes a few megabytes."""
METASPACE_MB = 192
OVERHEAD_MB = 96
"""Threads, code cache and what else the JVM takes outside heap, direct memory and metaspace."""
NETWORK_MB = 48
FRAMEWORK_DIRECT_MB = 64
"""Direct memory of Netty and the Kafka clients."""

CONF = "conf"
TMP = "tmp"
LOG = "log"
JOB_MANAGER_LOG = "job_manager.log"
TASK_MANAGER_LOG = "task_manager.log"
LOG4J_PROPERTIES = "log4j.properties"
JAAS = "jaas.conf"
"""An empty file: Flink would make one, and Java takes `${` in its path for a variable."""
LOG4J = """\
rootLogger.level = INFO
rootLogger.appenderRef.file.ref = File
logger.pekko.name = org.apache.pekko
logger.pekko.level = WARN
logger.kafka.name = org.apache.kafka
logger.kafka.level = WARN
logger.kafkashaded.name = org.apache.flink.kafka.shaded
logger.kafkashaded.level = WARN
logger.checkpoints.name = org.apache.flink.runtime.checkpoint
logger.checkpoints.level = WARN
logger.appinfo.name = org.apache.kafka.common.utils.AppInfoParser
logger.appinfo.level = ERROR
appender.file.name = File
appender.file.type = RollingFile
appender.file.fileName = ${sys:log.file}
appender.file.filePattern = ${sys:log.file}.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{ISO8601} %-5p %c{1.} %m%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 16MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 3
"""

MODULES = [
    "--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED",
    "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
    *(
        f"--add-exports=jdk.compiler/com.sun.tools.javac.{package}=ALL-UNNAMED"
        for package in ("api", "file", "parser", "tree", "util")
    ),
    *(
        f"--add-opens=java.base/{package}=ALL-UNNAMED"
        for package in (
            "java.lang",
            "java.net",
            "java.io",
            "java.nio",
            "sun.nio.ch",
            "java.lang.reflect",
            "java.text",
            "java.time",
            "java.util",
            "java.util.concurrent",
            "java.util.concurrent.atomic",
            "java.util.concurrent.locks",
        )
    ),
]
"""What Flink's own configuration opens of the JDK's modules (conf/config.yaml of the wheel)."""


class FlinkClusterError(RuntimeError):
    """The cluster cannot be prepared or does not answer; the message says what to do."""


@dataclass(frozen=True)
class FlinkClusterConfig:
    """Where the cluster lives and how much it may take.

    Attributes:
        data_dir: settings, logs and temporary files of the cluster.
        host: address that everything is bound to.
        rest_port: REST API and web page of the JobManager.
        rpc_port: where TaskManagers find the JobManager.
        blob_port: where TaskManagers fetch a job's jars.
        task_manager_port: the TaskManager's RPC.
        data_port: the TaskManager's data exchange.
        slots: task slots; the job takes as many as its parallelism.
        task_manager_heap_mb: Java heap of the TaskManager in MiB; it holds the job's state.
        managed_mb: memory for RocksDB in MiB, 0 with state on the heap.
    """

    data_dir: Path
    host: str = "127.0.0.1"
    rest_port: int = 8081
    rpc_port: int = 6123
    blob_port: int = 6124
    task_manager_port: int = 6122
    data_port: int = 6121
    slots: int = 2
    task_manager_heap_mb: int = 640
    managed_mb: int = 0

    @property
    def address(self) -> str:
        """`host:port` of the REST API."""
        return f"{self.host}:{self.rest_port}"

    @property
    def tls(self) -> FlinkTls:
        """How the REST API is spoken to, once `prepare` has made the certificate."""
        return FlinkTls.in_folder(self.data_dir / TLS_FOLDER)

    @property
    def conf_dir(self) -> Path:
        """Folder with config.yaml."""
        return self.data_dir / CONF

    @property
    def job_manager_log(self) -> Path:
        """What the JobManager logs."""
        return self.data_dir / LOG / JOB_MANAGER_LOG

    @property
    def task_manager_log(self) -> Path:
        """What the TaskManager logs."""
        return self.data_dir / LOG / TASK_MANAGER_LOG


def cluster_of(settings: Settings) -> FlinkClusterConfig:
    """The cluster that a pipeline starts."""
    ports, flink = settings.ports, settings.flink
    return FlinkClusterConfig(
        data_dir=settings.flink_dir,
        rest_port=ports.flink_rest,
        rpc_port=ports.flink_rpc,
        blob_port=ports.flink_blob,
        task_manager_port=ports.flink_task_manager,
        data_port=ports.flink_data,
        slots=flink.slots,
        task_manager_heap_mb=flink.task_manager_heap_mb,
        managed_mb=flink.managed_mb,
    )


def flink_home() -> Path:
    """The folder of the installed apache-flink wheel.

    Raises:
        FlinkClusterError: if it is not installed.
    """
    spec = importlib.util.find_spec("pyflink")
    if spec is None or spec.origin is None:
        raise FlinkClusterError(
            "apache-flink is not installed in this Python; install the project with its "
            "dependencies (./deploy/start_pipeline.sh does)"
        )
    return Path(spec.origin).parent


def settings(config: FlinkClusterConfig) -> dict[str, object]:
    """The content of config.yaml."""
    return {
        "jobmanager.rpc.address": config.host,
        "jobmanager.rpc.port": config.rpc_port,
        "jobmanager.bind-host": config.host,
        "rest.address": config.host,
        "rest.bind-address": config.host,
        "rest.port": config.rest_port,
        "rest.bind-port": config.rest_port,
        "web.submit.enable": "false",
        # What it says of a job is no older, in ms: a savepoint is known as soon as it is there.
        "web.refresh-interval": 200,
        # For a browser that holds the certificate: no page but Flink's own may read.
        "web.access-control-allow-origin": config.tls.url(config.address),
        "blob.server.port": config.blob_port,
        "taskmanager.host": config.host,
        # By default it is made from the host's name, which has to resolve.
        "taskmanager.resource-id": f"{config.host}:{config.task_manager_port}",
        "taskmanager.bind-host": config.host,
        "taskmanager.rpc.port": config.task_manager_port,
        "taskmanager.data.port": config.data_port,
        "taskmanager.data.bind-port": config.data_port,
        "taskmanager.numberOfTaskSlots": config.slots,
        "taskmanager.cpu.cores": f"{config.slots}.0",
        "taskmanager.memory.framework.heap.size": "64m",
        "taskmanager.memory.task.heap.size": f"{config.task_manager_heap_mb - 64}m",
        "taskmanager.memory.managed.size": f"{config.managed_mb}m",
        "taskmanager.memory.framework.off-heap.size": f"{FRAMEWORK_DIRECT_MB}m",
        "taskmanager.memory.task.off-heap.size": "0m",
        "taskmanager.memory.network.min": f"{NETWORK_MB}m",
        "taskmanager.memory.network.max": f"{NETWORK_MB}m",
        "taskmanager.memory.jvm-metaspace.size": f"{METASPACE_MB}m",
        "taskmanager.memory.jvm-overhead.min": f"{OVERHEAD_MB}m",
        "taskmanager.memory.jvm-overhead.max": f"{OVERHEAD_MB}m",
        "jobmanager.memory.heap.size": f"{JOB_MANAGER_HEAP_MB}m",
        "jobmanager.memory.off-heap.size": f"{FRAMEWORK_DIRECT_MB}m",
        "jobmanager.memory.jvm-metaspace.size": f"{METASPACE_MB}m",
        # A killed process is noticed within seconds.
        "heartbeat.interval": "1 s",
        "heartbeat.timeout": "10 s",
        # A TaskManager that the supervisor restarts is back long before this.
        "slot.request.timeout": "120 s",
        "cluster.registration.refused-registration-delay": "1 s",
        "cluster.registration.error-delay": "1 s",
        "io.tmp.dirs": TMP,
        "jobstore.expiration-time": 24 * 3600,
        "jobstore.max-capacity": 20,
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
    }


def prepare(config: FlinkClusterConfig) -> None:
    """Write the settings. Idempotent.

    Raises:
        JavaError: no Java 17.
        FlinkClusterError: if apache-flink is not installed.
    """
    find_java()
    flink_home()
    for folder in (config.conf_dir, config.data_dir / LOG):
        folder.mkdir(parents=True, exist_ok=True)
    empty_temporary(config.data_dir / TMP)
    config.data_dir.chmod(PRIVATE_FOLDER)
    folder = config.data_dir / TLS_FOLDER
    tls = make_identity(folder, config.host)
    stores = tls.java_settings(folder, "rest", "internal", called=Path(TLS_FOLDER))
    every = settings(config) | stores
    lines = "".join(f"{name}: {_yaml(value)}\n" for name, value in every.items())
    write_private(config.conf_dir / "config.yaml", lines.encode())
    (config.conf_dir / JAAS).touch()
    (config.conf_dir / LOG4J_PROPERTIES).write_text(LOG4J, encoding="utf-8")


def _yaml(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _java(log_file: str, *options: str) -> list[str]:
    home = flink_home()
    # flink-dist comes last, as in Flink's own scripts.
    jars = sorted(
        find_jars(home / "lib", "flink-dist-*.jar"), key=lambda p: p.name.startswith("flink-dist")
    )
    return [
        str(find_java()),
        *options,
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:+IgnoreUnrecognizedVMOptions",
        *MODULES,
        f"-Dlog.file={LOG}/{log_file}",
        f"-Dlog4j.configurationFile={CONF}/{LOG4J_PROPERTIES}",
        f"-Djava.io.tmpdir={TMP}",
        f"-Djava.security.auth.login.config={CONF}/{JAAS}",
        "-cp",
        class_path(jars),
    ]


def job_manager_command() -> list[str]:
    """The command line of the JobManager, to be run in the data directory.

    It stays in the foreground and stops on SIGTERM.

    Raises:
        JavaError: no Java 17.
        FlinkClusterError: if apache-flink is not installed.
    """
    return [
        *_java(
            JOB_MANAGER_LOG,
            f"-Xmx{JOB_MANAGER_HEAP_MB}m",
            "-Xms64m",
            "-XX:+UseSerialGC",
            f"-XX:MaxMetaspaceSize={METASPACE_MB}m",
        ),
        "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
        "--configDir",
        CONF,
        "--executionMode",
        "cluster",
    ]


def task_manager_command(config: FlinkClusterConfig) -> list[str]:
    """The command line of the TaskManager, to be run in the data directory.

    It stays in the foreground and stops on SIGTERM.

    Raises:
        JavaError: no Java 17.
        FlinkClusterError: if apache-flink is not installed.
    """
    return [
        *_java(
            TASK_MANAGER_LOG,
            f"-Xmx{config.task_manager_heap_mb}m",
            "-Xms128m",
            "-XX:+UseG1GC",
            f"-XX:MaxDirectMemorySize={FRAMEWORK_DIRECT_MB + NETWORK_MB}m",
            f"-XX:MaxMetaspaceSize={METASPACE_MB}m",
        ),
        "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
        "--configDir",
        CONF,
    ]
