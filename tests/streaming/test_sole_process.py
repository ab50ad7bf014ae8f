"""One process at a time, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from streaming.sole_process import sole_process

HOLDS = """
import sys, time
from pathlib import Path
from streaming.sole_process import sole_process
with sole_process(Path(sys.argv[1])) as other:
    print(other, flush=True)
    time.sleep(600)
"""


def test_the_holder_is_named_until_it_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / "folder" / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, lock], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"0\n"
        for _ in range(2):  # who asks takes nothing away
            with sole_process(lock) as other:
                assert other == holder.pid
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with sole_process(lock) as other:
        assert other == 0
        assert lock.read_text() == str(os.getpid())
