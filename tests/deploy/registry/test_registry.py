from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from deploy.monitoring.part_status import reporter
from deploy.registry import snapshot_storing
from deploy.registry.config import RegistryConfig
from deploy.registry.mlflow_registry import Registry
from deploy.registry.pyfunc_model import PROPERTIES
from deploy.registry.registrar import Backoff, Registrar
from deploy.release import version_metadata
from deploy.release.decisions import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    Decision,
    decide,
    read_served,
)
from deploy.release.errors import RegistryError
from deploy.release.ledger import (
    Ledger,
    RegisteredVersion,
    aliased_versions,
    ledger_path,
    registered_versions,
)
from indexer.catalogue.property_chain import read_pointer
from indexer.catalogue.property_reader import read_columns
from indexer.comparison.version_metrics import metrics_of
from indexer.search.config import SearchConfig
from indexer.search.query import Query
from indexer.search.retriever import Retriever
from indexer.snapshots.pointer import snapshot_path
from indexer.snapshots.snapshot_facts import SnapshotFacts
from model.artifacts import manifest as manifest_module
from model.artifacts.manifest import MANIFEST, Manifest, publish, read_manifest
from streaming.durable_files import PARTIAL
from streaming.items import Item
from streaming.statuses import TrainerStatus
from tests.deploy.forging import forge
from tests.deploy.snapshot_maker import Shelf
from tests.indexer.properties import tell


class Shaky:
    """A registry in memory; `fail` names the next calls that break before or after their effect."""

    def __init__(self, made: Path | None = None) -> None:
        self.made = made
        self.registered: list[RegisteredVersion] = []
        self.parents: list[int | None] = []
        self.aliases: dict[str, int] = {}
        self.tags: dict[int, dict[str, str]] = {}
        self.live: list[tuple[dict[str, float], int, int]] = []
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
        self, directory: Path, manifest: Manifest, parent: SnapshotFacts | None
    ) -> RegisteredVersion:
        self._maybe("before register")
        if manifest.digest not in self.versions():
            self.registered.append(
                RegisteredVersion(
                    len(self.registered) + 1, manifest.facts["version"], manifest.digest
                )
            )
            self.parents.append(parent.version if parent else None)
        self._maybe("after register")
        return self.versions()[manifest.digest]

    def aliased(self, alias: str) -> int | None:
        return self.aliases.get(alias)

    def set_alias(self, alias: str, mlflow_version: int | None) -> None:
        self._maybe("set_alias")
        self.aliases.pop(alias, None)
        if mlflow_version is not None:
            self.aliases[alias] = mlflow_version

    def tag(self, mlflow_version: int, tags: dict[str, str]) -> None:
        self._maybe("tag")
        self.tags.setdefault(mlflow_version, {}).update(tags)

    def retire(self, mlflow_version: int) -> bool:
        if mlflow_version in self.aliases.values():
            return False
        self.registered = [v for v in self.registered if v.mlflow_version != mlflow_version]
        return True

    def log_live(self, metrics: dict[str, float], step: int, time_ms: int) -> None:
        self.live.append((metrics, step, time_ms))

    def download(self, mlflow_version: int, directory: Path, digest: str) -> None:
        (version,) = [v for v in self.registered if v.mlflow_version == mlflow_version]
        assert self.made is not None
        shutil.copytree(self.made / snapshot_path(version.snapshot_version), directory)

    @property
    def champion(self) -> int | None:
        return self.aliases.get(CHAMPION)


