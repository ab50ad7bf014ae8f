"""Which figure of which part is shown where: on the terminal, the page, to Prometheus, in MLflow.

One row a figure, in the order in which they are shown. Names for Prometheus begin with `sparc_` and
the part and end with the unit; a counter is exported with `_total` behind it.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, NamedTuple

from deploy.monitoring.part_status import Statuses
from streaming.statuses import PartStatus


class Figure(NamedTuple):
    """A figure of a part's report.

    Attributes:
        part: whose.
        key: its field; with a dot, an entry of one.
        terminal: the word before it in `sparc status` and in the progress of `sparc up`.
        page: the word before it on the dashboard.
        metric: its name for Prometheus.
        help: what Prometheus says of it.
        counter: it only ever grows.
        mlflow: its name in the pipeline's run.
        if_any: the terminal shows it only where it is neither 0 nor empty.
        rate: the page shows how much more there is per second.
        lag: the page shows it as what the part has still to do.
    """

    part: str
    key: str
    terminal: str = ""
    page: str = ""
    metric: str = ""
    help: str = ""
    counter: bool = False
    mlflow: str = ""
    if_any: bool = False
    rate: bool = False
    lag: bool = False

    def of(self, status: PartStatus) -> Any:
        """Its value in a report of the part; None where that does not tell."""
        field, _, entry = self.key.partition(".")
        value = getattr(status, field)
        return (value or {}).get(entry) if entry else value

    def number(self, statuses: Statuses) -> float | None:
        """Its value as a finite number, where it is one."""
        value = self.of(statuses.of(self.part))
        return float(value) if isinstance(value, int | float) and isfinite(value) else None


FIGURES: tuple[Figure, ...] = (
    Figure(
        "replay", "events_read", "read", "",
        "sparc_replay_events_read", "Events read.", counter=True,
    ),
    Figure(
        "replay", "clicks_produced", "clicks", "clicks",
        "sparc_replay_clicks", "Clicks produced.", counter=True, rate=True,
    ),
    Figure(
        "replay", "bad_lines", "bad lines", "bad lines",
        "sparc_replay_bad_lines", "Lines refused.", counter=True,
    ),
    Figure("stream", "job_state", "job", "job"),
    Figure(
        "stream", "checkpoints", "checkpoints", "checkpoints",
        "sparc_stream_checkpoints", "Checkpoints done.", counter=True,
    ),
    Figure(
        "stream", "restarts", "", "",
        "sparc_stream_restarts", "Restarts of the job.", counter=True,
    ),
    Figure(
        "stream", "lag", "lag", "",
        "sparc_stream_lag_records", "Clicks not yet read by the job.",
        mlflow="live/streaming_lag_records", lag=True,
    ),
    Figure(
        "stream", "late", "late", "late",
        "sparc_stream_late", "Clicks that came too late.", counter=True,
        mlflow="live/late_clicks",
    ),
    Figure(
        "stream", "dead_letters", "dead letters", "dead letters",
        "sparc_stream_dead_letters", "Not clicks.", counter=True,
        mlflow="live/dead_letters",
    ),
    Figure(
        "train", "trained_events", "trained", "learnt",
        "sparc_train_events", "Events learnt.", counter=True, rate=True,
    ),
    Figure(
        "train", "micro_batches", "", "micro-batches",
        "sparc_train_micro_batches", "Micro-batches.", counter=True,
    ),
    Figure(
        "train", "lag", "lag", "",
        "sparc_train_lag_records", "Sequences not yet learnt.",
        mlflow="live/training_lag_records", lag=True,
    ),
    Figure(
        "train", "events_per_second", "per second",
        mlflow="live/trained_events_per_second",
    ),
    Figure(
        "train", "recall_at_50", "recall@50", "",
        "sparc_train_recall_at_50_ratio", "Prequential, since the start.",
        mlflow="live/recall_at_50",
    ),
    Figure(
        "train", "prequential.window_recall_at_50", "", "",
        "sparc_train_window_recall_at_50_ratio", "Prequential, of the last queries.",
        mlflow="live/window_recall_at_50",
    ),
    Figure(
        "train", "ndcg_at_50", "", "",
        "sparc_train_ndcg_at_50_ratio", "Prequential, since the start.",
        mlflow="live/ndcg_at_50",
    ),
    Figure(
        "train", "poison", "", "",
        "sparc_train_poison", "Sequences refused.", counter=True,
    ),
    Figure(
        "train", "quarantined", "set aside", "",
        "sparc_train_quarantined", "Sequences set aside.", counter=True, if_any=True,
    ),
    Figure(
        "train", "handovers", "", "",
        "sparc_train_handovers", "Handovers published.", counter=True,
    ),
    Figure("index", "version", "version"),
    Figure(
        "index", "catalogue_items", "", "",
        "sparc_index_catalogue_items", "Items announced.",
    ),
    Figure(
        "index", "indexed_items", "items", "items",
        "sparc_index_items", "Items in the index.", mlflow="live/indexed_items", rate=True,
    ),
    Figure(
        "index", "codes_in_use", "codes in use", "codes in use",
        "sparc_index_codes_in_use", "Codes that hold items.", mlflow="live/codes_in_use",
    ),
    Figure("index", "codes", "", "", "sparc_index_codes", "First-level codes."),
    Figure("index", "rebuilt_codes", "new lists", "new lists"),
    Figure(
        "index", "moved_items", "items moved", "items moved",
        "sparc_index_moved_items", "Items that came, went or moved in the newest version.",
    ),
    Figure(
        "index", "waiting_items", "", "",
        "sparc_index_waiting_items", "Listed, not retrievable.",
    ),
    Figure(
        "index", "withdrawn_items", "withdrawn", "withdrawn",
        "sparc_index_withdrawn_items", "Not to be answered.", if_any=True,
    ),
    Figure(
        "index", "hidden_items", "hidden", "hidden",
        "sparc_index_hidden_items", "Kept and learnt, not answered.", if_any=True,
    ),
    Figure(
        "index", "items_refused", "refused", "refused",
        "sparc_index_items_refused", "Not items.", counter=True, if_any=True,
    ),
    Figure(
        "index", "items_lag", "", "",
        "sparc_index_lag_records", "Items not yet read.", lag=True,
    ),
    Figure(
        "index", "pending_handovers", "", "",
        "sparc_index_pending_handovers", "Not yet indexed.",
    ),
    Figure(
        "index", "snapshots_published", "", "",
        "sparc_index_snapshots", "Published.", counter=True,
    ),
    Figure(
        "register", "registered_versions", "versions", "versions",
        "sparc_register_versions", "Versions in the registry.", rate=True,
    ),
    Figure("register", "champion_version", "champion"),
    Figure(
        "register", "pending", "", "waiting",
        "sparc_register_pending", "Snapshots not registered.",
    ),
    Figure(
        "register", "unannounced", "", "",
        "sparc_register_unannounced", "Not yet on Kafka.",
    ),
    Figure(
        "register", "reachable", "", "",
        "sparc_register_reachable", "1 while MLflow answers.",
    ),
    Figure("serve", "version", "serving version"),
    Figure("serve", "requests", "requests"),
    Figure("serve", "users", "", "users"),
    Figure("serve", "swaps", "", "swaps"),
    Figure("serve", "history_lag_records", "lag", mlflow="live/history_lag_records", lag=True),
    Figure("serve", "kafka_problem", "histories stand still:", if_any=True),
    Figure("serve", "popularity_recall_at_50", mlflow="live/popularity_recall_at_50"),
    Figure("serve", "pointer_age_seconds", mlflow="live/snapshot_age_seconds"),
)  # fmt: skip
"""The service's own figures for Prometheus are in `deploy/service/metrics.py`."""


def figures(part: str) -> tuple[Figure, ...]:
    """Those of a part."""
    return tuple(one for one in FIGURES if one.part == part)
