"""Which revision of this project runs: for the lineage of what it registers."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def code_revision() -> str:
    """`SPARC_REVISION`, else git's commit (with `-dirty` where files differ), else the version."""
    if given := os.environ.get("SPARC_REVISION"):
        return given
    git = shutil.which("git")
    if git is not None and (ROOT / ".git").exists():
        asked = subprocess.run(  # noqa: S603 - fixed arguments
            [git, "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
        )
        if asked.returncode == 0 and asked.stdout.strip():
            return asked.stdout.strip()
    try:
        return importlib.metadata.version("sparc-stream")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
