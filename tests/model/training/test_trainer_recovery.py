from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.artifacts import chain, manifest
from model.retrieval.segment import Segment
from model.training.micro_batch import TrainerError
from tests.model.training.crash import Crash, Steps
from tests.model.training.training_run import EVENTS, Outcome, assert_equal, train


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crashes here are exceptions: what was written is there, synced or not."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, int]:
    """A run without a crash, and the number of its steps."""
    steps = Steps(None)
    return train(tmp_path_factory.mktemp("undisturbed"), steps), steps.count


def test_every_event_is_trained_once_and_published(undisturbed: tuple[Outcome, int]) -> None:
    progress = undisturbed[0].progress
    assert progress["trained_events"] == progress["sequences_read"] == EVENTS
    assert progress["published_events"] == EVENTS
    assert progress["repeated"] == progress["poison"] == 0
    assert progress["items_listed"] == 40
    assert sorted(undisturbed[0].handovers) == [2, 3, 4]
    facts = undisturbed[0].handovers[4].facts
    assert facts["reason"] == "final"
    assert facts["trained_events"] == EVENTS
    assert sum(facts["offsets"]["sequences"].values()) == EVENTS
    assert facts["event_time_range"] == [0, 1000 * (EVENTS - 1)]
    assert facts["metrics"]["queries"] > 0


@pytest.mark.usefixtures("unsynced")
@pytest.mark.parametrize("longest", [chain.LONGEST, 3])
def test_a_crash_at_any_step_changes_nothing(
    undisturbed: tuple[Outcome, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int
) -> None:
    """Also where every third checkpoint and handover begins a chain anew."""
    monkeypatch.setattr(chain, "LONGEST", longest)
    expected, count = undisturbed
    if longest == 3:
        expected = train(tmp_path / "undisturbed")
    assert count > 60
    for crash_at in range(1 + longest % 2, count + 1, 5):
        data = tmp_path / str(crash_at)
        with pytest.raises(Crash):
            train(data, Steps(crash_at))
        assert_equal(train(data), expected)


@pytest.mark.usefixtures("unsynced")
@pytest.mark.parametrize("longest", [chain.LONGEST, 2])
@pytest.mark.parametrize("inside", [(Segment, "save"), (chain.Chain, "link")])
def test_a_crash_while_a_delta_or_a_new_base_is_written_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int, inside: tuple[type, str]
) -> None:
    """A directory that was begun is not looked at, and written anew: the same again."""
    monkeypatch.setattr(chain, "LONGEST", longest)
    expected = train(tmp_path / "undisturbed")
    owner, method = inside
    write = getattr(owner, method)
    crashes = 0
    for crash_at in range(1, 30):
        steps = Steps(crash_at)

        def crashing(*args: object, steps: Steps = steps) -> None:
            write(*args)
            steps.step()

        data = tmp_path / str(crash_at)
        with monkeypatch.context() as patched:
            patched.setattr(owner, method, crashing)
            try:
                train(data)
            except Crash:
                crashes += 1
        assert_equal(train(data), expected)
        if crashes < crash_at:
            break
    assert crashes >= 3


@pytest.mark.usefixtures("unsynced")
def test_crashes_during_recovery_change_nothing(
    undisturbed: tuple[Outcome, int], tmp_path: Path
) -> None:
    crashes = 0
    for attempt in range(100):
        try:
            result = train(tmp_path, Steps(5 + attempt % 20))
            break
        except Crash:
            crashes += 1
    else:
        pytest.fail("no progress under repeated crashes")
    assert crashes > 5
    assert_equal(result, undisturbed[0])


@pytest.mark.usefixtures("unsynced")
def test_handover_numbers_only_rise_while_processes_crash(
    undisturbed: tuple[Outcome, int], tmp_path: Path
) -> None:
    seen: dict[int, str] = {}
    for crash_at in [*range(5, 60, 7), None]:
        with contextlib.suppress(Crash):
            train(tmp_path, Steps(crash_at))
        if (tmp_path / "handover").is_dir():
            for path in (tmp_path / "handover").iterdir():
                if path.name.isdigit():
                    digest = manifest.verify(path, "handover").digest
                    assert seen.setdefault(int(path.name), digest) == digest
    assert sorted(seen) == [1, 2, 3, 4]


