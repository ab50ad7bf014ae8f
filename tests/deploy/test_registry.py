from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from deploy import version_facts
from deploy.mlflow_registry import CHALLENGER, CHAMPION, PREVIOUS, Registry
from deploy.registrar import Backoff, Registrar
from deploy.registry import (
    Config,
    Ledger,
    RegisteredVersion,
    RegistryError,
    ledger_path,
    registered_versions,
)
from indexer.pointer import snapshot_path
from indexer.soft_search import Config as SearchConfig
from model.manifest import MANIFEST, Manifest, publish, read_manifest
from tests.deploy.snapshot_maker import Shelf


class Shaky:
    """A registry in memory; `fail` names the next calls that break before or after their effect."""

    def __init__(self) -> None:
        self.registered: list[RegisteredVersion] = []
        self.parents: list[int | None] = []
        self.champion: int | None = None
        self.challenger: int | None = None
        self.fail: list[str] = []

    def _maybe(self, point: str) -> None:
        if self.fail and self.fail[0] == point:
            self.fail.pop(0)
            raise ConnectionError(point)

    def open(self) -> str:
        self._maybe("open")
        return "run"

    def versions(self) -> dict[str, RegisteredVersion]:
        return {v.digest: v for v in self.registered}

    def register(
        self, directory: Path, manifest: Manifest, parent: Manifest | None
    ) -> RegisteredVersion:
        self._maybe("before register")
        if manifest.digest not in self.versions():
            self.registered.append(
                RegisteredVersion(
                    len(self.registered) + 1, manifest.facts["version"], manifest.digest
                )
            )
            self.parents.append(parent.facts["version"] if parent else None)
        self._maybe("after register")
        return self.versions()[manifest.digest]

    def promote(self, mlflow_version: int) -> None:
        self._maybe("promote")
        self.champion = mlflow_version

    def challenge(self, mlflow_version: int | None) -> None:
        self.challenger = mlflow_version