class Registering:
    """A registrar on a data directory; `start` starts it again, as after a crash."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.registry = Shaky(shelf._made)
        self.announced: list[dict[str, Any]] = []
        self.kafka_fails = 0
        self._config = RegistryConfig(alias_seconds=0.0, live_seconds=0.0)
        self.start()

    def start(self, config: RegistryConfig | None = None) -> None:
        self._config = config or self._config
        self.registrar = Registrar(self._config, self.shelf.data_dir, self.registry, self._announce)

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
    assert (status.registered_versions, status.last_registered) == (3, 3)
    assert (status.champion_version, status.pending) == (3, 0)
    assert status.caught_up
    assert registered_versions(registering.shelf.data_dir) == {1: 1, 2: 2, 3: 3}


@pytest.mark.parametrize("point", ["open", "before register", "after register", "set_alias"])
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
    assert (status.pending, status.caught_up) == (2, False)
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
    assert registering.registrar.status().unannounced == 1
    shutil.rmtree(registering.shelf.data_dir / snapshot_path(1))  # retention after registration
    registering.settle()
    assert [a["version"] for a in registering.announced] == [1]


def test_a_snapshot_newer_than_the_pointer_is_challenger_until_it_is_served(
    registering: Registering,
) -> None:
    registering.shelf.publish(1)
    registering.shelf.publish(2, move_pointer=False)
    registering.settle()
    assert registering.registry.aliases == {CHAMPION: 1, CHALLENGER: 2}
    registering.shelf.point_at(2)
    assert not registering.registrar.status().caught_up
    registering.settle()
    assert registering.registry.aliases == {CHAMPION: 2, PREVIOUS: 1}
    assert registering.registrar.status().caught_up


def test_a_damaged_snapshot_is_refused_and_the_next_is_registered(
    registering: Registering,
) -> None:
    registering.shelf.publish(1)
    registering.shelf.publish(2)
    (registering.shelf.data_dir / snapshot_path(1) / "placed.arrow").write_bytes(b"")
    registering.settle()
    assert registering.numbers == [2]
    assert registering.registrar.status().refused == 1


def test_what_versions_share_is_read_once(
    registering: Registering, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, read = manifest_module.hashlib.file_digest, []

    def counted(file: Any, name: str) -> Any:
        read.append(Path(file.name).relative_to(registering.shelf.data_dir))
        return digest(file, name)

    monkeypatch.setattr(manifest_module.hashlib, "file_digest", counted)
    shelf = registering.shelf
    first, second = (shelf.publish(version) for version in (1, 2))
    shared = [name for name, file in first.files.items() if second.files.get(name) == file]
    for name in shared:  # as the indexer publishes
        path = shelf.data_dir / snapshot_path(2) / name
        path.unlink()
        path.hardlink_to(shelf.data_dir / snapshot_path(1) / name)
    registering.settle()
    assert registering.numbers == [1, 2]
    assert shared and len(read) == len(first.files) + len(second.files) - len(shared)


def test_a_registry_that_was_emptied_is_filled_again(registering: Registering) -> None:
    registering.shelf.publish(1)
    registering.settle()
    registering.registry.registered.clear()
    registering.start()
    registering.settle()
    assert registering.numbers == [1]


def serve(shelf: Shelf, version: int, action: Any = "promoted", **more: Any) -> None:
    decide(shelf.data_dir, Decision(version, action, "judge", "a reason", **more))


def test_aliases_follow_what_serves(registering: Registering) -> None:
    shelf, registry = registering.shelf, registering.registry
    shelf.publish(1)
    serve(shelf, 1, "first")
    shelf.publish(2)
    registering.settle()
    assert registry.aliases == {CHAMPION: 1, CHALLENGER: 2}
    serve(shelf, 2)
    assert not registering.registrar.status().caught_up
    registering.settle()
    assert registry.aliases == {CHAMPION: 2, PREVIOUS: 1}
    decide(shelf.data_dir, Decision(1, "pinned", "person", "back"))
    registering.settle()
    assert registry.aliases == {CHAMPION: 1, PREVIOUS: 2, CHALLENGER: 2}


def test_a_person_who_moves_champion_moves_the_service_and_pins_it(
    registering: Registering,
) -> None:
    shelf, registry = registering.shelf, registering.registry
    for version in (1, 2, 3):
        shelf.publish(version)
        serve(shelf, version)
        registering.settle()
    registry.aliases[CHAMPION] = 1
    shutil.rmtree(shelf.data_dir / snapshot_path(1))  # retention; the registry still has it
    registering.settle()
    served = read_served(shelf.data_dir)
    assert served is not None
    assert (served.version, served.previous, served.pinned) == (1, 3, True)
    assert (shelf.data_dir / snapshot_path(1)).is_dir()
    assert registry.aliases == {CHAMPION: 1, PREVIOUS: 3, CHALLENGER: 3}
    assert registry.tags[1]["verdict"] == "pinned"
    assert "moved to version 1 in the registry" in registry.tags[1]["verdict_reason"]
    assert aliased_versions(shelf.data_dir) == {1, 3}


@pytest.mark.parametrize("fails", range(4))
def test_the_registrars_own_moves_are_never_taken_for_a_persons(
    registering: Registering, fails: int
) -> None:
    for version in (1, 2, 3):
        registering.shelf.publish(version)
        serve(registering.shelf, version)
        registering.registry.fail = ["set_alias"] * fails
        registering.settle()
        registering.start()
        registering.settle()
    served = read_served(registering.shelf.data_dir)
    assert served is not None
    assert (served.version, served.pinned) == (3, False)
    assert registering.registry.aliases == {CHAMPION: 3, PREVIOUS: 2}


def test_champion_moved_to_a_foreign_version_is_left_alone(registering: Registering) -> None:
    registering.shelf.publish(1)
    serve(registering.shelf, 1)
    registering.settle()
    registering.registry.aliases[CHAMPION] = 77
    registering.settle()
    served = read_served(registering.shelf.data_dir)
    assert served is not None
    assert served.version == 1


def test_the_verdict_and_its_interval_are_tags(registering: Registering) -> None:
    registering.shelf.publish(1)
    serve(registering.shelf, 1)
    registering.shelf.publish(2)
    evidence = {"queries": 500, "difference": -0.02, "low": -0.03, "high": -0.01}
    serve(registering.shelf, 2, "kept", evidence=evidence)
    registering.registry.fail = ["tag"]
    registering.settle()
    tags = registering.registry.tags[2]
    assert tags["verdict"] == "kept"
    assert tags["verdict_reason"] == "a reason"
    assert tags["verdict_against"] == "1"
    assert tags["verdict_interval"] == "[-0.030000, -0.010000]"
    assert registering.registry.tags[1]["verdict"] == "promoted"
    assert registering.registry.aliases == {CHAMPION: 1, CHALLENGER: 2}


def test_retention_deletes_the_oldest_that_no_alias_names_and_that_is_not_on_disk(
    registering: Registering,
) -> None:
    registering.start(RegistryConfig(alias_seconds=0.0, live_seconds=0.0, keep_versions=1))
    shelf, registry = registering.shelf, registering.registry
    for version in (1, 2, 3, 4):
        shelf.publish(version)
        serve(shelf, version)
        registry.aliases["golden"] = 1  # somebody's
        registering.settle()
    assert registering.numbers == [1, 2, 3, 4]  # all of them are on disk
    for version in (1, 2, 3):
        shutil.rmtree(shelf.data_dir / snapshot_path(version))
    registering.settle()
    assert registering.numbers == [1, 3, 4]  # golden, previous, champion
    registering.start()
    registering.settle()
    assert registering.numbers == [1, 3, 4]


def test_live_metrics_are_sent_while_something_is_trained(registering: Registering) -> None:
    registering.start(RegistryConfig(alias_seconds=0.0, live_seconds=1e-9))
    report = reporter(registering.shelf.data_dir, "train")
    report(TrainerStatus(trained_events=10, event_time=5, recall_at_50=0.25, lag=None))
    registering.settle()
    registering.settle()
    assert registering.registry.live == [({"live/recall_at_50": 0.25}, 10, 5)]


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


def facts_of(shelf: Shelf, version: int) -> SnapshotFacts:
    return SnapshotFacts.of(manifest_of(shelf, version))


def test_the_description_says_what_changed_since_the_parent(shelf: Shelf) -> None:
    text = version_metadata.description_of(facts_of(shelf, 2), facts_of(shelf, 1))
    assert "**Snapshot 2**, after snapshot 1." in text
    assert "- trained events: 48 (+24)" in text
    assert "- lists written anew: 2 of 8 (changes and drift 1, drift 1)" in text
    assert "- items that came, went or moved: 9" in text
    assert "- items that changed code: 4 (6.8%)" in text and "  - Soap: code 2 → 3" in text
    assert "| recall_at_50 | 0.02 | +0.01 |" in text
    first = version_metadata.description_of(facts_of(shelf, 1), None)
    assert "the first of this pipeline" in first
    assert "- trained events: 24\n" in first


def test_a_snapshot_with_few_facts_is_described_all_the_same(tmp_path: Path) -> None:
    def write(directory: Path) -> None:
        (directory / "weights").write_bytes(b"x")

    facts = {"version": 9, "metrics": {"loss": float("nan"), "recall@50": 0.5, "name": "x"}}
    few = SnapshotFacts.of(publish(tmp_path / "00000009", "snapshot", facts, write))
    assert metrics_of(few) == {"recall_50": 0.5}
    assert version_metadata.tags_of(few, "d")["snapshot_version"] == "9"
    assert "**Snapshot 9**" in version_metadata.description_of(few, None)


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
        registry = Registry(tracking_uri, name, name, f"pipeline-{name}", SearchConfig(), "abc123")
        registry.open()
        return registry

    yield opened


def register(registry: Registry, shelf: Shelf, version: int) -> RegisteredVersion:
    manifest = manifest_of(shelf, version)
    parent = facts_of(shelf, version - 1) if version > 1 else None
    return registry.register(shelf.data_dir / snapshot_path(version), manifest, parent)


def test_mlflow_holds_a_digest_once(open_registry: Callable[[], Registry], shelf: Shelf) -> None:
    registry = open_registry()
    first = register(registry, shelf, 1)
    assert register(open_registry(), shelf, 1) == first
    assert register(registry, shelf, 2).mlflow_version == 2
    assert {v.snapshot_version for v in registry.versions().values()} == {1, 2}


def test_a_deleted_model_is_made_again_also_of_snapshots_that_were_brought_back_since(
    open_registry: Callable[[], Registry], shelf: Shelf
) -> None:
    registry = open_registry()
    for version in (1, 2):
        register(registry, shelf, version)
    registry._client.delete_registered_model(registry._model_name)
    os.utime(shelf.data_dir / snapshot_path(1) / MANIFEST, (1.4e9, 1.4e9))
    registry.open()
    assert register(registry, shelf, 1).mlflow_version == 1
    assert register(registry, shelf, 2).mlflow_version == 2


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


def test_a_second_attempt_writes_nothing_into_what_is_published(
    open_registry: Callable[[], Registry], shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of the first are links to it: only root could, and must not either."""
    manifest = shelf.data_dir / snapshot_path(1) / MANIFEST
    registry = open_registry()

    def lost(*_: Any) -> None:
        raise MlflowException("connection lost")

    with monkeypatch.context() as patch, pytest.raises(MlflowException):
        patch.setattr(registry._client, "finalize_logged_model", lost)
        register(registry, shelf, 1)
    published = manifest.read_bytes(), manifest.stat().st_mtime_ns, manifest.stat().st_mode
    assert manifest.stat().st_nlink == 2
    assert register(open_registry(), shelf, 1).mlflow_version == 1
    after = manifest.read_bytes(), manifest.stat().st_mtime_ns, manifest.stat().st_mode
    assert after == published


