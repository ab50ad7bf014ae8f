"""Arrays that grow by doubling, so that adding a row costs amortised O(1)."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)


def with_room(array: NDArray[T], size: int, fill: int = 0) -> NDArray[T]:
    """The array itself if it has `size` rows, else one of twice as many, filled up with `fill`.

    Rows of zeros that nobody has written to take no memory yet.

    >>> with_room(np.ones((1, 2)), 2000).shape
    (2000, 2)
    """
    have = len(array)
    if size <= have:
        return array
    new = np.zeros((max(1024, size, 2 * have), *array.shape[1:]), array.dtype)
    new[:have] = array
    if fill:
        new[have:] = fill
    return new
