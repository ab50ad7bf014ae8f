"""The leave-one-out protocol, comparable with published tables.

Of each user's sequence the last item is the test, the last but one the validation (early stopping
and choice of the model), the rest is for training. All items are ranked, less the user's others.
A log in leave-one-out form has an order but no times, so each event gets a day: a user's last
item stands on one day for all users, the one before it on the day before, and so on.

Shapes: B users, K items of an answer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import structlog

from model.evaluation import gains
from model.evaluation.online_model import Answers, OnlineModel
from model.evaluation.protocol import (
    SECONDS_PER_DAY,
    Events,
    ProtocolError,
    Queries,
    canonical_order,
)
from model.histories import History
from streaming.bounds import DAY_MS
from streaming.items import Item

logger = structlog.get_logger(__name__)

CUTOFFS = (5, 10, 20, 50)
LAST_DAY = 20_000
"""The day of every user's test item; any day later than the longest sequence would do."""
CHOICE = "ndcg@10"
"""The metric on the validation items that ends training and chooses the epoch."""

Split = Literal["validation", "test"]


class Answering(Protocol):
    """What can be judged."""

    def answer(self, queries: Queries) -> Answers:
        """The best items of each query."""


@runtime_checkable
class TrainedByEpochs(Answering, Protocol):
    """A model that can be judged between passes over its events."""

    def observe(self, events: Events) -> None:
        """Take events in, without training on them."""

    def epoch(self) -> float:
        """One pass over all events; the mean loss."""


@dataclass(frozen=True)
class Sequences:
    """Users' items in order of time.

    Attributes:
        items_of: for each user (numbered from 0) the item ids, at least three of them.
        items: the catalogue: ids from 1, without features unless they were given.
        tokens: the name of each item in the file, in order of its id.
    """

    items_of: list[list[int]]
    items: list[Item]
    tokens: list[str]

    def training(self) -> Events:
        """All but the last two events of each user, in canonical order."""
        rows = [
            (user, item, LAST_DAY - len(items) + 1 + n)
            for user, items in enumerate(self.items_of)
            for n, item in enumerate(items[:-2])
        ]
        users_E, items_E, days_E = np.array(rows, dtype=np.int64).T
        return canonical_order(users_E, items_E, days_E * SECONDS_PER_DAY)

    def queries(self, split: Split, most: int = 512) -> Iterator[tuple[Queries, np.ndarray]]:
        """The questions of a split in parts of at most `most` users, and their targets."""
        held = 1 if split == "test" else 2
        day = LAST_DAY + 1 - held
        for start in range(0, len(self.items_of), most):
            part = self.items_of[start : start + most]
            histories = [
                History(
                    items[:-held], [(day - n) * DAY_MS for n in range(len(items) - held, 0, -1)]
                )
                for items in part
            ]
            users_B = np.arange(start, start + len(part))
            yield Queries(day, users_B, histories), np.array([items[-held] for items in part])


def read_sequences(path: Path) -> Sequences:
    """Read a RecBole `.inter` file: user_id:token, item_id:token, a user's rows in time order.

    Tokens are numbered in order of their first appearance.

    Raises:
        ProtocolError: names the file and line that is malformed, or a user with too few events.
    """
    users: dict[str, list[int]] = {}
    numbers: dict[str, int] = {}
    with path.open(encoding="utf-8") as file:
        names = [name.partition(":")[0] for name in file.readline().rstrip("\r\n").split("\t")]
        if not {"user_id", "item_id"} <= set(names):
            raise ProtocolError(f"{path} line 1: no columns user_id and item_id; it has {names}")
        user_column, item_column = names.index("user_id"), names.index("item_id")
        for line, text in enumerate(file, start=2):
            fields = text.rstrip("\r\n").split("\t")
            if len(fields) != len(names):
                raise ProtocolError(
                    f"{path} line {line}: {len(fields)} fields, but the header has {len(names)}"
                )
            number = numbers.setdefault(fields[item_column], len(numbers) + 1)
            users.setdefault(fields[user_column], []).append(number)
    if not users:
        raise ProtocolError(f"{path}: there are no interactions")
    for user, items in users.items():
        if len(items) < 3:
            raise ProtocolError(
                f"{path}: user {user!r} has {len(items)} events; leave-one-out needs three of each"
            )
    bare = [Item(n + 1) for n in range(len(numbers))]
    return Sequences(list(users.values()), bare, list(numbers))


def with_features(data: Sequences, listed: Sequence[Item]) -> Sequences:
    """The same sequences with the titles and categories of a catalogue.

    Args:
        data: sequences whose tokens are item ids of the catalogue. That numbers agree does not
            show that they mean the same items: the two files must come from one source.
        listed: the catalogue.

    Raises:
        ProtocolError: an item of the sequences is not listed.
    """
    by_token = {str(item.item_id): item for item in listed}
    items = []
    for number, token in enumerate(data.tokens, start=1):
        if token not in by_token:
            raise ProtocolError(
                f"item {token!r} has events but is not in the catalogue: its ids are other ones; "
                "leave the catalogue out"
            )
        known = by_token[token]
        items.append(Item(number, known.title, known.category, known.external_id))
    return Sequences(data.items_of, items, data.tokens)


def evaluate(model: Answering, data: Sequences, split: Split) -> dict[str, float]:
    """HR and NDCG at 5, 10, 20 and 50 over all users."""
    ranks = [
        gains.ranks(model.answer(queries).items_BK, targets_B)
        for queries, targets_B in data.queries(split)
    ]
    rank_B = np.concatenate(ranks)
    return {
        f"{name}@{k}": float(gain(rank_B, k).mean())
        for name, gain in (("hr", gains.recall_gain), ("ndcg", gains.ndcg_gain))
        for k in CUTOFFS
    }


def fit(
    model: TrainedByEpochs, data: Sequences, *, most_epochs: int = 200, patience: int = 5
) -> tuple[TrainedByEpochs, list[float]]:
    """Train until the validation has not improved for `patience` epochs.

    Returns:
        The model as it was after its best epoch, and the validation metric after each epoch.
    """
    model.observe(data.training())
    best, curve = copy.deepcopy(model), list[float]()
    while len(curve) < most_epochs and len(curve) - int(np.argmax(curve or [0.0])) <= patience:
        loss = model.epoch()
        curve.append(evaluate(model, data, "validation")[CHOICE])
        logger.info("epoch", number=len(curve), loss=round(loss, 4), validation=round(curve[-1], 5))
        if curve[-1] == max(curve):
            best = copy.deepcopy(model)
    return best, curve


def train_and_test(
    model: TrainedByEpochs | OnlineModel, data: Sequences, *, most_epochs: int, patience: int = 5
) -> tuple[TrainedByEpochs | OnlineModel, dict[str, float], list[float]]:
    """The model as it is tested, its metrics on the test items, and its validation by epoch."""
    if isinstance(model, TrainedByEpochs):
        best, curve = fit(model, data, most_epochs=most_epochs, patience=patience)
        return best, evaluate(best, data, "test"), curve
    model.warm_up(data.training())
    return model, evaluate(model, data, "test"), []
