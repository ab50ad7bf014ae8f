"""What may take the place of a log of which something was sent, and what is refused before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from replay.begun_log import LOOKED_AT, clicks_sent, note
from replay.errors import ReplayError
from replay.staging import stage

LINES = [f"{n % 50},{n % 37},{1_369_699_200 + 60 * n}" for n in range(5_000)]


class Place:
    """A data directory, and the file that its log is read from."""

    def __init__(self, folder: Path, now_ms: int) -> None:
        self.data, self.file, self.now_ms = folder / "data", folder / "events.csv", now_ms

    def stage(self, lines: list[str], items: Path | None = None, file: Path | None = None):
        file = file or self.file
        file.write_text("\n".join(["user_id,item_id,time", *lines]))
        return stage(file, items, self.data, self.now_ms)

    def begin(self, lines: list[str], clicks: int):
        log = self.stage(lines)
        note(log.directory.parent, clicks)
        return log


@pytest.fixture
def place(tmp_path: Path, now_ms: int) -> Place:
    return Place(tmp_path, now_ms)


def test_another_log_is_refused_by_its_first_lines_and_nothing_is_staged(place, tmp_path):
    log = place.begin(LINES, 5_000)
    other = [f"{n % 9},{n % 7},{1_369_699_200 + 60 * n}" for n in range(5_000)]
    with pytest.raises(ReplayError, match=r"other.csv line 2 \(user 0, item 0.* is not in it") as e:
        place.stage(["0,0,1369699300", *other], file=tmp_path / "other.csv")
    said = str(e.value)
    assert f"{place.data} holds another log" in said
    assert str(place.file) in said
    for remedy in ("leave out --events", "--fresh", "--data-dir"):
        assert remedy in said
    assert log.directory.is_dir()
    assert [p.name for p in log.directory.parent.glob("log-*")] == [log.directory.name]
    assert not list(log.directory.parent.glob(".partial-*"))


def test_a_log_that_has_grown_is_the_same(place):
    first = place.begin(LINES[:4_000], 4_000)
    second = place.stage(LINES)
    assert (first.events, second.events) == (4_000, 5_000)
    assert not first.directory.exists()


def test_one_that_was_changed_where_it_was_replayed_is_refused_with_the_line(place):
    place.begin(LINES, 4_500)
    changed = LINES.copy()
    changed[3_000] = changed[3_000].replace(f"{3_000 % 50},", "49,", 1)
    assert LOOKED_AT < 3_000
    with pytest.raises(ReplayError, match=r"events.csv line 3002 \(user 49.* is not in it"):
        place.stage(changed)
    # the file is as it was: it goes on
    assert place.stage(LINES).events == 5_000


def test_one_that_was_changed_behind_that_goes_on(place):
    place.begin(LINES, 4_500)
    changed = [*LINES[:4_600], *(line.replace("13697", "13698") for line in LINES[4_600:])]
    assert place.stage(changed).events == 5_000


def test_one_that_lacks_what_was_replayed_is_refused(place):
    place.begin(LINES, 4_500)
    with pytest.raises(ReplayError, match="lacks what is event 3000 there, user 0, item 3,"):
        place.stage(LINES[:3_000] + LINES[3_001:])
    with pytest.raises(ReplayError, match="lacks what is event 2500 there"):
        place.stage(LINES[:2_500])


def test_items_that_are_announced_are_a_beginning(place):
    place.begin(LINES, 0)
    with pytest.raises(ReplayError, match="holds another log"):
        place.stage(["7,8,1369699100"])


def test_another_catalogue_for_the_same_log_is_taken(place, tmp_path):
    place.begin(LINES, 5_000)
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\n1,Soap\n")
    titles = {item.item_id: item.title for _, item in place.stage(LINES, items).read_items()}
    assert titles[1] == "Soap"


def test_a_log_of_which_nothing_was_sent_gives_way(place):
    place.stage(LINES)
    assert place.stage(["7,8,1369699100"]).events == 1


def test_how_far_it_is_never_goes_back(tmp_path):
    assert clicks_sent(tmp_path) is None
    note(tmp_path, 8_192)
    note(tmp_path, 0)
    assert clicks_sent(tmp_path) == 8_192
    (tmp_path / "begun.json").write_text(json.dumps([]))
    assert clicks_sent(tmp_path) == 0


@pytest.mark.parametrize("name", ["shop*", "sho[p]", "sho?"])
def test_a_directory_whose_name_is_a_pattern_is_that_directory_alone(tmp_path, now_ms, name):
    for folder, lines in (("shop", ["7,8,1369699200"]), (name, LINES)):
        (tmp_path / folder).mkdir()
        place = Place(tmp_path / folder, now_ms)
        place.begin(lines[:4_000], min(len(lines), 4_000))
    assert place.stage(LINES).events == 5_000
    with pytest.raises(ReplayError, match="lacks what is event 2500 there"):
        place.stage(LINES[:2_500])
