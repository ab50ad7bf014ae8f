"""A full file system, a real one: who waits, what is said, and how it goes on."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from deploy.monitoring import full_disk
from deploy.monitoring.part_status import read_status, reporter
from deploy.service.answer_log import AnswerLog, read_answers
from deploy.service.config import AnswerLogConfig
from deploy.service.user_histories import HistoryStoreError, UserHistories
from streaming.durable_files import PARTIAL
from streaming.statuses import IndexerStatus, TrainerStatus
from tests.deploy.service.test_answer_log import ANSWER, Query
from tests.deploy.service.test_user_histories import TOPIC, records, sequences_of


def eventually(what: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def test_it_is_recognised_whoever_says_it_and_however_deep(small_disk, tmp_path: Path) -> None:
    import sqlite3

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import safetensors.numpy

    disk = small_disk(8)
    database = sqlite3.connect(disk.path / "a.db")
    database.execute("CREATE TABLE t (x BLOB)")
    database.commit()
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    rocks = Rdict(str(disk.path / "rocks"), options)
    disk.fill()
    megabytes = np.zeros(1 << 20, np.int64)

    def sqlite() -> None:
        database.execute("INSERT INTO t VALUES (zeroblob(4000000))")
        database.commit()

    def rocksdb() -> None:
        rocks[b"x"] = bytes(1 << 16)

    for write in (
        lambda: (disk.path / "file").write_bytes(bytes(1 << 16)),
        sqlite,
        rocksdb,
        lambda: pq.write_table(pa.table({"x": megabytes}), disk.path / "x.parquet"),
        lambda: safetensors.numpy.save_file({"x": megabytes}, disk.path / "x.safetensors"),
    ):
        with pytest.raises(Exception) as raised:
            write()
        assert full_disk.is_full(raised.value), raised.value
        try:
            try:
                raise raised.value
            except Exception as error:
                raise ValueError("the snapshot cannot be written") from error
        except ValueError as error:
            assert full_disk.is_full(error)
    assert not full_disk.is_full(OSError(errno.EACCES, "Permission denied"))


def test_the_last_word_takes_the_place_of_the_one_before(small_disk) -> None:
    disk = small_disk(4)
    report = reporter(disk.path, "train")
    report(TrainerStatus(trained_events=10**9, state="training"))
    disk.fill()
    report(TrainerStatus(trained_events=7))
    assert read_status(disk.path, TrainerStatus).trained_events == 7
    reporter(disk.path, "index")(IndexerStatus(version=1))  # there is no place for a first one
    assert read_status(disk.path, IndexerStatus).version in (None, 1)
    disk.clear()
    report(TrainerStatus(trained_events=8))
    assert read_status(disk.path, TrainerStatus).trained_events == 8
    assert not list((disk.path / "status").glob(f"{PARTIAL}*"))


PART = """
import sys
from pathlib import Path
from deploy.commands.console import run_part
from deploy.settings import Settings
from streaming.statuses import PartStatus

data_dir = Path(sys.argv[1])
def body(stop, report):
    try:
        (data_dir / "work").write_bytes(bytes(1 << 20))
    except OSError as error:
        raise RuntimeError("the work cannot be written") from error
    report(PartStatus(done=True))
run_part("train", Settings(data_dir=data_dir), body)
"""


def test_a_part_waits_for_room_says_so_once_and_begins_anew(small_disk, tmp_path: Path) -> None:
    disk = small_disk(8)
    reporter(disk.path, "train")(TrainerStatus(trained_events=5))
    disk.fill()
    part = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PART), str(disk.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        eventually(lambda: read_status(disk.path, TrainerStatus).state == "waiting for room")
        time.sleep(2.5)
        assert part.poll() is None
        status = read_status(disk.path, TrainerStatus)
        assert status.trained_events == 5
        assert status.problem.startswith(f"the disk is full: 0 bytes free in {disk.path}; free")
        disk.clear()
        eventually(lambda: "done" in read_status(disk.path, TrainerStatus).to_json())
        said, _ = part.communicate(timeout=20)
    finally:
        part.kill()
    assert part.returncode == 0
    assert said.count("the disk is full") == 1
    assert (disk.path / "work").stat().st_size == 1 << 20


def test_a_part_that_waits_for_room_ends_when_told_to(small_disk) -> None:
    disk = small_disk(8)
    reporter(disk.path, "train")(TrainerStatus())
    disk.fill()
    command = [sys.executable, "-c", textwrap.dedent(PART), str(disk.path)]
    part = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        eventually(lambda: read_status(disk.path, TrainerStatus).state == "waiting for room")
        part.send_signal(signal.SIGTERM)
        part.communicate(timeout=10)
    finally:
        part.kill()
    assert part.returncode == 0


def test_a_command_of_others_is_started_once_there_is_room(small_disk) -> None:
    disk = small_disk(4)
    disk.fill()
    command = [sys.executable, "-m", "deploy.monitoring.full_disk", str(disk.path / "kafka")]
    waiting = subprocess.Popen([*command, "/bin/echo", "up"], stdout=subprocess.PIPE, text=True)
    time.sleep(2.5)
    assert waiting.poll() is None
    disk.clear()
    said, _ = waiting.communicate(timeout=10)
    assert said.splitlines()[1:] == [f"there is room in {disk.path / 'kafka'} again", "up"]


def test_histories_are_read_while_nothing_can_be_taken_in_and_none_is_lost(small_disk) -> None:
    disk = small_disk(24)
    histories = UserHistories(disk.path / "histories")
    log = records(sequences_of(7, list(range(400, 430))))
    histories.store(log[:10], {(TOPIC, 0): 10})
    disk.fill()
    taken = 10
    with pytest.raises(HistoryStoreError, match="the disk is full"):
        for at in range(10, 30):  # the last page of a file may have room for some
            histories.store(log[at : at + 1], {(TOPIC, 0): at + 1})
            taken = at + 1
    for _ in range(2):
        with pytest.raises(HistoryStoreError):
            histories.store(log[taken:], {(TOPIC, 0): 30})
        with pytest.raises(HistoryStoreError, match="the disk is full"):
            histories.open_anew()
        assert histories.get(7).position == taken
    histories.close()

    histories = UserHistories(disk.path / "histories")  # a start on a full disk
    assert not histories.writable
    assert histories.get(7).position == taken == histories.next_offsets(TOPIC)[0]
    assert histories.users == 1
    disk.clear()
    histories.open_anew()
    histories.store(log[taken:], {(TOPIC, 0): 30})
    assert histories.get(7).items == list(range(400, 430))
    histories.close()


def test_answers_wait_in_memory_until_they_can_be_written(small_disk) -> None:
    disk = small_disk(4)
    answers = AnswerLog(disk.path / "answers", AnswerLogConfig(rows=4, seconds=0.2))
    disk.fill()
    stop = threading.Event()
    thread = threading.Thread(target=answers.run, args=(stop,))
    thread.start()
    for _ in range(10):
        answers.add(1, 1, Query([]), ANSWER)
    eventually(lambda: bool(answers.problem))
    for _ in range(14):
        answers.add(1, 1, Query([]), ANSWER)
    eventually(lambda: answers.lost > 0)
    disk.clear()
    eventually(lambda: answers.written > 0)
    stop.set()
    thread.join()
    assert answers.lost == 24 - answers.written <= 8
    assert len(read_answers(disk.path / "answers")) == answers.written
