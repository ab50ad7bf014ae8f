"""Replay and job against a broker that speaks TLS only and asks for a password."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from deploy.local import kafka_broker as kafka
from streaming.job.accounting import Accounts, count
from streaming.kafka_clients import KafkaConnection
from streaming.security import Security
from streaming.topics import Topics
from tests.conftest import JavaProcess
from tests.deploy.test_secrets import found_in
from tests.local_servers import await_broker, broker_answers
from tests.streaming.job.job_process import Sparc

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make certificates"),
]

USER, PASSWORD = "sparc", 'two words, "quoted"'
EVENTS = 2000


def openssl(*arguments: str, folder: Path) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@dataclass
class SecureBroker:
    bootstrap: str
    security: Security


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority of our own, and a certificate of the broker by it."""
    folder = tmp_path_factory.mktemp("certificates")
    key = ("-newkey", "rsa:2048", "-nodes", "-days", "2")
    openssl(
        *("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test-ca"),
        folder=folder,
    )
    openssl(
        *("req", *key[:3], "-keyout", "broker.key", "-out", "broker.csr", "-subj", "/CN=broker"),
        folder=folder,
    )
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(
        *("x509", "-req", "-in", "broker.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
        *("-CAcreateserial", "-days", "2", "-extfile", "names", "-out", "broker.pem"),
        folder=folder,
    )
    both = (folder / "broker.key").read_text() + (folder / "broker.pem").read_text()
    (folder / "broker-store.pem").write_text(both)
    return folder


@pytest.fixture(scope="module")
def secure_broker(
    jars: Path,
    free_ports: Callable[[int], list[int]],
    certificates: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[SecureBroker]:
    port, controller = free_ports(2)
    address = f"127.0.0.1:{port}"
    quoted = PASSWORD.replace('"', '\\"')
    login = (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        f'username="{USER}" password="{quoted}" user_{USER}="{quoted}";'
    ).replace("\\", "\\\\")  # once more, for the properties file
    config = kafka.KafkaBrokerConfig(
        data_dir=tmp_path_factory.mktemp("secure-kafka"),
        port=port,
        controller_port=controller,
        jars=jars / "kafka",
        properties={
            "listeners": f"SASL_SSL://{address},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"SASL_SSL://{address}",
            "inter.broker.listener.name": "SASL_SSL",
            "listener.security.protocol.map": "SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": login,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(certificates / "broker-store.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(certificates / "ca.pem"),
        },
    )
    security = Security(
        protocol="SASL_SSL",
        mechanism="PLAIN",
        username=USER,
        password=PASSWORD,
        ca_file=certificates / "ca.pem",
    )
    kafka.prepare(config)
    process = JavaProcess(kafka.command(config), config.data_dir, config.data_dir / "output.log")
    process.start()
    try:
        await_broker(address, still_running=lambda: process.running, client=security.kafka_python())
        yield SecureBroker(address, security)
    finally:
        process.stop()


def test_a_log_goes_through_the_job_over_tls_and_sasl(secure_broker, flink_cluster, tmp_path):
    (tmp_path / "password").write_text(PASSWORD + "\n")
    sparc = Sparc(
        tmp_path,
        kafka={
            "bootstrap": secure_broker.bootstrap,
            "prefix": "secure-",
            "security": {
                "protocol": "SASL_SSL",
                "mechanism": "PLAIN",
                "username": USER,
                "password_file": str(tmp_path / "password"),
                "ca_file": str(secure_broker.security.ca_file),
            },
        },
        streaming={"name": "secure"},
        flink={**flink_cluster.section, "checkpoints": (tmp_path / "checkpoints").as_uri()},
        # kafka-python makes the topics, librdkafka produces, Java's client is the job's
        replay={
            "synthetic": {"events": EVENTS, "users": 100, "items": 80},
            "client": "confluent-kafka",
        },
    )
    keeper = sparc.start("stream")
    try:
        code, said = sparc.run("replay")
        assert code == 0, said
        known = KafkaConnection(secure_broker.bootstrap, secure_broker.security.kafka_python())
        topics = Topics().prefixed("secure-")
        deadline = time.monotonic() + 300
        while (found := count(known, topics)).sequences < EVENTS and time.monotonic() < deadline:
            assert keeper.running, keeper.said()[-2000:]
            time.sleep(1)
        assert found == Accounts(EVENTS, EVENTS, 0, 0, 0), keeper.said()[-2000:]
        assert keeper.stop() == 0
        assert PASSWORD not in keeper.said()
        # neither here nor on the cluster's machine does it lie in a file
        (tmp_path / "password").unlink()
        for folder in (tmp_path, flink_cluster.job_manager.output.parent):
            assert found_in(folder, PASSWORD[:9].encode()) == []
    finally:
        keeper.kill()


def test_who_is_not_let_in_is_told_so_in_one_line(secure_broker, tmp_path):
    sparc = Sparc(
        tmp_path,
        kafka={
            "bootstrap": secure_broker.bootstrap,
            "security": {
                "protocol": "SASL_SSL",
                "mechanism": "PLAIN",
                "username": USER,
                "password": "wrong",
                "ca_file": str(secure_broker.security.ca_file),
            },
        },
        replay={"synthetic": {"events": 100, "users": 10, "items": 48}},
    )
    code, said = sparc.run("replay")
    assert code == 1
    last = said.splitlines()[-1]
    assert "lets nobody in" in last
    assert "[kafka" in last


def test_a_broker_of_another_authority_is_not_trusted(secure_broker, certificates, tmp_path):
    openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=other"),
        *("-keyout", str(tmp_path / "other.key"), "-out", str(tmp_path / "other.pem")),
        folder=tmp_path,
    )
    stranger = replace(secure_broker.security, ca_file=tmp_path / "other.pem")
    assert broker_answers(secure_broker.bootstrap, secure_broker.security.kafka_python())
    assert not broker_answers(secure_broker.bootstrap, stranger.kafka_python())
