from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.training.journal import Entry, Publication, RocksJournal
from model.training.micro_batch import Plan, TrainerError
from tests.model.training.in_memory import MemoryJournal

_offset = st.integers(0, 2**62)
_ranges = st.dictionaries(st.integers(0, 100), st.tuples(_offset, _offset), max_size=4)
entries = st.one_of(
    st.builds(
        Plan, _ranges, _ranges, events=st.integers(0, 10**6), checksum=st.integers(0, 2**32 - 1)
    ),
    st.builds(
        Publication, sequence=st.integers(1, 10**6), reason=st.sampled_from(["idle", "drift"])
    ),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(entries, max_size=12), st.integers(0, 14), st.integers(0, 14))
def test_what_was_appended_is_found_again_in_order(
    written: list[Entry], pruned: int, after: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        journal = RocksJournal(Path(directory))
        memory = MemoryJournal()
        for number, entry in enumerate(written, 1):
            journal.append(number, entry)
            memory.append(number, entry)
        journal.prune(pruned)
        memory.prune(pruned)
        journal.close()
        journal = RocksJournal(Path(directory))
        expected = [(n, e) for n, e in enumerate(written, 1) if n > pruned and n > after]
        assert list(journal.entries(after)) == list(memory.entries(after)) == expected
        journal.close()


def test_an_entry_survives_kill_9(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from model.training.journal import Publication, RocksJournal
journal = RocksJournal(Path(sys.argv[1]))
for number in range(1, 6):
    journal.append(number, Publication(number, "idle"))
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root)
    journal = RocksJournal(tmp_path)
    assert [n for n, _ in journal.entries(0)] == [1, 2, 3, 4, 5]
    journal.close()


def test_a_second_trainer_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    journal = RocksJournal(tmp_path)
    with pytest.raises(TrainerError, match="another trainer works in this data directory"):
        RocksJournal(tmp_path)
    journal.close()


def test_a_damaged_journal_says_what_to_do(tmp_path: Path) -> None:
    journal = RocksJournal(tmp_path)
    journal.append(1, Publication(1, "idle"))
    journal.close()
    RocksJournal(tmp_path).close()  # makes a table of the log
    for table in tmp_path.glob("*.sst"):
        table.write_bytes(b"rubbish")
    with pytest.raises(TrainerError, match="move the directory away and start again"):
        RocksJournal(tmp_path)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainerError, match="file/journal: the journal cannot be opened"):
        RocksJournal(tmp_path / "file" / "journal")
