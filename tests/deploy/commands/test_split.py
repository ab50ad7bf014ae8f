"""`sparc split`: refusals that name the field, and a split from its beginning to its end."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from deploy.commands.app import app
from deploy.release.split import read_split
from tests.deploy.snapshot_maker import Shelf


@pytest.fixture
def run(shelf: Shelf):
    shelf.publish(1)
    shelf.publish(2)

    def sparc(*arguments: str):
        return CliRunner().invoke(app, ["split", *arguments, "--data-dir", str(shelf.data_dir)])

    return sparc


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        (["a,share=0.6", "b,share=0.6"], "the shares add up to 1.2"),
        (["a"], "arm 'a': share is missing; say a,share=0.1"),
        (["a,share=half"], "arm 'a': share: could not convert"),
        (["a,share=0.1,version=9"], "version '9' is unknown; there are 1, 2"),
        (["a,share=0.1,cods=9"], "no setting 'cods'"),
        (["a,share=0.1,codes=0"], "codes is 0"),
        (["a,share=0.1,shadow=perhaps"], "shadow is 'perhaps'"),
        (["a,share=0.1", "a,share=0.1"], "'a' is there twice"),
    ],
)
def test_what_makes_no_sense_is_refused_and_the_split_that_runs_goes_on(
    run, shelf: Shelf, arms: list[str], words: str
) -> None:
    assert run("set", "before", "--arm", "x,share=0.1").exit_code == 0
    told = [word for arm in arms for word in ("--arm", arm)]
    refused = run("set", "s", *told)
    assert refused.exit_code == 1
    assert words in refused.output and "Traceback" not in refused.output
    split = read_split(shelf.data_dir)
    assert split is not None and split.name == "before"


def test_without_its_log_no_arms_are_compared(run, shelf: Shelf, monkeypatch) -> None:
    monkeypatch.setenv("SPARC_SERVICE__ANSWERS__ENABLED", "false")
    refused = run("set", "s", "--arm", "x,share=0.1")
    assert refused.exit_code == 1 and "[service.answers] enabled" in refused.output


def test_a_split_is_set_shown_and_stopped(run, shelf: Shelf) -> None:
    assert json.loads(run("show", "--json").stdout) == {"split": None}
    told = ("--arm", "wide,share=0.2,codes=32", "--arm", "old,share=0.1,version=1,shadow=true")
    done = run("set", "sizes", *told)
    assert done.exit_code == 0, done.output
    assert "wide 0.2 of the users (codes=32)" in done.stdout
    assert "old 0.1 of the users (version 1, into the log only)" in done.stdout
    found = json.loads(run("show", "--json").stdout)
    assert [arm["name"] for arm in found["split"]["arms"]] == ["wide", "old"]
    assert found["arms"] is None  # no service runs that would compare them
    assert run("stop").stdout.strip() == "split sizes ended"
    assert run("stop").stdout.strip() == "no split runs"
