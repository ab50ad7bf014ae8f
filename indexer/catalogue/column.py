"""One property of the items of a file, laid out for questions that are asked of all of them.

Text is held as numbers of a vocabulary, so that a comparison costs one look-up a row, however long
the texts are. A row holds no value, one, or, of a list, several; it passes a test if any of its
values does.

Shapes: n rows, v values of all rows, W words of a vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streaming.item_attributes import Kind

TEXTS = ("string", "strings")
Mask = NDArray[np.bool_]


def kind_of(stored: pa.DataType) -> Kind | None:
    """The kind of an attribute by the type of its column; None for a type that none has."""
    if pa.types.is_large_list(stored) and pa.types.is_large_string(stored.value_type):
        return "strings"
    if pa.types.is_timestamp(stored) and stored.unit == "ms":
        return "time"
    kinds: dict[pa.DataType, Kind] = {
        pa.large_string(): "string",
        pa.float64(): "number",
        pa.bool_(): "boolean",
    }
    return kinds.get(stored)


@dataclass(frozen=True)
class Column:
    """The values of n rows.

    Attributes:
        kind: of the values.
        values_v: float64 numbers, int64 times in ms, bool, or int32 places in the vocabulary.
        null_n: which rows hold none.
        ends_n: of lists, int64: where in `values_v` the values of each row end; None: each row has
            a place there.
        words_W: the vocabulary of texts.
    """

    kind: Kind
    values_v: NDArray[Any]
    null_n: Mask
    ends_n: NDArray[np.int64] | None = None
    words_W: pa.LargeStringArray | None = None

    @classmethod
    def of(cls, stored: pa.Array, kind: Kind) -> Column:
        """From the column of a file, which is read whole."""
        null_n = stored.is_null().to_numpy(zero_copy_only=False)
        if kind == "number":
            return cls(kind, pc.fill_null(stored, 0.0).to_numpy(), null_n)
        if kind == "time":
            return cls(kind, pc.fill_null(stored.cast(pa.int64()), 0).to_numpy(), null_n)
        if kind == "boolean":
            return cls(kind, pc.fill_null(stored, False).to_numpy(zero_copy_only=False), null_n)
        ends_n = None
        if kind == "strings":
            sizes = pc.fill_null(pc.list_value_length(stored), 0)
            ends_n = np.cumsum(sizes.to_numpy(zero_copy_only=False))
            stored = stored.flatten()
        numbered = pc.fill_null(stored, "").dictionary_encode()
        return cls(kind, numbered.indices.to_numpy(), null_n, ends_n, numbered.dictionary)

    @property
    def counts_n(self) -> NDArray[np.int64]:
        """How many values each row has."""
        if self.ends_n is None:
            return (~self.null_n).astype(np.int64)
        return np.diff(self.ends_n, prepend=0)

    def among(self, wanted: Collection[Any], others: bool = False) -> Mask:
        """Which rows have a value that is one of some, or, with `others`, one that is none (n).

        Args:
            wanted: of the column's type; times in ms.
            others: see above.
        """
        if self.words_W is not None:
            known = pc.is_in(self.words_W, value_set=pa.array(wanted, pa.large_string()))
            known_W = known.to_numpy(zero_copy_only=False) ^ others
            return self.where(lambda places_v: known_W[places_v])
        return self.where(lambda values_v: np.isin(values_v, list(wanted)) ^ others)

    def where(self, test: Callable[[NDArray[Any]], Mask]) -> Mask:
        """Which rows have a value that passes a test of `values_v` (n)."""
        passes_v = test(self.values_v)
        if self.ends_n is None:
            return passes_v & ~self.null_n
        sums = np.concatenate([[0], np.cumsum(passes_v)])
        return np.diff(sums[self.ends_n], prepend=0) > 0
