"""Neural peers: a user encoder trained by full-softmax cross-entropy, updated every day.

One training loop for all encoders. The log is cut into periods of whole days; a training block
is a set of events of one period, scored against the whole catalogue with the recency prior of
that period's first day. A day's update takes each new event once and, for each, up to four
older ones, drawn from older periods.

Shapes: B examples, L history length, K interests, D dimension, N items, H half-lives, X examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.evaluation.online_model import Answers
from model.evaluation.protocol import REPLAY_BUDGET, Events, Queries
from model.histories import HistoryBatch, pad_histories
from model.peers.exclusion import best
from model.peers.full_softmax import full_softmax_loss
from model.peers.item_embedding import ItemTable
from model.peers.recency import RecencyPrior
from model.peers.user_timeline import Timeline
from streaming.bounds import DAY_MS
from streaming.items import Item

AGE_BUCKETS = 14
"""Ages of history events in days, by powers of two."""
LEFT_OUT = -1e4
"""Score of an item that is left out of a softmax."""


class HistoryTensors(NamedTuple):
    """Histories as an encoder reads them, newest event last, aligned to the right.

    Attributes:
        vectors_BLD: item vectors, 0 where padded.
        known_BL: True where there is an event.
        ages_BL: bucket of the event's age, below `AGE_BUCKETS`.
    """

    vectors_BLD: Tensor
    known_BL: Tensor
    ages_BL: Tensor


class Encoder(nn.Module):
    """Turns histories into K vectors of a user; an empty history is allowed."""

    def forward(self, history: HistoryTensors) -> Tensor:
        """User vectors, (B, K, D)."""
        raise NotImplementedError

    def for_target(self, users_BKD: Tensor, target_BD: Tensor) -> Tensor:
        """The vector that is trained on a target, (B, D). With one interest there is no choice."""
        return users_BKD[:, 0]


@dataclass(frozen=True)
class SoftmaxRetrieverConfig:
    """Settings of a neural peer, chosen on the tail of the warm-up.

    Attributes:
        dimension: D of item and user vectors.
        content: items have title and category, not only an id. Items without an event are then
            left out of the training softmax, which would push them down.
        half_lives: of the recency prior, in days; none without a prior.
        epochs: passes over the warm-up.
        batch: examples of a training step.
        learning_rate: of Adam in the warm-up.
        online_learning_rate: of Adam after it.
        online_steps: training steps of a day.
        replay_half_life: days after which an older period is drawn half as often for replay.
        dropout: of history vectors, and inside encoders.
        id_dropout: see `ItemTable`.
        weight_decay: of AdamW.
        period_events: events that a period of the warm-up has at least.
    """

    dimension: int = 64
    content: bool = False
    half_lives: tuple[float, ...] = ()
    epochs: int = 10
    batch: int = 256
    learning_rate: float = 3e-3
    online_learning_rate: float = 3e-3
    online_steps: int = 3
    replay_half_life: float = 90.0
    dropout: float = 0.3
    id_dropout: float = 0.3
    weight_decay: float = 0.01
    period_events: int = 128


class _Period(NamedTuple):
    first_day: int
    examples_X: np.ndarray
    prior_HN: Tensor


class SoftmaxRetriever:
    """An online model around an encoder.

    Args:
        items: the catalogue, ascending by id.
        encoder: builds the encoder from (dimension, dropout).
        config: the settings.
        seed: of weights, order, dropout and replay.
        device: "cpu" (deterministic) or "cuda".
    """

    def __init__(
        self,
        items: Sequence[Item],
        encoder: Callable[[int, float], Encoder],
        config: SoftmaxRetrieverConfig,
        seed: int,
        device: str,
    ) -> None:
        self._config = config
        self._device = torch.device(device)
        self._random = np.random.default_rng(seed)
        self._ids_N = np.array([item.item_id for item in items], dtype=np.int64)
        with self._own_randomness():
            self._items = ItemTable(items, config.dimension, config.content, config.id_dropout)
            self._encoder = encoder(config.dimension, config.dropout)
        self._modules = nn.ModuleList([self._items, self._encoder])
        self._recency = None
        if config.half_lives:
            self._recency = RecencyPrior(len(items), config.half_lives)
            self._prior_weights = nn.Linear(config.dimension, len(config.half_lives))
            nn.init.zeros_(self._prior_weights.weight)
            nn.init.constant_(self._prior_weights.bias, 0.3)
            self._modules.append(self._prior_weights)
        self._modules.to(self._device)
        self._optimizer = torch.optim.AdamW(
            self._modules.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        self._timeline = Timeline()
        self._periods: list[_Period] = []
        self._unseen_N = torch.ones(len(items), dtype=torch.bool, device=self._device)
        self.losses: list[float] = []

    def warm_up(self, events: Events) -> None:
        """Several passes over the warm-up."""
        self.observe(events)
        for _ in range(self._config.epochs):
            self.losses.append(self.epoch())
        for group in self._optimizer.param_groups:
            group["lr"] = self._config.online_learning_rate

    def observe(self, events: Events) -> None:
        """Take events in as examples, without training on them."""
        for first_day, part in _periods(events, self._config.period_events):
            self._add_period(first_day, events[part])

    def epoch(self) -> float:
        """One pass over all examples in random order; the mean loss."""
        group: list[tuple[_Period, np.ndarray]] = []
        losses, size = [], 0
        for number in self._random.permutation(len(self._periods)).tolist():
            period = self._periods[number]
            group.append((period, period.examples_X))
            size += len(period.examples_X)
            if size >= self._config.batch:
                losses.append(self._step(group))
                group, size = [], 0
        if group:
            losses.append(self._step(group))
        return float(np.mean(losses))

    def learn(self, events: Events) -> int:
        """A few steps on the day's events and on older ones; returns how many were older."""
        older = self._replay(len(events), int(events.days_E[0]))
        new = self._add_period(int(events.days_E[0]), events)
        blocks = [(new, self._random.permutation(new.examples_X)), *older]
        steps = min(self._config.online_steps, len(events))
        for step in range(steps):
            self._step([(period, examples_X[step::steps]) for period, examples_X in blocks])
        return sum(len(examples_X) for _, examples_X in older)

    @torch.no_grad()
    def answer(self, queries: Queries) -> Answers:
        """Score the whole catalogue; of several interests the best one counts."""
        self._modules.eval()
        items_ND = self._items()
        if self._recency is not None:
            prior_NH = self._recency.at(queries.day).T.to(self._device)
            items_ND = torch.cat([items_ND, prior_NH], dim=1)
        rows = pad_histories(queries.histories, lambda ids: np.searchsorted(self._ids_N, ids))
        now_B = np.full(len(queries), queries.now_ms)
        users_BKD = self._with_prior_weights(self._encode(items_ND, rows, now_B))
        scores_BN = torch.cat(
            [(part_BKD @ items_ND.T).amax(dim=1) for part_BKD in users_BKD.split(64)]
        )
        return best(self._ids_N, scores_BN.cpu().numpy(), queries.histories)

    def facts(self) -> dict[str, Any]:
        """The settings, the number of weights and the losses of the warm-up."""
        weights = sum(p.numel() for p in self._modules.parameters())
        return asdict(self._config) | {"weights": weights, "warm_up_losses": self.losses}

    def _add_period(self, day: int, events: Events) -> _Period:
        rows_E = np.searchsorted(self._ids_N, events.items_E)
        prior_HN = torch.empty(0, len(self._ids_N))
        if self._recency is not None:
            prior_HN = self._recency.at(day)
            self._recency.add(rows_E, events.days_E)
        examples_X = self._timeline.append(events.users_E, rows_E, events.times_E)
        self._unseen_N[torch.from_numpy(rows_E)] = False
        self._periods.append(_Period(day, examples_X, prior_HN.to(self._device)))
        return self._periods[-1]

    def _replay(self, new: int, day: int) -> list[tuple[_Period, np.ndarray]]:
        """For each of four periods, drawn newest first, as many events as are new."""
        if not self._periods:
            return []
        ages = day - np.array([period.first_day for period in self._periods], dtype=np.float64)
        sizes = np.array([len(period.examples_X) for period in self._periods])
        weights = sizes * 2.0 ** (-(ages - ages.min()) / self._config.replay_half_life)
        chosen = self._random.choice(len(self._periods), REPLAY_BUDGET, p=weights / weights.sum())
        drawn = []
        for number in chosen.tolist():
            examples_X = self._random.permutation(self._periods[number].examples_X)[:new]
            drawn.append((self._periods[number], examples_X))
        return drawn

    def _step(self, blocks: list[tuple[_Period, np.ndarray]]) -> float:
        """One step on blocks of (period, examples); the mean loss."""
        blocks = [(period, examples_X) for period, examples_X in blocks if len(examples_X)]
        examples_X = np.concatenate([examples for _, examples in blocks])
        self._modules.train()
        with self._own_randomness():
            items_ND = self._items()
            rows = self._timeline.histories(examples_X)
            users_XKD = self._encode(items_ND, rows, self._timeline.times_E[examples_X])
        targets_X = torch.from_numpy(self._timeline.targets_E[examples_X]).to(self._device)
        users_XD = self._encoder.for_target(users_XKD, F.embedding(targets_X, items_ND))
        loss = torch.zeros((), device=self._device)
        start = 0
        for period, part in blocks:
            block = slice(start, start + len(part))
            start += len(part)
            users_BD, wide_ND = users_XD[block], items_ND
            if self._recency is not None:
                users_BD = torch.cat([users_BD, self._prior_weights(users_BD)], dim=1)
                wide_ND = torch.cat([wide_ND, period.prior_HN.T], dim=1)
            if self._config.content:
                users_BD = F.pad(users_BD, (0, 1), value=1.0)
                wide_ND = torch.cat([wide_ND, LEFT_OUT * self._unseen_N[:, None]], dim=1)
            loss = loss + full_softmax_loss(users_BD, wide_ND, targets_X[block])
        loss = loss / len(examples_X)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return float(loss.detach())

    def _encode(self, items_ND: Tensor, rows: HistoryBatch, now_B: np.ndarray) -> Tensor:
        """User vectors (B, K, D), computed in groups of similar length to save padding."""
        items_ND = items_ND[:, : self._config.dimension]
        lengths_B = rows.known_BL.sum(axis=1)
        order_B = np.argsort(lengths_B, kind="stable")
        ages_BL = (now_B[:, None] - rows.times_BL) // DAY_MS
        buckets_BL = np.log2(1.0 + ages_BL.clip(min=0)).astype(np.int64).clip(max=AGE_BUCKETS - 1)
        parts = []
        for group in np.array_split(order_B, math.ceil(len(order_B) / 128)):
            newest = slice(rows.rows_BL.shape[1] - max(1, int(lengths_B[group].max())), None)
            rows_BL = torch.from_numpy(rows.rows_BL[group, newest]).to(self._device)
            known_BL = rows_BL >= 0
            vectors_BLD = F.embedding(rows_BL.clamp(min=0), items_ND) * known_BL[..., None]
            vectors_BLD = F.dropout(vectors_BLD, self._config.dropout, self._encoder.training)
            ages = torch.from_numpy(buckets_BL[group, newest]).to(self._device)
            parts.append(self._encoder(HistoryTensors(vectors_BLD, known_BL, ages)))
        back_B = torch.from_numpy(np.argsort(order_B)).to(self._device)
        return torch.cat(parts)[back_B]

    def _with_prior_weights(self, users_BKD: Tensor) -> Tensor:
        """Append the weights of the recency prior, so that a score is one inner product."""
        if self._recency is None:
            return users_BKD
        return torch.cat([users_BKD, self._prior_weights(users_BKD)], dim=2)

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Torch's global generator, seeded from the model's own and put back afterwards."""
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(int(self._random.integers(2**62)))
            yield


def _periods(events: Events, least: int) -> Iterator[tuple[int, slice]]:
    """Cut events into whole days, together at least `least` events: (first day, part)."""
    days, starts = np.unique(events.days_E, return_index=True)
    first, start = 0, 0
    for day, stop in zip(days.tolist(), [*starts[1:].tolist(), len(events)], strict=True):
        first = first or day
        if stop - start >= least or stop == len(events):
            yield first, slice(start, stop)
            first, start = 0, stop
