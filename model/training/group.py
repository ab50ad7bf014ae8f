"""One trainer, several ranks: what the leader does to its learner, the others do to theirs.

Rank 0 runs the `Trainer` as if it were alone: it alone decides, has the journal, and writes
checkpoints and handovers. Its learner and its source are led ones, which tell the other ranks of
each call that changes a learner or reads the topic:

    begin     a learner anew, or from the state that follows, in parts
    list      items
    learn     a micro-batch; each rank takes its share of the examples (`model.ranks`)
    forget    a user, or items
    start     the codebook, if there is none
    seek, poll, read    of the rank's own partitions of `sequences`
    end

So all ranks hold one learner, there is one state to go on from, whatever the number of ranks, and
there is nothing to agree on after a crash: where one rank ends, all end, and the group begins anew
from the journal and the checkpoints. Messages are JSON, and tensors safetensors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import orjson
import safetensors.torch
from numpy.typing import NDArray

from model.learning.errors import NotFiniteError
from model.learning.learner_state import LearnerState, Tensors
from model.ranks import Ranks
from model.training.micro_batch import (
    SEQUENCES,
    Plan,
    Polled,
    Record,
    TrainerError,
)
from model.training.source import Offsets, Source, SourceUnavailable
from streaming.errors import StreamingError
from streaming.events import FORGET, Forgotten, UserSequence
from streaming.items import Item, Withdrawal

if TYPE_CHECKING:
    from model.learning.export import Export
    from model.learning.learner import Learner
    from model.retrieval.item_segments import ItemSegments
    from model.retrieval.retrieval_model import RetrievalModel

MakeLearner = Callable[[LearnerState | None], "Learner"]
Found = dict[int, list[Record[UserSequence | Forgotten]]]

V = TypeVar("V")


def _tell(ranks: Ranks, do: str, **facts: Any) -> None:
    ranks.tell(orjson.dumps({"do": do, **facts}, option=orjson.OPT_NON_STR_KEYS))


class Leader:
    """What the first rank's `Trainer` is given; alone, it is what it has.

    Args:
        ranks: whom it leads.
        source: of its own partitions.
        make: makes a learner.

    Attributes:
        source: of all partitions.
    """

    def __init__(self, ranks: Ranks, source: Source, make: MakeLearner) -> None:
        self._ranks = ranks
        self._make = make
        self.source = source if ranks.size == 1 else LedSource(ranks, source)

    def learner(self, state: LearnerState | None) -> Learner | LedLearner:
        """Make the learner, and have the others make theirs."""
        if self._ranks.size == 1:
            return self._make(state)
        _tell(self._ranks, "begin", meta=None if state is None else state.meta)
        if state is None:
            return LedLearner(self._ranks, self._make(None))
        self._ranks.tell(safetensors.torch.save(state.dense))
        state = state._replace(rows=_told(self._ranks, state))
        return LedLearner(self._ranks, self._make(state))

    def end(self) -> None:
        """Let the others end."""
        if self._ranks.size > 1:
            _tell(self._ranks, "end")


def _told(ranks: Ranks, state: LearnerState) -> Iterator[Tensors]:
    for rows in state.rows:
        ranks.tell(safetensors.torch.save({n: x.contiguous() for n, x in rows.items()}))
        yield rows
    ranks.tell(b"")


def _heard(ranks: Ranks) -> Iterator[Tensors]:
    while part := ranks.tell(None):
        yield safetensors.torch.load(part)


class LedLearner:
    """The leader's learner, whose changes the other ranks' learners follow."""

    def __init__(self, ranks: Ranks, own: Learner) -> None:
        self._ranks = ranks
        self._own = own

    def list_items(self, items: Sequence[Item]) -> None:
        """As `Learner.list_items`."""
        _tell(self._ranks, "list", items=items)
        self._own.list_items(items)

    def learn(
        self, batch: Sequence[UserSequence], *, catching_up: bool = False
    ) -> dict[str, float]:
        """As `Learner.learn`."""
        _tell(self._ranks, "learn", sequences=batch, catching_up=catching_up)
        return self._own.learn(batch, catching_up=catching_up)

    def forget(self, user: int, but: int = 0) -> None:
        """As `Learner.forget`."""
        _tell(self._ranks, "forget", user=user, but=but)
        self._own.forget(user, but)

    def forget_items(self, item_ids: NDArray[np.int64]) -> None:
        """As `Learner.forget_items`."""
        _tell(self._ranks, "forget items", items=item_ids.tolist())
        self._own.forget_items(item_ids)

    def export(self, published: ItemSegments | None = None) -> Export:
        """As `Learner.export`."""
        self._start()
        return self._own.export(published)

    def retrieval_model(self) -> RetrievalModel:
        """As `Learner.retrieval_model`."""
        self._start()
        return self._own.retrieval_model()

    def _start(self) -> None:
        _tell(self._ranks, "start")
        self._own.start_codebook()

    # what changes nothing that is learnt is the leader's alone

    def mark_published(self) -> None:
        """As `Learner.mark_published`."""
        self._own.mark_published()

    def drift(self) -> Any:
        """As `Learner.drift`."""
        return self._own.drift()

    def codebook_health(self) -> dict[str, float]:
        """As `Learner.codebook_health`."""
        return self._own.codebook_health()

    def state(self, whole: bool = True) -> LearnerState:
        """As `Learner.state`."""
        return self._own.state(whole)


class LedSource:
    """A `Source` of which each rank reads its own partitions; the leader's gives the items, too."""

    def __init__(self, ranks: Ranks, own: Source) -> None:
        self._ranks = ranks
        self._own = own
        self._held = Polled()

    def seek(self, offsets: Offsets) -> None:
        """As `Source.seek`."""
        self._held = Polled()
        _tell(self._ranks, "seek", offsets=offsets)
        self._own.seek(offsets)

    def poll(self, enough: Collection[int]) -> Polled:
        """As `Source.poll`. The others read first: the items are read behind all sequences."""
        _tell(self._ranks, "poll", enough=list(enough))
        # what somebody has read is given out next time, should another one have failed
        self._gather(self._held)
        polled = self._own.poll(enough)
        _join(polled, self._held)
        self._held = Polled()
        return polled

    def read(self, plan: Plan) -> tuple[dict[int, list[Record[Item | Withdrawal]]], Found]:
        """As `Source.read`."""
        _tell(self._ranks, "read", plan=plan.to_json())
        others = Polled()
        self._gather(others)
        items, sequences = self._own.read(plan)
        return items, sequences | others.sequences

    def _gather(self, polled: Polled) -> None:
        """Add what the others have read.

        Raises:
            SourceUnavailable, TrainerError: what one of them met.
        """
        answers = [orjson.loads(one) for one in self._ranks.collect(b"{}")[1:]]
        for answer in answers:
            if "sequences" in answer:
                _join(polled, _from_json(answer))
        for answer in answers:
            if "failed" in answer:
                raise TrainerError(answer["failed"])
            if "unavailable" in answer:
                raise SourceUnavailable(answer["unavailable"])

    def close(self) -> None:
        """As `Source.close`."""
        self._own.close()