class Registering:
    """A registrar on a data directory; `start` starts it again, as after a crash."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.registry = Shaky()
        self.announced: list[dict[str, Any]] = []
        self.kafka_fails = 0
        self.start()

    def start(self) -> None:
        self.registrar = Registrar(Config(), self.shelf.data_dir, self.registry, self._announce)

    def _announce(self, model_name: str, facts: Mapping[str, Any]) -> None:
        assert model_name == "sparc"
        if self.kafka_fails:
            self.kafka_fails -= 1
            raise ConnectionError("no broker")
        self.announced.append(dict(facts))

    def settle(self) -> None:
        """Step, starting again after every failure, until nothing is due."""
        while True:
            try:
                while self.registrar.step() or self.registrar.announce_next():
                    pass
                return
            except ConnectionError:
                self.start()

    @property
    def numbers(self) -> list[int]:
        return [v.snapshot_version for v in self.registry.registered]


@pytest.fixture
def registering(shelf: Shelf) -> Registering:
    return Registering(shelf)


def test_snapshots_are_registered_in_order_once_and_announced(registering: Registering) -> None:
    for version in (2, 1, 3):
        registering.shelf.publish(version)
    registering.settle()
    assert registering.numbers == [1, 2, 3]
    assert registering.registry.parents == [None, 1, 2]
    assert registering.registry.champion == 3
    assert [a["version"] for a in registering.announced] == [1, 2, 3]
    assert registering.announced[2]["mlflow_version"] == 3
    assert registering.announced[2]["offsets"] == {"sequences": {"0": 72}, "items": {"0": 60}}
    status = registering.registrar.status()
    assert (status["registered_versions"], status["last_registered"]) == (3, 3)
    assert (status["champion_version"], status["pending"]) == (3, 0)
    assert status["caught_up"]
    assert registered_versions(registering.shelf.data_dir) == {1: 1, 2: 2, 3: 3}


@pytest.mark.parametrize("point", ["open", "before register", "after register", "promote"])
def test_a_crash_at_any_point_registers_nothing_twice(registering: Registering, point: str) -> None:
    registering.shelf.publish(1)
    registering.shelf.publish(2)
    registering.registry.fail = [point] * 2
    registering.settle()
    assert registering.numbers == [1, 2]
    assert registering.registry.champion == 2
    assert [a["version"] for a in registering.announced] == [1, 2]


def test_while_the_registry_is_down_snapshots_wait_and_keep_their_order(
    registering: Registering,
) -> None:
    registering.registry.fail = ["open"]
    registering.shelf.publish(1)
    with pytest.raises(ConnectionError):
        registering.registrar.step()
    registering.shelf.publish(2)
    status = registering.registrar.status()
    assert (status["pending"], status["caught_up"]) == (2, False)
    assert registered_versions(registering.shelf.data_dir) == {}  # retention must spare them
    registering.settle()
    assert registering.numbers == [1, 2]


def test_without_kafka_registration_goes_on_and_announcements_come_later(
    registering: Registering,
) -> None:
    registering.kafka_fails = 3
    registering.shelf.publish(1)
    while registering.registrar.step():
        pass
    with pytest.raises(ConnectionError):
        registering.registrar.announce_next()
    assert registering.numbers == [1]
    assert registering.registrar.status()["unannounced"] == 1
    shutil.rmtree(registering.shelf.data_dir / snapshot_path(1))  # retention after registration
    registering.settle()
    assert [a["version"] for a in registering.announced] == [1]


def test_a_snapshot_newer_than_the_pointer_is_challenger_until_it_is_served(
    registering: Registering,
) -> None:
    registering.shelf.publish(1)
    registering.shelf.publish(2, move_pointer=False)
    registering.settle()
    assert (registering.registry.champion, registering.registry.challenger) == (1, 2)
    registering.shelf.point_at(2)
    assert not registering.registrar.status()["caught_up"]
    registering.settle()
    assert (registering.registry.champion, registering.registry.challenger) == (2, None)
    assert registering.registrar.status()["caught_up"]


def test_a_damaged_snapshot_is_refused_and_the_next_is_registered(
    registering: Registering,
) -> None:
    registering.shelf.publish(1)
    registering.shelf.publish(2)
    (registering.shelf.data_dir / snapshot_path(1) / "items.parquet").write_bytes(b"")
    registering.settle()
    assert registering.numbers == [2]
    assert registering.registrar.status()["refused"] == 1


def test_a_registry_that_was_emptied_is_filled_again(registering: Registering) -> None:
    registering.shelf.publish(1)
    registering.settle()
    registering.registry.registered.clear()
    registering.start()
    registering.settle()
    assert registering.numbers == [1]


def test_a_malformed_record_is_named(tmp_path: Path) -> None:
    Ledger(tmp_path)
    ledger_path(tmp_path).write_text("{}")
    with pytest.raises(RegistryError, match=r"registered\.json: malformed"):
        registered_versions(tmp_path)


def test_the_pipeline_keeps_its_name(tmp_path: Path) -> None:
    assert Ledger(tmp_path).pipeline == Ledger(tmp_path).pipeline


def test_waits_double_up_to_the_longest_and_start_anew_after_success() -> None:
    now = [0.0]
    backoff = Backoff(5.0, lambda: now[0])
    assert [backoff.failed() for _ in range(4)] == [1.0, 2.0, 4.0, 5.0]
    assert not backoff.over
    now[0] = 5.0
    assert backoff.over
    backoff.succeeded()
    assert backoff.failed() == 1.0
    assert {backoff.failed() for _ in range(2000)} <= {2.0, 4.0, 5.0}  # a night of outage


def manifest_of(shelf: Shelf, version: int) -> Manifest:
    path = shelf.data_dir / snapshot_path(version)
    return read_manifest(path, "snapshot") if path.exists() else shelf.publish(version)


def test_the_description_says_what_changed_since_the_parent(shelf: Shelf) -> None:
    text = version_facts.description_of(manifest_of(shelf, 2), manifest_of(shelf, 1))
    assert "**Snapshot 2**, after snapshot 1." in text
    assert "- trained events: 48 (+24)" in text
    assert "- lists rebuilt: 2 (drift 2)" in text
    assert "| recall_at_50 | 0.02 | +0.01 |" in text
    first = version_facts.description_of(manifest_of(shelf, 1), None)
    assert "the first of this pipeline" in first
    assert "- trained events: 24\n" in first


def test_a_snapshot_with_few_facts_is_described_all_the_same(tmp_path: Path) -> None:
    def write(directory: Path) -> None:
        (directory / "weights").write_bytes(b"x")

    facts = {"version": 9, "metrics": {"loss": float("nan"), "recall@50": 0.5, "name": "x"}}
    manifest = publish(tmp_path / "00000009", "snapshot", facts, write)
    assert version_facts.metrics_of(manifest) == {"recall_50": 0.5}
    assert version_facts.tags_of(manifest)["snapshot_version"] == "9"
    assert "**Snapshot 9**" in version_facts.description_of(manifest, None)


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def open_registry(
    tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Registry]]:
    """Registries on MLflow's own SQLite store; each test has its own model and experiment."""
    monkeypatch.chdir(tmp_path)  # artifacts without a server go to the working directory
    name = tmp_path.name

    def opened() -> Registry:
        registry = Registry(tracking_uri, name, name, f"pipeline-{name}", SearchConfig())
        registry.open()
        return registry

    yield opened


