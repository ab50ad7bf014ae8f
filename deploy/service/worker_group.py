"""The workers of a service as processes, forked from one that has imported all that they need.

Importing torch writes to some 400 MB: the loader puts addresses into the CUDA libraries. Processes
that are forked afterwards share these pages. So one process imports, opens nothing and starts no
thread, and then forks the workers; it answers nothing itself, but starts again who died. None
outlives it, as the port would be dealt out to them still.
"""

from __future__ import annotations

import errno
import gc
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from typing import Any

import structlog

from deploy.parent_death import end_with_parent
from deploy.service.config import Worker
from deploy.service.process import listen
from streaming.freed_memory import give_back

log = structlog.get_logger(__name__)

WELL_SECONDS = 30.0
"""A worker that has lived for so long is well, whatever comes then."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
"""Between the starts of a worker that dies before it is well; they double."""
STOP_SECONDS = 15.0
"""Grace between SIGTERM and SIGKILL; less than whoever stops all of us gives."""
LOOK_SECONDS = 0.5
LATE = (
    "anyio._backends._asyncio",
    "model.retrieval.retrieval_model",
    "pandas",  # by pyarrow, where it is installed
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
)
"""What `deploy.service.process` imports when it is first needed."""
REFUSED, NO_ROOM = 78, 75
"""Exit codes of a worker that has said what is wrong, such as a setting, and of one whose disk is
full; an error that nobody caught is 1."""


@dataclass
class _Life:
    """One worker: its process, while it lives, and how it fared."""

    number: int
    process: ForkProcess | None = None
    began: float = 0.0
    starts: int = 0
    short: int = 0
    """Deaths in a row before it was well."""
    due: float = 0.0
    """When it is started next."""


def share_what_is_imported() -> None:
    """Import what `deploy.service.process` has not imported yet, and have it copied by nobody."""
    for name in LATE:
        with suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    give_back()
    gc.freeze()  # what the collector looks at, it writes to, and a page is copied that is written


class WorkerGroup:
    """Starts the workers of a service, and again whoever dies, until it is told to stop.

    Args:
        service: of which every worker is one; a free port is chosen where it names none.
        begin: serves as one worker, in the worker's process; what it returns is the exit code.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        service: Worker,
        begin: Callable[[Worker], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._begin = begin
        self._clock = clock
        self._lives = [_Life(number) for number in range(1, service.config.workers + 1)]

    def run(self, stop: threading.Event) -> None:
        """Keep the workers alive until `stop` is set, and end them.

        Raises:
            ServiceError: if the port is taken.
            SystemExit: if a worker refuses its first start; it has said why.
        OSError: if one finds the disk full at its first start.
        """
        with closing(listen(self._service.config.host, self._service.port, shared=True)) as held:
            # held, so that nobody takes it while no worker listens; it gets no connections itself
            self._service = replace(self._service, port=held.getsockname()[1])
            share_what_is_imported()
            try:
                while not stop.is_set():
                    self._start_who_is_due()
                    living = [one.process for one in self._lives if one.process is not None]
                    wait([process.sentinel for process in living], LOOK_SECONDS)
                    for one in self._lives:
                        if one.process is not None and one.process.exitcode is not None:
                            self._ended(one, one.process, stop)
            finally:
                self._end()

    def _start_who_is_due(self) -> None:
        for one in self._lives:
            if one.process is None and self._clock() >= one.due:
                process = multiprocessing.get_context("fork").Process(
                    target=self._work,
                    args=(replace(self._service, number=one.number), os.getpid()),
                    name=f"worker {one.number}",
                )
                try:
                    process.start()
                except OSError as error:  # no room for another process just now
                    self._again_later(one, reason=str(error))
                    continue
                one.process, one.began = process, self._clock()
                one.starts += 1

    def _work(self, worker: Worker, parent: int) -> None:
        """The worker's process."""
        end_with_parent(signal.SIGKILL)  # SIGTERM would leave one that hangs, on the port
        if os.getppid() != parent:
            return
        sys.exit(self._begin(worker))

    def _ended(self, one: _Life, process: ForkProcess, stop: threading.Event) -> None:
        code, lived = process.exitcode, self._clock() - one.began
        process.close()
        one.process = None
        if stop.is_set():
            return
        if one.starts == 1 and lived < WELL_SECONDS:
            if code == REFUSED:
                raise SystemExit(1)
            if code == NO_ROOM:  # whoever runs us waits for room, and begins anew
                raise OSError(errno.ENOSPC, "no room on the disk", str(self._service.data_dir))
        if lived >= WELL_SECONDS:
            one.short = 0
            log.error("worker ended", worker=one.number, exit_code=code, lived_s=round(lived))
        else:
            self._again_later(one, exit_code=code, lived_s=round(lived, 1))

    def _again_later(self, one: _Life, **facts: Any) -> None:
        """A worker that did not live long waits, the longer the more often that was."""
        pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(one.short, 10), LONGEST_PAUSE_SECONDS)
        one.short += 1
        one.due = self._clock() + pause
        log.error("worker ended", worker=one.number, next_start_s=pause, **facts)

    def _end(self) -> None:
        living = [one.process for one in self._lives if one.process is not None]
        for process in living:
            process.terminate()
        last = self._clock() + STOP_SECONDS
        for process in living:
            process.join(max(0.0, last - self._clock()))
            if process.exitcode is None:
                log.error("worker killed", reason="it did not end when told to", pid=process.pid)
                process.kill()
                process.join()
