"""Content features of items by hashing: no vocabulary to build, ship or outgrow.

A title becomes the hashed buckets of its words, a category one bucket. The hash is BLAKE2b, so
it is the same in every process and on every machine. Bucket 0 means "nothing here".
Shapes: N items, T title words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from streaming.items import Item

TITLE_WORDS = 16
"""Words of a title that are read; further ones are dropped, so that an item's row is short."""
TITLE_BUCKETS = 16_384
"""Buckets that words are hashed into: words of one bucket share a vector, and with 128 dimensions
all vectors take 8 MiB."""
CATEGORY_BUCKETS = 1_024
"""Buckets that categories are hashed into; a shop has far fewer of them than words."""
_WORD = re.compile(r"[^\W_]+")


class Features(NamedTuple):
    """Buckets of items: `words_NT` and `category_N`, int64, 0 where there is nothing."""

    words_NT: np.ndarray
    category_N: np.ndarray


@lru_cache(maxsize=1 << 18)
def bucket(text: str, buckets: int) -> int:
    """A bucket in [1, buckets).

    >>> bucket("lipstick", 1024) == bucket("lipstick", 1024) > 0
    True
    """
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "little") % (buckets - 1)


def hash_features(items: Sequence[Item]) -> Features:
    """Hash titles (lower case, alphanumeric words, in order) and categories.

    A category "0" is the data sets' word for none and counts as absent.
    """
    words_NT = np.zeros((len(items), TITLE_WORDS), dtype=np.int64)
    category_N = np.zeros(len(items), dtype=np.int64)
    for n, item in enumerate(items):
        for t, word in enumerate(_WORD.findall(item.title.lower())[:TITLE_WORDS]):
            words_NT[n, t] = bucket(word, TITLE_BUCKETS)
        if item.category not in ("", "0"):
            category_N[n] = bucket(item.category.lower(), CATEGORY_BUCKETS)
    return Features(words_NT, category_N)
