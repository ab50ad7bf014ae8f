"""Live progress of the pipeline: a table on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deploy.local.supervision import ProcessState
from deploy.monitoring.part_failures import Failure
from deploy.monitoring.part_figures import figures
from deploy.monitoring.part_status import PARTS, Statuses
from streaming.statuses import PartStatus


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


LONGEST_PROBLEM = 200


def describe(status: PartStatus) -> str:
    """One part's counters in words, `trained 12,345 · lag 0`, and what troubles it.

    Empty before its first report.
    """
    shown = [
        f"{one.terminal} {_number(value)}"
        for one in figures(status.PART)
        if one.terminal and (value := one.of(status)) is not None and (value or not one.if_any)
    ]
    for words in (status.problem or "", status.other_version):
        if problem := " ".join(words.split()):
            shown.append(
                problem if len(problem) <= LONGEST_PROBLEM else problem[:LONGEST_PROBLEM] + "…"
            )
    return " · ".join(shown)


class Progress:
    """Shows what the parts report; a context manager that owns the terminal while it runs."""

    def __init__(
        self,
        console: Console,
        addresses: Mapping[str, str],
        every_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._addresses = addresses
        self._every = every_seconds
        self._clock = clock
        self._printed = 0.0
        self._began = clock()
        self._step = ""
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> Progress:
        for name, address in self._addresses.items():
            self._console.print(
                f"{name:<22} {address}", highlight=False, soft_wrap=True, markup=False
            )
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def step(self, name: str) -> None:
        """Name what is being waited for."""
        self._step = name

    def show(
        self,
        states: Mapping[str, ProcessState],
        statuses: Statuses,
        memory_bytes: int,
        failures: Sequence[Failure] = (),
        full_disk: str = "",
    ) -> None:
        """Bring the display up to date; called as often as one likes.

        Args:
            states: what supervisord knows, by part.
            statuses: what the parts report, by part.
            memory_bytes: the most that all of them took together.
            failures: parts that are down.
            full_disk: what is to be said of a full disk; empty while it is not.
        """
        down = {failure.name: failure for failure in failures}
        seconds = self._clock() - self._began
        head = f"{seconds:6.0f} s"
        if self._step:
            head += f"  waiting for {self._step}"
        if self._live:
            table = Table("part", "state", "what it says", expand=True)
            for name, state in states.items():
                word, says = state.state.lower(), describe(statuses.of(name))
                colour = {"RUNNING": "green", "EXITED": "cyan"}.get(state.state, "yellow")
                if failure := down.get(name):
                    word, colour, says = failure.state, "red", failure.why
                table.add_row(name, Text(word, style=colour), Text(says))
            foot = Text(f"{head}  memory {memory_bytes / 2**30:.1f} GiB at most")
            self._live.update(Group(table, foot, Text(full_disk, style="red")))
            return
        if self._clock() - self._printed < self._every:
            return
        self._printed = self._clock()
        words = [
            f"{name}: {said}"
            for name in PARTS
            if name in states and (said := describe(statuses.of(name)))
        ]
        troubled = [
            f"{s.name} {s.state.lower()}"
            for s in states.values()
            if s.state not in ("RUNNING", "EXITED") and s.name not in down
        ]
        troubled += [failure.sentence() for failure in failures]
        if full_disk:
            troubled.append(full_disk)
        line = " | ".join([head, *words, *troubled])
        with suppress(OSError):  # into a file on a full disk
            self._console.print(line, highlight=False, soft_wrap=True, markup=False)
