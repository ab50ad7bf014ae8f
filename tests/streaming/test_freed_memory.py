"""What was freed does not stay with a process, but where it is wanted again at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from streaming.freed_memory import let_go_of_files

PROGRAM = """
import numpy as np
from streaming.freed_memory import give_back

def heap_mib():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) // 1024

for size in (8, 16, 31):  # from now on arrays of this size are in glibc's heap
    array = np.ones(size << 20, np.int8)
    del array
large, small = [], []
for _ in range(6):
    large.append(np.ones(24 << 20, np.int8))
    small.append(np.ones(200 << 10, np.int8))  # lives on behind it
before = heap_mib()
large.clear()
held = heap_mib()
give_back()
print(before, held, heap_mib())
"""

STEPS = """
import resource
import sys
import numpy as np
from streaming.freed_memory import keep_for_the_next

if sys.argv[1] == "kept":
    keep_for_the_next()

def step():
    [np.ones(1 << 20) for _ in range(8)]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

step()
step()
before = faults()
for _ in range(10):
    step()
print(faults() - before)
"""


def said_by(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="asks glibc")
def test_what_a_step_frees_is_taken_by_the_next_without_asking_the_system():
    given_back = int(said_by(STEPS, "given back"))
    if given_back < 1000:
        pytest.skip("malloc keeps what is freed here anyway")
    assert int(said_by(STEPS, "kept")) < given_back / 10


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_heap_with_holes_is_given_back():
    said = said_by(PROGRAM)
    before, held, after = map(int, said.split())
    assert held > before - 50  # else there is nothing to give back
    assert after < before - 100


def _resident_kib(path: Path) -> int:
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split(maxsplit=5)
        if not words[0].endswith(":"):
            inside = words[-1] == str(path)
        elif inside and words[0] == "Rss:":
            found += int(words[1])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_files_that_were_looked_at_are_let_go_of_and_read_the_same_again(tmp_path: Path) -> None:
    for name in ("read", "written", "unheld", "elsewhere/read"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(range(256)) * 4096)
    read = np.memmap(tmp_path / "read", np.uint8, "r")
    unheld = np.memmap(tmp_path / "unheld", np.uint8, "r")
    written = np.memmap(tmp_path / "written", np.uint8, "c")  # in memory alone
    memory = np.ones(1 << 20, np.uint8)
    written[5000] = 7
    total = int(read.sum()) + int(unheld.sum())
    held = [read[4096:], written, memory]
    let_go_of_files(tmp_path / "elsewhere", held)
    assert _resident_kib(tmp_path / "read") == 1024
    let_go_of_files(tmp_path, held)
    assert _resident_kib(tmp_path / "read") == 0 and _resident_kib(tmp_path / "unheld") == 1024
    assert (int(read.sum()) + int(unheld.sum()), written[5000]) == (total, 7)
    assert memory.all()
