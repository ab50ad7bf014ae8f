from __future__ import annotations

import dataclasses
import json
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from deploy import settings as configuration
from deploy.commands import doctor
from deploy.commands.app import app
from deploy.registry.config import RegistryConfig
from deploy.release.decisions import Decision, decide
from deploy.settings import Ports
from tests.deploy.snapshot_maker import Shelf

COMPOSE = Path(__file__).resolve().parents[3] / "deploy" / "compose.yaml"


def found(settings: configuration.Settings) -> dict[str, doctor.Finding]:
    return {one.name: one for one in doctor.examine(settings)}


@pytest.fixture
def settings(tmp_path: Path) -> configuration.Settings:
    return configuration.load(None, tmp_path / "data", written=False)


def test_whatever_is_not_good_has_a_remedy(settings: configuration.Settings) -> None:
    findings = doctor.examine(settings)
    assert {"Python", "packages", "Java", "jars", "disk", "memory", "GPU", "ports"} <= {
        one.name for one in findings
    }
    for one in findings:
        assert (one.grade == "good") == (one.remedy == ""), one


def test_without_java_and_maven_it_says_what_to_install(
    settings: configuration.Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    bare = settings.model_copy(update={"jars_dir": tmp_path / "jars"})
    mine = found(bare)
    assert mine["Java"].grade == mine["jars"].grade == "bad"
    assert "install JDK 17" in mine["Java"].remedy
    assert "install Maven" in mine["jars"].remedy
    assert not doctor.healthy(list(mine.values()))


def test_a_taken_port_and_a_service_that_is_away_are_named(
    settings: configuration.Settings,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        mine = found(settings.model_copy(update={"ports": Ports(service=port)}))
        assert f"service {port}" in mine["ports"].found
    registry = RegistryConfig(tracking_uri=f"http://127.0.0.1:{port}")
    mine = found(settings.model_copy(update={"registry": registry}))
    assert mine["MLflow"].grade == "bad"
    assert "[registry] tracking_uri" in mine["MLflow"].remedy


def test_a_pinned_version_is_pointed_out(
    settings: configuration.Settings, made_snapshots: Path
) -> None:
    shelf = Shelf(settings.data_dir, made_snapshots)
    shelf.publish(1)
    decide(settings.data_dir, Decision(1, "pinned", "person", "a trial"))
    assert "sparc promote newest" in found(settings)["data directory"].remedy


def test_the_command_prints_one_json_object(tmp_path: Path) -> None:
    asked = CliRunner().invoke(app, ["doctor", "--data-dir", str(tmp_path), "--json"])
    body = json.loads(asked.stdout)
    assert body["healthy"] == (asked.exit_code == 0)


def test_compose_starts_every_part_and_publishes_to_this_machine_alone() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    parts = {"replay", "stream", "train", "index", "register", "serve"}
    assert parts <= services.keys()
    for name in parts:
        assert services[name]["command"] == ["sparc", name]
    for service in services.values():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (COMPOSE.parent / source).exists(), source


def test_the_settings_in_compose_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    part = yaml.safe_load(COMPOSE.read_text())["x-part"]
    for name, value in part["environment"].items():
        monkeypatch.setenv(name, value)
    settings = configuration.load(None, written=False)
    assert settings.bootstrap == "kafka:9092"
    assert settings.tracking_uri == "http://mlflow:5000"
    assert settings.ports.service == 8000
    assert settings.flink_tls.url(settings.flink_address) == "https://flink:8081"


def test_compose_fits_the_schema() -> None:
    command = shutil.which("docker-compose")
    if command is None:
        pytest.skip("no docker-compose on the PATH (apt-get install docker-compose)")
    asked = subprocess.run(
        [command, "-f", str(COMPOSE), "config", "-q"], capture_output=True, text=True
    )
    assert asked.returncode == 0, asked.stderr


def test_a_search_on_a_gpu_that_cannot_be_is_said_with_what_to_do(
    settings: configuration.Settings,
) -> None:
    assert "search" not in found(settings)
    service = dataclasses.replace(settings.service, workers=2)
    search = dataclasses.replace(settings.search, device="cuda")
    asked = settings.model_copy(update={"search": search, "service": service})
    assert found(asked)["search"].grade == "bad"
    assert "workers is 2" in found(asked)["search"].found
    assert "use 1, which answers many queries at once" in found(asked)["search"].remedy
    alone = found(settings.model_copy(update={"search": search}))["search"]
    assert (alone.grade == "good") == torch.cuda.is_available()
