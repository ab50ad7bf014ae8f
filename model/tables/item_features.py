"""Content features of items by hashing: no vocabulary to build, ship or outgrow.

A title becomes the hashed buckets of its words, a category one bucket. The hash is BLAKE2b, so
it is the same in every process and on every machine. Bucket 0 means "nothing here".
Shapes: N items, T title words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from streaming.events import Item

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class ItemFeaturesConfig:
    """Sizes of the hashed feature spaces.

    Attributes:
        title_words: words of a title that are read; further ones are dropped.
        title_buckets: buckets that words are hashed into.
        category_buckets: buckets that categories are hashed into.
    """

    title_words: int = 16
    title_buckets: int = 16_384
    category_buckets: int = 1_024


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


def hash_features(items: Sequence[Item], config: ItemFeaturesConfig) -> Features:
    """Hash titles (lower case, alphanumeric words, in order) and categories.

    A category "0" is the data sets' word for none and counts as absent.
    """
    words_NT = np.zeros((len(items), config.title_words), dtype=np.int64)
    category_N = np.zeros(len(items), dtype=np.int64)
    for n, item in enumerate(items):
        for t, word in enumerate(_WORD.findall(item.title.lower())[: config.title_words]):
            words_NT[n, t] = bucket(word, config.title_buckets)
        if item.category not in ("", "0"):
            category_N[n] = bucket(item.category.lower(), config.category_buckets)
    return Features(words_NT, category_N)
