"""What is fetched from elsewhere is what was looked at once, and runs with few rights."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.settings import ROOT

DEPLOY = ROOT / "deploy"
MADE_HERE = "sparc-streaming.jar"
LOCAL_REPOSITORY = Path.home() / ".m2" / "repository"


def checksums() -> dict[str, str]:
    """SHA-256 by path in a Maven repository."""
    lines = (DEPLOY / "checksums.sha256").read_text().splitlines()
    return {path: digest for digest, path in (line.split() for line in lines)}


def test_every_jar_that_runs_is_the_one_of_the_checksums(jars: Path) -> None:
    known = {path.rpartition("/")[2]: digest for path, digest in checksums().items()}
    for jar in jars.glob("[fk]*/*.jar"):
        if jar.name != MADE_HERE:
            assert hashlib.sha256(jar.read_bytes()).hexdigest() == known[jar.name], jar.name


@pytest.mark.parametrize(
    ("artifact", "least"), [("lz4-java", (1, 10, 1)), ("log4j-core", (2, 25, 4))]
)
def test_no_jar_of_the_broker_is_of_a_version_with_a_known_weakness(
    jars: Path, artifact: str, least: tuple[int, ...]
) -> None:
    """CVE-2025-12183, CVE-2025-66566; CVE-2025-68161."""
    (found,) = (jars / "kafka").glob(f"{artifact}-*.jar")
    numbers = found.stem.removeprefix(f"{artifact}-").split(".")
    assert tuple(map(int, numbers)) >= least


@pytest.fixture
def tampered(jars: Path, tmp_path: Path) -> Path:
    """Maven's local repository with another file in the place of a jar of the broker."""
    known = next(path for path in checksums() if re.search(r"/lz4-java-[\d.]+\.jar$", path))
    if shutil.which("mvn") is None or not (LOCAL_REPOSITORY / known).is_file():
        pytest.skip("no Maven, or no local repository of its own")
    repository = tmp_path / "repository"
    shutil.copytree(LOCAL_REPOSITORY, repository, copy_function=os.link)
    jar = repository / known
    jar.unlink()
    jar.write_bytes(b"PK\x05\x06" + bytes(18))  # an empty archive
    return repository


def test_a_jar_that_was_exchanged_is_refused_and_nothing_is_replaced(
    tampered: Path, tmp_path: Path
) -> None:
    (tmp_path / "jars").mkdir()
    (tmp_path / "jars" / "old").touch()
    done = subprocess.run(
        [DEPLOY / "fetch_jars.sh", tmp_path / "jars"],
        env={**os.environ, "MAVEN_OPTS": f"-Dmaven.repo.local={tampered}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "lz4-java" in said
    assert "checksum" in said.lower()
    assert [path.name for path in (tmp_path / "jars").iterdir()] == ["old"]


def test_uv_is_installed_by_version_and_hash() -> None:
    lines = (DEPLOY / "uv.txt").read_text().splitlines()
    assert [line.split("==")[0] for line in lines if "==" in line and line[0] != "#"] == ["uv"]
    for name in ("set_up.sh", "Dockerfile"):
        text = (DEPLOY / name).read_text().replace("\\\n", "")
        installs = [line for line in text.splitlines() if re.search(r"\bpip install\b", line)]
        assert installs
        assert not [i for i in installs if "--require-hashes" not in i and "--no-deps" not in i]
    assert "http" not in (DEPLOY / "uv.txt").read_text()


def test_no_container_of_ours_is_root() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users
    assert users[-1].isdigit()
    assert int(users[-1]) > 0
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for name, service in services.items():
        assert "user" not in service, name
        assert not service.get("privileged"), name
        if service["image"].startswith("sparc"):
            assert service["cap_drop"] == ["ALL"], name


def test_compose_has_neither_an_open_flink_nor_a_default_password() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    # Flink's own image would answer anybody on the network of the containers.
    assert not [name for name, s in services.items() if s["image"].startswith("flink")]
    assert "deploy.local.flink_server" in services["flink"]["command"]
    grafana = services["grafana"]["environment"]
    assert grafana["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert grafana["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert grafana["GF_AUTH_BASIC_ENABLED"] == "false"
    assert not re.search("(?i)password: *[^$ ]", (DEPLOY / "compose.yaml").read_text())
