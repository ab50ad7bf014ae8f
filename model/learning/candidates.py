"""Which items stand against the positives of a step.

Negatives are drawn from the items with events. Their sample changes by a tenth from step to step:
what was drawn long ago gives way, and forty steps touch some 80,000 rows of a large catalogue and
not 650,000, which keeps publications small. An item stays for ten steps; over any longer time all
come alike often.

An item that nobody has clicked is no negative in a catalogue that is taken whole: it may be new,
not unwanted. Of a larger catalogue most items are never clicked, and a model that is not told so
answers with nothing else (of a million items .9 % had events, and .4 % of the answers). So some of
them stand for all, by their content alone: what is learnt of them moves words and not ids. The
codebook, which is to serve them, too, learns from as many of them as of clicked ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.tables.capacity import with_room
from model.tables.row_index import NO_ITEM

RENEWED = 0.1
"""Part of the sample that is drawn anew in each step."""
UNSEEN = 4096
"""Draws from the whole catalogue in each step."""

Rows = NDArray[np.int64]


class Candidates(NamedTuple):
    """What was drawn for a step.

    Attributes:
        rows_S: ascending.
        share: with which probability an item with events is drawn.
        unseen_share: the same of one without; 0 where these are no negatives.
    """

    rows_S: Rows
    share: float
    unseen_share: float


class CandidateSample:
    """Items with events, and a sample of them that changes slowly.

    >>> sample = CandidateSample(2)
    >>> sample.see(np.array([7, 5, 7]))
    >>> drawn = sample.draw(np.arange(9), np.array([1]), 2, torch.Generator().manual_seed(0))
    >>> {1, 5, 7} <= set(drawn.rows_S.tolist()), drawn.share
    (True, 1.0)
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen = np.zeros(0, np.int64)
        self._is_seen = np.zeros(0, np.bool_)
        self._count = 0
        self._saved = 0  # so many of `seen` are in what was last saved
        self._forgotten = np.zeros(0, np.int64)  # rows that are in that, and are not seen any more
        self._sample = np.zeros(0, np.int64)
        self._next = 0

    @property
    def seen(self) -> Rows:
        """Rows with events, in the order of their first ones."""
        return self._seen[: self._count]

    def see(self, rows_B: Rows) -> None:
        """Rows had events."""
        self._is_seen = with_room(self._is_seen, int(rows_B.max(initial=-1)) + 1)
        new_X = rows_B[~self._is_seen[rows_B]]
        first_X = np.sort(np.unique(new_X, return_index=True)[1])
        count = self._count + len(first_X)
        self._seen = with_room(self._seen, count)
        self._seen[self._count : count] = new_X[first_X]
        self._is_seen[new_X] = True
        self._count = count

    def forget(self, rows_n: Rows) -> None:
        """Distinct rows had no events; a pass over those that had."""
        self._is_seen = with_room(self._is_seen, int(rows_n.max(initial=-1)) + 1)
        if not self._is_seen[rows_n].any():
            return
        self._is_seen[rows_n] = False
        stay = self._is_seen[self.seen]
        gone = self.seen[: self._saved][~stay[: self._saved]]
        self._forgotten = np.concatenate([self._forgotten, gone])
        self._saved -= len(gone)
        self._seen, self._count = self.seen[stay], int(stay.sum())

    def draw(
        self,
        item_ids_N: Rows,
        given: Rows,
        most: int,
        generator: torch.Generator,
        free: int = 0,
    ) -> Candidates:
        """Draw the candidates of a step.

        Args:
            item_ids_N: of the catalogue, `NO_ITEM` where a row is free.
            given: rows that have to be among them.
            most: negatives to draw, at most as many as the sample holds. A catalogue no larger is
                taken whole.
            generator: of the learner.
            free: how many rows are.
        """
        size = len(item_ids_N)
        count = size - free
        self._is_seen = with_room(self._is_seen, size)
        if count <= most:
            rows_S = np.flatnonzero(item_ids_N != NO_ITEM) if free else np.arange(size)
            return Candidates(rows_S, 1.0, 0.0)
        negatives, share = self.seen, 1.0
        if self._count > most:
            self._renew(max(1, int(RENEWED * most)), generator)
            newest = (self._next - 1 - np.arange(most)) % len(self._sample)
            negatives = self._sample[newest]
            negatives = negatives[self._is_seen[negatives]]  # some may be forgotten
            share = float(-np.expm1(most * np.log1p(-1 / self._count)))
        if count <= self._most:  # but for who is in a hurry it would be taken whole
            return Candidates(np.unique(np.concatenate([given, negatives])), share, 0.0)
        unseen = torch.randint(size, (UNSEEN,), generator=generator).numpy()
        unseen = unseen[~self._is_seen[unseen] & (item_ids_N[unseen] != NO_ITEM)]
        rows_S = np.unique(np.concatenate([given, negatives, unseen]))
        return Candidates(rows_S, share, float(-np.expm1(UNSEEN * np.log1p(-1 / size))))

    def _renew(self, count: int, generator: torch.Generator) -> None:
        """Replace those drawn longest ago; the first time, all."""
        if len(self._sample) == 0:
            self._sample, count = np.zeros(self._most, np.int64), self._most
        places = (self._next + np.arange(count)) % self._most
        drawn = torch.randint(self._count, (count,), generator=generator).numpy()
        self._sample[places] = self.seen[drawn]
        self._next = int((self._next + count) % self._most)

    def changes(self, whole: bool) -> dict[str, Tensor]:
        """What was seen since the last call (`whole`: ever), and the sample, for `apply`."""
        first, self._saved = 0 if whole else self._saved, self._count
        forgotten, self._forgotten = self._forgotten, np.zeros(0, np.int64)
        return {
            "forgotten": torch.from_numpy(forgotten[:0] if whole else forgotten),
            "seen": torch.from_numpy(self.seen[first:].copy()),
            "sample": torch.from_numpy(self._sample.copy()),
            "next": torch.tensor(self._next),
        }

    def apply(self, changes: dict[str, Tensor]) -> None:
        """Take over what `changes` gave, on top of what was given before it."""
        if "forgotten" in changes:  # an earlier version forgot none
            self.forget(changes["forgotten"].numpy())
        self.see(changes["seen"].numpy())
        self._saved, self._forgotten = self._count, np.zeros(0, np.int64)
        self._sample, self._next = changes["sample"].numpy().copy(), int(changes["next"])
        if len(self._sample) not in (0, self._most):  # the settings have changed since
            self._sample, self._next = np.zeros(0, np.int64), 0
