from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from deploy.local.data_directory import UpError, claim, log_name, only_one
from streaming.job.record import NO_STATE, RecordFile


def test_a_second_pipeline_on_the_same_directory_is_refused_with_the_pid(tmp_path: Path) -> None:
    problem: list[str] = []

    def second() -> None:
        try:
            with only_one(tmp_path):
                pass
        except UpError as error:
            problem.append(str(error))

    with only_one(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert f"pid {os.getpid()}" in problem[0]
    with only_one(tmp_path):
        pass


def test_each_log_has_a_data_directory_of_its_own() -> None:
    beauty, toys = Path("a/beauty/events.csv"), Path("a/toys/events.csv")
    assert log_name(beauty, None).startswith("beauty-events-")
    assert log_name(beauty, None) != log_name(toys, None)
    assert log_name(None, None) == "synthetic"


def test_fresh_empties_only_what_is_ours(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    claim(ours, fresh=False)
    (ours / "kafka").mkdir()
    claim(ours, fresh=False)
    assert (ours / "kafka").is_dir()
    claim(ours, fresh=True)
    assert not (ours / "kafka").exists()
    # What lies elsewhere is not gone on from either.
    assert RecordFile(ours).read().restore == NO_STATE

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(UpError, match="not of a pipeline"):
        claim(foreign, fresh=True)
    assert (foreign / "thesis.tex").is_file()


def test_what_a_killed_part_had_begun_to_write_is_removed(tmp_path: Path) -> None:
    claim(tmp_path, fresh=False)
    left = [tmp_path / ".partial-served.json-7", tmp_path / "status" / ".partial-train.json-8"]
    (tmp_path / "status").mkdir()
    for path in left:
        path.touch()
    claim(tmp_path, fresh=False)
    assert all(path.exists() for path in left)  # somebody may be at it
    for path in left:
        os.utime(path, (0, 0))
    claim(tmp_path, fresh=False)
    assert not any(path.exists() for path in left)