@pytest.mark.usefixtures("unsynced")
@pytest.mark.parametrize("damage", ["dense", "meta", "manifest", "delta", "older delta", "base"])
def test_a_damaged_checkpoint_falls_back_to_one_before(
    undisturbed: tuple[Outcome, int], tmp_path: Path, damage: str
) -> None:
    with pytest.raises(Crash):
        train(tmp_path, Steps(undisturbed[1] - 8))
    newest = max((tmp_path / "checkpoints").iterdir())
    base, *deltas = sorted(newest.glob("rows-*.safetensors"))
    assert len(deltas) >= 2
    shared = {"base": base, "older delta": deltas[-2], "delta": deltas[-1]}
    path = shared.get(damage) or next(newest.glob(f"{damage}.*"))
    path.write_bytes(b"\0" * 100)  # a file that others share is damaged for them, too
    assert_equal(train(tmp_path), undisturbed[0])
    for kept in (tmp_path / "checkpoints").glob("0*"):
        manifest.verify(kept, "checkpoint")
    assert_equal(train(tmp_path), undisturbed[0])


def test_training_goes_on_where_it_stopped(
    undisturbed: tuple[Outcome, int], tmp_path: Path
) -> None:
    train(tmp_path)
    again = train(tmp_path)
    assert_equal(again, undisturbed[0])


def test_without_its_journal_training_goes_on_exactly_once(
    undisturbed: tuple[Outcome, int], tmp_path: Path
) -> None:
    with pytest.raises(Crash):
        train(tmp_path, Steps(undisturbed[1] // 2))
    (tmp_path / "journal").rename(tmp_path / "moved")
    progress = train(tmp_path).progress
    assert progress["trained_events"] == EVENTS
    assert progress["repeated"] == 0


def test_lost_checkpoints_are_an_error_and_not_a_silent_new_beginning(tmp_path: Path) -> None:
    train(tmp_path)
    (tmp_path / "checkpoints").rename(tmp_path / "moved")
    with pytest.raises(TrainerError, match="what lies between is lost.*--fresh"):
        train(tmp_path)


def test_a_handover_that_went_missing_does_not_come_back_under_another_number(
    tmp_path: Path,
) -> None:
    train(tmp_path)
    for path in (tmp_path / "handover").iterdir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    result = train(tmp_path)
    assert sorted(result.handovers) == [4]


_KILLED = """
import os, signal, sys
from pathlib import Path
from model.artifacts import chain
from tests.model.training.crash import Steps
from tests.model.training import training_run

chain.LONGEST = int(sys.argv[2])
for crash_at in map(int, sys.argv[3:]):
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        continue
    steps = Steps(crash_at, lambda: os.kill(os.getpid(), signal.SIGKILL))
    for owner, name in ((os, "fsync"), (os, "link"), (Path, "rename")):
        def counted(*args, _call=getattr(owner, name)):
            steps.step()
            return _call(*args)
        setattr(owner, name, counted)
    training_run.train(Path(sys.argv[1]) / str(crash_at))
    os._exit(0)
"""


@pytest.mark.parametrize(("longest", "crashes"), [(32, range(1, 90, 8)), (3, range(5, 90, 8))])
def test_kill_9_between_two_writes_changes_nothing(
    undisturbed: tuple[Outcome, int], tmp_path: Path, longest: int, crashes: range
) -> None:
    """Real processes die before their n-th fsync, link or rename.

    That is inside checkpoints (bases, deltas, and those that begin a chain anew) and handovers.
    """
    child = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path), str(longest), *map(str, crashes)],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    for crash_at in crashes:
        data = tmp_path / str(crash_at)
        assert_equal(train(data), undisturbed[0])
        left = [p for d in ("checkpoints", "handover") for p in (data / d).iterdir()]
        assert all(p.name.isdigit() for p in left)
