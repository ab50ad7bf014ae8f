"""The error of the streaming room, and how one line is made of a Java stack trace."""

from __future__ import annotations


class StreamingError(RuntimeError):
    """The job cannot be submitted or has failed; the message ends with the root cause."""


class KafkaUnavailable(StreamingError):
    """Kafka does not answer; worth another try."""


def innermost_cause(trace: str) -> str:
    r"""The last exception of a chain of causes, with the first line of its message.

    >>> innermost_cause("A: a\n\tat x\nCaused by: B: b\n\tat y\nCaused by: C: c")
    'C: c'
    >>> innermost_cause("A: a\n\tat x")
    'A: a'
    >>> innermost_cause("An error occurred while calling o1.x.\n: A: a\n\tat x")
    'A: a'
    """
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    if lines and lines[0].startswith("An error occurred while calling"):  # Py4J's own line
        lines = [lines[1].removeprefix(": "), *lines[2:]] if len(lines) > 1 else lines
    causes = [s.removeprefix("Caused by: ") for s in lines if s.startswith("Caused by: ")]
    return (causes or lines[:1] or [""])[-1]
