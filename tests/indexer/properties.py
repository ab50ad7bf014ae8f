"""What readers are told of items, without an indexer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from indexer.catalogue.property_chain import PropertyChain
from indexer.catalogue.property_reader import read_columns
from indexer.catalogue.property_rows import rows
from streaming.items import Item


def tell(data_dir: Path, said: Mapping[int, Item | None]) -> None:
    """These items, and none besides; None withdraws one."""
    chain = PropertyChain(data_dir)
    chain.open()
    chain.begin(rows(said), {0: len(said)})


def withdraw(data_dir: Path, item_ids: Iterable[int]) -> None:
    """These items are withdrawn, and none besides."""
    tell(data_dir, dict.fromkeys(item_ids))


def unlisted(data_dir: Path) -> list[int]:
    """Ids of the items that readers must not answer with, ascending."""
    return read_columns(data_dir).unlisted.tolist()
