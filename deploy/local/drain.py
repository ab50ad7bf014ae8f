"""The whole pipeline on one machine: start every part, follow the log to its end, account for it.

The order of a drain, each step waited for with what the parts report after the step before it:
the replay ends -> the job has consumed, committed and emitted everything -> the trainer has
trained and published everything -> the indexer serves the last handover -> the registrar has
registered it -> the service answers from it -> the topics are counted.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kafka.errors import KafkaError

from deploy.local.failures import Failures, failure_of, given_up
from deploy.local.ports import chosen, taken_by_another
from deploy.local.progress import Progress
from deploy.local.supervision import ProcessState, Supervisor
from deploy.monitoring import full_disk
from deploy.monitoring.moment import boot
from deploy.monitoring.part_failures import SUPERVISION, Failure, as_status
from deploy.monitoring.part_status import read_statuses, reported_at, reporter
from deploy.settings import Settings
from model.training.log_end import write_log_end
from streaming.errors import KafkaUnavailable
from streaming.job.accounting import Accounts, StreamEnd, count
from streaming.job.flink_rest import FlinkRest, FlinkUnavailable


class PipelineError(RuntimeError):
    """A part failed, or the totals do not add up."""


@contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for this process.

    Raises:
        PipelineError: if another pipeline runs on it.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise PipelineError(
                f"{data_dir} is in use by the pipeline with pid {lock.read().strip() or '?'}; "
                "stop it, or choose another directory with --data-dir"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@dataclass(frozen=True)
class Step:
    """One step of a drain: `done(statuses)` is asked until it holds."""

    name: str
    done: Callable[[dict[str, dict[str, Any]]], bool]
    parts: tuple[str, ...]


def _number(status: dict[str, Any], key: str) -> int:
    return int(status.get(key) or 0)


def _said_after(status: dict[str, Any], seconds: float) -> bool:
    """Whether a part of this machine reported after a moment of its monotonic clock."""
    at = reported_at(status)
    return at is not None and at.boot == boot() and at.seconds > seconds


def drain_steps(sequences: Callable[[], int]) -> list[Step]:
    """The steps after the stream has emitted everything, in order.

    `sequences` gives the number of sequences of users that the topic holds.
    """

    def trained(s: dict[str, dict[str, Any]]) -> bool:
        # With at-least-once delivery some are repeats, which are read and not trained again.
        read = _number(s["train"], "sequences_read") + _number(s["train"], "poison")
        return bool(s["train"].get("caught_up")) and read >= sequences()

    def indexed(s: dict[str, dict[str, Any]]) -> bool:
        handed_over = _number(s["train"].get("last_handover") or {}, "sequence")
        return bool(s["index"].get("caught_up")) and _number(s["index"], "handover") >= handed_over

    def registered(s: dict[str, dict[str, Any]]) -> bool:
        return bool(s["register"].get("caught_up")) and (
            _number(s["register"], "last_registered") >= _number(s["index"], "version")
        )

    def served(s: dict[str, dict[str, Any]]) -> bool:
        # A version that is not promoted is not served: what counts is that it was decided.
        decided = max(_number(s["serve"], "version"), _number(s["serve"], "decided_version"))
        return 0 < _number(s["index"], "version") <= decided

    return [
        Step("training", trained, ("train",)),
        Step("indexing", indexed, ("index",)),
        Step("serving", served, ("serve",)),
        Step("registration", registered, ("register",)),  # last: the aliases follow what serves
    ]


class Pipeline:
    """Runs the supervised parts; used by `sparc up`."""

    def __init__(
        self,
        settings: Settings,
        supervisor: Supervisor,
        progress: Progress,
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.supervisor = supervisor
        self.progress = progress
        self.stop = stop
        self.clock = clock
        self.peak_memory = 0
        self._memory_at = 0.0

    def _observe(self) -> dict[str, dict[str, Any]]:
        """Look at every part once.

        Raises:
            PipelineError: if one of them failed for good, with its last words.
            PortTaken: if one cannot start because another process listens on its port.
        """
        states = self.supervisor.states()
        self._look_at_ports(states)
        for state in states.values():
            if given_up(state):
                raise PipelineError(failure_of(state).sentence())
        return self._show(states, [])

    def _look_at_ports(self, states: Mapping[str, ProcessState]) -> None:
        if any(s.state in ("BACKOFF", "FATAL") for s in states.values()):
            own = [process.pid for process in self.supervisor.processes()]
            if taken := taken_by_another(chosen(self.settings.ports), own):
                raise taken

    def _show(
        self, states: Mapping[str, ProcessState], failures: Sequence[Failure]
    ) -> dict[str, dict[str, Any]]:
        statuses = read_statuses(self.settings.data_dir)
        now = self.clock()
        if now - self._memory_at > 5:
            self._memory_at = now
            self.peak_memory = max(self.peak_memory, self.supervisor.memory_bytes())
        data_dir = self.settings.data_dir
        full = "" if full_disk.has_room(data_dir) else full_disk.sentence(data_dir)
        self.progress.show(states, statuses, self.peak_memory, failures, full)
        return statuses

    def _replay_ended(self) -> bool:
        state = self.supervisor.states().get("replay")
        return state is None or (state.state == "EXITED" and state.exit_status == 0)

    def stay(self) -> None:
        """Show progress until told to stop; a part that fails takes no other one down.

        Raises:
            PipelineError: at the end, naming the parts that are down then.
            PortTaken: if one cannot start, at the beginning, because another process listens on
                its port. Later that is a failure like others: it would end what answers.
        """
        followed = Failures(self.supervisor)
        tell = reporter(self.settings.data_dir, SUPERVISION)
        failures: list[Failure] = []
        begun = False
        while not self.stop.wait(1.0):
            states = self.supervisor.states()
            begun = (
                begun
                or bool(failures)
                or all(s.state in ("RUNNING", "EXITED") for s in states.values())
            )
            if not begun:
                self._look_at_ports(states)
            failures = followed.look(states)
            tell(as_status(failures))
            self._show(states, failures)
        tell(as_status([]))
        if down := [failure.sentence() for failure in failures if failure.state == "failed"]:
            raise PipelineError("; ".join(down))

    def drain(self) -> dict[str, Any]:
        """Follow the log to its end through every part; returns the summary.

        Raises:
            PipelineError: if a part fails, stands still, or something was lost.
        """
        began = self.clock()
        settings = self.settings
        self._until("replay", lambda _: self._replay_ended(), ("replay",))
        flink = FlinkRest(settings.flink_address, settings.flink_tls)
        end = StreamEnd(
            settings.kafka_connection,
            settings.kafka.topics(),
            settings.streaming.name,
            flink,
        )

        def emitted(_: dict[str, dict[str, Any]]) -> bool:
            try:
                if not end.reached(settings.streaming.name):
                    return False
                write_log_end(settings.data_dir, end.sequence_ends())
                return True
            except (KafkaError, KafkaUnavailable, FlinkUnavailable, OSError):
                return False  # one of them is being restarted, or the disk has no room

        try:
            self._until("streaming", emitted, ("stream",))
        finally:
            end.close()
            flink.close()
        accounts = count(settings.kafka_connection, settings.kafka.topics())
        for step in drain_steps(lambda: accounts.sequences):
            self._until(step.name, step.done, step.parts)
        self.peak_memory = max(self.peak_memory, self.supervisor.memory_bytes())
        summary = self._summary(accounts, self.clock() - began)
        if problem := incomplete(summary):
            raise PipelineError(f"the totals do not add up: {problem}; summary: {summary}")
        return summary

    def _until(
        self,
        name: str,
        done: Callable[[dict[str, dict[str, Any]]], bool],
        parts: tuple[str, ...],
    ) -> None:
        began = moved = self.clock()
        last: list[Any] = []
        self.progress.step(name)
        while True:
            if self.stop.is_set():
                raise PipelineError(f"stopped while waiting for {name}")
            statuses = self._observe()
            # Only words spoken after the step before this one count.
            fresh = all(_said_after(statuses[p], began) for p in parts)
            if (fresh or name in ("replay", "streaming")) and done(statuses):
                return
            seen = [
                {k: v for k, v in s.items() if k not in ("updated_at", "clock", "pid")}
                for s in statuses.values()
            ]
            if seen != last:
                last, moved = seen, self.clock()
            if self.clock() - moved > self.settings.drain_timeout_seconds:
                raise PipelineError(
                    f"{name} stands still since {self.settings.drain_timeout_seconds:.0f} s; "
                    f"see the logs in {self.supervisor.folder}"
                )
            self.stop.wait(0.3)

    def _summary(self, accounts: Accounts, seconds: float) -> dict[str, Any]:
        s = read_statuses(self.settings.data_dir)
        replay, train, index, register = s["replay"], s["train"], s["index"], s["register"]
        health = train.get("codebook") or {}
        return {
            "events_read": replay.get("events_read", 0),
            "bad_lines": replay.get("bad_lines", 0),
            "clicks_produced": accounts.clicks,
            "late": accounts.late,
            "dead_letters": accounts.dead_letters,
            "duplicates": accounts.duplicates,
            "sequences": accounts.sequences,
            "lost": accounts.lost,
            "trained_events": train.get("trained_events", 0),
            "quarantined": train.get("quarantined", 0),
            "micro_batches": train.get("micro_batches", 0),
            "snapshots_published": index.get("snapshots_published", 0),
            "registered_versions": register.get("registered_versions", 0),
            "champion_version": register.get("champion_version"),
            "codes_in_use": index.get("codes_in_use", 0),
            "codes": index.get("codes", 0),
            "codebook": health,
            "catalogue_items": index.get("catalogue_items", 0),
            "indexed_items": index.get("indexed_items", 0),
            "prequential_recall_at_50": train.get("recall_at_50"),
            "prequential_ndcg_at_50": train.get("ndcg_at_50"),
            "prequential_queries": train.get("queries"),
            "peak_memory_gib": round(self.peak_memory / 2**30, 2),
            "seconds": round(seconds, 1),
        }


def incomplete(summary: dict[str, Any]) -> str:
    """What in a summary shows that something was lost; empty when nothing was."""
    checks = {
        "lost is not 0": summary["lost"] != 0,
        "clicks_produced is not events_read": summary["clicks_produced"] != summary["events_read"],
        "trained_events and quarantined are not sequences": summary["trained_events"]
        + summary.get("quarantined", 0)
        != summary["sequences"],
        "indexed_items is not catalogue_items": summary["indexed_items"]
        != summary["catalogue_items"],
        "no snapshot was published": not summary["snapshots_published"],
        "not every snapshot is registered": summary["registered_versions"]
        < summary["snapshots_published"],
    }
    return ", ".join(name for name, wrong in checks.items() if wrong)
