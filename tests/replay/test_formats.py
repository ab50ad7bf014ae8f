from __future__ import annotations

import ast
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import BadLine, ReplayError
from replay.formats import amazon_object
from replay.log_file import read_events, read_items

RATINGS_2014 = """A39HTATAQ9V7YF,0205616461,5.0,1369699200
A3JM6GV9MNOF9X,B000AAAAAA,3.0,1355443200
"""
RATINGS_2018 = """0205616461,A39HTATAQ9V7YF,5.0,1369699200
B000AAAAAA,A3JM6GV9MNOF9X,3.0,1355443200
"""
RATINGS_WITH_HEADER = """UserId,ProductId,Rating,Timestamp,
A39HTATAQ9V7YF,0205616461,5,1369699200,
A3JM6GV9MNOF9X,B000AAAAAA,3,1355443200,
"""
RATINGS_2023 = """user_id,parent_asin,rating,timestamp,history
A39HTATAQ9V7YF,0205616461,5.0,1369699200000,
A3JM6GV9MNOF9X,B000AAAAAA,3.0,1355443200000,0205616461 B07
"""
REVIEWS_2014 = "\n".join(
    json.dumps(
        {"reviewerID": user, "asin": item, "reviewText": 'It\'s "fine"', "unixReviewTime": time}
    )
    for user, item, time in (
        ("A39HTATAQ9V7YF", "0205616461", 1369699200),
        ("A3JM6GV9MNOF9X", "B000AAAAAA", 1355443200),
    )
)
REVIEWS_2023 = "\n".join(
    json.dumps({"user_id": user, "asin": "B0OTHER", "parent_asin": item, "timestamp": time})
    for user, item, time in (
        ("A39HTATAQ9V7YF", "0205616461", 1369699200000),
        ("A3JM6GV9MNOF9X", "B000AAAAAA", 1355443200000),
    )
)
INTER = """user_id:token\titem_id:token\trating:float\ttimestamp:float
A39HTATAQ9V7YF\t0205616461\t5.0\t1369699200.0
A3JM6GV9MNOF9X\tB000AAAAAA\t3.0\t1.3554432E9
"""
EXPECTED = [
    ("A39HTATAQ9V7YF", "0205616461", 1369699200000),
    ("A3JM6GV9MNOF9X", "B000AAAAAA", 1355443200000),
]


def events_of(path, now_ms):
    bad: list[BadLine] = []
    return [tuple(event)[:3] for event in read_events(path, now_ms, bad.append)], bad


def items_of(path):
    bad: list[BadLine] = []
    listed, _ = read_items(path, bad.append)
    return [tuple(found.entry) for found in listed], bad


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    "text",
    [
        RATINGS_2014,
        RATINGS_2018,
        RATINGS_WITH_HEADER,
        RATINGS_2023,
        REVIEWS_2014,
        REVIEWS_2014.replace("\n", "\r\n"),
        REVIEWS_2023,
        INTER,
        "\n".join(str(json.loads(line)) for line in REVIEWS_2014.splitlines()),
    ],
    ids=[
        "ratings 2014",
        "ratings 2018",
        "ratings with header and empty fifth column",
        "ratings 2023 with history",
        "reviews 2014 and 2018",
        "line ends of Windows",
        "reviews 2023",
        "RecBole",
        "reviews as Python literals",
    ],
)
def test_every_format_is_recognised_by_content_and_gives_the_same_events(
    write, now_ms, text, compress
):
    assert events_of(write(text, "any.name", compress), now_ms) == (EXPECTED, [])


