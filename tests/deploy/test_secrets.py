"""A secret is used and never shown: not in files, outputs, messages, command lines or logs."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from deploy import settings as configuration
from deploy.commands.app import app
from deploy.local.launch import _with_secrets_file, write_config
from deploy.monitoring.part_status import reporter
from deploy.private import keep_private
from deploy.registry.config import RegistryConfig
from deploy.service.config import ServiceConfig, ServiceError
from deploy.settings import SettingsError
from streaming.secret import MASK, cleaned
from streaming.security import Security, SecurityError
from streaming.statuses import ServiceStatus
from tests.deploy.snapshot_maker import Shelf

ROOT = Path(__file__).resolve().parents[2]
SECRET = 'hunter2-"quoted" ü'
IN_FILE = f"""
[kafka.client]
sasl_plain_password = '{SECRET}1'
[kafka.security]
protocol = "SASL_SSL"
mechanism = "PLAIN"
username = "sparc"
password = '{SECRET}2'
[streaming.properties]
"sasl.jaas.config" = 'x required password={SECRET}3;'
"ssl.key.password" = '{SECRET}4'
"ssl.keystore.key" = '{SECRET}5'
"compression.type" = "zstd"
[registry]
tracking_uri = "http://me:hunter2-7@mlflow:5000/x"
[service]
token = '{SECRET}8'
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "sparc.toml"
    path.write_text(IN_FILE, encoding="utf-8")
    return path


def secrets_of(settings: configuration.Settings) -> list[str]:
    return [
        settings.kafka.client["sasl_plain_password"],
        settings.kafka.security.password.get_secret_value(),
        settings.streaming.properties["sasl.jaas.config"],
        settings.streaming.properties["ssl.key.password"],
        settings.streaming.properties["ssl.keystore.key"],
        settings.registry.password.get_secret_value(),
        settings.service.token.get_secret_value(),
    ]


def test_nothing_that_shows_a_configuration_shows_a_secret(config: Path, tmp_path: Path) -> None:
    settings = configuration.load(config, tmp_path)
    assert sum("hunter2" in one for one in secrets_of(settings)) == 7
    for words in ((), ("--json",)):
        shown = CliRunner().invoke(app, ["config", "show", "--config", str(config), *words])
        assert shown.exit_code == 0, shown.output
        assert "hunter2" not in shown.output
        assert MASK in shown.output and "zstd" in shown.output
    for text in (repr(settings), str(settings), repr(settings.job_environment())):
        assert "hunter2" not in text
    assert settings.tracking_uri == "http://mlflow:5000/x"
    assert settings.registry.basic() == ("me", "hunter2-7")


def test_what_is_shown_in_place_of_a_secret_is_not_taken_for_one(
    config: Path, tmp_path: Path
) -> None:
    shown = tmp_path / "shown.toml"
    shown.write_text(configuration.as_toml(configuration.load(config, tmp_path)))
    with pytest.raises(SettingsError, match="in place of a secret; give the secret itself"):
        configuration.load(shown, tmp_path)


