"""What the benchmarks write: settings, machine and versions beside what was measured."""

from __future__ import annotations

import argparse
import json
from typing import Any

from deploy.studies.machine_facts import machine, versions


def begun(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The head of a report; `options` are those of the command line, with `out`."""
    return {
        "benchmark": name,
        "settings": {k: v for k, v in vars(options).items() if k != "out"},
        "machine": machine("cpu"),
        "versions": versions(),
    }


def write(result: dict[str, Any], options: argparse.Namespace) -> None:
    """Print a report, and keep it in the file of `--out`, where that is given."""
    text = json.dumps(result, indent=1, default=str)  # paths of the command line
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)
