"""Titles and categories that shops scraped from their own pages."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.formats import markup
from replay.formats.record import plain_text
from replay.log_file import read_items


def entries(path):
    bad = []
    found, _ = read_items(path, bad.append)
    return [tuple(one.entry)[:3] for one in found], bad


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        (
            '<span id="productTitle" class="a-size-large">Lip &amp; Cheek <b>Tint</b></span>',
            "Lip & Cheek Tint",
        ),
        ("AT&amp;amp;T &lt;i&gt;phone&lt;/i&gt;", "AT&T phone"),
        ("Soap<br/>soft<p>large", "Soap soft large"),
        ("Caf&eacute; &#39;Noir&#x27;", "Café 'Noir'"),
        ("var aPageStart = (new Date()).getTime();\nvar x=1;", ""),
        ("<script>var x = '<b>';</script>Soap", "Soap"),
        ("<script type='text/javascript'>amznJQ.onReady('x', function () { a(); });", ""),
        ("<style>.a { color: red }</style>", ""),
        ("<!-- a remark -->Soap", "Soap"),
        (".a-box { display: none }", ""),
        ('Soap <span class="a-si', "Soap"),
        ("I <3 you", "I <3 you"),
        ("sizes <M and >S", "sizes <M and >S"),
        ("A < B > C", "A < B > C"),
        ("Jack & Jill", "Jack & Jill"),
        (
            "Learning the var keyword, with function keys",
            "Learning the var keyword, with function keys",
        ),
        ("The <Brand New> soap", "The <Brand New> soap"),
        ("a" * 5000, "a" * 1000),
        ("<b>" * 500_000 + "Soap", ""),
        (None, ""),
        (float("nan"), ""),
    ],
)
def test_a_title_is_plain_text(title, expected):
    assert plain_text(title) == expected


def test_scraped_metadata_keeps_what_a_person_would_read(write):
    lines = [
        {
            "asin": "B0",
            "title": '<span id="t">Lip &amp; Cheek <b>Tint</b></span>',
            "category": ["Beauty", "Makeup"],
        },
        {
            "asin": "B1",
            "title": "var aPageStart = (new Date()).getTime();\nvar x=1;",
            "category": ["Beauty", "Makeup", "</span></span></span>"],
        },
        {"asin": "B2", "title": "Fine", "category": ["All Beauty", "</span>"]},
        {"asin": "B3", "title": "Fine", "category": ["</span>"], "main_cat": "<b>Luxury</b>"},
    ]
    assert entries(write("\n".join(map(json.dumps, lines)))) == (
        [
            ("B0", "Lip & Cheek Tint", "Makeup"),
            ("B1", "", "Makeup"),
            ("B2", "Fine", "All Beauty"),
            ("B3", "Fine", "Luxury"),
        ],
        [],
    )
    table = 'item_id,title,category\n1,"<b>Soap</b> &amp; comb","Hair &amp; Care</span>"\n'
    assert entries(write(table)) == ([("1", "Soap & comb", "Hair & Care")], [])
    item = "item_id:token\ttitle:token_seq\tcategories:token_seq\n1\t<b>Soap</b>\t'A', '</span>'\n"
    assert entries(write(item)) == ([("1", "Soap", "A")], [])


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_a_number_that_is_none_spoils_only_its_field(write, value):
    text = (
        '{"asin": "B0", "title": "ok"}\n{"asin": "B1", "title": "Soap", "price": ' + value + "}\n"
    )
    assert entries(write(text)) == ([("B0", "ok", ""), ("B1", "Soap", "")], [])
    text = '{"asin": "B0", "title": ' + value + '}\n{"asin": "B1", "title": "Soap"}\n'
    assert entries(write(text)) == ([("B0", "", ""), ("B1", "Soap", "")], [])


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "NaN", "null", "true"])
def test_words_that_python_does_not_know_spoil_only_their_field(write, value):
    text = (
        "{'asin': 'B0', 'title': 'ok'}\n{'asin': 'B1', 'title': 'Soap', 'price': " + value + "}\n"
    )
    assert entries(write(text)) == ([("B0", "ok", ""), ("B1", "Soap", "")], [])


SCRIPTS = ("var a =", "function f(x) {", "new Date(", "getTime()", "window.x.", ".a{b:c}")


@given(st.lists(st.sampled_from([*SCRIPTS, "document.y", "Soap", " ", "{", "(", "<b>"])))
def test_what_is_not_searched_for_scripts_holds_none(pieces):
    text = "".join(pieces)
    if markup._SCRIPT.search(text):
        assert any(mark in text for mark in markup._IN_SCRIPTS)
