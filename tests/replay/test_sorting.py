from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from replay.sorting import RAW_EVENTS, RAW_ITEMS, sort
from replay.staged_log import EVENTS
from replay.staging import EVENT_SCHEMA, ITEM_SCHEMA


@pytest.mark.parametrize("name", ["shop*", "sho[p]", "sho?"])
def test_a_directory_whose_name_is_a_pattern_is_that_directory_alone(tmp_path, name):
    for folder, user in ((name, "1"), ("shop", "2")):
        (tmp_path / folder).mkdir()
        columns = [[user], ["10"], [1_369_699_200_000], [""]]
        raw = pa.table(
            [pa.array(c, f.type) for c, f in zip(columns, EVENT_SCHEMA, strict=True)],
            schema=EVENT_SCHEMA,
        )
        pq.write_table(raw, tmp_path / folder / RAW_EVENTS)
        pq.write_table(ITEM_SCHEMA.empty_table(), tmp_path / folder / RAW_ITEMS)
    sort(tmp_path / name, 256, None, False, lambda line: None)
    assert pq.read_table(tmp_path / name / EVENTS)["user_id"].to_pylist() == [1]
