"""Registrar and service with a real MLflow server and a real broker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient
from mlflow import MlflowClient

from deploy.local import mlflow_server
from deploy.registry import registrar
from deploy.registry.config import RegistryConfig
from deploy.release.ledger import registered_versions
from deploy.service import process
from deploy.service.config import ServiceConfig, Worker
from indexer.search.config import SearchConfig
from indexer.snapshots.pointer import snapshot_path
from streaming.statuses import PartStatus
from streaming.topics import Topics, create_topics
from tests.conftest import ODD_NAME
from tests.deploy.forging import forge
from tests.deploy.snapshot_maker import Shelf, clicks, make_snapshots

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).resolve().parents[2]
SEARCH = SearchConfig(codes=3)

PLAIN_PYTHON = """
import json, sys
import mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/sparc@champion")
rows = json.loads(sys.argv[2])
found = model.predict(pd.DataFrame(rows))
print(json.dumps(found.values.tolist()))
"""


class MlflowServer:
    def __init__(self, data_dir: Path, port: int) -> None:
        self.config = mlflow_server.MlflowServerConfig(port=port)
        self._command = mlflow_server.mlflow_server_command(self.config, data_dir)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, cwd=ROOT)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert self._process is not None
            assert self._process.poll() is None
            try:
                httpx.get(f"{self.config.tracking_uri}/health").raise_for_status()
                return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise AssertionError("the MLflow server does not answer")

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def end(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None and self._process.poll() is None:
            self.send(number)
            self._process.wait(20)


class Part:
    """A part's `run` in a thread, with its last report."""

    def __init__(self, run: Callable[..., None], *arguments: Any, **more: Any) -> None:
        self.status: dict[str, Any] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=run,
            args=arguments,
            kwargs={**more, "stop": self._stop, "report": self._report},
        )
        self._thread.start()

    def _report(self, status: PartStatus) -> None:
        self.status = orjson.loads(orjson.dumps(status.to_json()))

    def wait_for(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition(self.status):
            assert time.monotonic() < deadline, f"last reported: {self.status}"
            time.sleep(0.05)

    def end(self) -> None:
        self._stop.set()
        self._thread.join(40)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    made = tmp_path_factory.mktemp("made")
    make_snapshots(made, 4)
    return Shelf(tmp_path_factory.mktemp("data") / ODD_NAME, made)


@pytest.fixture(scope="module")
def topics(kafka_broker) -> Topics:
    own = Topics().prefixed("registry-")
    admin = KafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap)
    create_topics(admin, own, partitions=1)
    admin.close()
    return own


