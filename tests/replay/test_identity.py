from __future__ import annotations

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.identity import DUCKDB_MACROS, event_id
from streaming.ids import numeric_id


@pytest.fixture(scope="module")
def sql():
    with duckdb.connect() as connection:
        connection.execute(DUCKDB_MACROS)
        yield connection


texts = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.text("0123456789", min_size=1, max_size=25),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
)


@settings(deadline=None)
@given(
    user=texts,
    item=texts,
    time_ms=st.integers(788918400000, 1 << 42),
    kind=st.sampled_from(["click", "view", "pv"]),
)
def test_the_database_and_python_agree(sql, user, item, time_ms, kind):
    found = sql.execute(
        "SELECT numeric_id($1), numeric_id($2), event_id($1, $2, $3::BIGINT, $4)",
        [user, item, time_ms, kind],
    ).fetchone()
    assert found == (numeric_id(user), numeric_id(item), event_id(user, item, time_ms, kind))
    assert (found[0] < 0) == (str(found[0]) == user and user[0] == "-")
    assert -(2**63) <= found[0] < 2**63


def test_ids_are_stable_across_releases():
    assert numeric_id("A39HTATAQ9V7YF") == 6225908972979923808
    assert numeric_id("0205616461") == 2574932919095407350
    assert numeric_id("205616461") == 205616461
    assert numeric_id(str(2**63 - 1)) == 2**63 - 1
    assert event_id("7188", "104", 1023840000000) == "e68b75ca59d1cdd809b13de22b1f71c6"
