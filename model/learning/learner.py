"""The learner: one call for one micro-batch, all of its state in one place.

It owns the dense model, the growing tables, the counts and the replay buffer, and knows nothing
of Kafka, clocks or disks. `learn` is deterministic on a CPU: the same micro-batches from the same
state give the same bits (with the same number of threads).

A micro-batch is learnt in this order, so that no example sees itself:

    1. neighbours of each history are looked up as of now, before its target is paired with it
    2. events enter the popularity log; an example reads counts strictly before its clock
    3. one step on the new examples and on replayed ones, which bring the neighbours and read the
       counts of *their* time
    4. codebooks move; codes of the candidates are noted
    5. targets are paired with their histories, and the examples enter the replay buffer

Shapes: B examples, S candidates, G clocks, N items, C codes, D dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.histories import NO_ROW, History, HistoryBatch, pad_histories, scatter_right
from model.learning.errors import LearnerError, NotFiniteError
from model.network import losses, sparc
from model.network.item_tower import ItemInputs, initial_ids, initial_words
from model.network.sparc import Batch, Sparc, neighbour_features
from model.retrieval.retrieval_model import RetrievalModel, model_facts
from model.tables.catalogue import Catalogue
from model.tables.cooccurrence import Cooccurrence
from model.tables.decayed_counts import Popularity, log_counts
from model.tables.list_slots import ListSlots
from model.tables.replay_buffer import Examples, ReplayBuffer, concatenate
from model.tables.row_table import RowTable
from streaming.events import Item, UserSequence

EMBED_CHUNK = 65_536


@dataclass(frozen=True)
class LearnerConfig:
    """How the learner learns.

    Attributes:
        seed: of all randomness.
        model: architecture and loss weights.
        learning_rate: of dense parameters (Adam).
        table_learning_rate: of rows of ids and words (row-wise Adam).
        step: most examples in an optimizer step, new and replayed; a micro-batch takes as many
            steps as it needs, so that its size does not change how much is learnt.
        clip: largest norm of the gradient.
        replay: older examples learnt again for each new one. A half lets a micro-batch of 256 be
            one step; the protocol of evaluation allows 4, and more is better.
        replay_capacity: examples kept for replay.
        replay_recency: 1 draws evenly from the buffer, more prefers newer ones.
        chunk: consecutive examples that share a clock.
        candidates: most items scored in a step; a larger catalogue is sampled, with the log-Q
            correction.
        catch_up_candidates: the same where learning is to be quick.
        session_dropout: share of examples whose history loses the events of the last
            `session_hours`. Who is asked after a day's pause has no session to go by, and a model
            that always had one learns little else.
        session_hours: length of a session.
    """

    seed: int = 0
    model: sparc.SparcConfig = field(default_factory=sparc.SparcConfig)
    learning_rate: float = 3e-3
    table_learning_rate: float = 3e-3
    step: int = 400
    clip: float = 5.0
    replay: float = 0.5
    replay_capacity: int = 131_072
    replay_recency: float = 3.0
    chunk: int = 32
    candidates: int = 16_384
    catch_up_candidates: int = 4_096
    session_dropout: float = 0.0
    session_hours: float = 24.0


class Learner:
    """Trains SPARC on micro-batches and exports what serves it.

    Args:
        config: how it learns.
        device: "cpu" or "cuda".
        one_user_vector: a control; see `Sparc`.

    Attributes:
        codebook_frozen: a control: while true the codebooks of all levels stay where they are and
            the rest goes on learning. Items keep moving in the space, and change code when they
            come nearer to another codeword.
    """

    def __init__(
        self, config: LearnerConfig, device: str = "cpu", *, one_user_vector: bool = False
    ) -> None:
        self.config = config
        self.codebook_frozen = False
        self.device = torch.device(device)
        model = config.model
        self._generator = torch.Generator().manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._sparc = Sparc(model, one_user_vector=one_user_vector).to(self.device)
        self._optimizer = torch.optim.Adam(
            self._sparc.parameters(), lr=config.learning_rate, betas=(0.9, 0.999)
        )
        self._catalogue = Catalogue(model.item_tower.features)
        self._ids = RowTable(model.item_tower.dimension, self._initial_ids, self.device)
        self._words = initial_words(config.seed, model.item_tower, self.device)
        half_lives = model.popularity_half_lives_days
        self._popularity = Popularity(half_lives, 2 * config.replay_capacity)
        self._code_popularity = Popularity(half_lives, 2 * config.replay_capacity)
        self._code_popularity.grow(model.quantizer.codes)
        self._neighbours = Cooccurrence(model.neighbours)
        near = model.neighbours
        self._replay = ReplayBuffer(config.replay_capacity, near.answers, len(near.half_lives_days))
        self._codes_N = np.zeros(0, dtype=np.int64)
        self._events_N = np.zeros(0, dtype=np.int64)
        self._places = ListSlots(model.key_dimension)
        self._clock_ms = 0
        self._exported_CD = self._centroids()
        self._counters = {"micro_batches": 0, "events": 0, "replayed": 0, "revived": 0}

    def _initial_ids(self, first: int, end: int) -> Tensor:
        ids = self._catalogue.item_ids_N[first:end]
        return initial_ids(self.config.seed, ids, self.config.model.item_tower)

    @property
    def replayed(self) -> int:
        """Examples learnt again so far, those of `learn_replayed` among them."""
        return self._counters["replayed"]

    def list_items(self, items: Sequence[Item]) -> None:
        """Make items known; one listed again takes its new title and category."""
        self._catalogue.add(items)
        size = len(self._catalogue)
        self._ids.grow(size)
        self._popularity.grow(size)
        self._neighbours.grow(size)
        more = size - len(self._codes_N)
        self._codes_N = np.pad(self._codes_N, (0, more), constant_values=NO_ROW)
        self._events_N = np.pad(self._events_N, (0, more))

    def learn(
        self, batch: Sequence[UserSequence], replay: float | None = None, catching_up: bool = False
    ) -> dict[str, float]:
        """Learn one micro-batch, and replay. Returns the losses by name.

        A target that was never listed is listed without title and category.

        Args:
            batch: new examples.
            replay: older examples for each of them; None: as configured.
            catching_up: without replay, and against few candidates: twice as quick.

        Raises:
            NotFiniteError: if a loss, a gradient or a weight is not; the state is then useless.
        """
        if not batch:
            return {}
        targets = np.fromiter((s.target for s in batch), np.int64, len(batch))
        unlisted = self._catalogue.rows(targets) == NO_ROW
        if unlisted.any():
            self.list_items([Item(i) for i in dict.fromkeys(targets[unlisted].tolist())])
        rows_B = self._catalogue.rows(targets)
        times_B = np.fromiter((s.event_time for s in batch), np.int64, len(batch))
        histories = pad_histories(
            [History(s.history_items, s.history_times) for s in batch], self._catalogue.rows
        )
        fresh = self._examples(rows_B, times_B, histories)
        self._popularity.add(rows_B, times_B)
        self._events_N += np.bincount(rows_B, minlength=len(self._events_N))
        self._clock_ms = max(self._clock_ms, int(times_B.max()))
        results = []
        config = self.config
        share = 0.0 if catching_up else config.replay if replay is None else replay
        most = config.candidates
        if catching_up:
            most = min(most, config.catch_up_candidates)
        for part in fresh.split(max(1, round(config.step / (1 + share)))):
            replayed = self._draw_replay(share * len(part.targets_B), config.replay_recency)
            results.append(self._step([part] if replayed is None else [part, replayed], most))
        self._code_popularity.add(self._codes_N[rows_B], times_B)
        self._neighbours.add(histories, rows_B, times_B)
        self._replay.add(fresh)
        self._counters["micro_batches"] += 1
        self._counters["events"] += len(batch)
        return {name: sum(r[name] for r in results) / len(results) for name in results[0]}

    def learn_replayed(self, examples: int) -> dict[str, float]:
        """Learn about so many replayed examples and no new ones; for further epochs of a warm-up.

        Raises:
            LearnerError: if nothing has been learnt yet.
            NotFiniteError: as `learn`.
        """
        replayed = self._draw_replay(examples, 1.0)
        if replayed is None:
            raise LearnerError("there is nothing to replay: learn a micro-batch first")
        return self._step([replayed], self.config.candidates)

    def _draw_replay(self, examples: float, recency: float) -> Examples | None:
        chunks = int(examples / self.config.chunk)  # rounded down: a budget is kept
        drawn = self._replay.sample(chunks, self.config.chunk, recency, self._generator)
        self._counters["replayed"] += 0 if drawn is None else len(drawn.targets_B)
        return drawn

    def _examples(
        self, rows_B: np.ndarray, times_B: np.ndarray, histories: HistoryBatch
    ) -> Examples:
        """New examples; some histories lose their current session."""
        draws_B = torch.rand(len(rows_B), generator=self._generator).numpy()
        age_BL = times_B[:, None] - histories.times_BL
        session_BL = age_BL < self.config.session_hours * 3_600_000
        drop_BL = session_BL & (draws_B < self.config.session_dropout)[:, None]
        owner_E, column_E = np.nonzero(histories.known_BL & ~drop_BL)
        kept = scatter_right(
            len(rows_B),
            owner_E,
            histories.rows_BL[owner_E, column_E],
            histories.times_BL[owner_E, column_E],
        )
        return Examples(rows_B, times_B, kept, self._neighbours.look_up(kept, times_B))

    def _step(self, parts: list[Examples], most: int) -> dict[str, float]:
        """One step on examples, against `most` candidates."""
        config = self.config
        chunk = config.chunk
        clocks: list[np.ndarray] = []
        groups: list[np.ndarray] = []
        for part in parts:
            events = np.arange(len(part.times_B))
            groups.append(events // chunk + sum(len(c) for c in clocks))
            clocks.append(np.minimum.reduceat(part.times_B, events[::chunk]))
        batch = self._batch(
            concatenate(parts), np.concatenate(groups), np.concatenate(clocks), most
        )
        self._sparc.train()
        if not bool(self._sparc.quantizer.ready):
            self._sparc.quantizer.start(self._catalogue_sample(), self._generator)
        cuda = self.device.type == "cuda"
        seed = int(torch.randint(2**62, (), generator=self._generator))
        with (
            torch.random.fork_rng([self.device] if cuda else []),
            torch.autocast("cuda", torch.bfloat16, enabled=cuda),
        ):
            torch.manual_seed(seed)  # of dropout
            outcome = self._sparc(batch, self._generator)
        loss = outcome.losses["loss"]
        if not bool(torch.isfinite(loss)):
            values = ", ".join(f"{n} {float(v.detach()):.4g}" for n, v in outcome.losses.items())
            raise NotFiniteError(f"the loss is not finite ({values})")
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        scale = self._clip()
        self._optimizer.step()
        self._ids.step(config.table_learning_rate, scale)
        self._words.step(config.table_learning_rate, scale)
        if not self.codebook_frozen:
            self._counters["revived"] += self._sparc.quantizer.update(
                outcome.z_SD, outcome.codes_SQ, self._generator
            )
        self._check()
        self._codes_N[batch.item_rows_S.cpu().numpy()] = outcome.codes_SQ[:, 0].cpu().numpy()
        return {name: float(value.detach()) for name, value in outcome.losses.items()}

    def _clip(self) -> float:
        """Scale the dense gradients to the largest norm; returns the scale, for the tables."""
        dense = [p.grad for p in self._sparc.parameters() if p.grad is not None]
        squares = [g.square().sum() for g in dense]
        squares += [g.square().sum() for g in self._ids.gradients() + self._words.gradients()]
        norm = float(torch.stack(squares).sum().sqrt())
        if not math.isfinite(norm):
            raise NotFiniteError(f"the gradient is not finite (its norm is {norm})")
        scale = min(1.0, self.config.clip / max(norm, 1e-12))
        if scale < 1:
            torch._foreach_mul_(dense, scale)
        return scale

    def _check(self) -> None:
        """Refuse dense weights and a codebook that a step has broken.

        Rows of the tables need no look: their steps are bounded as the gradient is.
        """
        whole = [*self._sparc.parameters(), *self._sparc.buffers()]
        floating = [t.detach() for t in whole if t.is_floating_point()]
        norms = torch.stack(torch._foreach_norm(floating))
        if not bool(torch.isfinite(norms).all()):
            raise NotFiniteError("a weight or a codeword is not finite after the step")

    def _batch(
        self, examples: Examples, clock_B: np.ndarray, clocks_G: np.ndarray, most: int
    ) -> Batch:
        """Candidates, and everything else in their positions."""
        size = len(self._catalogue)
        given = np.unique(np.concatenate([examples.targets_B, examples.histories.rows_BL.ravel()]))
        given = given[given != NO_ROW]
        if size <= most:
            rows_S, share = np.arange(size), 1.0
        else:
            drawn = torch.randint(size, (most,), generator=self._generator).numpy()
            rows_S, share = np.union1d(given, drawn), -np.expm1(most * np.log1p(-1 / size))
        position_N = np.full(size + 1, NO_ROW)  # the last one answers for NO_ROW
        position_N[rows_S] = np.arange(len(rows_S))
        counts_GSH = self._popularity.before(clocks_G, rows_S)
        code_counts_GCH = self._code_popularity.before(
            clocks_G, np.arange(self.config.model.quantizer.codes)
        )
        frequency_S = self._frequency(rows_S)
        events = len(examples.targets_B)
        age_BL = examples.times_B[:, None] - examples.histories.times_BL
        age_BL = np.where(examples.histories.known_BL, age_BL, 0).astype(np.float32)
        codes_N = np.append(self._codes_N, NO_ROW)
        near = examples.neighbours
        return Batch(
            items=self._inputs(rows_S),
            item_rows_S=self._tensor(rows_S),
            negative_S=self._tensor(self._popularity.seen(rows_S)),
            log_q_S=losses.log_inclusion(frequency_S, events, share).to(self.device),
            log_frequency_S=torch.log(frequency_S * events + 1e-6).to(self.device),
            target_B=self._tensor(position_N[examples.targets_B]),
            history_BL=self._tensor(position_N[examples.histories.rows_BL]),
            age_BL=self._tensor(age_BL),
            clock_B=self._tensor(clock_B),
            popularity_GSP=self._tensor(log_counts(counts_GSH)),
            code_popularity_GCP=self._tensor(log_counts(code_counts_GCH)),
            neighbour_BK=self._tensor(position_N[near.rows_BK]),
            neighbour_code_BK=self._tensor(codes_N[near.rows_BK]),
            neighbour_score_BKH=neighbour_features(self._tensor(near.scores_BKH)),
            history_code_BL=self._tensor(codes_N[examples.histories.rows_BL]),
        )

    def _frequency(self, rows_S: np.ndarray) -> Tensor:
        """Share of recent events on each candidate, by the longest half-life."""
        counts_S, total = self._popularity.latest(rows_S, self._clock_ms)
        return torch.from_numpy((counts_S / max(total, 1.0)).clip(1e-9, 1.0))

    def _inputs(self, rows_S: np.ndarray) -> ItemInputs:
        words_ST = self._catalogue.words_NT[rows_S]
        used_W, inverse = np.unique(words_ST, return_inverse=True)
        if len(used_W) == 0 or used_W[0] != 0:  # position 0 must mean "no word"
            used_W, inverse = np.append(0, used_W), inverse + 1
        return ItemInputs(
            self._ids.gather(self._tensor(rows_S)),
            self._tensor(inverse.reshape(words_ST.shape)),
            self._words.gather(self._tensor(used_W)),
            self._tensor(self._catalogue.idf_W[used_W]),
            self._tensor(self._catalogue.category_N[rows_S]),
        )

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _catalogue_sample(self) -> Tensor:
        """Z of at most 16,384 items, for the first codebook."""
        size = len(self._catalogue)
        order = torch.randperm(size, generator=self._generator)[:16_384]
        return self._embed(order.sort().values.numpy())

    @torch.no_grad()
    def _embed(self, rows: np.ndarray) -> Tensor:
        """Z of rows, without gradient."""
        parts = [torch.zeros(0, self.config.model.item_tower.dimension, device=self.device)]
        for a in range(0, len(rows), EMBED_CHUNK):
            some = rows[a : a + EMBED_CHUNK]
            inputs = ItemInputs(
                self._ids.look_up(self._tensor(some)),
                self._tensor(self._catalogue.words_NT[some]),
                self._words.weight_ND,
                self._tensor(self._catalogue.idf_W),
                self._tensor(self._catalogue.category_N[some]),
            )
            parts.append(self._sparc.item_tower(inputs).float())
        return torch.cat(parts)

    def _centroids(self) -> Tensor:
        return self._sparc.quantizer.codebooks_QCD[0].clone()

    def drift(self) -> np.ndarray:
        """How far each first-level centroid has moved since the last `export`, in radii: (C,)."""
        moved_C = (self._centroids() - self._exported_CD).norm(dim=1)
        radius_C = self._sparc.quantizer.squared_radius_C.clamp(min=1e-12).sqrt()
        return (moved_C / radius_C).cpu().numpy()

    def codebook_health(self) -> dict[str, float]:
        """First-level codes: `codes_in_use` (share), `perplexity` (of codes, over C), and more.

        `largest_to_mean` compares list lengths, `cosine` is the mean of items to their centroid,
        `relative_error` the share of variance that the reconstruction misses; up to 65,536 items
        are looked at.
        """
        rows = np.arange(len(self._catalogue))[:: max(1, len(self._catalogue) // EMBED_CHUNK)]
        quantizer = self._sparc.quantizer
        if len(rows) == 0 or not bool(quantizer.ready):
            return {}
        with torch.no_grad():
            z_ND = self._embed(rows)
            result = quantizer(z_ND)
            load_C = torch.bincount(
                result.codes_SQ[:, 0], minlength=quantizer.config.codes
            ).double()
            share_C = load_C / load_C.sum()
            entropy = -(share_C * share_C.clamp(min=1e-12).log()).sum()
            error = (quantizer.reconstruct(result.sum_SD) - z_ND).square().mean()
            cosine = torch.cosine_similarity(result.input_SD, result.first_SD).mean()
        return {
            "codes_in_use": float((load_C > 0).double().mean()),
            "perplexity": float(entropy.exp() / quantizer.config.codes),
            "largest_to_mean": float(load_C.max() / load_C.mean()),
            "cosine": float(cosine),
            "relative_error": float(error / z_ND.var(0).mean().clamp(min=1e-12)),
            "revived": float(self._counters["revived"]),
        }

    @torch.no_grad()
    def export(self, now_ms: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and facts for `RetrievalModel`; drift is measured from here on.

        Args:
            now_ms: the time to which the recency prior is brought forward, if it is later than
                the newest event.
        """
        clock_ms = max(self._clock_ms, now_ms or 0)
        quantizer = self._sparc.quantizer
        rows = np.arange(len(self._catalogue))
        z_ND = self._embed(rows)
        if not bool(quantizer.ready) and len(rows):
            quantizer.start(self._catalogue_sample(), self._generator)
        codes_NQ = quantizer.assign(quantizer.standardise(z_ND))
        counts_NH = self._popularity.current(clock_ms)
        codes = quantizer.config.codes
        code_counts_CH = self._code_popularity.current(clock_ms)[:codes]
        near = self._neighbours.state()
        self._exported_CD = self._centroids()
        tensors = {f"sparc.{n}": v.detach().clone() for n, v in self._sparc.state_dict().items()}
        tensors |= {
            "words_WD": self._words.weight_ND.clone(),
            "words.idf_W": torch.from_numpy(self._catalogue.idf_W),
            "items.ids_N": torch.from_numpy(self._catalogue.item_ids_N.copy()),
            "items.events_N": torch.from_numpy(self._events_N.copy()),
            "items.id_ND": self._ids.weight_ND.clone(),
            "items.z_ND": z_ND,
            "items.codes_NQ": codes_NQ.to(torch.int32),
            "items.places_N": torch.from_numpy(
                self._places.assign(codes_NQ[:, 0].cpu().numpy()).astype(np.int32)
            ),
            "items.popularity_NP": torch.from_numpy(log_counts(counts_NH)),
            "codes.popularity_CP": torch.from_numpy(log_counts(code_counts_CH)),
            **{f"neighbours.{name}": value for name, value in near.items()},
        }
        tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
        vector = z_ND.shape[1] + tensors["items.popularity_NP"].shape[1]
        facts = model_facts(
            self.config.model,
            self.config.seed,
            clock_ms,
            vector + self.config.model.key_dimension,
            len(rows),
            self._sparc.one_user_vector,
        )
        return tensors, facts

    def retrieval_model(self, now_ms: int | None = None) -> RetrievalModel:
        """What would be served now; measures drift anew, as `export` does."""
        tensors, facts = self.export(now_ms)
        return RetrievalModel(tensors, facts, str(self.device))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that `restore` needs, as tensors (CPU, contiguous) and JSON-able facts."""
        tensors: dict[str, Tensor] = {}

        def put(prefix: str, values: dict[str, Tensor]) -> None:
            tensors.update({f"{prefix}.{name}": value for name, value in values.items()})

        put("sparc", self._sparc.state_dict())
        for index, moments in self._optimizer.state_dict()["state"].items():
            put(f"optimizer.{index}", moments)
        put("catalogue", self._catalogue.state())
        put("ids", self._ids.state())
        put("words", self._words.state())
        put("popularity", self._popularity.state())
        put("code_popularity", self._code_popularity.state())
        put("neighbours", self._neighbours.state())
        put("replay", self._replay.state())
        put("learner", {
            "random": self._generator.get_state(),
            "codes_N": torch.from_numpy(self._codes_N),
            "events_N": torch.from_numpy(self._events_N),
            "exported_CD": self._exported_CD,
            "place_codes_N": torch.from_numpy(self._places.codes_N),
            "places_N": torch.from_numpy(self._places.places_N),
        })  # fmt: skip
        meta = {"counters": dict(self._counters), "clock_ms": self._clock_ms}
        return {n: v.detach().cpu().contiguous().clone() for n, v in tensors.items()}, meta

    @classmethod
    def restore(
        cls,
        config: LearnerConfig,
        tensors: dict[str, Tensor],
        meta: dict[str, Any],
        device: str = "cpu",
    ) -> Learner:
        """A learner that goes on from `state`, on a CPU bit for bit.

        Raises:
            LearnerError: if the state was written under another architecture or version.
        """
        learner = cls(config, device)
        try:
            learner._load(tensors, meta)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise LearnerError(
                f"the saved state does not fit this configuration ({error}); start afresh or use "
                "the configuration it was written with"
            ) from error
        return learner

    def _load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        groups: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            group, _, rest = name.partition(".")
            groups.setdefault(group, {})[rest] = value
        self._sparc.load_state_dict(groups["sparc"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in groups.get("optimizer", {}).items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = value.clone()
        optimizer = self._optimizer.state_dict()
        self._optimizer.load_state_dict(optimizer | {"state": moments})
        self._catalogue.load(groups["catalogue"])
        self._ids.load(groups["ids"])
        self._words.load(groups["words"])
        self._popularity.load(groups["popularity"])
        self._code_popularity.load(groups["code_popularity"])
        self._neighbours.load(groups["neighbours"])
        self._replay.load(groups["replay"])
        own = groups["learner"]
        self._generator.set_state(own["random"])
        self._codes_N = own["codes_N"].numpy().copy()
        self._events_N = own["events_N"].numpy().copy()
        self._places.codes_N = own["place_codes_N"].numpy().copy()
        self._places.places_N = own["places_N"].numpy().copy()
        self._exported_CD = own["exported_CD"].clone().to(self.device)
        self._counters = {name: int(value) for name, value in meta["counters"].items()}
        self._clock_ms = int(meta["clock_ms"])
