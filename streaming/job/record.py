"""What the supervisor remembers of its job, so that nothing committed is ever written again.

One small file in the data directory. It says how far the job has come, which is more than its
checkpoints tell once they are lost, and what an operator asked to go on from, until the job has a
checkpoint that makes it so.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from streaming.durable_files import write_atomically
from streaming.errors import StreamingError

FILE = "job.json"
NO_STATE = "none"
"""Instead of a state to go on from: begin anew."""


@dataclass(frozen=True)
class JobRecord:
    """What is known of the job.

    Attributes:
        job: the id under which it was submitted last.
        checkpoint: number of its newest checkpoint that was seen; 0 before the first.
        restore: the state that was asked for, or "none", until the job has a checkpoint since.
        forgotten: URIs of the states that were there when it was asked for; they count no more.
        asked: how often a state was asked for.
    """

    job: str = ""
    checkpoint: int = 0
    restore: str = ""
    forgotten: tuple[str, ...] = ()
    asked: int = 0

    def going_on_from(self, state: str, others: tuple[str, ...]) -> JobRecord:
        """The record once an operator has named a state, or "none"; `others` were there."""
        return JobRecord(restore=state, forgotten=others, asked=self.asked + 1)

    def submitted_as(self, job: str) -> JobRecord:
        """The record once the job is submitted under this id."""
        return replace(self, job=job)

    def completed(self, job: str, checkpoint: int) -> JobRecord:
        """The record once the job has completed a checkpoint of its own."""
        return replace(self, job=job, checkpoint=max(self.checkpoint, checkpoint), restore="")


class RecordFile:
    """The record on disk.

    It is synced, about once a checkpoint: after a power cut an empty file would keep the job from
    being submitted, and an older one would let it go on from a state that is not the newest.
    """

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / FILE

    def read(self) -> JobRecord:
        """The record; an empty one where there is none.

        Raises:
            StreamingError: if the file is damaged.
        """
        try:
            body: dict[str, Any] = json.loads(self.path.read_bytes())
            return JobRecord(**{**body, "forgotten": tuple(body["forgotten"])})
        except FileNotFoundError:
            return JobRecord()
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StreamingError(
                f"{self.path}: the record of the job cannot be read ({error}); remove it, and name "
                "the state to go on from with `sparc stream --restore URI`"
            ) from error

    def write(self, record: JobRecord) -> None:
        """Replace the record.

        Raises:
            OSError: if it cannot be written.
        """
        write_atomically(self.path, json.dumps(asdict(record)).encode())
