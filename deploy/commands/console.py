"""How commands speak: results and logs, errors in one line, no secret in any of them."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import structlog
import typer

from deploy.monitoring import full_disk
from deploy.monitoring.part_status import read_statuses, reporter
from deploy.private import keep_private
from deploy.settings import Settings
from streaming.secret import cleaned
from streaming.statuses import Report

log = structlog.get_logger(__name__)

LONGEST_MESSAGE = 2000


def fail(message: str, code: int = 1) -> typer.Exit:
    """Print one clear line and give the exception that ends the command."""
    message = cleaned(message)  # whole, before anything is cut out of it
    if len(message) > LONGEST_MESSAGE:  # it quotes what was given; the remedy is at the end
        half = LONGEST_MESSAGE // 2
        message = f"{message[:half]} … {message[-half:]}"
    print(f"error: {message}", file=sys.stderr, flush=True)
    return typer.Exit(code)


def show_json(value: Any) -> None:
    """Print a value as one JSON object on one line."""
    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
    sys.stdout.flush()


class Cleaned:
    """A text stream that shows no secret, whoever writes: our logs, libraries, tracebacks.

    What cannot be written is dropped: nobody ends because the disk of the log is full.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text with secrets masked."""
        with suppress(OSError):
            self._stream.write(cleaned(text))
        return len(text)

    def flush(self) -> None:
        """Write out what is buffered."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def errors_as_one_line() -> Iterator[None]:
    """Turn what a user can mend into one line and exit code 1; bugs keep their traceback."""
    try:
        yield
    except Exception as error:
        if full_disk.is_full(error):
            sentence = full_disk.sentence(full_disk.where(error, Path.cwd()))
            raise fail(sentence.replace("it goes on by itself", "start again")) from error
        if isinstance(error, OSError):
            raise fail(str(error)) from error
        if not isinstance(error, (ValueError, RuntimeError)) or os.environ.get("SPARC_TRACEBACK"):
            raise
        raise fail(" ".join(str(error).split())) from error


def exit_code_of(body: Callable[[], Any], refused: int, no_room: int) -> int:
    """Run what a process of ours is there for; these are for what a user can mend, a full disk."""
    try:
        with errors_as_one_line():
            body()
    except typer.Exit as ended:
        full = isinstance(ended.__cause__, Exception) and full_disk.is_full(ended.__cause__)
        return no_room if full else refused
    return 0


def configure_logging(level: str, **facts: Any) -> None:
    """Structured logs on standard error: one JSON object per line unless on a terminal.

    Several processes may share a log; `facts` are in each line of this one's.
    """
    terminal = sys.stderr.isatty()

    def known(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**facts, **event}

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            known,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level.lower()),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),  # whole lines, in one write
    )


def until_signalled() -> threading.Event:
    """What is set once SIGTERM or SIGINT asks this process to end."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def run_part(
    name: str,
    settings: Settings,
    body: Callable[[threading.Event, Report], Any],
    *,
    begins_anew: bool = True,
) -> None:
    """Run one long-lived part until it ends or SIGTERM or SIGINT asks it to.

    Where its disk is full it waits for room, and then begins anew, unless it may not begin twice
    with the arguments that it was given.
    """
    stop = until_signalled()
    configure_logging(settings.log_level)
    report = reporter(settings.data_dir, name)
    with errors_as_one_line():
        try:
            keep_private(settings.data_dir)
            body(stop, report)
        except Exception as error:
            if stop.is_set() or not begins_anew or not full_disk.is_full(error):
                raise
            directory = full_disk.where(error, settings.data_dir)
            log.error("waiting for room", part=name, reason=full_disk.sentence(directory))
            last = read_statuses(settings.data_dir).of(name)

            def tell(sentence: str) -> None:
                report(last.and_says(caught_up=False, state="waiting for room", problem=sentence))

            if full_disk.await_room(directory, stop, tell):
                full_disk.begin_anew()
