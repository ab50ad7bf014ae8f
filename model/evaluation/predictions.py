"""The prediction file: every answer of a run, so that its figures can be recomputed by anyone.

Parquet, one row per query: `day` (days since 1970-01-01), `user_id`, `target` (int64),
`history_len` (int32), `items` (list of 50 int64, best first), `scores` (list of float32).

Shapes: R rows, K items of an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.evaluation.protocol import LIST_LENGTH, Day, ProtocolError
from model.histories import History

_KEYS = {
    "day": pa.int64(),
    "user_id": pa.int64(),
    "target": pa.int64(),
    "history_len": pa.int32(),
}
_LISTS = {"items": pa.int64(), "scores": pa.float32()}


@dataclass(frozen=True)
class Predictions:
    """Answers and what was asked, a row per query of the protocol.

    Attributes:
        days_R: days since 1970-01-01, int64.
        users_R: user ids, int64.
        targets_R: the items of the events, int64.
        history_lengths_R: events of the user before the day, int32.
        items_RK: answers, best first, int64.
        scores_RK: their scores, float32, never ascending.
    """

    days_R: np.ndarray
    users_R: np.ndarray
    targets_R: np.ndarray
    history_lengths_R: np.ndarray
    items_RK: np.ndarray
    scores_RK: np.ndarray

    def __len__(self) -> int:
        return len(self.days_R)


def of_day(day: Day, items_BK: np.ndarray, scores_BK: np.ndarray) -> Predictions:
    """Give every row of a day the answer to its user's query."""
    lengths_B = np.array([len(h.items) for h in day.queries.histories], dtype=np.int32)
    return Predictions(
        np.full(len(day.query_R), day.queries.day, dtype=np.int64),
        day.queries.users_B[day.query_R],
        day.targets_R,
        lengths_B[day.query_R],
        items_BK[day.query_R].astype(np.int64, copy=False),
        scores_BK[day.query_R].astype(np.float32, copy=False),
    )


def join(parts: list[Predictions]) -> Predictions:
    """Rows of several days, one after the other."""
    if not parts:
        empty = np.empty(0, dtype=np.int64)
        lists = np.empty((0, LIST_LENGTH), dtype=np.int64)
        lengths = empty.astype(np.int32)
        return Predictions(empty, empty, empty, lengths, lists, lists.astype(np.float32))
    names = Predictions.__dataclass_fields__
    return Predictions(**{n: np.concatenate([getattr(part, n) for part in parts]) for n in names})


def check_answers(
    histories: list[History], items_BK: np.ndarray, scores_BK: np.ndarray, catalogue_N: np.ndarray
) -> None:
    """Refuse answers that break the protocol.

    Args:
        histories: all events of each user before the day.
        items_BK: the answers, best first.
        scores_BK: their scores.
        catalogue_N: the item ids of the catalogue, ascending.

    Raises:
        ProtocolError: says which query's answer breaks which rule.
    """
    wanted = (len(histories), LIST_LENGTH)
    if items_BK.shape != wanted or scores_BK.shape != wanted:
        raise ProtocolError(
            f"answers have shape {items_BK.shape} with scores {scores_BK.shape}, not {wanted}"
        )

    def refuse(bad_B: np.ndarray, what: str) -> None:
        if bad_B.any():
            raise ProtocolError(f"the answer to query {int(bad_B.argmax())} {what}")

    slots_BK = np.searchsorted(catalogue_N, items_BK).clip(max=len(catalogue_N) - 1)
    refuse((catalogue_N[slots_BK] != items_BK).any(1), "holds an item outside the catalogue")
    ordered_BK = np.sort(items_BK, axis=1)
    refuse((ordered_BK[:, 1:] == ordered_BK[:, :-1]).any(1), "holds an item twice")
    refuse(~np.isfinite(scores_BK).all(1), "has a score that is not finite")
    refuse((np.diff(scores_BK.astype(np.float32), axis=1) > 0).any(1), "has ascending scores")
    for b, (history, answer) in enumerate(zip(histories, items_BK.tolist(), strict=True)):
        if not set(history.items).isdisjoint(answer):
            raise ProtocolError(f"the answer to query {b} holds an item of the user's history")


def write(path: Path, predictions: Predictions) -> None:
    """Write a prediction file (zstd)."""
    p = predictions
    keys = (p.days_R, p.users_R, p.targets_R, p.history_lengths_R)
    columns = [pa.array(a, type=kind) for a, kind in zip(keys, _KEYS.values(), strict=True)]
    for values, kind in zip((p.items_RK, p.scores_RK), _LISTS.values(), strict=True):
        offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
        flat = pa.array(values.ravel(), type=kind)
        columns.append(pa.ListArray.from_arrays(pa.array(offsets), flat))
    pq.write_table(pa.table(columns, names=[*_KEYS, *_LISTS]), path, compression="zstd")


def read(path: Path) -> Predictions:
    """Read a prediction file.

    Raises:
        ProtocolError: a column is missing, has another type, or a list has another length.
    """
    table = pq.read_table(path).combine_chunks()
    arrays = []
    for name, kind in {**_KEYS, **{n: pa.list_(k) for n, k in _LISTS.items()}}.items():
        if name not in table.column_names:
            raise ProtocolError(f"{path}: no column {name!r}")
        column = table.column(name)
        if not column.type.equals(kind):
            raise ProtocolError(f"{path}: column {name!r} is {column.type}, not {kind}")
        if name not in _LISTS:
            arrays.append(column.to_numpy())
            continue
        lists = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], type=kind)
        if len(lists) and set(lists.value_lengths().to_pylist()) != {LIST_LENGTH}:
            raise ProtocolError(f"{path}: a list in {name!r} does not have {LIST_LENGTH} entries")
        arrays.append(lists.flatten().to_numpy().reshape(-1, LIST_LENGTH))
    return Predictions(*arrays)
