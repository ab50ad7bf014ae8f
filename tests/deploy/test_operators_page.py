"""docs/STREAMING.md names what is there: every setting with its default, every reason, every field.

Its commands are run by tests/end_to_end/test_streaming_page.py.
"""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from streaming.events import Click, UserSequence
from streaming.job.flink_tls import FlinkTls
from streaming.job.settings import JobConfig
from streaming.security import Security
from tests.streaming.made_clicks import poison

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "STREAMING.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ")
]


def test_every_setting_is_there_with_its_default():
    documented: dict[str, str] = {}
    for row in ROWS:
        names = re.findall(r"`(\w+)`", row[0])
        defaults = [cell.strip("` ") for cell in row[1].split(",")] if len(row) == 3 else []
        if len(names) == len(defaults):
            documented |= dict(zip(names, defaults, strict=True))
    for setting in fields(JobConfig):
        default = getattr(JobConfig(), setting.name)
        said = documented[setting.name]
        assert said == (str(default).removesuffix(".0") if default else "none"), setting.name


def test_every_reason_of_a_dead_letter_is_there():
    kinds = {reason.split(": ", 1)[1] for _, reason in poison(10**12).values()}
    for kind in kinds:
        assert kind in PAGE, kind


@pytest.mark.parametrize("schema", [Click, UserSequence])
def test_every_field_of_a_schema_is_there(schema):
    (row,) = (r for r in ROWS if r[0] == {Click: "`clicks`", UserSequence: "`sequences`"}[schema])
    for field in fields(schema):
        as_said = schema is Click and field.name.startswith("external_")  # `user_id`, as a text
        assert as_said or f"`{field.name}`" in row[2]


def test_the_security_settings_that_it_shows_exist():
    (block,) = re.findall(r"\[kafka\.security\]\n(.*?)```", PAGE, re.S)
    shown = set(re.findall(r"^(?:# )?(\w+)(?: =|,)", block, re.M))
    assert shown <= {f.name for f in fields(Security)}
    assert len(shown) > 4


def test_the_settings_of_flinks_tls_are_all_there():
    (block,) = re.findall(r"\[flink\.security\]\n(.*?)```", PAGE, re.S)
    assert set(re.findall(r"^(\w+) =", block, re.M)) == {f.name for f in fields(FlinkTls)}


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
