"""The commands and examples of the pages in docs/, run."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from typer.testing import CliRunner

from deploy import settings as configuration
from deploy.commands.app import app
from tests.deploy.service.test_service_limits import Serving
from tests.deploy.snapshot_maker import Shelf

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "docs" / f"{name}.md"
    for name in ("TUTORIAL", "REGISTRY", "SERVICE", "INGEST", "PRIVACY", "ARCHITECTURE")
]
CONSOLE = re.compile(r"```console\n(.*?)```", re.S)
PYTHON = re.compile(r"```python\n(.*?)```", re.S)
LINK = re.compile(r"\]\((?!http)([^)#]+)")


@pytest.fixture
def running(shelf: Shelf, free_ports) -> Iterator[str]:
    """A data directory with two versions, and a service on it that `sparc` finds."""
    serving = Serving(shelf)
    (port,) = free_ports(1)
    (shelf.data_dir / configuration.CONFIG).write_text(f"[ports]\nservice = {port}\n")
    server = uvicorn.Server(
        uvicorn.Config(serving.app, host="127.0.0.1", port=port, log_level="warning")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)
    serving.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_works(page: Path, running: str, shelf: Shelf) -> None:
    lines = [
        line[2:]
        for block in CONSOLE.findall(page.read_text())
        for line in block.splitlines()
        if line.startswith("$ ")
    ]
    # `previous` needs a version before the served one
    before = CliRunner().invoke(app, ["promote", "2", "--data-dir", str(shelf.data_dir)])
    assert before.exit_code == 0, before.output
    rolled = CliRunner().invoke(app, ["rollback", "1", "--data-dir", str(shelf.data_dir)])
    assert rolled.exit_code == 0, rolled.output
    for line in lines:
        if line.startswith("curl "):  # it goes on below; the examples in Python say the same
            continue
        words = shlex.split(line)
        if words[0].startswith("./"):
            assert (ROOT / words[0]).is_file(), line
            continue
        assert words[0] == "sparc", line
        asked = CliRunner().invoke(app, [*words[1:], "--data-dir", str(shelf.data_dir)])
        expected = (0, 1) if words[1] == "doctor" else (0,)  # a CI machine may be small
        assert asked.exit_code in expected, f"{line}: {asked.output}"


def test_the_examples_of_the_service_are_answered(running: str, shelf: Shelf) -> None:
    example = "\n".join(PYTHON.findall((ROOT / "docs" / "SERVICE.md").read_text()))
    names: dict[str, object] = {"data_dir": shelf.data_dir}
    exec(re.sub(r'"http://127[^"]*"', repr(running), example), names)  # noqa: S102
    assert len(names["known"]["items"]) == 10  # type: ignore[index]
    assert len(names["both"]["answers"]) == 2  # type: ignore[index]
    assert names["why"]["codes"]  # type: ignore[index]
    assert names["filtered"]["items"] == []  # type: ignore[index]
    some = {item["item_id"] for item in names["some"]["items"]}  # type: ignore[index]
    assert some <= {3, 5, 8}
    assert {"propensities", "arm"} <= set(names["table"].column_names)  # type: ignore[attr-defined]
    for path in re.findall(r"`GET (/\S+)`", (ROOT / "docs" / "SERVICE.md").read_text()):
        assert httpx.get(f"{running}{path}", timeout=20).status_code == 200


def test_the_examples_of_ingestion_are_taken(running: str) -> None:
    page = (ROOT / "docs" / "INGEST.md").read_text()
    names: dict[str, Any] = {}
    exec(re.sub(r'"http://127[^"]*"', repr(running), "\n".join(PYTHON.findall(page))), names)  # noqa: S102
    told = [
        names[name].json()["accepted"]
        for name in ("listed", "clicked", "many", "listed_again", "gone", "forgotten")
    ]
    assert told == [1, 1, 2, 1, 1, 1]
    bodies = re.findall(r"\$SERVICE(\S+) .*? -d '(.*?)'", page, re.S)
    assert [path for path, _ in bodies] == ["/v1/items", "/v1/events", "/v1/retrieve"]
    for path, body in bodies:
        answer = httpx.post(f"{running}{path}", json=json.loads(body), timeout=20)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


WORDS = """soft search, drift, handover, promote, catch up, exploration, dead letters, prequential,
champion, freshness, journal, evidence, cell, checkpoint, snapshot, tail, filter, time to live,
forgotten, query, properties, withdrawn, similar, device, segment, forget, retention, id, backlog,
rank, split, arm"""


def test_a_newcomer_gets_from_each_word_to_one_place() -> None:
    """From the README to the table, from the table to a file whose first words are about it."""
    page = ROOT / "docs" / "ARCHITECTURE.md"
    assert "docs/ARCHITECTURE.md#where-is-" in (ROOT / "README.md").read_text()
    table = dict(re.findall(r"^\| ([a-z ]+) \| \[[^]]+\]\(([^)]+)\)", page.read_text(), re.M))
    words = [word.strip() for word in WORDS.split(",")]
    assert sorted(table) == sorted(words)
    for word, target in table.items():
        docstring = ast.get_docstring(ast.parse((page.parent / target).read_text())) or ""
        assert re.sub(r"e?s?$", "", word) in docstring.lower(), f"{target} does not say {word}"


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
def test_every_file_that_is_named_exists(page: Path) -> None:
    for target in re.findall(
        r"`((?:deploy|streaming|model|indexer|replay|docs)/[\w./]*)`", page.read_text()
    ):
        assert (ROOT / target).exists(), target


def test_the_settings_that_are_named_exist() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    known = subprocess.run(
        ["grep", "-rhoE", r"^    [a-z_]+:", ROOT / "deploy", ROOT / "streaming"],
        capture_output=True,
        text=True,
    ).stdout
    for name in re.findall(r"`\[[a-z.]+\] ([a-z_]+)`", text):
        assert f"    {name}:" in known, name