def test_parts_get_what_is_not_written(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = tmp_path / "data"
    settings = configuration.load(config, data_dir)
    written = write_config(settings)
    assert "hunter2" not in written.read_text()
    monkeypatch.setenv("SPARC_CONFIG", str(written))
    for name, value in configuration.passed_on(settings).items():
        monkeypatch.setenv(name, value)
    assert secrets_of(configuration.load()) == secrets_of(settings)
    assert configuration.load().job_environment() == settings.job_environment()


def test_a_question_from_another_terminal_reads_the_file_that_was_given(
    config: Path, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    settings = _with_secrets_file(configuration.load(config, data_dir), config)
    write_config(settings)
    assert secrets_of(configuration.load(None, data_dir)) == secrets_of(settings)


def test_where_a_secret_is_not_known_the_message_says_where_to_put_it(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = tmp_path / "data"
    write_config(configuration.load(config, data_dir))
    asked = configuration.load(None, data_dir)
    with pytest.raises(SecurityError, match="SPARC_KAFKA__SECURITY__PASSWORD"):
        asked.kafka.security.kafka_python()
    with pytest.raises(SettingsError, match="SPARC_KAFKA__CLIENT__SASL_PLAIN_PASSWORD"):
        asked.kafka.client_settings  # noqa: B018
    with pytest.raises(ServiceError, match="SPARC_SERVICE__TOKEN"):
        asked.service.bearer()
    with pytest.raises(SettingsError, match="streaming.properties"):
        asked.job_environment()
    monkeypatch.setenv("SPARC_SERVICE__TOKEN", "12345")
    assert configuration.load(None, data_dir).service.bearer() == "12345"


@pytest.mark.parametrize(
    "wrong",
    [
        "[kafka.security]\nprotocol = 'TLS'\npassword = 'hunter2'",
        "[kafka.security]\nprotocol = 'SASL_SSL'\npassword = 'hunter2'",
        "[kafka]\nsecurity = 'hunter2'",
        "[kafka.security]\npassword = ['hunter2']",
        "[kafka.security]\npasswort = 'hunter2'",
        "[kafka.client]\nsasl_plain_passwort = 'hunter2'",
        "[service]\ntoken = 5\nworkers = 100",
        "[service]\ntoken = 'hunter2'\nworkers = 100",
        "[service]\ntokn = 'hunter2'",
        "token = 'hunter2'",
        "pw = 'hunter2'",
        "kafka = 'hunter2'",
        "[registry]\ntracking_uri = 'http://me:hunter2@mlflow:5000'\npoll_seconds = 'x'",
        "[registry]\npoll_seconds = 'http://me:hunter2@mlflow:5000'",
        "[streaming]\nparallelism = 0\n[streaming.properties]\n'ssl.key.password' = 'hunter2'",
        "[streaming.properties]\n'ssl.key.password' = ['hunter2']",
        "[service]\ntoken = 'hunter2",
        "[flink]\ncheckpoints = 's3://me:hunter2@bucket/sparc'",
    ],
)
def test_no_refusal_of_a_configuration_tells_a_secret(tmp_path: Path, wrong: str) -> None:
    file = tmp_path / "a.toml"
    file.write_text(wrong)
    with pytest.raises(SettingsError) as told:
        configuration.load(file, tmp_path)
    assert "hunter2" not in "".join(traceback.format_exception(told.value))
    shown = CliRunner().invoke(app, ["config", "show", "--config", str(file)])
    assert shown.exit_code == 1 and shown.stderr.startswith("error: ")
    assert "hunter2" not in shown.output


def test_a_secret_may_lie_in_a_file_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("a token\n")
    assert ServiceConfig(token_file=file).bearer() == "a token"
    file.write_text("\n")
    with pytest.raises(ServiceError, match="is empty"):
        ServiceConfig(token_file=file).bearer()
    with pytest.raises(ServiceError, match="cannot read"):
        ServiceConfig(token_file=tmp_path / "none").bearer()


def test_a_database_is_opened_with_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RegistryConfig(tracking_uri="postgresql://me:p%40ss@db/mlflow")
    assert config.tracking_uri == "postgresql://db/mlflow"
    assert config.let_in(config.tracking_uri) == "postgresql://me:p%40ss@db/mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    config = RegistryConfig(tracking_uri="https://mlflow", username="me", password="wordless")  # type: ignore[arg-type]
    assert config.let_in(config.tracking_uri) == "https://mlflow"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "wordless"


def test_texts_of_others_are_cleaned_of_secrets(tmp_path: Path) -> None:
    security = Security("SASL_SSL", "PLAIN", "me", SECRET)  # type: ignore[arg-type]
    spoken = [*security.kafka_python().values(), *security.java().values()]
    assert any("hunter2" in str(one) for one in spoken)
    for text in (*map(str, spoken), repr(spoken), f"https://me:{SECRET}@host", "hunter://a:b@c"):
        assert "hunter2" not in cleaned(text)
    reporter(tmp_path, "serve")(
        ServiceStatus(**{"last_error": f"no {SECRET}", "parts": [{"a": SECRET}], "n": 5})
    )
    said = (tmp_path / "status" / "serve.json").read_text()
    assert "hunter2" not in said and '"n":5' in said


def test_a_data_directory_is_its_users_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        keep_private(tmp_path / "new" / "data")
        assert stat.S_IMODE((tmp_path / "new" / "data").stat().st_mode) == 0o700
        old = tmp_path / "old"
        (old / "status").mkdir(parents=True)
        old.chmod(0o755)
        keep_private(old)
        assert stat.S_IMODE(old.stat().st_mode) == 0o700
        other = tmp_path / "home"
        other.mkdir()
        other.chmod(0o755)
        keep_private(other)
        assert stat.S_IMODE(other.stat().st_mode) == 0o755
        (other / "file").write_text("")
        assert stat.S_IMODE((other / "file").stat().st_mode) == 0o600
    finally:
        os.umask(before)


def found_in(folder: Path, words: bytes) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and words in p.read_bytes()]


def open_to_others(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if not p.is_symlink() and p.stat().st_mode & 0o077]


def test_a_part_that_runs_tells_its_secrets_nobody(
    shelf: Shelf, config: Path, free_ports: Callable[[int], list[int]]
) -> None:
    config.unlink()  # the secrets come by variables
    data_dir = shelf.data_dir / "data"
    port, away = free_ports(2)
    served = subprocess.Popen(
        [sys.executable, "-m", "deploy", "serve", "--data-dir", str(data_dir)],
        cwd=ROOT,
        env=os.environ
        | {
            "SPARC_PORTS__SERVICE": str(port),
            "SPARC_KAFKA__BOOTSTRAP": f"127.0.0.1:{away}",
            "SPARC_KAFKA__SECURITY__PROTOCOL": "SASL_PLAINTEXT",
            "SPARC_KAFKA__SECURITY__MECHANISM": "PLAIN",
            "SPARC_KAFKA__SECURITY__USERNAME": "me",
            "SPARC_KAFKA__SECURITY__PASSWORD": "hunter2-kafka",
            "SPARC_SERVICE__TOKEN": "hunter2-token",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while True:
            assert served.poll() is None and time.monotonic() < deadline
            try:
                httpx.get(f"{url}/health").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        assert httpx.get(f"{url}/metrics").status_code == 401
        right = {"Authorization": "Bearer hunter2-token"}
        told = httpx.get(f"{url}/metrics", headers=right)
        assert told.status_code == 200 and "hunter2" not in told.text
        time.sleep(2.5)
    finally:
        served.terminate()
        said, _ = served.communicate(timeout=30)
    assert "service up" in said and "hunter2" not in said
    assert (data_dir / "status" / "serve.json").is_file()
    assert found_in(data_dir, b"hunter2") == []
    assert open_to_others(data_dir) == []
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