@pytest.fixture(scope="module")
def server(shelf: Shelf, free_ports) -> Iterator[MlflowServer]:
    one = MlflowServer(shelf.data_dir, free_ports(1)[0])
    yield one
    one.end()


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registrar sets these for its process; they must not reach other tests."""
    for name in ("MAX_RETRIES", "TIMEOUT"):
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", "1")


def start_registrar(shelf: Shelf, server: MlflowServer, kafka_broker, topics: Topics) -> Part:
    return Part(
        registrar.run,
        RegistryConfig(poll_seconds=0.1, longest_retry_seconds=1.0, request_timeout_seconds=3),
        shelf.data_dir,
        server.config.tracking_uri,
        kafka=kafka_broker.connection,
        topic=topics.snapshots,
        search=SEARCH,
    )


def start_service(shelf: Shelf, kafka_broker, topics: Topics) -> Part:
    connection = kafka_broker.connection
    worker = Worker(ServiceConfig(), shelf.data_dir, connection, topics.sequences, SEARCH)
    return Part(process.run, worker)


def announcements(kafka_broker, topic: str) -> list[dict[str, Any]]:
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=kafka_broker.bootstrap,
        auto_offset_reset="earliest",
        consumer_timeout_ms=3000,
    )
    records = list(consumer)
    consumer.close()
    assert {record.key for record in records} == {b"sparc"}
    return [orjson.loads(record.value) for record in records]


def test_versions_are_registered_later_in_order_once_through_every_outage(
    shelf: Shelf, server: MlflowServer, kafka_broker, topics: Topics
) -> None:
    shelf.publish(1)
    part = start_registrar(shelf, server, kafka_broker, topics)
    part.wait_for(lambda s: bool(s.get("last_error")))
    shelf.publish(2)
    part.wait_for(lambda s: s["pending"] == 2 and not s["reachable"])
    assert registered_versions(shelf.data_dir) == {}
    server.start()
    part.wait_for(lambda s: s["caught_up"])
    assert part.status["champion_version"] == 2

    server.end(signal.SIGKILL)
    shelf.publish(3)
    part.wait_for(lambda s: not s["reachable"])
    part.end()
    server.start()
    part = start_registrar(shelf, server, kafka_broker, topics)
    part.wait_for(lambda s: s["caught_up"] and s["last_registered"] == 3)

    server.send(signal.SIGSTOP)  # takes connections and answers nothing
    shelf.publish(4)
    part.wait_for(lambda s: not s["reachable"])
    server.send(signal.SIGCONT)
    part.wait_for(lambda s: s["caught_up"] and s["last_registered"] == 4)
    part.end()

    client = MlflowClient(server.config.tracking_uri)
    found = client.search_model_versions("name = 'sparc'")
    versions = {int(v.version): v.tags["snapshot_version"] for v in found}
    assert versions == {1: "1", 2: "2", 3: "3", 4: "4"}
    assert client.get_model_version_by_alias("sparc", "champion").version == "4"
    assert client.get_model_version_by_alias("sparc", "previous").version == "3"
    (run,) = client.search_runs([client.get_experiment_by_name("sparc-stream").experiment_id])
    assert run.info.status == "FINISHED"
    assert len(run.outputs.model_outputs) == 4
    sent = announcements(kafka_broker, topics.snapshots)
    assert [a["version"] for a in sent] == [1, 2, 3, 4]
    assert [a["mlflow_version"] for a in sent] == [1, 2, 3, 4]


def test_the_registered_model_answers_as_the_service_does(
    shelf: Shelf, server: MlflowServer, kafka_broker, topics: Topics
) -> None:
    if not registered_versions(shelf.data_dir):
        pytest.skip("needs the versions that the test before registers")
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap)
    for sequence in clicks():
        producer.send(topics.sequences, key=sequence.key(), value=sequence.to_bytes())
    producer.flush()
    producer.close()
    serving = start_service(shelf, kafka_broker, topics)
    serving.wait_for(lambda s: s.get("version") == 4 and s.get("users") == 20)
    serving.wait_for(lambda s: s["history_lag_records"] == 0)
    url = f"{serving.status['address']}/v1/retrieve"
    answer = httpx.post(url, json={"user_id": 5, "k": 30}).json()
    mine = [s for s in clicks() if s.user_id == 5]
    row = {
        "history": [s.target for s in mine],
        "history_times": [s.event_time for s in mine],
        "now_ms": answer["now_ms"],
        "k": 30,
    }
    prior = httpx.post(url, json={"history": [], "k": 30, "now_ms": answer["now_ms"]}).json()
    serving.end()
    rows = [row, {**row, "history": [], "history_times": []}]
    ended = subprocess.run(
        [sys.executable, "-c", PLAIN_PYTHON, server.config.tracking_uri, json.dumps(rows)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    predicted = json.loads(ended.stdout.splitlines()[-1])
    for (items, texts, scores, codes, probabilities, propensities), served in zip(
        predicted, (answer, prior), strict=True
    ):
        assert items == [item["item_id"] for item in served["items"]]
        assert texts == [item["external_id"] for item in served["items"]]
        assert scores == pytest.approx([item["score"] for item in served["items"]])
        assert codes == [item["code"] for item in served["items"]]
        assert probabilities == pytest.approx(
            [item["code_probability"] for item in served["items"]]
        )
        assert propensities == pytest.approx([item["propensity"] for item in served["items"]])
        assert propensities[-2] == 1 > propensities[-1]  # one place of 30 is drawn


def test_an_alias_moved_in_the_registry_moves_the_service_within_five_seconds(
    shelf: Shelf, server: MlflowServer, kafka_broker, topics: Topics
) -> None:
    if not registered_versions(shelf.data_dir):
        pytest.skip("needs the versions that the first test registers")
    serving = start_service(shelf, kafka_broker, topics)
    serving.wait_for(lambda s: s.get("version") == 4)
    registering = start_registrar(shelf, server, kafka_broker, topics)
    registering.wait_for(lambda s: s["caught_up"])
    client = MlflowClient(server.config.tracking_uri)
    address = serving.status["address"]
    shutil.rmtree(shelf.data_dir / snapshot_path(2))  # what left the disk comes back
    client.set_registered_model_alias("sparc", "champion", "2")
    began = time.monotonic()
    while httpx.get(f"{address}/health").json()["version"] != 2:
        assert time.monotonic() - began < 30
        time.sleep(0.05)
    seconds = time.monotonic() - began
    print(f"served after {seconds:.1f} s")
    assert seconds < (5 if os.getloadavg()[0] < 2 * (os.cpu_count() or 1) else 30)
    assert httpx.get(f"{address}/health").json()["pinned"]
    registering.wait_for(lambda s: s["caught_up"] and s["champion_version"] == 2)
    assert client.get_model_version_by_alias("sparc", "previous").version == "4"
    assert client.get_model_version_by_alias("sparc", "challenger").version == "4"
    assert client.get_model_version("sparc", "2").tags["verdict"] == "pinned"
    registering.end()
    serving.end()


def test_a_version_forged_in_the_registry_is_never_served(
    shelf: Shelf, server: MlflowServer, kafka_broker, topics: Topics
) -> None:
    if not registered_versions(shelf.data_dir):
        pytest.skip("needs the versions that the first test registers")
    serving = start_service(shelf, kafka_broker, topics)
    registering = start_registrar(shelf, server, kafka_broker, topics)
    registering.wait_for(lambda s: s["caught_up"])
    serving.wait_for(lambda s: bool(s.get("version")))
    good, address = serving.status["version"], serving.status["address"]
    (artifact,) = (shelf.data_dir / "mlflow").rglob("artifacts/00000001")
    untouched = shutil.copytree(artifact, shelf.data_dir / "untouched")
    forge(artifact)
    shutil.rmtree(shelf.data_dir / snapshot_path(1))
    for words in (("promote", "1"), ("rollback", "1"), ("promote", "v1", "--pin")):
        asked = sparc(shelf, server, *words)
        assert asked.returncode == 1, asked.stdout
        assert "is not what was published as 00000001" in asked.stderr
    client = MlflowClient(server.config.tracking_uri)
    client.set_registered_model_alias("sparc", "champion", "1")
    time.sleep(4)  # a person's move is followed within seconds
    assert registering.status["reachable"]
    assert httpx.get(f"{address}/health").json()["version"] == good
    serving.end()
    registering.end()
    assert not (shelf.data_dir / snapshot_path(1)).exists()
    serving = start_service(shelf, kafka_broker, topics)
    serving.wait_for(lambda s: s.get("version") == good)
    serving.end()
    shutil.rmtree(artifact)
    untouched.rename(artifact)
    asked = sparc(shelf, server, "promote", "1")  # what was published comes back
    assert asked.returncode == 0, asked.stderr
    client.set_registered_model_alias("sparc", "champion", str(good))


def sparc(shelf: Shelf, server: MlflowServer, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy", *words, "--data-dir", str(shelf.data_dir)],
        cwd=ROOT,
        env=os.environ | {"SPARC_REGISTRY__TRACKING_URI": server.config.tracking_uri},
        capture_output=True,
        text=True,
    )


def test_what_is_deleted_or_locked_in_the_registry_ends_nothing(
    shelf: Shelf, server: MlflowServer, kafka_broker, topics: Topics
) -> None:
    if not registered_versions(shelf.data_dir):
        pytest.skip("needs the versions that the first test registers")
    part = start_registrar(shelf, server, kafka_broker, topics)
    try:
        part.wait_for(lambda s: s["caught_up"])
        client = MlflowClient(server.config.tracking_uri)
        champion = client.get_model_version_by_alias("sparc", "champion").tags["snapshot_version"]
        on_disk = {str(int(path.name)) for path in (shelf.data_dir / "snapshots").glob("[0-9]*")}
        experiment = client.get_experiment_by_name("sparc-stream").experiment_id
        client.delete_experiment(experiment)
        client.delete_registered_model("sparc")
        part.wait_for(lambda s: f"restore --experiment-id {experiment}" in s["problem"])
        time.sleep(3)
        part.wait_for(lambda s: f"restore --experiment-id {experiment}" in s["problem"])
        client.restore_experiment(experiment)
        part.wait_for(lambda s: s["caught_up"] and not s["problem"])
        found = client.search_model_versions("name = 'sparc'")
        assert {v.tags["snapshot_version"] for v in found} == on_disk
        again = client.get_model_version_by_alias("sparc", "champion")
        assert again.tags["snapshot_version"] == champion

        database = sqlite3.connect(shelf.data_dir / "mlflow" / "mlflow.db", isolation_level=None)
        database.execute("BEGIN EXCLUSIVE")
        part.wait_for(lambda s: not s["reachable"])
        database.execute("ROLLBACK")
        database.close()
        part.wait_for(lambda s: s["caught_up"] and not s["problem"])
    finally:
        part.end()


def test_mlflow_serves_the_champion_itself(server: MlflowServer, shelf: Shelf, free_ports) -> None:
    if not registered_versions(shelf.data_dir):
        pytest.skip("needs the versions that the first test registers")
    (port,) = free_ports(1)
    command = [
        *(sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/sparc@champion"),
        *("--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)),
    ]
    environment = os.environ | {"MLFLOW_TRACKING_URI": server.config.tracking_uri}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    with (shelf.data_dir / "mlflow-models-serve.log").open("wb") as output:
        serving = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 200
        url = f"http://127.0.0.1:{port}"
        while True:
            assert serving.poll() is None, Path(output.name).read_text()[-2000:]
            assert time.monotonic() < deadline
            try:
                httpx.get(f"{url}/ping").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.3)
        rows = {"dataframe_records": [{"history": [1, "2", "B0X"], "k": 5}]}
        answer = httpx.post(f"{url}/invocations", json=rows, timeout=60)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["predictions"][0]["items"]) == 5
    finally:
        os.killpg(serving.pid, signal.SIGTERM)
        serving.wait(30)


def test_a_version_altered_in_the_registry_is_not_loaded(
    shelf: Shelf, server: MlflowServer
) -> None:
    if not registered_versions(shelf.data_dir):
        pytest.skip("needs the versions that the test before registers")
    client = MlflowClient(server.config.tracking_uri)
    tags = client.get_model_version_by_alias("sparc", "champion").tags
    name = f"{int(tags['snapshot_version']):08d}/weights.safetensors"
    (weights,) = (shelf.data_dir / "mlflow" / "artifacts").rglob(name)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    rows = json.dumps([{"history": []}])
    ended = subprocess.run(
        [sys.executable, "-c", PLAIN_PYTHON, server.config.tracking_uri, rows],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode != 0
    assert "content differs from the digest" in ended.stderr


def test_a_port_in_use_is_one_clear_line(server: MlflowServer, tmp_path: Path) -> None:
    command = mlflow_server.mlflow_server_command(server.config, tmp_path)
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert f"cannot listen on 127.0.0.1:{server.config.port}" in line
