from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.ingest.forgotten_users import ForgottenUsers
from deploy.service.user_histories import HistoryRecord, HistoryStoreError, UserHistories
from deploy.service.user_history import UserHistory
from streaming.events import FORGET, HISTORY_LENGTH, Click, Forgotten, UserSequence

TOPIC = "sequences"


def sequences_of(user_id: int, items: list[int]) -> list[UserSequence]:
    """The records that the streaming job writes for a user who clicks `items`, one per second."""
    times = [1000 * position for position in range(1, len(items) + 1)]
    return [
        UserSequence(
            event_id=f"{user_id}-{at}",
            user_id=user_id,
            event_time=times[at],
            position=at + 1,
            history_items=items[max(0, at - HISTORY_LENGTH) : at],
            history_times=times[max(0, at - HISTORY_LENGTH) : at],
            target=item,
        )
        for at, item in enumerate(items)
    ]


def records(sequences: list[UserSequence], start: int = 0) -> list[HistoryRecord]:
    return [
        HistoryRecord(TOPIC, 0, offset, sequence.to_bytes())
        for offset, sequence in enumerate(sequences, start)
    ]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "service" / "histories"


def test_the_target_ends_the_history_and_fifty_are_kept(directory: Path) -> None:
    histories = UserHistories(directory)
    clicked = list(range(100, 160))
    histories.store(records(sequences_of(7, clicked)), {(TOPIC, 0): 60})
    history = histories.get(7)
    assert history is not None
    assert history.items == clicked[-50:]
    assert history.times == [1000 * position for position in range(11, 61)]
    assert history.position == 60
    assert histories.latest_event_time_ms == 60_000
    assert histories.get(8) is None


def test_a_restart_resumes_behind_what_is_stored(directory: Path) -> None:
    histories = UserHistories(directory)
    histories.store(records(sequences_of(1, [5, 6])), {(TOPIC, 0): 2, (TOPIC, 3): 9})
    histories.close()
    again = UserHistories(directory)
    assert again.get(1) == UserHistory(2, [5, 6], [1000, 2000])
    assert again.next_offsets(TOPIC) == {0: 2, 3: 9}
    assert again.next_offsets("other") == {}
    assert (again.users, again.latest_event_time_ms) == (1, 2000)


def test_a_record_delivered_again_changes_nothing(directory: Path) -> None:
    histories = UserHistories(directory)
    delivered = records(sequences_of(1, [5, 6, 7]))
    histories.store(delivered, {(TOPIC, 0): 3})
    histories.store(delivered[:2], {(TOPIC, 0): 3})
    assert histories.get(1) == UserHistory(3, [5, 6, 7], [1000, 2000, 3000])
    assert histories.users == 1


def test_poison_is_counted_and_the_rest_goes_on(directory: Path) -> None:
    histories = UserHistories(directory)
    good = records(sequences_of(1, [5, 6]))
    poison = [
        HistoryRecord(TOPIC, 0, 2, b"\xff"),
        HistoryRecord(TOPIC, 0, 3, None),
        HistoryRecord(TOPIC, 0, 4, b'{"user_id": "x"}'),
    ]
    assert histories.store([poison[0], *good, *poison[1:]], {(TOPIC, 0): 5}) == 2
    assert histories.poisoned == 3
    assert histories.get(1) == UserHistory(2, [5, 6], [1000, 2000])


def test_a_second_process_on_the_same_store_is_told_so(directory: Path) -> None:
    histories = UserHistories(directory)
    with pytest.raises(HistoryStoreError, match="stop another service"):
        UserHistories(directory)
    histories.close()


