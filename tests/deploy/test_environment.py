from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.environment import ForeignPackageError, refuse_foreign_packages, settle

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "name",
    [
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONWARNINGS",
        "PYTHONOPTIMIZE",
        "JAVA_TOOL_OPTIONS",
        "_JAVA_OPTIONS",
        "JDK_JAVA_OPTIONS",
        "CLASSPATH",
        "LOG4J_CONFIGURATION_FILE",
        "JVM_ARGS",
        "FLINK_CONF_DIR",
        "FLINK_HOME",
        "PYFLINK_GATEWAY_PORT",
        "PYFLINK_GATEWAY_DISABLED",
        "MLFLOW_TRACKING_URI",
        "MLFLOW_RUN_ID",
        "MLFLOW_EXPERIMENT_NAME",
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE",
        "_MLFLOW_SERVER_FILE_STORE",
        "WEB_CONCURRENCY",
        "FORWARDED_ALLOW_IPS",
        "GIT_DIR",
    ],
)
def test_what_steers_our_processes_is_taken_out(name: str) -> None:
    environment = {name: "1", "LANG": "C.UTF-8"}
    assert settle(environment) == [name]
    assert name not in environment


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "JAVA_HOME",
        "SPARC_KAFKA__BOOTSTRAP",
        "MLFLOW_TRACKING_TOKEN",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_S3_ENDPOINT_URL",
        "AWS_ACCESS_KEY_ID",
        "REQUESTS_CA_BUNDLE",
        "CUDA_VISIBLE_DEVICES",
        "OMP_NUM_THREADS",
        "HTTPS_PROXY",
        "TMPDIR",
    ],
)
def test_what_a_person_means_for_us_stays(name: str) -> None:
    environment = {name: "1", "LANG": "C.UTF-8"}
    assert settle(environment) == []
    assert environment[name] == "1"


def test_local_addresses_are_asked_without_the_proxy_and_others_with_it() -> None:
    environment = {"http_proxy": "http://proxy:3128", "NO_PROXY": "intranet, 10.0.0.1"}
    settle(environment)
    for name in ("no_proxy", "NO_PROXY"):
        assert environment[name] == "intranet,10.0.0.1,localhost,127.0.0.1,::1"
    assert environment["http_proxy"] == "http://proxy:3128"
    before = dict(environment)
    settle(environment)
    assert environment == before


@pytest.mark.parametrize("locale", ["", "C", "POSIX", "en_US.ISO-8859-1", "de_DE@euro"])
def test_the_locale_becomes_one_of_utf8(locale: str) -> None:
    environment = {"LANG": locale}
    settle(environment)
    assert environment["LC_ALL"] == "C.UTF-8"
    assert environment["PYTHONUTF8"] == "1"


@pytest.mark.parametrize("locale", ["C.UTF-8", "en_US.utf8", "de_DE.UTF-8"])
def test_a_locale_of_utf8_stays(locale: str) -> None:
    environment = {"LANG": locale}
    settle(environment)
    assert "LC_ALL" not in environment


def test_a_certificate_file_that_is_gone_is_not_asked_for(tmp_path: Path) -> None:
    environment = {"SSL_CERT_FILE": str(tmp_path / "gone.pem"), "LANG": "C.UTF-8"}
    assert settle(environment) == ["SSL_CERT_FILE"]


def test_a_user_without_a_name_gets_one_and_a_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def unknown(uid: int) -> object:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    environment = {"HOME": "/"}
    settle(environment)
    assert environment["USER"] == environment["LOGNAME"] == "sparc"
    home = Path(environment["HOME"])
    assert home.is_dir() and home.stat().st_mode & 0o077 == 0
    settle(environment)
    assert Path(environment["HOME"]) == home


def test_a_name_in_the_common_directory_that_is_not_ours_is_not_taken_for_a_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / f"sparc-home-{os.geteuid()}").symlink_to(elsewhere)
    environment = {"HOME": str(tmp_path / "gone")}
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    settle(environment)
    assert Path(environment["HOME"]).resolve() != elsewhere


def test_a_foreign_package_of_our_names_is_refused_by_its_place(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "__init__.py").touch()
    with pytest.raises(ForeignPackageError, match=r"'model' is in the way: .*model"):
        refuse_foreign_packages([str(tmp_path), str(ROOT)])
    refuse_foreign_packages([str(ROOT), str(tmp_path)])
    refuse_foreign_packages([])  # an editable installation finds its packages by itself


def test_python_path_with_a_foreign_package_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "__init__.py").touch()
    asked = subprocess.run(
        [sys.executable, "-P", "-c", "from deploy.__main__ import main; main()", "doctor"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert asked.returncode == 1
    assert asked.stderr.startswith("error: another package named 'model'")
    assert asked.stderr.count("\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_is_not_utf8_gets_plain_signs(tmp_path: Path, encoding: str) -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "deploy", "status", "--data-dir", str(tmp_path)],
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "COLUMNS": "120"},
        cwd=ROOT,
        capture_output=True,
    )
    assert asked.returncode == 0, asked.stderr
    assert b"replay" in asked.stdout
    asked.stdout.decode(encoding)
