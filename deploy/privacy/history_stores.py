"""The histories of every worker of the service, looked into while they are written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rocksdict import AccessType, Options, Rdict


def history_stores(data_dir: Path) -> Iterator[tuple[Path, dict[str, Rdict]]]:
    """Directory and column families of each store, for reading; open until the next is asked for.

    Args:
        data_dir: of the pipeline.
    """
    for folder in (data_dir / "service").glob("**/histories"):
        if not (folder / "CURRENT").is_file():
            continue
        options = Options(raw_mode=True)
        families = {name: options for name in Rdict.list_cf(str(folder), options)}
        store = Rdict(
            str(folder), options, column_families=families, access_type=AccessType.read_only(False)
        )
        try:
            yield folder, {name: store.get_column_family(name) for name in families}
        finally:
            store.close()
