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

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from model import launches
from model.histories import NO_ROW, History, HistoryBatch, pad_histories, scatter_right
from model.learning.batching import make_batch
from model.learning.config import LearnerConfig
from model.learning.errors import LearnerError, NotFiniteError
from model.learning.export import SWEEP, Changes, Export, export, forget_changes
from model.learning.gradients import Gradients, check_losses, check_norm
from model.learning.item_tables import ItemTables
from model.learning.learner_state import LearnerState, by_group
from model.network.sparc import Sparc
from model.ranks import ALONE, Ranks
from model.retrieval.item_segments import ItemSegments
from model.retrieval.retrieval_model import RetrievalModel
from model.tables.replay_buffer import Examples, ReplayBuffer
from streaming.events import UserSequence
from streaming.items import Item

EMBED_CHUNK = 65_536
HEALTH_SAMPLE = 16_384
"""Items by which the health of the codebook is told."""
REPLAY_RECENCY = 3.0
"""1 would draw evenly from the replay buffer; more prefers newer ones, nearer to what is asked."""
CATCH_UP_CANDIDATES = 4096
"""Most items scored in a step where learning is to be quick; without replay, too, it is then about
twice as quick."""
SESSION_MS = 24 * 3_600_000
"""An event of this age is of another session: a day."""


