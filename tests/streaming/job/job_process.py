"""`sparc stream` and its like as processes of their own, as an operator runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import tomli_w

from deploy.settings import ROOT

SPARC = [sys.executable, "-m", "deploy"]


class Sparc:
    """Commands with one configuration file and one data directory, `folder` unless another."""

    def __init__(
        self, folder: Path, *, data_dir: Path | None = None, **sections: dict[str, Any]
    ) -> None:
        self.folder = folder
        self.data_dir = data_dir or folder
        self.config = folder / "sparc.toml"
        self.sections = sections
        self.write()

    def write(self) -> None:
        self.config.write_text(tomli_w.dumps(self.sections), encoding="utf-8")

    def _options(self) -> list[str]:
        return ["--config", str(self.config), "--data-dir", str(self.data_dir)]

    def start(self, *command: str) -> Process:
        """A part that stays."""
        return Process([*SPARC, *command, *self._options()], self.folder / f"{command[0]}.log")

    def run(self, *command: str, timeout: float = 300, **variables: str) -> tuple[int, str]:
        """Exit code and output."""
        done = subprocess.run(
            [*SPARC, *command, *self._options()],
            cwd=ROOT,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        return done.returncode, done.stdout

    def status(self, part: str) -> dict[str, Any]:
        try:
            return json.loads((self.data_dir / "status" / f"{part}.json").read_text())
        except (OSError, ValueError):
            return {}


class Process:
    """A process whose output goes to a file; started again it writes on there."""

    def __init__(self, command: list[str], output: Path) -> None:
        self.command, self.output = command, output
        self.start()

    def start(self) -> None:
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL, as a crash does."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout: float = 60) -> int:
        """SIGTERM; the exit code."""
        if self.running:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def said(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")
