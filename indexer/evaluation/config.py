"""How `sparc evaluate` plays the protocol: the section `[evaluation]` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from model.evaluation.protocol import REPLAY_BUDGET


@dataclass(frozen=True)
class EvaluationConfig:
    """What the pipeline has no setting for.

    Attributes:
        replay: older events learnt again for each new one; the protocol allows 4. A pipeline's
            own `[learner] replay` is lower, for the sake of its throughput.
        replay_epochs: passes over the warm-up, by replay, after the first.
        trade_off: numbers of codes for the curve of quality against cost; all codes come last.
        tracking_uri: of MLflow for the runs; empty: that of `[registry]` or, where there is none,
            a database in the output directory.
        experiment: MLflow experiment of the runs.
        epochs: most epochs of leave-one-out.
        patience: epochs without a better validation after which leave-one-out ends.
    """

    replay: float = 4.0
    replay_epochs: float = 3.0
    trade_off: tuple[int, ...] = (1, 2, 4, 8, 12, 16, 24, 32)
    tracking_uri: str = ""
    experiment: str = "sparc-evaluation"
    epochs: int = 60
    patience: int = 5

    def __post_init__(self) -> None:
        if not 0 <= self.replay <= REPLAY_BUDGET:
            raise ValueError(f"evaluation.replay is {self.replay}; use 0 to {REPLAY_BUDGET}")
        if not self.replay_epochs >= 0:
            raise ValueError(f"evaluation.replay_epochs is {self.replay_epochs}; use 0 or more")
        if any(codes < 1 for codes in self.trade_off):
            raise ValueError(f"evaluation.trade_off is {self.trade_off}; use 1 or more of each")
