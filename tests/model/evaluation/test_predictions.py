from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.evaluation import predictions, runner
from model.evaluation.protocol import ProtocolError
from model.histories import History
from tests.model.evaluation.made_up_log import make_items, make_log
from tests.model.evaluation.random_model import RandomModel


@pytest.fixture(scope="module")
def answers() -> predictions.Predictions:
    items = make_items()
    return runner.run(make_log(), items, RandomModel(items)).predictions


def test_a_prediction_file_reads_back_as_it_was_written(tmp_path: Path, answers):
    predictions.write(tmp_path / "p.parquet", answers)
    back = predictions.read(tmp_path / "p.parquet")
    for name, value in vars(answers).items():
        assert np.array_equal(getattr(back, name), value), name
        assert getattr(back, name).dtype == value.dtype, name


def test_a_file_without_answers_is_valid(tmp_path: Path):
    predictions.write(tmp_path / "p.parquet", predictions.join([]))
    assert len(predictions.read(tmp_path / "p.parquet")) == 0


def test_a_file_of_another_schema_is_refused(tmp_path: Path, answers):
    path = tmp_path / "p.parquet"
    predictions.write(path, answers)
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["scores"]), path)
    with pytest.raises(ProtocolError, match="no column 'scores'"):
        predictions.read(path)
    narrow = table.set_column(0, "day", table.column("day").cast(pa.int32()))
    pq.write_table(narrow, path)
    with pytest.raises(ProtocolError, match="'day' is int32, not int64"):
        predictions.read(path)


def _with(items_BK: np.ndarray, column: int, value: int) -> np.ndarray:
    changed = items_BK.copy()
    changed[1, column] = value
    return changed


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (lambda i, s: (i[:, :49], s[:, :49]), "shape"),
        (lambda i, s: (_with(i, 0, 1), s), "outside the catalogue"),
        (lambda i, s: (_with(i, 0, i[1, 3]), s), "twice"),
        (lambda i, s: (_with(i, 0, 300), s), "user's history"),
        (lambda i, s: (i, s[:, ::-1]), "ascending"),
        (lambda i, s: (i, np.full_like(s, np.nan)), "not finite"),
    ],
)
def test_an_answer_against_the_rules_is_refused(breaks, message: str):
    catalogue_N = np.arange(1, 121) * 3
    items_BK = np.stack([catalogue_N[:50], catalogue_N[20:70]])
    scores_BK = np.tile(np.linspace(1, 0, 50, dtype=np.float32), (2, 1))
    histories = [History([300], [0]), History([300, 303], [0, 0])]
    predictions.check_answers(histories, items_BK, scores_BK, catalogue_N)
    with pytest.raises(ProtocolError, match=message):
        predictions.check_answers(histories, *breaks(items_BK, scores_BK), catalogue_N)