def test_a_request_carried_out_late_leaves_one_version(
    open_registry: Callable[[], Registry], shelf: Shelf
) -> None:
    registry = open_registry()
    register(registry, shelf, 1)
    tags = version_metadata.tags_of(facts_of(shelf, 1), manifest_of(shelf, 1).digest)
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
    registry.set_alias(CHAMPION, 1)
    assert (registry.aliased(CHAMPION), registry.aliased(PREVIOUS)) == (1, None)
    registry.set_alias(CHAMPION, 2)
    registry.set_alias(PREVIOUS, 1)
    registry.set_alias(CHALLENGER, 1)
    for _ in range(2):
        registry.set_alias(CHALLENGER, None)
    aliases = [registry.aliased(alias) for alias in (CHAMPION, PREVIOUS, CHALLENGER)]
    assert aliases == [2, 1, None]


def test_a_version_has_pictures_and_says_what_changed(
    open_registry: Callable[[], Registry], shelf: Shelf
) -> None:
    registry = open_registry()
    for version in (1, 2, 3):
        register(registry, shelf, version)
    version = registry._client.get_model_version(registry._model_name, "3")
    assert "- items that changed code: 4" in version.description
    assert version.tags["code_revision"] == "abc123"
    stored = Path(registry._client.get_logged_model(version.source.split("/")[1]).artifact_location)
    names = {path.name for path in (stored / "plots").iterdir()}
    assert {"size_of_codes.png", "recall_over_time.png", "codebook_use.png"} <= names
    assert all((stored / "plots" / name).stat().st_size > 5000 for name in names)


