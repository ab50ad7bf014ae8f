from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from deploy import settings as configuration
from deploy.commands.app import app
from deploy.release.decisions import decisions, read_served
from deploy.release.ledger import Ledger, RegisteredVersion
from deploy.release.promotion import SwitchError, resolve
from indexer.comparison.versions import compare, usual_samples
from indexer.search.config import SearchConfig
from indexer.search.retriever import Retriever
from indexer.snapshots.pointer import snapshot_path
from tests.deploy.snapshot_maker import ITEMS, Shelf, clicks


def sparc(shelf: Shelf, *words: str) -> dict[str, object]:
    asked = CliRunner().invoke(app, [*words, "--data-dir", str(shelf.data_dir), "--json"])
    assert asked.exit_code == 0, asked.output
    answer: dict[str, object] = json.loads(asked.stdout)
    return answer


@pytest.fixture
def four(shelf: Shelf) -> Shelf:
    for version in (1, 2, 3, 4):
        shelf.publish(version)
    return shelf


def test_a_version_has_many_names(four: Shelf) -> None:
    ledger = Ledger(four.data_dir)
    ledger.add(RegisteredVersion(12, 2, "d"), {})
    assert resolve(four.data_dir, "3") == 3
    assert resolve(four.data_dir, "v12") == 2
    assert resolve(four.data_dir, "champion") == resolve(four.data_dir, "newest") == 4
    with pytest.raises(SwitchError, match="there is no previous version"):
        resolve(four.data_dir, "previous")
    with pytest.raises(SwitchError, match="version '9' is unknown; there are 1, 2, 3, 4"):
        resolve(four.data_dir, "9")


def test_rollback_pins_the_version_before_and_promote_releases(four: Shelf) -> None:
    assert sparc(four, "rollback")["version"] == 3
    served = read_served(four.data_dir)
    assert served is not None
    assert (served.version, served.previous, served.pinned) == (3, 4, True)
    sparc(four, "rollback", "1")
    sparc(four, "promote", "newest")
    served = read_served(four.data_dir)
    assert served is not None
    assert (served.version, served.previous, served.pinned) == (4, 1, False)
    assert [(d.version, d.action, d.by) for d in decisions(four.data_dir)] == [
        (3, "pinned", "person"),
        (1, "pinned", "person"),
        (4, "promoted", "person"),
    ]


def test_a_damaged_version_is_not_served(four: Shelf) -> None:
    (four.data_dir / snapshot_path(2) / "placed.arrow").write_bytes(b"")
    asked = CliRunner().invoke(app, ["promote", "2", "--data-dir", str(four.data_dir)])
    assert asked.exit_code == 1
    assert read_served(four.data_dir) is None


def test_versions_are_compared_by_what_they_hold_and_answer(four: Shelf) -> None:
    states = [
        Retriever.load(four.data_dir / snapshot_path(v), SearchConfig(codes=4)) for v in (1, 4)
    ]
    found = compare(states[0], states[1], clicks(), usual_samples(states[1]), 5)
    assert (found["a"]["version"], found["b"]["version"]) == (1, 4)
    assert found["items"]["in_both"] == ITEMS
    drifts = [code["movement"] + code["churn"] for code in found["codes"]]
    assert drifts == sorted(drifts, reverse=True)
    assert len(found["samples"]) == 3
    assert all(len(sample["a"]) == len(sample["b"]) == 5 for sample in found["samples"])
    same = compare(states[0], states[0], clicks(), [], 5)
    assert same["items"]["moved"] == 0
    assert same["paired"]["difference"] == 0


def test_without_a_service_compare_reads_the_disk(four: Shelf, free_ports) -> None:
    (four.data_dir / configuration.CONFIG).write_text(
        f"[ports]\nservice = {free_ports(1)[0]}\n[search]\ncodes = 4\n"
    )
    found = sparc(four, "compare", "1", "champion")
    assert found["paired"] is None
    shown = CliRunner().invoke(app, ["compare", "1", "4", "--data-dir", str(four.data_dir)])
    assert shown.exit_code == 0
    assert "codes that moved most" in shown.output
