"""The measurement on a GPU, at a small size on a CPU: so that it works before one is lent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import gpu
from tests.benchmarks.made_catalogue import CatalogueSize, make

SMALL = ["--device", "cpu", "--small", "400", "--items", "900", "--batches", "64,200"]
SMALL += ["--events", "600", "--queries", "20", "--steps", "2", "--limit", "120"]
PARTS = ["machine", "small catalogue", "softmax", "steps", "parity", "search", "large catalogue"]

ABSENT = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {names}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
import tests.benchmarks.gpu
"""
NAMES = (
    "confluent_kafka duckdb faiss fastapi kafka mlflow orjson pydantic pyflink rocksdict structlog "
    "threadpoolctl tomli_w"
)


def test_it_measures_all_parts_and_ends_with_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make(CatalogueSize(items=400, events=1500, users=150))
    made.write(tmp_path)
    gpu.main([*SMALL, "--data", str(tmp_path), "--out", str(tmp_path / "gpu.json")])
    found = json.loads((tmp_path / "gpu.json").read_text())
    wrong = {name for name, part in found.items() if isinstance(part, dict) and "failed" in part}
    assert wrong == set(), found
    assert {*PARTS, "steps, large", "took_s"} == set(found)
    step = found["steps"]["batch 200"]
    assert step["events_s"] > 0 and step["device"]["launches"] > 100
    assert 0.5 < sum(step["host_ms"].values()) / step["ms"] < 2
    assert found["parity"]["relative_difference"] == 0  # of the CPU and the CPU
    assert found["search"]["on the device"]["answered_alike"] > 0.99
    assert found["search"]["on the device"]["refused"] == 0
    assert "batch 200" in capsys.readouterr().out.splitlines()[-3]


def test_what_fails_and_what_there_is_no_time_for_stands_in_its_place(tmp_path: Path) -> None:
    out = str(tmp_path / "gpu.json")
    found = gpu.measured(gpu.options([*SMALL, "--data", str(tmp_path / "none"), "--out", out]))
    assert "none/events.csv" in found["small catalogue"]["failed"]
    assert "steps" not in found and "events_s" in found["steps, large"]["batch 64"]
    found = gpu.measured(gpu.options([*SMALL, "--limit", "15", "--out", out]))
    assert found["machine"] == {"left out": "no time was left"}


def test_it_needs_none_of_what_a_machine_with_a_gpu_lacks() -> None:
    program = ABSENT.format(names=set(NAMES.split()))
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