def test_what_the_registry_holds_is_complete_and_takes_no_room(
    open_registry: Callable[[], Registry], shelf: Shelf, tmp_path: Path
) -> None:
    registry = open_registry()
    register(registry, shelf, 1)
    version = registry._client.get_model_version(registry._model_name, "1")
    stored = Path(registry._client.get_logged_model(version.source.split("/")[1]).artifact_location)
    directory = shelf.data_dir / snapshot_path(1)
    copy = stored / "artifacts" / directory.name
    manifest = manifest_of(shelf, 1)
    for name in (*manifest.files, MANIFEST):
        assert (copy / name).samefile(directory / name), name
        assert not (copy / name).stat().st_mode & 0o222  # nobody's writing reaches a reader's map
    assert not [p for p in copy.rglob("*") if p.name.startswith(PARTIAL)]
    loaded = Retriever.load(copy, SearchConfig())
    shutil.rmtree(directory)
    assert (
        loaded.answer(Query([1])).items
        == Retriever.load(copy, SearchConfig()).answer(Query([1])).items
    )


@pytest.mark.parametrize("sent", [False, True])
def test_a_version_takes_along_what_its_items_are_when_it_is_registered(
    open_registry: Callable[[], Registry],
    shelf: Shelf,
    monkeypatch: pytest.MonkeyPatch,
    sent: bool,
) -> None:
    if sent:
        monkeypatch.setattr(snapshot_storing, "_on_this_disk", lambda location, own: None)
    registry = open_registry()
    tell(
        shelf.data_dir, {3: Item(3, attributes={"size": "L"}), 4: Item(4, state="hidden"), 5: None}
    )
    told = read_pointer(shelf.data_dir)
    assert told is not None
    (file,) = told.files
    register(registry, shelf, 1)
    version = registry._client.get_model_version(registry._model_name, "1")
    stored = Path(registry._client.get_logged_model(version.source.split("/")[1]).artifact_location)
    copy = stored / "artifacts" / PROPERTIES
    assert (copy / file.file).samefile(shelf.data_dir / file.file) is not sent
    tell(shelf.data_dir, {3: None})  # the files of before are gone there
    columns = read_columns(copy)
    assert dict(columns.types) == {"size": "string"} and columns.unlisted.tolist() == [4, 5]
    model = mlflow.pyfunc.load_model(f"models:/{registry._model_name}/1")
    large = '{"must": {"key": "size", "match": {"value": "L"}}}'
    found = model.predict(
        pd.DataFrame({"history": [[], []], "k": [60, 60], "filter": [large, None]})
    )
    assert found["items"][0] == [3] and not {4, 5} & set(found["items"][1])


