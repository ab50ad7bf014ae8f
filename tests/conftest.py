"""Real services for the tests, started on demand, on free ports, in temporary directories.

Session fixtures:

    kafka_broker   `.bootstrap` "host:port"; `.kill()` (SIGKILL) and `.start()` for crash tests
    flink_cluster  `.address` "host:port" of the REST API, `.tls` its certificates, `.section` the
                   two as the section `[flink]`; `.jars` (what goes along with a job);
                   `.job_manager` and `.task_manager` with `.kill()` and `.start()`
    free_ports     `free_ports(n)` -> n ports on 127.0.0.1 that nothing listens on

and, for each test that asks,

    small_disk     `small_disk(MiB)` -> a file system of its own: `.path`, `.fill()`, `.clear()`

One broker and one cluster serve the whole session: use topic names of your own
(`Topics().prefixed("something-")`). Where Java, Maven or the jars cannot be had the tests that
ask for them are skipped, with the reason. Everything is ended by process id, also after a failure.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from deploy.environment import settle
from deploy.local import flink_cluster as flink
from deploy.local import kafka_broker as kafka
from deploy.local.java import JARS, JavaError, find_jars, find_java
from streaming.job.flink_tls import FlinkTls
from streaming.kafka_clients import KafkaConnection
from tests.local_servers import await_broker, await_cluster

ROOT = Path(__file__).resolve().parent.parent
POM = ROOT / "deploy" / "pom.xml"
CHECKSUMS = ROOT / "deploy" / "checksums.sha256"
ODD_NAME = "my shop %41 #1 ;x 'q' \"d\" é+&=~[x]$(y){z},ü:w ${HOME} %(here)s"
"""A directory as people name them, and then some: whatever runs in there has to find its way."""


@atexit.register
def _silence() -> None:
    """The summary is the last line: what compiled libraries say of leaks at exit is not heard."""
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked `slow`, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))


class JavaProcess:
    """A foreground Java process that the tests start, kill and start again."""

    def __init__(self, command: Sequence[str], directory: Path, output: Path) -> None:
        self.command = list(command)
        self.directory = directory
        self.output = output
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        assert not self.running
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.directory,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    def kill(self) -> None:
        """SIGKILL, as a crash does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def assert_not_ended(self, log: Path | None = None) -> None:
        """Fail with the last of what it said, if it was started and has ended by itself."""
        if self.process is not None and self.process.poll() is not None:
            said = [p.read_text(errors="replace")[-3000:] for p in (self.output, log) if p]
            raise AssertionError(
                f"{self.output.stem} ended with code {self.process.returncode}; it said:\n"
                + "\n".join(said)
            )

    def stop(self) -> None:
        if self.process is None or not self.running:
            return
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    settle(environment)  # as every start of the pipeline does, for one the locale
    return environment


def _die_with_parent() -> None:
    # A test run that is itself killed leaves no Java behind.
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


@dataclass
class Broker:
    """A running Kafka broker."""

    bootstrap: str
    process: JavaProcess

    @property
    def connection(self) -> KafkaConnection:
        return KafkaConnection(self.bootstrap)

    def kill(self) -> None:
        self.process.kill()

    def start(self) -> None:
        """Start after a kill, and wait until it answers."""
        self.process.start()
        await_broker(self.bootstrap, still_running=lambda: self.process.running)