@settings(max_examples=25, deadline=None)
@given(
    clicks=st.dictionaries(
        st.integers(0, 2**63 - 1),
        st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=60),
        min_size=1,
        max_size=4,
    ),
    cut=st.integers(1, 20),
)
def test_any_batching_gives_the_last_clicks_of_every_user(
    clicks: dict[int, list[int]], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    histories = UserHistories(tmp_path_factory.mktemp("histories"))
    log = records([s for user, items in clicks.items() for s in sequences_of(user, items)])
    for start in range(0, len(log), cut):
        part = log[start : start + cut]
        histories.store(part, {(TOPIC, 0): part[-1].offset + 1})
    for user, items in clicks.items():
        history = histories.get(user)
        assert history is not None
        assert history.items == items[-50:]
        assert history.position == len(items)
    assert histories.next_offsets(TOPIC) == {0: len(log)}
    histories.close()


def test_from_the_note_on_a_user_has_no_history_until_the_request_has_come_through(
    directory: Path, tmp_path: Path
) -> None:
    notes = ForgottenUsers(tmp_path)
    told: list[int] = []
    histories = UserHistories(directory, requests=notes)
    histories.forgot.append(told.append)
    clicked = records(sequences_of(7, [1, 2, 3]) + sequences_of(8, [4]))
    histories.store(clicked, {(TOPIC, 0): 4})
    notes.note(Click("f", 7, 0, 1, FORGET))
    assert histories.get(7) is None and histories.get(8) is not None
    histories.close()
    histories = UserHistories(directory, requests=notes)
    histories.forgot.append(told.append)
    assert histories.get(7) is None  # after a restart, too
    done = HistoryRecord(TOPIC, 0, 4, Forgotten("f", 7, 1).to_bytes())
    back = records(sequences_of(7, [9]), 5)
    assert histories.store([done, *back], {(TOPIC, 0): 6}) == 1
    assert told == [7] and histories.users == 2
    assert histories.get(7) == UserHistory(1, [9], [1000])
    histories.close()
    # read from the beginning of the topic: what was before is in no answer on the way
    histories = UserHistories(tmp_path / "anew", requests=notes)
    histories.store(clicked, {(TOPIC, 0): 4})
    assert histories.get(7) is None
    histories.store([done, *back], {(TOPIC, 0): 6})
    assert histories.get(7) == UserHistory(1, [9], [1000])
    notes.note(Click("g", 7, 0, 1, FORGET))
    assert histories.get(7) is None


def test_no_file_of_the_store_holds_a_user_who_was_forgotten(
    directory: Path, tmp_path: Path
) -> None:
    histories = UserHistories(directory, requests=ForgottenUsers(tmp_path, -1))
    user = 6225908972979923808
    key = user.to_bytes(8, "big")
    for start in range(5):
        others = sequences_of(start + user - 2, list(range(60)))
        histories.store(records(others), {(TOPIC, 0): 60})
        histories.close()
        histories = UserHistories(directory, requests=ForgottenUsers(tmp_path, -1))

    def files_with_the_key() -> list[str]:
        return [p.name for p in directory.iterdir() if p.is_file() and key in p.read_bytes()]

    assert files_with_the_key()
    histories.store([HistoryRecord(TOPIC, 0, 9, Forgotten("f", user).to_bytes())], {(TOPIC, 0): 99})
    assert histories.get(user) is None and histories.get(user + 1) is not None
    assert histories.users == 4 and histories.forgotten_users() == [user]
    histories.drop_requests()
    assert histories.forgotten_users() == []
    assert files_with_the_key() == []  # while it is open
    assert histories.get(user - 1) is not None
    histories.close()


def test_a_crash_before_the_files_are_written_anew_leaves_nobody_in_them(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    histories = UserHistories(directory, requests=ForgottenUsers(tmp_path))
    user = 6225908972979923808
    items = np.random.default_rng(0).integers(2**62, size=60)  # of which no file makes less
    histories.store(records(sequences_of(user, items.tolist())), {(TOPIC, 0): 60})
    histories.close()

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    histories = UserHistories(directory, requests=ForgottenUsers(tmp_path))
    told: list[int] = []
    histories.forgot.append(told.append)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(histories, "_erase", crash)
        done = HistoryRecord(TOPIC, 0, 60, Forgotten("f", user).to_bytes())
        histories.store([done], {(TOPIC, 0): 61})
    assert told == [user]
    histories.close()

    def files() -> list[str]:
        clicked = items[-5].astype("<i8").tobytes()
        return [p.name for p in directory.iterdir() if clicked in p.read_bytes()]

    assert files()
    histories = UserHistories(directory, requests=ForgottenUsers(tmp_path))
    assert files() == [] and histories.get(user) is None
    histories.close()
