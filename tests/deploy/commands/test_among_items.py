"""Among which items `sparc retrieve` and `sparc similar` ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.commands.retrieve import among_items


def test_filter_and_ids_are_fields_of_the_question(tmp_path: Path) -> None:
    path = tmp_path / "filter.json"
    path.write_text('{"must": []}')
    assert among_items(None, None, None) == {}
    assert among_items('{"should": []}', "12,B0X", '["a,b"]') == {
        "filter": {"should": []},
        "exclude": ["12", "B0X"],
        "include_only": ["a,b"],
    }
    assert among_items(f"@{path}", None, "") == {"filter": {"must": []}, "include_only": []}


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(ValueError, match="--filter is no JSON"):
        among_items("{", None, None)