def register(registry: Registry, shelf: Shelf, version: int) -> RegisteredVersion:
    manifest = manifest_of(shelf, version)
    parent = manifest_of(shelf, version - 1) if version > 1 else None
    return registry.register(shelf.data_dir / snapshot_path(version), manifest, parent)


def test_mlflow_holds_a_digest_once(open_registry: Callable[[], Registry], shelf: Shelf) -> None:
    registry = open_registry()
    first = register(registry, shelf, 1)
    assert register(open_registry(), shelf, 1) == first
    assert register(registry, shelf, 2).mlflow_version == 2
    assert {v.snapshot_version for v in registry.versions().values()} == {1, 2}


@pytest.mark.parametrize(
    "step",
    [
        "log_model_artifacts",
        "finalize_logged_model",
        "log_outputs",
        "log_batch",
        "create_model_version",
    ],
)
@pytest.mark.parametrize("carried_out", [False, True])
def test_mlflow_keeps_one_version_when_a_step_breaks(
    open_registry: Callable[[], Registry],
    shelf: Shelf,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    carried_out: bool,
) -> None:
    registry = open_registry()
    client = registry._client
    real = getattr(client, step)

    def broken(*arguments: Any, **more: Any) -> None:
        if carried_out:
            real(*arguments, **more)
        raise MlflowException("connection lost")

    monkeypatch.setattr(client, step, broken)
    with pytest.raises(MlflowException):
        register(registry, shelf, 1)
    again = open_registry()
    assert register(again, shelf, 1).mlflow_version == 1
    assert len(again.versions()) == 1
    assert len(again._client.search_logged_models([again._experiment_id])) == 1


def test_a_request_carried_out_late_leaves_one_version(
    open_registry: Callable[[], Registry], shelf: Shelf
) -> None:
    registry = open_registry()
    register(registry, shelf, 1)
    tags = version_facts.tags_of(manifest_of(shelf, 1))
    late = registry._client.get_model_version(registry._model_name, "1")
    registry._client.create_model_version(registry._model_name, late.source, tags=tags)
    assert [v.mlflow_version for v in registry.versions().values()] == [1]
    assert len(registry._client.search_model_versions(f"name = '{registry._model_name}'")) == 1


def test_aliases_move_from_champion_to_previous(
    open_registry: Callable[[], Registry], shelf: Shelf
) -> None:
    registry = open_registry()
    for version in (1, 2):
        register(registry, shelf, version)
    registry.promote(1)
    assert (registry.aliased(CHAMPION), registry.aliased(PREVIOUS)) == (1, None)
    registry.challenge(2)
    assert registry.aliased(CHALLENGER) == 2
    registry.promote(2)
    registry.promote(2)
    registry.challenge(None)
    registry.challenge(None)
    aliases = [registry.aliased(alias) for alias in (CHAMPION, PREVIOUS, CHALLENGER)]
    assert aliases == [2, 1, None]


def test_metrics_run_over_trained_events_and_event_time(
    open_registry: Callable[[], Registry], shelf: Shelf
) -> None:
    registry = open_registry()
    for version in (1, 2, 2):
        register(registry, shelf, version)
    open_registry()  # the same pipeline goes on in the same run
    runs = registry._client.search_runs([registry._experiment_id])
    assert len(runs) == 1
    history = registry._client.get_metric_history(runs[0].info.run_id, "recall_at_50")
    assert [(m.step, m.value) for m in history] == [(24, 0.01), (48, 0.02)]
    until = manifest_of(shelf, 2).facts["event_time_range"][1]
    assert history[1].timestamp == until


def test_a_version_tells_where_it_comes_from(
    open_registry: Callable[[], Registry], shelf: Shelf
) -> None:
    registry = open_registry()
    register(registry, shelf, 1)
    register(registry, shelf, 2)
    version = registry._client.get_model_version(registry._model_name, "2")
    digest = manifest_of(shelf, 2).digest
    assert version.tags["manifest_digest"] == digest
    assert version.tags["parent"] == "1"
    assert version.tags["trigger"] == "interval"
    assert version.tags["event_time_first"] == "2014-05-13T16:53:20Z"
    assert version.description.startswith("**Snapshot 2**, after snapshot 1.")
    path = shelf.data_dir / snapshot_path(2) / MANIFEST
    stored = Path(registry._client.get_logged_model(version.source.split("/")[1]).artifact_location)
    assert (stored / "artifacts" / "00000002" / MANIFEST).read_bytes() == path.read_bytes()
    assert not list(stored.rglob("*.pkl"))
