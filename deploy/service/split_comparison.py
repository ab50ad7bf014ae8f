"""The arms of a split side by side: how much of what each answered was clicked.

A logged answer counts once its attribution window is over: an item of it is clicked if its user
clicked it after the answer, within the window, by the log's clock. The rate of an arm is clicked
items over answered items. Users are the units: what one user is answered hangs together, so the
intervals are those of ratios of sums over users (delta method; Deng, Knoblich and Lu, KDD 2018).

The clicks are those of the users' histories, the newest 50 of each, so a window should hold fewer.
What a shadow arm answered was not shown: its clicks are those that its users made all the same, and
it is compared with what `default` showed these users, which they are the readier to click.

Shapes: A answers, U users.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog
from numpy.typing import NDArray

from deploy.release.split import DEFAULT, Split
from deploy.service.answer_log import SCHEMA, SUFFIX
from deploy.service.user_history import UserHistory

log = structlog.get_logger(__name__)

MOST_ANSWERS = 100_000
"""The newest of a split that are looked at."""
COLUMNS = ("answered_ms", "now_ms", "user_id", "items", "split", "arm")
Z = 1.959964
"""Half width of a 95 % interval in deviations."""


@dataclass(frozen=True)
class ArmCounts:
    """What an arm's users were answered, and what they clicked of it.

    Attributes:
        users_U: int64 ids, ascending.
        answers_U, items_U, clicked_U: int64, of each.
    """

    users_U: NDArray[np.int64]
    answers_U: NDArray[np.int64]
    items_U: NDArray[np.int64]
    clicked_U: NDArray[np.int64]

    @property
    def rate(self) -> float | None:
        """Clicked items over answered items; None where there are none."""
        total = int(self.items_U.sum())
        return float(self.clicked_U.sum()) / total if total else None

    def of_users(self, users: NDArray[np.int64]) -> ArmCounts:
        """Those of some users."""
        kept = np.isin(self.users_U, users)
        columns = (self.users_U, self.answers_U, self.items_U, self.clicked_U)
        return ArmCounts(*(column[kept] for column in columns))

    def influence(self, users: NDArray[np.int64]) -> NDArray[np.float64]:
        """How far each of these users, who hold all of the arm's, moves the rate."""
        found = np.zeros(len(users))
        if (rate := self.rate) is not None:
            at = np.searchsorted(users, self.users_U)
            found[at] = (self.clicked_U - rate * self.items_U) / self.items_U.sum()
        return found


def compare_arms(
    split: Split,
    answers: pa.Table,
    history_of: Callable[[int], UserHistory | None],
    now_ms: int,
    window_ms: int,
) -> list[dict[str, Any]]:
    """Each arm, `default` first, with counts, rate, interval, and the difference to `default`.

    Args:
        split: that runs.
        answers: the logged ones, as `logged_since` reads them.
        history_of: gives the clicks of a user.
        now_ms: the newest time known of the log's clock.
        window_ms: after an answer in which a click counts for it.
    """
    shadows = {arm.name for arm in split.arms if arm.shadow}
    over = pc.less_equal(answers["now_ms"], now_ms - window_ms)
    counted, waiting = answers.filter(over), answers.filter(pc.invert(over))
    of_default: ArmCounts | None = None
    found = []
    for name in (DEFAULT, *(arm.name for arm in split.arms)):
        counts = _counts(counted.filter(pc.equal(counted["arm"], name)), history_of, window_ms)
        one: dict[str, Any] = {
            "arm": name,
            "shadow": name in shadows,
            "users": len(counts.users_U),
            "answers": int(counts.answers_U.sum()),
            "waiting": int(pc.sum(pc.equal(waiting["arm"], name)).as_py() or 0),
            "items": int(counts.items_U.sum()),
            "clicked": int(counts.clicked_U.sum()),
            "rate": counts.rate,
            "interval": _interval(counts.rate, counts.influence(counts.users_U)),
        }
        if of_default is None:
            of_default = counts
        else:
            base = of_default.of_users(counts.users_U) if one["shadow"] else of_default
            one |= _against(counts, base)
        found.append(one)
    return found


def logged_since(directory: Path, split: Split) -> pa.Table:
    """The newest answers of a split to known users' ids, newest file first; `COLUMNS` alone.

    Raises:
        OSError: if a file cannot be read.
    """
    wanted = (
        (pc.field("split") == split.name)
        & (pc.field("answered_ms") >= split.at_ms)
        & pc.field("user_id").is_valid()
    )
    tables: list[pa.Table] = []
    rows = 0
    for path in sorted(directory.glob(f"*{SUFFIX}"), reverse=True):
        if rows >= MOST_ANSWERS:
            break
        try:
            if "split" not in pq.read_schema(path).names:
                break  # it and all before it are of an older program
            table = pq.read_table(path, columns=list(COLUMNS), filters=wanted)
        except FileNotFoundError:  # just removed, as it was too old
            continue
        except pa.ArrowInvalid as error:
            log.error("a damaged file of answers is left out", path=str(path), reason=str(error))
            continue
        tables.append(table)
        rows += len(table)
    if not tables:
        return pa.schema([SCHEMA.field(name) for name in COLUMNS]).empty_table()
    return pa.concat_tables(tables)


def _counts(
    answers: pa.Table, history_of: Callable[[int], UserHistory | None], window_ms: int
) -> ArmCounts:
    items = answers["items"].combine_chunks()
    lengths_A = pc.list_value_length(items).to_numpy(zero_copy_only=False)
    flat = items.flatten().to_numpy()
    ends_A = np.cumsum(lengths_A)
    asked_A = answers["now_ms"].to_numpy()
    users_U, user_A = np.unique(answers["user_id"].to_numpy(), return_inverse=True)
    clicked_U = np.zeros(len(users_U), np.int64)
    order_A = np.argsort(user_A, kind="stable")
    bounds = np.searchsorted(user_A[order_A], np.arange(len(users_U) + 1))
    for at, user in enumerate(users_U.tolist()):
        history = history_of(user)
        if history is None:
            continue
        mine = order_A[bounds[at] : bounds[at + 1]]
        for a, asked_ms in zip(mine.tolist(), asked_A[mine].tolist(), strict=True):
            last = asked_ms + window_ms
            clicks = zip(history.items, history.times, strict=True)
            after = {item for item, time in clicks if asked_ms < time <= last}
            if after:
                shown = flat[ends_A[a] - lengths_A[a] : ends_A[a]].tolist()
                clicked_U[at] += len(after.intersection(shown))
    return ArmCounts(
        users_U,
        np.diff(bounds),
        np.bincount(user_A, lengths_A, len(users_U)).astype(np.int64),
        clicked_U,
    )


def _against(counts: ArmCounts, base: ArmCounts) -> dict[str, Any]:
    """The difference to another arm; users who are in both are in both sums."""
    users = np.union1d(counts.users_U, base.users_U)
    if counts.rate is None or base.rate is None:
        return {"difference": None, "difference_interval": None}
    difference = counts.rate - base.rate
    influence = counts.influence(users) - base.influence(users)
    return {"difference": difference, "difference_interval": _interval(difference, influence)}


def _interval(value: float | None, influence_U: NDArray[np.float64]) -> list[float] | None:
    """95 %, of what users move by so much each; None for fewer than two of them."""
    n = len(influence_U)
    if value is None or n < 2:
        return None
    width = Z * float(np.sqrt(np.square(influence_U).sum() * n / (n - 1)))
    return [value - width, value + width]
