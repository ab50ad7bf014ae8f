"""Which column is what: names of the field, in every spelling, with every separator."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replay.errors import BadLine, ReplayError
from replay.formats.recognition import recognise_events, recognise_items
from replay.log_file import read_events, read_items
from replay.staging import stage

EXPECTED = [("257597", "355908", 1433221332000), ("992329", "248676", 1433224214000)]


def read(path, now_ms):
    bad: list[BadLine] = []
    return [tuple(event) for event in read_events(path, now_ms, bad.append)], bad


def listed(path):
    bad: list[BadLine] = []
    found, _ = read_items(path, bad.append)
    return [tuple(one.entry) for one in found], bad


@pytest.mark.parametrize(
    "header",
    [
        "user_id,item_id,time",
        "userId,movieId,timestamp",
        "User ID,Product-Id,Event Time",
        "visitorid,itemid,timestamp",
        "reviewerID,asin,unixReviewTime",
        "customer_id,article_id,t_dat",
        "session,aid,ts",
        "memberId,trackId,createdAt",
        '"USER_ID","ITEM_ID","TIMESTAMP"',
    ],
)
def test_the_usual_names_of_user_item_and_time_are_known_in_every_spelling(write, now_ms, header):
    rows = "257597,355908,1433221332\n992329,248676,1433224214\n"
    events, bad = read(write(f"{header}\n{rows}"), now_ms)
    assert [e[:3] for e in events] == EXPECTED
    assert {e[3] for e in events} == {"click"}
    assert bad == []


@pytest.mark.parametrize("separator", [",", "\t", ";", "|", "::"])
def test_a_table_may_be_separated_by_other_signs(write, now_ms, separator):
    rows = [("userId", "movieId", "rating", "timestamp")]
    rows += [("257597", "355908", "5", "1433221332"), ("992329", "248676", "4.5", "1433224214")]
    text = "".join(separator.join(row) + "\r\n" for row in rows)
    events, bad = read(write(text), now_ms)
    assert [e[:3] for e in events] == EXPECTED
    assert bad == []
    items, bad = listed(
        write(
            separator.join(("movieId", "title", "genres"))
            + "\n"
            + separator.join(("1", "Soap", "A thing"))
            + "\n",
            "items",
        )
    )
    assert [item[:3] for item in items] == [("1", "Soap", "A thing")]
    assert bad == []


def test_visitors_events_are_a_log_whose_event_column_names_the_type(write, tmp_path, now_ms):
    text = (
        "timestamp,visitorid,event,itemid,transactionid\n"
        "1433221332117,257597,view,355908,\n"
        "1433224214164,992329,addtocart,248676,\n"
        "1433224214165,992329,transaction,248676,4000\n"
        "1433224214166,992329,,248676,\n"
    )
    events, bad = read(write(text), now_ms)
    assert bad == []
    assert events == [
        ("257597", "355908", 1433221332117, "view"),
        ("992329", "248676", 1433224214164, "addtocart"),
        ("992329", "248676", 1433224214165, "transaction"),
        ("992329", "248676", 1433224214166, "click"),
    ]
    log = stage(tmp_path / "file", None, tmp_path / "data", now_ms)
    (batch,) = log.read_events()
    assert batch.event_types == ["view", "addtocart", "transaction", "click"]
    assert len(set(batch.event_ids)) == 4
    assert log.notes == (
        f"{tmp_path / 'file'}: visitorid is the user, itemid the item, timestamp the time "
        "(milliseconds), event the type of event; not used: transactionid",
    )


def test_an_event_type_that_is_the_heartbeats_own_is_a_bad_line(write, now_ms):
    text = "user_id,item_id,time,event\n1,2,1433221332,view\n1,2,1433221333,heartbeat\n"
    events, bad = read(write(text), now_ms)
    assert len(events) == 1
    assert [b.line for b in bad] == [3]
    assert "heartbeat" in bad[0].reason


def test_one_user_doing_two_things_at_once_makes_two_events(write, tmp_path, now_ms):
    text = "user_id,item_id,time,event\n1,2,1433221332,view\n1,2,1433221332,cart\n"
    (batch,) = stage(write(text), None, tmp_path / "data", now_ms).read_events()
    assert len(set(batch.event_ids)) == 2


def test_a_shop_with_times_as_text_is_read_with_its_event_types(write, now_ms):
    text = (
        "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,"
        "user_session\n"
        "2019-10-01 00:00:00 UTC,view,44600062,2103807459595387724,,shiseido,35.79,541312140,72d7\n"
        "2019-10-01 00:00:01 UTC,cart,3900821,20530135,appliances,aqua,33.20,554748717,9333\n"
    )
    events, bad = read(write(text), now_ms)
    assert events == [
        ("541312140", "44600062", 1569888000000, "view"),
        ("554748717", "3900821", 1569888001000, "cart"),
    ]
    assert bad == []


def test_behaviours_without_a_header_are_known_by_their_words(write, now_ms):
    text = "543462,1715,1464116,pv,1511658000\n662867,2244074,1575622,buy,1511658001\n"
    events, bad = read(write(text), now_ms)
    assert events == [
        ("543462", "1715", 1511658000000, "pv"),
        ("662867", "2244074", 1511658001000, "buy"),
    ]
    assert bad == []


def test_any_object_with_the_usual_names_is_an_event(write, now_ms):
    lines = [
        {"userId": 257597, "itemId": "355908", "ts": 1433221332, "price": 3.5},
        {"userId": 992329, "itemId": 248676, "ts": 1433224214, "event": "view"},
        {"userId": True, "itemId": 1, "ts": 1433224214},
        {"userId": 1.5, "itemId": 1, "ts": 1433224214},
    ]
    events, bad = read(write("\n".join(map(json.dumps, lines))), now_ms)
    assert [e[:3] for e in events] == EXPECTED
    assert [e[3] for e in events] == ["click", "view"]
    assert [b.line for b in bad] == [3, 4]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("customer_id,member_id,item_id,time", ["customer_id", "member_id", "user_id"]),
        ("user_id,movie_id,track_id,time", ["movie_id", "track_id", "item_id"]),
        ("user_id,item_id,event_time,created_at", ["event_time", "created_at", "time"]),
        ("user_id,item_id,userId,time", ["user_id", "userId"]),
    ],
)
def test_columns_that_could_both_be_meant_are_refused_with_their_names(
    write, now_ms, header, words
):
    path = write(f"{header}\n1,2,1433221332,1433221332\n")
    with pytest.raises(ReplayError) as caught:
        read(path, now_ms)
    for word in [str(path), *words, "rename"]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("who,itemid,timestamp", ["no column of users", "who", "user_id"]),
        ("visitorid,what,timestamp", ["no column of items", "what", "item_id"]),
        ("visitorid,itemid,when", ["a replay needs to know when", "when", "time"]),
        ("who,what,when", ["who", "user_id,item_id,time"]),
    ],
)
def test_a_column_that_is_missing_is_named_with_those_that_are_there(write, now_ms, header, words):
    with pytest.raises(ReplayError) as caught:
        read(write(f"{header}\n1,2,1433221332\n"), now_ms)
    for word in words:
        assert word in str(caught.value)
    assert "header" not in str(caught.value)
    assert "catalogue" not in str(caught.value)


def test_a_log_given_as_a_catalogue_is_told_to_be_a_log(write):
    with pytest.raises(ReplayError, match="is a log of events, not a catalogue; give it as"):
        listed(write("visitorid,itemid,timestamp\n1,2,1433221332\n"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("item_id,name,categories\n1,Soap,Bath\n", ("1", "Soap", "Bath")),
        ("productId,product_name,main_category\n1,Soap,Bath\n", ("1", "Soap", "Bath")),
        (
            "movieId,title,genres\n1,Toy Story (1995),Comedy|Fantasy\n",
            ("1", "Toy Story (1995)", "Comedy|Fantasy"),
        ),
        ("parent_asin,title,categories\nB1,Soap,\"['Beauty', 'Bath']\"\n", ("B1", "Soap", "Bath")),
        ("item_id,uid,title,genre\n1,9,Soap,Bath\n", ("1", "Soap", "Bath")),
        ('{"productId": 1, "name": "Soap", "genres": ["Bath"]}\n', ("1", "Soap", "Bath")),
    ],
)
def test_the_usual_names_of_title_and_category_are_known(write, text, expected):
    items, bad = listed(write(text))
    assert [item[:3] for item in items] == [expected]
    assert bad == []


def test_what_is_used_and_what_is_not_is_told_once(write, tmp_path, now_ms):
    events = write("userId,movieId,rating,timestamp\n1,2,5,1400000000\n", "events")
    items = write("movieId,name,categories,price,brand\n2,Soap,Bath,1.0,Y\n", "items")
    log = stage(events, items, tmp_path / "data", now_ms)
    again = stage(events, items, tmp_path / "data", now_ms)
    assert log.notes == again.notes
    assert log.notes == (
        f"{events}: userId is the user, movieId the item, timestamp the time (seconds); not used: "
        "rating",
        f"{items}: movieId is the item, name the title, categories the category; not used: price, "
        "brand",
    )


def test_a_catalogue_that_lists_none_of_the_clicked_items_is_told(write, tmp_path, now_ms):
    events = write("user_id,item_id,time\n1,205616461,1400000000\n", "events")
    items = write("item_id,title\n0205616461,Soap\n", "items")
    log = stage(events, items, tmp_path / "data", now_ms)
    assert any("205616461" in note and "0205616461" in note for note in log.notes), log.notes


def test_a_refusal_is_short_whatever_the_file_holds(write, tmp_path, now_ms):
    long = "x" * 3_000_000
    for text in (
        f"{long},itemid,time\n1,2,3\n",
        "user_id,item_id," + ",".join(f"column{n}" for n in range(200_000)) + "\n1,2\n",
        ":token\t".join(f"f{n}" for n in range(200_000)) + "\tuser_id:token\titem_id:token\n1\n",
        f"{long}\n",
        f'{{"{long}": 1}}\n',
    ):
        with pytest.raises(ReplayError) as caught:
            read(write(text), now_ms)
        assert len(str(caught.value)) < 1500, str(caught.value)[:200]
    for line in (
        json.dumps({"reviewerID": "A1", "asin": "B1", "unixReviewTime": [long]}),
        json.dumps({"reviewerID": "A1", "asin": "B1", "unixReviewTime": long}),
        json.dumps({"reviewerID": [long], "asin": "B1", "unixReviewTime": 1}),
    ):
        good = json.dumps({"reviewerID": "A1", "asin": "B1", "unixReviewTime": 1400000000})
        _, bad = read(write(f"{good}\n{line}\n"), now_ms)
        assert len(bad) == 1
        assert len(bad[0].reason) < 300


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_text_of_windows_is_read(write, now_ms, encoding):
    text = "user_id\titem_id\ttime\r\nJosé\t355908\t1433221332\r\n"
    content = text.encode(encoding)
    if encoding.endswith("e"):
        content = ("\ufeff" + text).encode(encoding)
    for compress in (False, True):
        events, bad = read(write(content, "log", compress), now_ms)
        assert [e[:3] for e in events] == [("José", "355908", 1433221332000)]
        assert bad == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("user_id,item_id,time\n1,2,1433221332\n".encode("utf-16-le"), "UTF-16"),
        (b"[\n" + b'{"userId": 1}' + b"]\n", "one object a line"),
        (b"a" * 257 + b"ustar" + b"\0" * 300, "a tar archive"),
        (b"\x00\x01\x02\x03" * 100, "not text"),
    ],
)
def test_a_file_of_another_kind_says_what_it_is_and_what_to_do(write, now_ms, content, words):
    with pytest.raises(ReplayError, match=words):
        read(write(content), now_ms)


def test_a_quoted_field_may_go_over_lines_in_a_log_too(write, now_ms):
    text = 'userId,review,movieId,timestamp\n257597,"good,\nor not",355908,1433221332\n'
    events, bad = read(write(text), now_ms)
    assert [e[:3] for e in events] == EXPECTED[:1]
    assert bad == []


def test_a_directory_is_called_a_directory(tmp_path, now_ms):
    for give in (
        lambda: read(tmp_path, now_ms),
        lambda: stage(tmp_path, None, tmp_path / "data", now_ms),
        lambda: recognise_events(tmp_path),
        lambda: recognise_items(tmp_path),
    ):
        with pytest.raises(ReplayError, match="is a directory"):
            give()


def test_real_logs_of_other_shops_are_read_whole(shared, now_ms):
    events, bad = read(shared / "signals" / "taobao_head.csv", now_ms)
    assert (len(events), bad) == (96_168, [])
    assert {e[3] for e in events} == {"pv", "cart", "fav", "buy"}
    events, bad = read(shared / "signals" / "rees46_head.csv", now_ms)
    assert (len(events), bad) == (17_435, [])
    assert {e[3] for e in events} == {"view", "cart", "purchase"}


NAMES = st.sampled_from(
    ["user_id", "userId", "item", "asin", "time", "date", "event", "title", "genres", "x", '"', ""]
)
VALUES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["1400000000", "2019-10-01", "0001-01-01T00:00+14:00", "1e400", "9" * 5000]),
    st.integers(-(10**30), 10**30).map(str),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(NAMES, min_size=1, max_size=6),
    st.lists(st.lists(VALUES, min_size=1, max_size=6), max_size=6),
    st.sampled_from([",", "\t", ";", "|", "::", "json", "python"]),
)
def test_no_content_ends_otherwise_than_in_events_bad_lines_or_a_refusal(
    tmp_path, now_ms, names, rows, separator
):
    if separator in ("json", "python"):
        objects = [dict(zip(names, row, strict=False)) for row in rows]
        text = "\n".join(map(json.dumps if separator == "json" else repr, objects))
    else:
        text = "\n".join(separator.join(row) for row in [names, *rows])
    path = tmp_path / "file"
    path.write_text(text, encoding="utf-8", errors="replace")
    for read_it in (lambda: read(path, now_ms), lambda: listed(path)):
        try:
            _, bad = read_it()
        except ReplayError as error:
            assert len(str(error)) < 1500
        else:
            assert all(len(line.reason) < 300 for line in bad)