class Learner:
    """Trains SPARC on micro-batches and exports what serves it.

    Args:
        config: how it learns.
        device: "cpu" or "cuda".
        one_user_vector: a control; see `Sparc`.
        ranks: who learns together. Each of them is to be called alike; then all stay the same.

    Attributes:
        codebook_frozen: a control: while true the codebooks of all levels stay where they are and
            the rest goes on learning. Items keep moving in the space, and change code when they
            come nearer to another codeword.
    """

    def __init__(
        self,
        config: LearnerConfig,
        device: str = "cpu",
        *,
        one_user_vector: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config = config
        self.codebook_frozen = False
        self._ranks = ranks
        self.device = torch.device(device)
        model = config.model
        self._generator = torch.Generator().manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._sparc = Sparc(model, one_user_vector=one_user_vector).to(self.device)
        self._optimizer = torch.optim.Adam(
            self._sparc.parameters(),
            lr=config.learning_rate,
            betas=(0.9, 0.999),
            fused=launches.few(self.device),
        )
        self._tables = ItemTables(
            model, config.seed, 2 * config.replay_capacity, config.candidates, self.device
        )
        self._gradients = Gradients(self._sparc, self._tables, self.device)
        near = model.neighbours
        self._replay = ReplayBuffer(config.replay_capacity, near.answers, len(near.half_lives_days))
        self._clock_ms = 0
        self._exported_CD = self._centroids()
        self._swept = 0
        self._counters = {"micro_batches": 0, "events": 0, "replayed": 0, "revived": 0}

    @property
    def replayed(self) -> int:
        """Examples learnt again so far, those of `learn_replayed` among them."""
        return self._counters["replayed"]

    def list_items(self, items: Sequence[Item]) -> None:
        """Make items known; one listed again takes its new title and category."""
        self._tables.list_items(items)

    def forget_items(self, item_ids: np.ndarray) -> None:
        """Forget items wholly, int64 ids; one that is clicked or listed later is a new item."""
        rows_n = self._tables.forget(item_ids)
        if len(rows_n):
            self._replay.forget_items(rows_n)

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
        unlisted = self._tables.catalogue.rows(targets) == NO_ROW
        if unlisted.any():
            self.list_items([Item(i) for i in dict.fromkeys(targets[unlisted].tolist())])
        rows_B = self._tables.catalogue.rows(targets)
        times_B = np.fromiter((s.event_time for s in batch), np.int64, len(batch))
        histories = pad_histories(
            [History(s.history_items, s.history_times) for s in batch], self._tables.catalogue.rows
        )
        fresh = self._examples(rows_B, times_B, histories)
        self._tables.popularity.add(rows_B, times_B)
        self._tables.candidates.see(rows_B)
        self._tables.count(rows_B)
        self._clock_ms = max(self._clock_ms, int(times_B.max()))
        results = []
        config = self.config
        share = 0.0 if catching_up else config.replay if replay is None else replay
        most = config.candidates
        if catching_up:
            most = min(most, CATCH_UP_CANDIDATES)
        for part in fresh.split(max(1, round(config.step / (1 + share)))):
            replayed = self._draw_replay(share * len(part.targets_B), REPLAY_RECENCY)
            results.append(self._step([part] if replayed is None else [part, replayed], most))
        self._tables.code_popularity.add(self._tables.codes_N[rows_B], times_B)
        self._tables.neighbours.add(histories, rows_B, times_B)
        self._replay.add(fresh, np.fromiter((s.user_id for s in batch), np.int64, len(batch)))
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

    def forget(self, user: int, but: int = 0) -> None:
        """Never learn again what a user did, except for their last `but` examples.

        What they did remains in what was learnt from all. The next `state` is to be a whole one.
        """
        self._replay.forget(user, but)

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
        session_BL = age_BL < SESSION_MS
        drop_BL = session_BL & (draws_B < self.config.session_dropout)[:, None]
        owner_E, column_E = np.nonzero(histories.known_BL & ~drop_BL)
        kept = scatter_right(
            len(rows_B),
            owner_E,
            histories.rows_BL[owner_E, column_E],
            histories.times_BL[owner_E, column_E],
        )
        return Examples(rows_B, times_B, kept, self._tables.neighbours.look_up(kept, times_B))

    def _step(self, parts: list[Examples], most: int) -> dict[str, float]:
        """One step on examples, against `most` candidates."""
        config = self.config
        with record_function("step: batch"):
            batch = make_batch(
                self._tables,
                parts,
                chunk=config.chunk,
                most=most,
                clock_ms=self._clock_ms,
                generator=self._generator,
                ranks=self._ranks,
            )
        self._sparc.train()
        self.start_codebook()
        # where operations are to be few, the device draws, and numbers are looked at in the end
        late = launches.few(self.device)
        seed = int(torch.randint(2**62, (), generator=self._generator))
        here = torch.Generator(self.device).manual_seed(seed) if late else self._generator
        with (
            record_function("step: forward"),
            torch.random.fork_rng([self.device] if self.device.type == "cuda" else []),
        ):
            torch.manual_seed(seed)  # of dropout
            outcome = self._sparc(batch, self._generator, here)
            losses = torch.stack(list(outcome.losses.values())).detach()
        alone = self._ranks.size == 1
        if not late and alone:
            check_losses(outcome, losses)
        self._optimizer.zero_grad(set_to_none=True)
        with record_function("step: backward"):
            outcome.losses["loss"].backward()
        if not alone:
            with record_function("step: ranks"):
                self._ranks.add_up([losses, *self._gradients.all()])
            if not late:
                check_losses(outcome, losses)
        with record_function("step: optimizer"):
            norm = self._gradients.norm()
            if not late:
                check_norm(norm)
            scale = self._gradients.clip(norm)
            self._optimizer.step()
        with record_function("step: tables"):
            for table in self._tables.learnt_rows:
                table.step(config.table_learning_rate, scale)
        revived: int | Tensor = 0
        if not self.codebook_frozen:
            with record_function("step: codebook"):
                shaping = slice(None) if batch.codebook_s is None else batch.codebook_s
                revived = self._sparc.quantizer.update(
                    outcome.z_SD[shaping],
                    outcome.codes_SQ[shaping],
                    here,
                    outcome.input_SD[shaping],
                    self._ranks,
                )
        with record_function("step: optimizer"):
            norms = self._gradients.norms_of_weights()
        if late:
            check_losses(outcome, losses)
            check_norm(norm)
        if not all(map(math.isfinite, norms.tolist())):
            raise NotFiniteError("a weight or a codeword is not finite after the step")
        self._counters["revived"] += int(revived)
        for table in self._tables.learnt_rows:
            table.settle()
        self._tables.note_codes(
            batch.item_rows_S.cpu().numpy(), outcome.codes_SQ[:, 0].cpu().numpy()
        )
        return dict(zip(outcome.losses, losses.tolist(), strict=True))

    def start_codebook(self) -> None:
        """Make the first codebook, of at most 16,384 items; nothing without any, or a second time.

        `export` does it, too.
        """
        quantizer = self._sparc.quantizer
        # asked in every step: the rows of all items cost with the catalogue
        if bool(quantizer.ready) or not len(rows := self._tables.catalogue.item_rows):
            return
        order = torch.randperm(len(rows), generator=self._generator)[:16_384]
        z_SD = self._embed(rows[order.sort().values.numpy()])
        quantizer.start(z_SD, self._generator, ranks=self._ranks)

    @torch.no_grad()
    def _embed(self, rows: np.ndarray) -> Tensor:
        """Z of rows, without gradient."""
        z_nD = torch.empty(len(rows), self.config.model.item_tower.dimension, device=self.device)
        for a in range(0, len(rows), EMBED_CHUNK):
            some = rows[a : a + EMBED_CHUNK]
            z_nD[a : a + EMBED_CHUNK] = self._sparc.item_tower(self._tables.inputs(some))
        return z_nD

    @torch.no_grad()
    def _places(self, rows_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Z (n, D) and codes (n, Q) int16 of rows, some at a time: there may be a million."""
        quantizer = self._sparc.quantizer
        z_nD = np.empty((len(rows_n), self.config.model.item_tower.dimension), np.float32)
        codes_nQ = np.empty((len(rows_n), quantizer.config.levels), np.int16)
        for a in range(0, len(rows_n), EMBED_CHUNK):
            some = slice(a, a + EMBED_CHUNK)
            z = self._embed(rows_n[some])
            z_nD[some] = z.cpu().numpy()
            codes_nQ[some] = quantizer.assign(quantizer.standardise(z)).cpu().numpy()
        return z_nD, codes_nQ

    def _centroids(self) -> Tensor:
        return self._sparc.quantizer.codebooks_QCD[0].clone()

    def drift(self) -> np.ndarray:
        """How far each first-level centroid moved since `mark_published`, in radii: (C,)."""
        moved_C = (self._centroids() - self._exported_CD).norm(dim=1)
        radius_C = self._sparc.quantizer.squared_radius_C.clamp(min=1e-12).sqrt()
        return (moved_C / radius_C).cpu().numpy()

    def codebook_health(self) -> dict[str, float]:
        """`ResidualQuantizer.health` over some 16,384 items, and the codes revived so far.

        Empty before the first step.
        """
        rows, quantizer = self._tables.catalogue.item_rows, self._sparc.quantizer
        if not len(rows) or not bool(quantizer.ready):
            return {}
        z_ND = self._embed(rows[:: max(1, len(rows) // HEALTH_SAMPLE)])
        return quantizer.health(z_ND) | {"revived": float(self._counters["revived"])}

    @torch.no_grad()
    def export(self, published: ItemSegments | None = None, now_ms: int | None = None) -> Export:
        """Weights, items and facts for `RetrievalModel`.

        Once they are published, `mark_published` is to be called.

        Args:
            published: what was published of the items before: then only what changed is said.
                None: all of them.
            now_ms: the time to which the recency prior is brought forward, if it is later than
                the newest event.
        """
        self.start_codebook()
        if published is None:
            changes = Changes.all(self._tables)
        else:
            changes = Changes.since(self._tables, published, self._swept)
        return export(
            self._sparc,
            self._tables,
            changes,
            *self._places(changes.places),
            published,
            tolerance=self.config.tolerance,
            seed=self.config.seed,
            clock_ms=max(self._clock_ms, now_ms or 0),
        )

    def mark_published(self) -> None:
        """What `export` gave is published: changes and drift are counted from here on."""
        forget_changes(self._tables)
        self._swept = (self._swept + SWEEP) % max(len(self._tables), 1)
        self._exported_CD = self._centroids()

    def retrieval_model(self, now_ms: int | None = None) -> RetrievalModel:
        """What would be served now, if all of it was published."""
        return self.export(now_ms=now_ms).model(str(self.device))

    def state(self, whole: bool = True) -> LearnerState:
        """Everything that `restore` needs.

        Args:
            whole: else of the tables' rows only what changed since the last call, to be kept
                behind what that gave.
        """
        dense: dict[str, Tensor] = {}

        def put(prefix: str, values: dict[str, Tensor]) -> None:
            dense.update({f"{prefix}.{name}": value for name, value in values.items()})

        put("sparc", self._sparc.state_dict())
        for index, moments in self._optimizer.state_dict()["state"].items():
            put(f"optimizer.{index}", moments)
        put("learner", {"random": self._generator.get_state(), "exported_CD": self._exported_CD})
        dense = {n: v.detach().cpu().contiguous().clone() for n, v in dense.items()}
        rows = {f"tables.{name}": value for name, value in self._tables.changes(whole).items()}
        rows |= {f"replay.{name}": value for name, value in self._replay.changes(whole).items()}
        meta = {
            "counters": dict(self._counters),
            "clock_ms": self._clock_ms,
            "swept": self._swept,
        }
        return LearnerState(dense, [rows], meta)

    @classmethod
    def restore(
        cls,
        config: LearnerConfig,
        state: LearnerState,
        device: str = "cpu",
        ranks: Ranks = ALONE,
    ) -> Learner:
        """A learner that goes on from `state`, on a CPU bit for bit.

        Raises:
            LearnerError: if the state was written under another architecture or version.
        """
        learner = cls(config, device, ranks=ranks)
        try:
            learner._load(state)
        except (KeyError, RuntimeError, TypeError, ValueError, IndexError) as error:
            raise LearnerError(
                f"the saved state does not fit this configuration ({error}); start afresh or use "
                "the configuration it was written with"
            ) from error
        return learner

    def _load(self, state: LearnerState) -> None:
        groups = by_group(state.dense)
        self._sparc.load_state_dict(groups["sparc"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in groups.get("optimizer", {}).items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = value.clone()
        optimizer = self._optimizer.state_dict()
        self._optimizer.load_state_dict(optimizer | {"state": moments})
        for rows in state.rows:
            changed = by_group(rows)
            self._tables.apply(changed["tables"])
            self._replay.apply(changed["replay"])
        own = groups["learner"]
        self._generator.set_state(own["random"])
        self._exported_CD = own["exported_CD"].clone().to(self.device)
        self._counters = {name: int(value) for name, value in state.meta["counters"].items()}
        self._clock_ms = int(state.meta["clock_ms"])
        self._swept = int(state.meta["swept"])
