"""A bounded queue before the threads that answer: who comes when it is full is told so at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class QueueFull(Exception):
    """As many requests wait or are being answered as may."""


class TooSlow(Exception):
    """The answer did not come in time."""


class WorkQueue:
    """Threads with at most `waiting` requests before them.

    Who waits for an answer does so in one event loop; the work itself runs in the threads.

    Attributes:
        waiting: requests that wait or are being answered.
        refused: requests that found it full.
        timed_out: requests that were given up.
    """

    def __init__(self, name: str, threads: int, room: int, timeout_seconds: float) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._room = threads + room
        self._timeout = timeout_seconds
        self._lock = threading.Lock()
        self.waiting = 0
        self.refused = 0
        self.timed_out = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Do `work` in a thread.

        Raises:
            QueueFull: at once, where there is no room.
            TooSlow: after the timeout; work that had not begun is dropped, work that had begun
                keeps its place until it ends.
        """
        return await self.result_of(self.submit(work))

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have `work` done in a thread, whenever that is.

        Raises:
            QueueFull: at once, where there is no room.
        """
        self._take_room()
        future = self._pool.submit(work)
        future.add_done_callback(self._left)
        return future

    def enter(self, future: Future[T]) -> None:
        """Take up room until a request is done, which `in_thread` does; raises as `submit`."""
        self._take_room()
        future.add_done_callback(self._left)

    def in_thread(self, work: Callable[[], None]) -> None:
        """Have work done in a thread for requests that have entered."""
        self._pool.submit(work)

    async def result_of(self, future: Future[T]) -> T:
        """Wait for a request; raises as `run`."""
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._timeout)
        except TimeoutError:
            self.timed_out += 1
            raise TooSlow from None

    def _take_room(self) -> None:
        with self._lock:
            if self.waiting >= self._room:
                self.refused += 1
                raise QueueFull
            self.waiting += 1

    def _left(self, _: object) -> None:
        with self._lock:
            self.waiting -= 1

    def close(self) -> None:
        """Wait for the work under way."""
        self._pool.shutdown(cancel_futures=True)