@pytest.mark.parametrize(
    "text",
    [
        "user_id,item_id,time\n7,11,1369699200\n8,12,1369699201\n",
        "time,rating,item_id,user_id\n1369699200,5,11,7\n1369699201,4,12,8\n",
        '\ufeff"item_id","user_id","time"\r\n"11","7","1369699200"\r\n"12","8","1369699201"\r\n',
        "user_id,item_id,timestamp\n7,11,1369699200000\n8,12,1369699201000",
        "user_id,item_id,time\n\n 7,11,1369699200\n8 ,12,1369699201.0\n\n",
    ],
    ids=["as documented", "other order", "quoted with a byte order mark", "milliseconds", "untidy"],
)
def test_an_events_table_is_read_whatever_the_order_of_its_columns(write, now_ms, text):
    expected = [("7", "11", 1369699200000), ("8", "12", 1369699201000)]
    assert events_of(write(text), now_ms) == (expected, [])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("7,11", "a column is missing: 2 of at least 3"),
        ("7,-11,1369699200", "item_id '-11' is negative"),
        ("7,,1369699200", "item_id is empty"),
        ("null,11,1369699200", "user_id is missing (null)"),
        (f"7,{'9' * 300},1369699200", "item_id is too long: 300 bytes, at most 256"),
        ("7,11,-5", "time -5 (1969-12-31) is before 1995"),
        ("7,11,0", "time 0 (1970-01-01) is before 1995"),
        ("7,11,99999999999", "(5138-11-16) is in the future"),
        ("7,11,1" + "0" * 25, "is in the future"),
        ("7,11,1" + "0" * 60, "time is not a finite number"),
        ("7,11,soon", "time 'soon' is not a number"),
        ("7,11,nan", "time 'nan' is not a number"),
        ("7,11,1_369_699_200", "is not a number"),
        ('7,11,"1369699200', "a quotation mark is not closed"),
        ("7,11\0,1369699200", "holds a NUL character"),
        (b"7,11,\xff\xfe", "not UTF-8"),
    ],
)
def test_a_bad_line_is_told_with_its_number_and_the_rest_goes_on(write, now_ms, line, reason):
    line = line if isinstance(line, bytes) else line.encode()
    path = write(b"user_id,item_id,time\n1,2,1369699200\n" + line + b"\n3,4,1369699200\n")
    events, bad = events_of(path, now_ms)
    assert [e[:2] for e in events] == [("1", "2"), ("3", "4")]
    assert [(b.file, b.line) for b in bad] == [(path, 3)]
    assert reason in bad[0].reason
    assert str(bad[0]).startswith(f"{path} line 3: ")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"reviewerID": "A1", "asin": "B1", "unixReview', "malformed JSON"),
        ('{"reviewerID": "A1", "unixReviewTime": 1369699200}', "asin is missing"),
        ('{"reviewerID": [5], "asin": "B1", "unixReviewTime": 1369699200}', "neither text nor"),
        ('{"reviewerID": "", "asin": "B1", "unixReviewTime": 1369699200}', "is empty"),
        ('{"reviewerID": "A1", "asin": "B1"}', "time None is not a number"),
        ('{"reviewerID": "A1", "asin": "B1", "unixReviewTime": true}', "not a number"),
        ('["A1", "B1"]', "a JSON list, not an object"),
    ],
)
def test_a_bad_review_is_told_with_its_number(write, now_ms, line, reason):
    events, bad = events_of(write(f"{REVIEWS_2014}\n{line}\n"), now_ms)
    assert (events, [b.line for b in bad]) == (EXPECTED, [3])
    assert reason in bad[0].reason


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n\n", "only blank lines"),
        (b"a,b,c\n1,2,3\n", "line 1: not a known log"),
        (b"user_id,item_id,rating\n1,2,3\n", "a replay needs to know when"),
        (b"user_id:token\titem_id:token\n1\t2\n", "a replay needs to know when"),
        (b"11,12,5,1369699200\n13,14,5,1369699200\n", "users and items look alike"),
        (b"item_id,title\n1,Soap\n", "is a catalogue"),
        (b"PK\x03\x04rest of a zip", "a zip archive; unpack it first"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"PAR1....", "a Parquet file"),
    ],
)
def test_a_file_that_is_no_log_is_refused_with_its_name_and_a_remedy(
    write, now_ms, content, message
):
    path = write(content)
    with pytest.raises(ReplayError) as caught:
        events_of(path, now_ms)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_directory_are_refused(tmp_path, now_ms):
    with pytest.raises(ReplayError, match="no such file; check the path"):
        events_of(tmp_path / "absent.csv", now_ms)
    with pytest.raises(ReplayError, match="is a directory"):
        events_of(tmp_path, now_ms)


def test_a_truncated_gzip_file_is_an_error_that_names_the_last_line(write, now_ms):
    text = "user_id,item_id,time\n" + "".join(
        f"{k * 7919 % 1000},{k * 31 % 997},{1369699200 + k * k % 99991}\n" for k in range(20_000)
    )
    path = write(text, "log.csv.gz", compress=True)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ReplayError, match=r"truncated after line \d+: .*; download or copy"):
        events_of(path, now_ms)


def test_a_damaged_gzip_file_is_an_error(write, now_ms):
    path = write(RATINGS_2014 * 500, "log.csv.gz", compress=True)
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF  # the checksum
    path.write_bytes(content)
    with pytest.raises(ReplayError, match="damaged"):
        events_of(path, now_ms)