@dataclass
class Cluster:
    """A running Flink session cluster with one TaskManager."""

    config: flink.FlinkClusterConfig
    jars: list[Path]
    job_manager: JavaProcess
    task_manager: JavaProcess

    @property
    def address(self) -> str:
        return self.config.address

    @property
    def tls(self) -> FlinkTls:
        return self.config.tls

    def assert_not_ended(self) -> None:
        """Fail where a process of it has ended that no test has killed."""
        self.task_manager.assert_not_ended(self.config.task_manager_log)
        self.job_manager.assert_not_ended(self.config.job_manager_log)

    @property
    def section(self) -> dict[str, Any]:
        files = {name: str(path) for name, path in asdict(self.tls).items()}
        return {"address": self.address, "security": files}

    def wait_until_ready(self) -> None:
        await_cluster(
            self.address,
            self.tls,
            still_running=lambda: self.job_manager.running and self.task_manager.running,
        )


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """A command run in this process logs to the output of its own test; later ones have another."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def free_ports() -> Callable[[int], list[int]]:
    # Not from the range that outgoing connections take theirs from (32768 upwards): while a test
    # has killed a broker, a client anywhere on the machine could be given its port.
    candidates = iter(random.SystemRandom().sample(range(10_240, 29_000), 5_000))

    def pick(count: int) -> list[int]:
        with ExitStack() as stack:
            found: list[int] = []
            for port in candidates:
                probe = stack.enter_context(socket.socket())
                with suppress(OSError):
                    probe.bind(("127.0.0.1", port))
                    found.append(port)
                if len(found) == count:
                    return found
        raise RuntimeError("no free ports left")

    return pick


@pytest.fixture(scope="session")
def jars() -> Path:
    """The folder of `deploy/pom.xml`'s jars, made when it is not there yet or out of date."""
    try:
        find_java()
    except JavaError as error:
        pytest.skip(str(error))
    sources = [POM, CHECKSUMS, *(ROOT / "streaming" / "java").rglob("*.java")]
    made = max((p.stat().st_mtime for p in JARS.glob("flink/sparc-*.jar")), default=0.0)
    if not any(JARS.glob("kafka/*.jar")) or made < max(p.stat().st_mtime for p in sources):
        if shutil.which("mvn") is None:
            pytest.skip(f"no Maven on the PATH to fetch {JARS}")
        command = [str(ROOT / "deploy" / "fetch_jars.sh"), str(JARS)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            pytest.skip(f"Maven could not fetch the jars: {(result.stdout + result.stderr)[-500:]}")
    return JARS


@pytest.fixture(scope="session")
def kafka_broker(
    jars: Path, free_ports: Callable[[int], list[int]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Broker]:
    port, controller_port = free_ports(2)
    config = kafka.KafkaBrokerConfig(
        data_dir=tmp_path_factory.mktemp("kafka") / ODD_NAME,
        port=port,
        controller_port=controller_port,
        jars=jars / "kafka",
    )
    kafka.prepare(config)
    process = JavaProcess(kafka.command(config), config.data_dir, config.data_dir / "output.log")
    broker = Broker(config.bootstrap, process)
    try:
        broker.start()
        yield broker
    finally:
        process.stop()


@pytest.fixture(scope="session")
def flink_cluster(
    jars: Path, free_ports: Callable[[int], list[int]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    rest, rpc, blob, task_manager, data = free_ports(5)
    config = flink.FlinkClusterConfig(
        data_dir=tmp_path_factory.mktemp("flink") / ODD_NAME,
        rest_port=rest,
        rpc_port=rpc,
        blob_port=blob,
        task_manager_port=task_manager,
        data_port=data,
    )
    flink.prepare(config)
    cluster = Cluster(
        config,
        find_jars(jars / "flink", "flink-sql-connector-kafka-*.jar"),
        *(
            JavaProcess(command, config.data_dir, config.data_dir / output)
            for command, output in (
                (flink.job_manager_command(), "job_manager.out"),
                (flink.task_manager_command(config), "task_manager.out"),
            )
        ),
    )
    try:
        cluster.job_manager.start()
        cluster.task_manager.start()
        cluster.wait_until_ready()
        yield cluster
    finally:
        cluster.task_manager.stop()
        cluster.job_manager.stop()


class SmallDisk:
    """A file system in memory that can be filled to its last byte."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Leave no room at all."""
        for size in (1 << 20, 1 << 12):
            with self._filler.open("ab", buffering=0) as file, suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass

    def clear(self) -> None:
        """Free what `fill` took."""
        self._filler.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], SmallDisk]]:
    mounted: list[Path] = []

    def mount(mebibytes: int) -> SmallDisk:
        path = tmp_path / "small-disk"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            pytest.skip(f"no mount(8): {error}")
        if done.returncode:
            pytest.skip(f"a file system may not be mounted here: {done.stderr.strip()}")
        mounted.append(path)
        return SmallDisk(path)

    yield mount
    for path in mounted:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