def _join(polled: Polled, other: Polled) -> None:
    """Add what was read in other partitions, or later."""
    for partition, records in other.sequences.items():
        polled.sequences[partition] = polled.sequences.get(partition, []) + records
    for mine, theirs in ((polled.next_offsets, other.next_offsets), (polled.ends, other.ends)):
        for stream, offsets in theirs.items():
            mine[stream] = mine.get(stream, {}) | offsets


def follow(ranks: Ranks, make: MakeLearner, source: Source) -> None:
    """Do what the leader says, until it says that this is the end.

    Args:
        ranks: of which this is another one.
        make: makes a learner, as the leader's.
        source: of the own partitions.
    """
    learner: Learner | None = None
    while True:
        order = orjson.loads(ranks.tell(None))
        do = order["do"]
        if do == "end":
            return
        if do == "seek":
            source.seek({s: _by_number(o) for s, o in order["offsets"].items()})
        elif do in ("poll", "read"):
            ranks.collect(_answer(source, order))
        elif do == "begin":
            del learner  # there may be no room for two
            learner = make(_state(ranks, order["meta"]))
        elif learner is None:
            raise TrainerError(f"rank {ranks.rank} is to {do} and has no learner")
        elif do == "list":
            learner.list_items([Item(**item) for item in order["items"]])
        elif do == "forget":
            learner.forget(order["user"], order["but"])
        elif do == "forget items":
            learner.forget_items(np.array(order["items"], np.int64))
        elif do == "start":
            learner.start_codebook()
        elif do == "learn":
            sequences = [UserSequence(**one) for one in order["sequences"]]
            with suppress(NotFiniteError):  # so it is on the leader, who begins anew
                learner.learn(sequences, catching_up=order["catching_up"])
        else:
            raise TrainerError(f"rank {ranks.rank} does not know how to {do}")


def _state(ranks: Ranks, meta: dict[str, Any] | None) -> LearnerState | None:
    if meta is None:
        return None
    return LearnerState(safetensors.torch.load(ranks.tell(None)), _heard(ranks), meta)


def _answer(source: Source, order: dict[str, Any]) -> bytes:
    """What a source gives, as the leader reads it."""
    try:
        if order["do"] == "poll":
            polled = source.poll(order["enough"])
        else:
            polled = Polled(sequences=source.read(Plan.from_json(order["plan"]))[1])
    except SourceUnavailable as error:
        return orjson.dumps({"unavailable": str(error)})
    except (TrainerError, StreamingError) as error:
        return orjson.dumps({"failed": str(error)})
    facts = {
        "sequences": {
            p: [(r.offset, r.value) for r in records] for p, records in polled.sequences.items()
        },
        "next_offsets": polled.next_offsets.get(SEQUENCES, {}),
        "ends": polled.ends.get(SEQUENCES, {}),
    }
    return orjson.dumps(facts, option=orjson.OPT_NON_STR_KEYS)


def _from_json(facts: dict[str, Any]) -> Polled:
    return Polled(
        sequences={
            p: [Record(offset, _record(value)) for offset, value in records]
            for p, records in _by_number(facts["sequences"]).items()
        },
        next_offsets={SEQUENCES: _by_number(facts["next_offsets"])},
        ends={SEQUENCES: _by_number(facts["ends"])},
    )


def _record(value: dict[str, Any] | None) -> UserSequence | Forgotten | None:
    if value is None:
        return None
    return Forgotten(**value) if value.get("event_type") == FORGET else UserSequence(**value)


def _by_number(values: dict[str, V]) -> dict[int, V]:
    """By partition; in JSON their numbers are text."""
    return {int(partition): value for partition, value in values.items()}
