"""The whole pipeline on one machine: start every part, follow the log to its end, account for it.

The order of a drain, each step waited for with what the parts report after the step before it:
the replay ends -> the job has consumed, committed and emitted everything -> the trainer has
trained and published everything -> the indexer serves the last handover -> the registrar has
registered it -> the service answers from it -> the topics are counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kafka.errors import KafkaError

from deploy.local.failures import Failures, failure_of, given_up
from deploy.local.ports import chosen, taken_by_another
from deploy.local.progress import Progress
from deploy.local.supervision import ProcessState, Supervisor
from deploy.monitoring import full_disk
from deploy.monitoring.moment import boot
from deploy.monitoring.part_failures import SUPERVISION, Failure, as_status
from deploy.monitoring.part_status import Statuses, read_statuses, reported_at, reporter
from deploy.settings import Settings
from model.training.log_end import write_log_end
from streaming.errors import KafkaUnavailable
from streaming.job.accounting import Accounts, StreamEnd, count
from streaming.job.flink_rest import FlinkRest, FlinkUnavailable
from streaming.statuses import PartStatus


class PipelineError(RuntimeError):
    """A part failed, or the totals do not add up."""


@dataclass(frozen=True)
class Step:
    """One step of a drain: `done(statuses)` is asked until it holds."""

    name: str
    done: Callable[[Statuses], bool]
    parts: tuple[str, ...]


def _said_after(status: PartStatus, seconds: float) -> bool:
    """Whether a part of this machine reported after a moment of its monotonic clock."""
    at = reported_at(status)
    return at is not None and at.boot == boot() and at.seconds > seconds


def drain_steps(sequences: Callable[[], int]) -> list[Step]:
    """The steps after the stream has emitted everything, in order.

    `sequences` gives the number of sequences of users that the topic holds.
    """

    def trained(s: Statuses) -> bool:
        # With at-least-once delivery some are repeats, which are read and not trained again.
        read = (s.train.sequences_read or 0) + (s.train.poison or 0)
        return s.train.caught_up and read >= sequences()

    def indexed(s: Statuses) -> bool:
        handed_over = s.train.last_handover.get("sequence", 0)
        return s.index.caught_up and (s.index.handover or 0) >= handed_over

    def registered(s: Statuses) -> bool:
        return s.register.caught_up and (
            (s.register.last_registered or 0) >= (s.index.version or 0)
        )

    def served(s: Statuses) -> bool:
        # A version that is not promoted is not served: what counts is that it was decided.
        decided = max(s.serve.version or 0, s.serve.decided_version or 0)
        return 0 < (s.index.version or 0) <= decided

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
        self._memory_at = self._room_at = 0.0
        self._full = ""

    def _observe(self) -> Statuses:
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

    def _show(self, states: Mapping[str, ProcessState], failures: Sequence[Failure]) -> Statuses:
        statuses = read_statuses(self.settings.data_dir)
        now = self.clock()
        if now - self._memory_at > 5:
            self._memory_at = now
            self.peak_memory = max(self.peak_memory, self.supervisor.memory_bytes())
        if now - self._room_at >= 1:
            self._room_at, data_dir = now, self.settings.data_dir
            self._full = "" if full_disk.has_room(data_dir) else full_disk.sentence(data_dir)
        self.progress.show(states, statuses, self.peak_memory, failures, self._full)
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

        def emitted(_: Statuses) -> bool:
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
        done: Callable[[Statuses], bool],
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
            fresh = all(_said_after(statuses.of(p), began) for p in parts)
            if (fresh or name in ("replay", "streaming")) and done(statuses):
                return
            seen = [
                {k: v for k, v in s.to_json().items() if k not in ("updated_at", "clock", "pid")}
                for s in statuses.all().values()
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
        replay, train, index, register = s.replay, s.train, s.index, s.register
        return {
            "events_read": replay.events_read or 0,
            "bad_lines": replay.bad_lines or 0,
            "clicks_produced": accounts.clicks,
            "late": accounts.late,
            "dead_letters": accounts.dead_letters,
            "duplicates": accounts.duplicates,
            "sequences": accounts.sequences,
            "forgotten": accounts.forgotten,
            "lost": accounts.lost,
            "deleted": accounts.deleted,
            "trained_events": train.trained_events or 0,
            "quarantined": train.quarantined or 0,
            "micro_batches": train.micro_batches or 0,
            "snapshots_published": index.snapshots_published or 0,
            "registered_versions": register.registered_versions or 0,
            "champion_version": register.champion_version,
            "codes_in_use": index.codes_in_use or 0,
            "codes": index.codes or 0,
            "codebook": train.codebook,
            "catalogue_items": index.catalogue_items or 0,
            "indexed_items": index.indexed_items or 0,
            "prequential_recall_at_50": train.recall_at_50,
            "prequential_ndcg_at_50": train.ndcg_at_50,
            "prequential_queries": train.queries,
            "peak_memory_gib": round(self.peak_memory / 2**30, 2),
            "seconds": round(seconds, 1),
        }


def incomplete(summary: dict[str, Any]) -> str:
    """What in a summary shows that something was lost; empty when nothing was."""
    whole = not summary.get("deleted", False)  # else the topics hold less than there was
    checks = {
        "lost is not 0": summary["lost"] != 0,
        "clicks_produced is not events_read": whole
        and summary["clicks_produced"] != summary["events_read"],
        "trained_events and quarantined are not sequences": whole
        and summary["trained_events"] + summary.get("quarantined", 0) != summary["sequences"],
        "indexed_items is not catalogue_items": summary["indexed_items"]
        != summary["catalogue_items"],
        "no snapshot was published": not summary["snapshots_published"],
        "not every snapshot is registered": summary["registered_versions"]
        < summary["snapshots_published"],
    }
    return ", ".join(name for name, wrong in checks.items() if wrong)
