"""Where a figure was measured: machine, versions, revision of the code. No names, no paths."""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from deploy.settings import ROOT

PACKAGES = ("torch", "numpy", "faiss-gpu", "scipy", "pyarrow", "mlflow")


@contextmanager
def computing(threads: int) -> Iterator[None]:
    """So many CPU threads, and denormal numbers read as zero: they cost a lot and mean nothing.

    Both are as before afterwards, since they hold for the whole process.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)


def machine(device: str) -> dict[str, Any]:
    """Processor, cores, memory and the device of the training."""
    cuda = device.startswith("cuda")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "torch_threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Python, the packages that compute, and the revision of the code ("+" if it was changed)."""
    found = {"python": platform.python_version()}
    found |= {package: version(package) for package in PACKAGES}
    revision = _git("rev-parse", "--short=12", "HEAD")
    if revision:
        found["revision"] = revision + ("+" if _git("status", "--porcelain", "-uno") else "")
    return found


def file_facts(path: Path) -> dict[str, str]:
    """Name and digest of a file, by which a reader knows it without its place."""
    with path.open("rb") as file:
        return {"name": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def _git(*arguments: str) -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    answer = subprocess.run(  # noqa: S603
        [git, "-C", str(ROOT), *arguments], capture_output=True, text=True
    )
    return answer.stdout.strip() if answer.returncode == 0 else ""