def test_a_store_that_is_elsewhere_is_sent_the_files(
    open_registry: Callable[[], Registry], shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_storing, "_on_this_disk", lambda location, own: None)
    registry = open_registry()
    register(registry, shelf, 1)
    version = registry._client.get_model_version(registry._model_name, "1")
    stored = Path(registry._client.get_logged_model(version.source.split("/")[1]).artifact_location)
    copy = stored / "artifacts" / "00000001"
    assert not (copy / MANIFEST).samefile(shelf.data_dir / snapshot_path(1) / MANIFEST)
    assert Retriever.load(copy, SearchConfig()).version == 1


def test_files_that_cannot_be_made_read_only_are_copied(
    open_registry: Callable[[], Registry], shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's, or on a file system that is mounted read-only."""
    directory = shelf.data_dir / snapshot_path(1)
    weights = directory / "weights.safetensors"
    real = Path.chmod

    def refused(path: Path, mode: int, **more: Any) -> None:
        if path == weights:
            raise PermissionError(1, "Operation not permitted", str(path))
        real(path, mode, **more)

    monkeypatch.setattr(Path, "chmod", refused)
    registry = open_registry()
    register(registry, shelf, 1)
    version = registry._client.get_model_version(registry._model_name, "1")
    stored = Path(registry._client.get_logged_model(version.source.split("/")[1]).artifact_location)
    copy = stored / "artifacts" / directory.name
    assert not (copy / weights.name).samefile(weights)
    assert (copy / MANIFEST).samefile(directory / MANIFEST)
    assert Retriever.load(copy, SearchConfig()).version == 1


@pytest.mark.parametrize(
    ("location", "found"),
    [
        ("mlflow-artifacts:/1/models/m-2/artifacts", "store/1/models/m-2/artifacts"),
        ("mlflow-artifacts://host:5000/1/models", "store/1/models"),
        ("mlflow-artifacts:/../elsewhere", None),
        ("s3://bucket/1/models", None),
        ("/a place/1", "/a place/1"),
        ("file:///a%20place/1", "/a place/1"),
    ],
)
def test_a_location_is_a_directory_of_this_disk_or_none(location: str, found: str | None) -> None:
    there = snapshot_storing._on_this_disk(location, Path("store"))
    assert there == (None if found is None else Path(found))


def test_a_retired_version_leaves_no_files_and_an_aliased_one_stays(
    open_registry: Callable[[], Registry], shelf: Shelf
) -> None:
    registry = open_registry()
    for version in (1, 2):
        register(registry, shelf, version)
    registry.set_alias("golden", 1)
    assert not registry.retire(1)
    source = registry._client.get_model_version(registry._model_name, "2").source
    stored = Path(registry._client.get_logged_model(source.split("/")[1]).artifact_location)
    assert any(stored.rglob("*"))
    assert registry.retire(2)
    assert not any(path.is_file() for path in stored.rglob("*"))
    assert {v.snapshot_version for v in registry.versions().values()} == {1}
    assert registry.retire(2)  # again, as after a crash


def test_a_version_comes_back_from_the_registry_verified(
    open_registry: Callable[[], Registry], shelf: Shelf
) -> None:
    registry = open_registry()
    register(registry, shelf, 1)
    directory = shelf.data_dir / snapshot_path(1)
    digest = manifest_of(shelf, 1).digest
    shutil.rmtree(directory)
    registry.download(1, directory, digest)
    assert read_manifest(directory, "snapshot").digest == digest
    assert [p.name for p in directory.parent.iterdir()] == [directory.name]
    shutil.rmtree(directory)
    model_id = registry._client.get_model_version(registry._model_name, "1").source.split("/")[1]
    stored = Path(registry._client.get_logged_model(model_id).artifact_location)
    forge(stored / "artifacts" / directory.name)
    with pytest.raises(RegistryError, match="is not what was published as 00000001"):
        registry.download(1, directory, digest)
    assert list(directory.parent.iterdir()) == []


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
