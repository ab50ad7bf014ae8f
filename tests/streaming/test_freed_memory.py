"""What was freed does not stay with a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_heap_with_holes_is_given_back():
    command = [sys.executable, "-c", PROGRAM]
    root = Path(__file__).resolve().parents[2]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    before, held, after = map(int, said.split())
    assert held > before - 50  # else there is nothing to give back
    assert after < before - 100