META_2014 = (
    "{'asin': '0205616461', 'title': \"Bio-Active Anti-Aging Cream &amp; \\'Serum\\'\", "
    "'related': {'also_viewed': ['B00']}, 'categories': [['Beauty', 'Skin Care', 'Face']]}\n"
    "{'asin': 'B000AAAAAA', 'related': {'also_bought': ['B01', 'B02']}}\n"
)
META_2018 = (
    '{"category": ["Beauty", "Hair &amp; Care"], "title": " Wig \\n cap ", "asin": "B1"}\n'
    '{"category": [], "main_cat": "Luxury Beauty", "title": "", "asin": "B2"}\n'
)
META_2023 = (
    '{"main_category": "All Beauty", "title": "Soap", "categories": [], "parent_asin": "B1"}\n'
    '{"main_category": "X", "title": null, "categories": ["A", "B", "C"], "parent_asin": "B2"}\n'
)
ITEM = (
    "item_id:token\ttitle:token_seq\tcategories:token_seq\n1\tA soap\t'Beauty', 'Soap'\nB2\tX\t\n"
)


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            META_2014,
            [
                (
                    "0205616461",
                    "Bio-Active Anti-Aging Cream & 'Serum'",
                    "Skin Care",
                    "0205616461",
                ),
                ("B000AAAAAA", "", "", "B000AAAAAA"),
            ],
        ),
        (META_2018, [("B1", "Wig cap", "Hair & Care", "B1"), ("B2", "", "Luxury Beauty", "B2")]),
        (META_2023, [("B1", "Soap", "All Beauty", "B1"), ("B2", "", "B", "B2")]),
        (ITEM, [("1", "A soap", "Soap", ""), ("B2", "X", "", "")]),
        ("item_id,category\n1,119\n2,0\n", [("1", "", "119", ""), ("2", "", "", "")]),
        (
            'title,asin,item_id\n"Soap, ""soft"",\nlarge",B1,1\n',
            [("1", 'Soap, "soft", large', "", "B1")],
        ),
        ("asin,title\nB1,Soap\n", [("B1", "Soap", "", "B1")]),
    ],
    ids=["2014", "2018", "2023", "RecBole", "no titles", "quoted over two lines", "text ids"],
)
def test_every_catalogue_is_recognised_by_content(write, text, expected, compress):
    assert items_of(write(text, "any.name", compress)) == (expected, [])


def test_bad_catalogue_lines_are_told_and_the_rest_goes_on(write):
    table = write(
        'item_id,title\n1,Soap\n2,"never closed\n3,Comb\n-1,Brush\n4,a,b\n5,Wig\n', "table"
    )
    items, bad = items_of(table)
    assert [item[0] for item in items] == ["1", "3", "5"]
    assert [b.line for b in bad] == [3, 5, 6]
    literals = write(
        META_2014 + "{'asin': __import__('os').getcwd()}\n" + "{" * 5000 + "\n", "meta"
    )
    items, bad = items_of(literals)
    assert (len(items), [b.line for b in bad]) == (2, [3, 4])
    assert {b.reason for b in bad} == {"malformed Python literal"}


def test_inches_in_a_title_open_no_quotation(write):
    items, bad = items_of(write('item_id,title\n1,A 5" comb\n2,"A 5"" brush"\n3,Soap\n'))
    assert [item[1] for item in items] == ['A 5" comb', 'A 5" brush', "Soap"]
    assert bad == []


def test_text_that_is_no_unicode_does_no_harm(write):
    line = "{'asin': '%s', 'title': 'half a \\ud83d face', 'categories': [['a\\0b', 'c\\0d']]}\n"
    items, bad = items_of(write(line % "B1" + line % "B\\ud83d" + line % "B2"))
    assert [item[:3] for item in items] == [
        ("B1", "half a ? face", "c d"),
        ("B2", "half a ? face", "c d"),
    ]
    assert [(b.line, b.reason) for b in bad] == [(2, "asin is not valid Unicode")]


def test_a_log_is_no_catalogue(write):
    with pytest.raises(ReplayError, match="not a known catalogue"):
        items_of(write(RATINGS_2014))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(deadline=None)
@given(
    title=texts,
    related=st.dictionaries(
        st.sampled_from(["also_bought", "also_viewed", "bought_together"]), st.lists(texts)
    ),
    brand=texts,
)
def test_what_is_cut_out_of_a_literal_changes_nothing_else(title, related, brand):
    record = {"asin": "B1", "title": title, "related": related, "brand": brand}
    line = repr(record)
    parsed = amazon_object._literal(line)
    assert parsed["title"] == title
    assert parsed["brand"] == brand
    assert ast.literal_eval(line) == record


def test_titles_that_look_like_what_is_cut_out_still_parse():
    line = repr({"asin": "B1", "title": "a 'related': {'x': 1}, b", "brand": "c"})
    parsed = amazon_object._literal(line)
    assert (parsed["asin"], parsed["brand"]) == ("B1", "c")


def test_the_head_of_a_real_ratings_file_is_read_whole(shared, now_ms):
    events, bad = events_of(shared / "raw" / "ratings_Beauty_head30k.csv", now_ms)
    assert (len(events), bad) == (29_999, [])
    assert events[0] == ("A39HTATAQ9V7YF", "205616461", 1369699200000)


def test_real_interactions_without_time_are_refused(shared, now_ms):
    with pytest.raises(ReplayError, match="no column of times among user_id, item_id"):
        events_of(shared / "loo" / "beauty.inter", now_ms)
