"""A log, a catalogue and settings so small that SPARC plays the protocol in seconds."""

from __future__ import annotations

from pathlib import Path

from deploy import settings as configuration
from deploy.settings import Settings
from deploy.studies import runs
from tests.model.evaluation.made_up_log import make_items, make_log, write_files

ITEMS = 400

TOML = """
[learner]
chunk = 8
step = 32
[learner.model]
[learner.model.item_tower]
dimension = 16
[learner.model.quantizer]
codes = 8
[learner.model.neighbours]
slots = 8
answers = 16
[search]
codes = 3
[trainer]
batch_size = 32
[evaluation]
replay_epochs = 0.5
trade_off = [1, 2, 4]
epochs = 2
patience = 1
"""


def write(folder: Path) -> tuple[Path, Path, Path]:
    """Events, items and configuration as files."""
    folder.mkdir(parents=True, exist_ok=True)
    events, items = write_files(folder, make_log(events=700), make_items(ITEMS))
    config = folder / "small.toml"
    config.write_text(TOML, encoding="utf-8")
    return events, items, config


def read(folder: Path, until: str | None = None) -> tuple[runs.Data, Settings]:
    """The same, read."""
    events, items, config = write(folder)
    return runs.read(events, items, until), configuration.load(config, written=False)
