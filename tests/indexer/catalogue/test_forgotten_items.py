"""A version that is brought back answers with nothing that was withdrawn and forgotten."""

from __future__ import annotations

import numpy as np

from indexer.catalogue.forgotten_items import without_forgotten
from indexer.catalogue.property_chain import PropertyChain
from indexer.catalogue.property_reader import PropertyReader
from indexer.catalogue.property_rows import rows
from indexer.snapshots.snapshot_reading import load_version
from tests.indexer.driving import EXACT, running, serve_first
from tests.indexer.stand_in import StandIn


def test_what_it_lists_and_nobody_knows_any_more_is_taken_out(tmp_path):
    model = StandIn.make(40)
    with running(tmp_path, EXACT) as indexer:
        serve_first(indexer, tmp_path, model)
        said = dict(indexer.store.all_said())
        position = indexer.store.position
    version, reader = load_version(tmp_path, 1, StandIn.load), PropertyReader(tmp_path)
    assert without_forgotten(version, reader) is version  # nothing was read
    reader.read()
    assert without_forgotten(version, reader) is version  # all is known
    ids = sorted(said)
    hidden, gone = ids[3], ids[7]
    del said[gone]
    said[hidden] = None  # withdrawn, and known to be: whoever answers sees to that
    chain = PropertyChain(tmp_path)
    assert chain.open()
    chain.begin(rows(said), {p: offset - 1 for p, offset in position.items()})
    reader.read()
    assert without_forgotten(version, reader) is version  # it may have been listed since
    chain.begin(rows(said), position)
    reader.read()
    left = without_forgotten(version, reader)
    there = left.lists.locate(np.array(ids))[0] >= 0
    assert [one for one, is_there in zip(ids, there, strict=True) if not is_there] == [gone]
