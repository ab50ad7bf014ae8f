"""The log of answers: whole files, bounded, and never in the way of an answer."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from deploy.service.answer_log import SCHEMA, AnswerLog, read_answers
from deploy.service.app import create_app
from deploy.service.config import AnswerLogConfig
from deploy.service.retrieval import RetrievalService
from deploy.service.sequence_follower import SequenceFollower
from deploy.service.snapshot_follower import SnapshotFollower
from deploy.service.user_histories import UserHistories
from indexer.search.config import ExplorationConfig, SearchConfig
from indexer.search.query import Answer, Query
from streaming.kafka_clients import KafkaConnection
from tests.deploy.service.test_service import worker_on
from tests.deploy.snapshot_maker import Shelf

ANSWER = Answer([5, 9], [0.5, 0.5], [1, 2], [0.4, 0.1], [1.0, 0.02], [], 70)


def write_all(answers: AnswerLog) -> None:
    stop = threading.Event()
    stop.set()
    answers.run(stop)


def test_what_was_answered_can_be_read_with_its_probabilities(tmp_path: Path) -> None:
    answers = AnswerLog(tmp_path / "answers", AnswerLogConfig(), clock=lambda: 2.5)
    answers.add(3, 42, Query([7] * 60), ANSWER)
    answers.add(3, None, Query([]), ANSWER)
    write_all(answers)
    table = read_answers(tmp_path / "answers")
    assert table.schema == SCHEMA
    first, second = table.to_pylist()
    assert first["propensities"] == pytest.approx([1.0, 0.02])
    assert (first["answered_ms"], first["now_ms"], first["version"]) == (2500, 70, 3)
    assert (first["items"], first["codes"], len(first["history"])) == ([5, 9], [1, 2], 50)
    assert (first["user_id"], second["user_id"], second["history"]) == (42, None, [])
    assert (answers.written, answers.lost) == (2, 0)


def test_old_files_go_and_no_half_file_is_ever_there(tmp_path: Path) -> None:
    now = iter(range(1, 100))
    answers = AnswerLog(tmp_path, AnswerLogConfig(keep_files=2), clock=lambda: float(next(now)))
    for _ in range(5):
        answers.add(1, 1, Query([]), ANSWER)
        write_all(answers)
    assert [path.suffix for path in tmp_path.iterdir()] == [".parquet"] * 2
    assert [row["answered_ms"] for row in read_answers(tmp_path).to_pylist()] == [4000, 5000]


def test_half_a_file_of_a_killed_service_goes_and_another_workers_stays(tmp_path: Path) -> None:
    left, others = tmp_path / f"{7:015d}-1-000000.partial", tmp_path / f"{7:015d}-2-000000.partial"
    left.touch()
    others.touch()
    write_all(AnswerLog(tmp_path, AnswerLogConfig()))
    assert list(tmp_path.iterdir()) == [others]


def test_an_answer_never_waits_for_the_log(tmp_path: Path) -> None:
    full = AnswerLog(tmp_path, AnswerLogConfig(rows=1))
    for _ in range(10):
        full.add(1, 1, Query([]), ANSWER)
    assert full.lost == 6
    (tmp_path / "file").touch()
    nowhere = AnswerLog(tmp_path / "file" / "answers", AnswerLogConfig())
    nowhere.add(1, 1, Query([]), ANSWER)
    write_all(nowhere)
    assert (nowhere.written, nowhere.lost) == (0, 1)
    off = AnswerLog(tmp_path / "off", AnswerLogConfig(enabled=False))
    off.add(1, 1, Query([]), ANSWER)
    write_all(off)
    assert not (tmp_path / "off").exists()


def test_the_service_says_and_logs_what_was_drawn(shelf: Shelf, tmp_path: Path) -> None:
    shelf.publish(1)
    search = SearchConfig(
        codes=4, explore=ExplorationConfig(untouched=0.1, young=0.1, young_days=1e5)
    )
    follower = SnapshotFollower(shelf.data_dir, search, retry_seconds=0.0)
    assert follower.poll()
    histories = UserHistories(tmp_path / "histories")
    sequences = SequenceFollower(histories, KafkaConnection("127.0.0.1:1"), "sequences")
    answers = AnswerLog(tmp_path / "answers", AnswerLogConfig())
    service = RetrievalService(
        worker_on(shelf.data_dir), follower, histories, sequences, answers=answers
    )
    http = TestClient(create_app(service, 4096), "http://127.0.0.1")

    def ask(**query: object) -> httpx.Response:
        return http.post("/v1/retrieve", json=query)

    said = ask(history=[1, 8, 15], k=20).json()
    drawn = [item["propensity"] < 1 for item in said["items"]]
    assert drawn == [False] * 16 + [True] * 4
    service.close()
    histories.close()
    write_all(answers)
    (logged,) = read_answers(tmp_path / "answers").to_pylist()
    assert logged["items"] == [item["item_id"] for item in said["items"]]
    assert logged["propensities"] == pytest.approx([i["propensity"] for i in said["items"]])
    assert logged["history"] == [1, 8, 15]


def test_answers_to_a_user_who_is_forgotten_go_from_memory_and_files(tmp_path: Path) -> None:
    first, second = (AnswerLog(tmp_path, AnswerLogConfig(), worker=n) for n in (1, 2))
    for answers in (first, second):
        for user in (1, 2, None):
            answers.add(1, user, Query([]), ANSWER)
    write_all(second)
    assert [row["user_id"] for row in read_answers(tmp_path).to_pylist()] == [1, 2, None]
    second.add(1, 1, Query([]), ANSWER)
    for answers in (first, second):
        answers.forget(1)
        write_all(answers)
    left = [row["user_id"] for row in read_answers(tmp_path).to_pylist()]
    assert left == [2, None, 2, None]
    assert [path.suffix for path in tmp_path.iterdir()] == [".parquet"] * 2


def test_files_that_are_too_old_go(tmp_path: Path) -> None:
    now = [1000.0]
    answers = AnswerLog(tmp_path, AnswerLogConfig(), clock=lambda: now[0], keep_seconds=100)
    answers.add(1, 1, Query([]), ANSWER)
    write_all(answers)
    stop = threading.Event()
    now[0] = 1101.0
    answers.add(1, 2, Query([]), ANSWER)
    threading.Timer(0.6, stop.set).start()
    answers.run(stop)
    assert [row["user_id"] for row in read_answers(tmp_path).to_pylist()] == [2]


def test_workers_that_forget_at_once_and_a_damaged_file_leave_whole_files(tmp_path: Path) -> None:
    logs = [AnswerLog(tmp_path, AnswerLogConfig(), worker=n) for n in (1, 2)]
    for user in range(60):
        logs[1].add(1, user, Query([]), ANSWER)
        write_all(logs[1])
    damaged = tmp_path / f"{7:015d}-2-000000.parquet"
    damaged.write_bytes(b"PAR1 and no more")
    for answers in logs:
        for user in range(0, 60, 2):
            answers.forget(user)
    threads = [threading.Thread(target=write_all, args=(answers,)) for answers in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.suffix for path in tmp_path.iterdir()] == [".parquet"] * 60
    left = {row["user_id"] for row in read_answers(tmp_path).to_pylist()}
    assert left == set(range(1, 60, 2))
    assert not damaged.exists() and logs[0].problem == logs[1].problem == ""


def test_what_is_written_is_not_written_again_where_another_worker_removed_an_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink

    def late(path: Path, missing_ok: bool = False) -> None:
        unlink(path)
        unlink(path, missing_ok)

    answers = AnswerLog(tmp_path, AnswerLogConfig(keep_files=1))
    answers.add(1, 1, Query([]), ANSWER)
    write_all(answers)
    answers.add(1, 2, Query([]), ANSWER)
    monkeypatch.setattr(Path, "unlink", late)
    write_all(answers)
    assert (answers.written, answers.lost, answers.problem) == (2, 0, "")
    assert read_answers(tmp_path)["user_id"].to_pylist() == [2]


def test_after_a_restart_a_user_who_came_back_keeps_what_was_answered_since(tmp_path: Path) -> None:
    now = [1.0]
    answers = AnswerLog(tmp_path, AnswerLogConfig(), clock=lambda: now[0])
    for second in (1.0, 3.0):
        now[0] = second
        answers.add(1, 7, Query([]), ANSWER)
    write_all(answers)
    again = AnswerLog(tmp_path, AnswerLogConfig(), clock=lambda: 9.0)
    again.forget(7, until_ms=2000)
    write_all(again)
    assert [row["answered_ms"] for row in read_answers(tmp_path).to_pylist()] == [3000]
    again.forget(7)
    write_all(again)
    assert len(read_answers(tmp_path)) == 0
