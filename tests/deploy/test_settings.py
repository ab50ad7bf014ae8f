from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from deploy import settings as configuration
from deploy.local import flink_cluster, kafka_broker, mlflow_server
from deploy.local.data_directory import claim
from deploy.local.launch import write_config
from deploy.settings import SettingsError, explanation, former


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_win_over_variables_over_the_file_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(
        tmp_path / "a.toml", "[replay]\nrate = 1.0\n[kafka]\nprefix = 'f-'\nheap_mb = 300\n"
    )
    monkeypatch.setenv("SPARC_KAFKA__PREFIX", "v-")
    monkeypatch.setenv("SPARC_REPLAY__RATE", "2.0")
    settings = configuration.load(file, tmp_path, replay={"rate": 3.0})
    assert settings.replay.rate == 3.0
    assert settings.kafka.prefix == "v-"
    assert settings.kafka.heap_mb == 300
    assert settings.kafka.partitions == 1


def test_a_misspelt_setting_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    file = write(tmp_path / "a.toml", "[kafka]\nbootstrp = 'x:1'\n")
    with pytest.raises(SettingsError, match=r"\[kafka\] has no setting 'bootstrp'.*bootstrap"):
        configuration.load(file, tmp_path)


def test_a_setting_of_an_older_version_is_refused_with_its_name_of_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(former.RENAMED, "kafka.memory", "kafka.heap_mb")
    monkeypatch.setitem(former.REMOVED, "replay.colour", "there is one colour")
    file = write(tmp_path / "a.toml", "[kafka]\nmemory = 300\n")
    with pytest.raises(SettingsError, match=r"kafka\.memory \(it is kafka\.heap_mb now\)"):
        configuration.load(file, tmp_path)
    monkeypatch.setenv("SPARC_REPLAY__COLOUR", "red")
    both = r"replay\.colour \(there is one colour\), kafka\.memory \(it is kafka\.heap_mb now\) any"
    with pytest.raises(SettingsError, match=both):
        configuration.load(file, tmp_path)


def test_a_data_directory_of_an_older_version_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(former.RENAMED, "kafka.memory", "kafka.heap_mb")
    monkeypatch.setitem(former.REMOVED, "replay.colour", "there is one colour")
    claim(tmp_path, fresh=False)
    write(
        tmp_path / configuration.CONFIG,
        "[kafka]\nmemory = 300\nprefix = 'a-'\n[replay]\ncolour = 'red'\n",
    )
    kafka = configuration.load(None, tmp_path).kafka
    assert (kafka.heap_mb, kafka.prefix) == (300, "a-")


def test_a_data_directory_whose_settings_are_constants_now_goes_on_if_they_are_the_same(
    tmp_path: Path,
) -> None:
    claim(tmp_path, fresh=False)
    text = "[learner]\nseed = 3\nclip = {}\n[learner.model.item_tower.features]\ntitle_words = 16\n"
    written = write(tmp_path / configuration.CONFIG, text.format("5.0"))
    assert configuration.load(None, tmp_path).learner_config().seed == 3
    write(written, text.format("1.0"))
    with pytest.raises(SettingsError, match=r"config\.toml: learner\.clip is 1\.0.*--fresh"):
        configuration.load(None, tmp_path)
    own = write(tmp_path / "own.toml", text.format("5.0"))
    with pytest.raises(SettingsError, match=r"no setting learner\.clip \(it is 5\.0, always\)"):
        configuration.load(own, tmp_path)


@pytest.mark.parametrize("name", [*former.RENAMED, *former.REMOVED])
def test_a_former_setting_is_none_any_more_and_its_new_name_is_one(
    name: str, tmp_path: Path
) -> None:
    def value(dotted: str) -> object:
        found: object = configuration.complete(configuration.load(None, tmp_path))
        for part in dotted.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return found

    assert value(name) is None
    assert name in former.REMOVED or value(former.RENAMED[name]) is not None


def test_a_wrong_type_names_the_setting_and_the_value(tmp_path: Path) -> None:
    file = write(tmp_path / "a.toml", "[kafka]\npartitions = 'many'\n")
    with pytest.raises(SettingsError, match="kafka.partitions.*'many'"):
        configuration.load(file, tmp_path)


def test_a_file_that_is_no_toml_or_is_missing_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.toml", "[kafka\n")
    with pytest.raises(SettingsError, match="a.toml: not TOML"):
        configuration.load(file, tmp_path)
    with pytest.raises(SettingsError, match="b.toml: no such"):
        configuration.load(tmp_path / "b.toml", tmp_path)


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    settings = configuration.load(None, tmp_path, trainer={"batch_size": 128})
    file = write(tmp_path / configuration.CONFIG, configuration.as_toml(settings))
    assert configuration.load(file) == settings
    assert configuration.load(None, tmp_path) == settings


def test_the_trainers_section_is_checked_when_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARC_TRAINER__BATCH_SIZE", "64")
    monkeypatch.setenv("SPARC_TRAINER__PUBLISH__EVENTS", "500")
    trainer = configuration.load(None, tmp_path).trainer_config()
    assert (trainer.batch_size, trainer.publish.events) == (64, 500)
    with pytest.raises(SettingsError, match=r"\[trainer\] has no setting 'batchsize'"):
        configuration.load(None, tmp_path, trainer={"batchsize": 1}).trainer_config()


def test_the_addresses_are_those_of_the_servers_that_are_started(tmp_path: Path) -> None:
    ports = {"kafka": 1001, "flink_rest": 1002, "mlflow": 1003}
    settings = configuration.load(None, tmp_path, ports=ports)
    cluster = flink_cluster.cluster_of(settings)
    assert settings.bootstrap == kafka_broker.broker_of(settings).bootstrap
    assert (settings.flink_address, settings.flink_tls) == (cluster.address, cluster.tls)
    assert settings.tracking_uri == mlflow_server.MlflowServerConfig(port=1003).tracking_uri


def test_every_setting_is_explained_with_where_its_value_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.toml", "[kafka]\nheap_mb = 300\nclient = {client_id = 'me'}\n")
    monkeypatch.setenv("SPARC_TRAINER__BATCH_SIZE", "64")
    found = explanation.explained(file, tmp_path)
    assert not [one.name for one in found if not one.sentence]
    sources = {one.name: one.source for one in found}
    assert sources.pop("trainer.batch_size") == "variable"
    assert sources.pop("data_dir") == "flag"
    assert {sources.pop(name) for name in ("kafka.heap_mb", "kafka.client")} == {"file"}
    assert set(sources.values()) == {"default"}
    whole = configuration.complete(configuration.load(file, tmp_path))
    assert tomllib.loads(explanation.as_commented_toml(found)) == tomllib.loads(
        configuration.as_toml(whole)
    )


def test_what_a_pipeline_wrote_out_is_no_choice(tmp_path: Path) -> None:
    claim(tmp_path, fresh=False)
    write_config(configuration.load(None, tmp_path, replay={"rate": 5.0}))
    found = {one.name: one.source for one in explanation.explained(None, tmp_path)}
    assert found.pop("replay.rate") == "file"
    assert found.pop("data_dir") == "file"
    assert set(found.values()) == {"default"}


def test_the_complete_configuration_shows_every_section(tmp_path: Path) -> None:
    shown = configuration.complete(configuration.load(None, tmp_path))
    assert shown["trainer"]["batch_size"] > 0
    assert shown["learner"]["model"]
