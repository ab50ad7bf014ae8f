"""How the learner learns."""

from __future__ import annotations

from dataclasses import dataclass, field

from model.network.sparc_config import SparcConfig


@dataclass(frozen=True)
class LearnerConfig:
    """How the learner learns.

    Attributes:
        seed: of all randomness.
        model: architecture and loss weights.
        learning_rate: of dense parameters (Adam).
        table_learning_rate: of rows of ids, words and categories (row-wise Adagrad).
        step: most examples in an optimizer step, new and replayed; a micro-batch takes as many
            steps as it needs, so that its size does not change how much is learnt.
        replay: older examples learnt again for each new one. A half lets a micro-batch of 256 be
            one step; the protocol of evaluation allows 4, and more is better.
        replay_capacity: examples kept for replay.
        chunk: consecutive examples that share a clock.
        candidates: most negatives of a step that somebody has clicked. Of a larger catalogue they
            are sampled, with the log-Q correction, a tenth anew in each step, and items that nobody
            has clicked stand beside them (`model.learning.candidates`).
        tolerance: an item is published anew when it is further from where it was published than
            this part of the RMS norm of all.
        session_dropout: share of examples whose history loses the events of the last
            day. Who is asked after a day's pause has no session to go by, and a model that always
            had one learns little else.
    """

    seed: int = 0
    model: SparcConfig = field(default_factory=SparcConfig)
    learning_rate: float = 3e-3
    table_learning_rate: float = 0.015
    step: int = 400
    replay: float = 0.5
    replay_capacity: int = 131_072
    chunk: int = 32
    candidates: int = 16_384
    tolerance: float = 0.02
    session_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"learner.candidates is {self.candidates}, it must be at least 1")
