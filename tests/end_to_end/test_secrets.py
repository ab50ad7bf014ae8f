"""The whole pipeline, told secrets in every way: it uses them, and nothing of it shows them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx
import psutil
import pytest

from deploy.settings import ROOT
from tests.deploy.test_secrets import found_in, open_to_others
from tests.end_to_end.test_pipeline import SPARC, Run, eventually

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow, pytest.mark.timeout(900)]

CONFIG = """
[kafka.client]
sasl_plain_password = "hunter2-client"
[streaming.properties]
"ssl.key.password" = "hunter2-properties"
[service]
token_file = "{token}"
"""


def ask(run: Run, *words: str, code: int = 0) -> str:
    asked = subprocess.run(
        [*SPARC, *words, "--data-dir", str(run.data_dir)], cwd=ROOT, capture_output=True, text=True
    )
    assert asked.returncode == code, asked.stdout + asked.stderr
    return asked.stdout + asked.stderr


def test_a_pipeline_tells_its_secrets_nobody(jars: Path, tmp_path: Path) -> None:
    token, config = tmp_path / "token", tmp_path / "sparc.toml"
    token.write_text("hunter2-token\n")
    config.write_text(CONFIG.format(token=token))
    run = Run(tmp_path / "state")
    run.start("--config", str(config), SPARC_KAFKA__SECURITY__PASSWORD="hunter2-password")
    try:
        eventually(lambda: run.status("serve").get("version"), run)
        said = ask(run, "retrieve", "--user", "1", "--k", "3")
        said += ask(run, "status") + ask(run, "config", "show") + ask(run, "snapshots", "--json")
        address = run.status("serve")["address"]
        assert httpx.get(f"{address}/metrics").status_code == 401
        right = {"Authorization": "Bearer hunter2-token"}
        assert httpx.get(f"{address}/metrics", headers=right).status_code == 200
        assert run.process is not None
        family = psutil.Process(run.process.pid).children(recursive=True)
        said += " ".join(word for one in family for word in one.cmdline())
        assert open_to_others(run.data_dir) == []
    finally:
        run.stop()
    said += run.end()[1]
    assert "hunter2" not in said
    assert "**********" in said
    assert found_in(run.data_dir, b"hunter2") == []
    assert run.data_dir.stat().st_mode & 0o077 == 0
