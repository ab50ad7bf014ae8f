"""The trainer as a process: Kafka, disk and device around `model.training.trainer`.

<data>/trainer/journal/       decisions, synced
<data>/trainer/checkpoints/   states, the last few
<data>/trainer/log_end.json   where the log of a drain ends
<data>/trainer/quarantine/    micro-batches that could not be learnt
<data>/trainer/topics.json    the ids of the topics that the offsets in them count in
<data>/handover/              what the indexer reads
"""

from __future__ import annotations

import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import structlog
import torch

from model.learning.config import LearnerConfig
from model.learning.learner import Learner
from model.learning.learner_state import LearnerState
from model.ranks import HERE, Place, joined
from model.retrieval.retrieval_model import RetrievalModel
from model.training.checkpoint import CheckpointDirectory
from model.training.config import TrainerConfig
from model.training.group import Leader, follow
from model.training.handover import HandoverDirectory
from model.training.journal import RocksJournal
from model.training.log_end import read_log_end
from model.training.micro_batch import ITEMS, SEQUENCES
from model.training.progress import Progress
from model.training.quarantine import QuarantineDirectory
from model.training.sequence_source import SequenceSource
from model.training.trainer import AnswererFactory, Trainer
from streaming.freed_memory import keep_for_the_next
from streaming.item_lifetime import ItemsConfig
from streaming.kafka_clients import KafkaConnection
from streaming.statuses import Report
from streaming.topic_identity import TopicIdentity
from streaming.topics import Topics

log = structlog.get_logger(__name__)


def pick_device(wanted: str, number: int = 0, ranks: int = 1) -> str:
    """The device to train on: "auto" is a GPU where there is one.

    Args:
        wanted: as configured.
        number: of this rank on this machine.
        ranks: how many there are: of several each takes a GPU in turn, unless one is named.

    Raises:
        ValueError: for "cuda" on a computer without a GPU.
    """
    available = torch.cuda.is_available()
    if wanted == "auto":
        wanted = "cuda" if available else "cpu"
    if wanted.startswith("cuda") and not available:
        raise ValueError(f"trainer.device is {wanted!r}, but torch finds no GPU; use 'auto'")
    if wanted == "cuda" and ranks > 1:
        return f"cuda:{number % torch.cuda.device_count()}"
    return wanted


def run(
    config: TrainerConfig,
    model_config: LearnerConfig,
    kafka: KafkaConnection,
    topics: Topics,
    data_dir: Path,
    answerer_factory: AnswererFactory | None,
    stop: threading.Event,
    report: Report,
    items: ItemsConfig,
    place: Place = HERE,
) -> Progress | None:
    """Train from Kafka into `data_dir` until `stop` is set.

    `answerer_factory` makes the served path out of a published model; without it nothing is
    answered before it is learnt. `items` says when a withdrawn item is forgotten. Of several ranks
    each calls this, with its `place`; the first one reports and has a progress, and the others end
    when it does.

    Raises:
        TrainerError, ModelError: when training cannot go on; the message says what to do.
        ForeignKafkaError: if the topics are not those that were trained from before.
    """
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)  # moments of Adam fade to denormal numbers, which are slow
    keep_for_the_next()
    device = pick_device(config.device, place.number, place.size)
    log.info(
        "trainer starts",
        device=device,
        threads=config.threads,
        data=str(data_dir),
        rank=place.rank,
        ranks=place.size,
    )
    identity = TopicIdentity(
        data_dir, "trainer", kafka, {SEQUENCES: topics.sequences, ITEMS: topics.items}
    )
    with joined(place, device, config.collectives) as ranks:

        def make(state: LearnerState | None) -> Learner:
            if state is None:
                return Learner(model_config, device, ranks=ranks)
            return Learner.restore(model_config, state, device, ranks)

        own = SequenceSource(kafka, topics, identity, lambda: read_log_end(data_dir), ranks)
        with closing(own):
            if not ranks.leads:
                follow(ranks, make, own)
                return None
            leads = Leader(ranks, own, make)
            # its lock keeps a second trainer off the directories
            with closing(RocksJournal(data_dir / "trainer" / "journal")) as journal:
                progress = Trainer(
                    leads.learner,
                    leads.source,
                    journal,
                    CheckpointDirectory(
                        data_dir / "trainer" / "checkpoints", config.keep_checkpoints
                    ),
                    HandoverDirectory(
                        data_dir / "handover",
                        config.keep_handovers,
                        partial(RetrievalModel.load, device=device),
                    ),
                    answerer_factory,
                    config,
                    quarantined=QuarantineDirectory(data_dir / "trainer" / "quarantine"),
                    items=items,
                ).run(stop, report)
            leads.end()
            return progress
