"""Requests that come at about the same time, answered by one call.

The first one waits a little for others. Whoever comes while the threads are busy joins what waits,
so that under load batches grow by themselves.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from deploy.service.work_queue import WorkQueue

Q = TypeVar("Q")
A = TypeVar("A")

MOST = 64
"""Requests of one call."""


class Together(Generic[Q, A]):
    """Answers requests together, each as it would be alone.

    Args:
        queue: its threads, its room and its patience hold for each request.
        work: answers requests, in order; where it raises for some of them, the others are asked
            without these.
        wait_seconds: for others, where no thread is busy.

    Attributes:
        calls: of `work` that went well.
        answered: requests that they answered.
    """

    def __init__(
        self, queue: WorkQueue, work: Callable[[list[Q]], Sequence[A]], wait_seconds: float
    ) -> None:
        self._queue = queue
        self._work = work
        self._wait = wait_seconds
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Q, Future[A]]] = deque()
        self._coming = 0  # threads that will take some; so many that they take all
        self.calls = 0
        self.answered = 0

    async def ask(self, one: Q) -> A:
        """The answer to one request; raises what `work` does for it, and as `WorkQueue.run`."""
        future: Future[A] = Future()
        self._queue.enter(future)
        with self._lock:
            self._waiting.append((one, future))
            begin = len(self._waiting) > self._coming * MOST
            self._coming += begin
        if begin:
            loop = asyncio.get_running_loop()
            loop.call_later(self._wait, self._queue.in_thread, self._take)
        return await self._queue.result_of(future)

    def _take(self) -> None:
        with self._lock:
            self._coming -= 1
            taken = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
        # who was given up meanwhile is not answered
        self._answer([(one, f) for one, f in taken if f.set_running_or_notify_cancel()])

    def _answer(self, some: list[tuple[Q, Future[A]]]) -> None:
        if not some:
            return
        try:
            answers = self._work([one for one, _ in some])
        except Exception as error:
            if len(some) == 1:
                some[0][1].set_exception(error)
                return
            half = len(some) // 2
            self._answer(some[:half])
            self._answer(some[half:])
            return
        self.calls += 1
        self.answered += len(some)
        for (_, future), answer in zip(some, answers, strict=True):
            future.set_result(answer)
