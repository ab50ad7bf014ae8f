"""Curves that stay small however long they run: where too many points come, every other goes."""

from __future__ import annotations

from collections.abc import Sequence


class Curve:
    """Points of some columns, at most `size` of them, over the whole time, evenly thinned.

    >>> curve = Curve(("t", "y"), size=4)
    >>> for t in range(8):
    ...     curve.add((float(t), 0.0))
    >>> [t for t, _ in curve.points]
    [0.0, 2.0, 4.0, 6.0]
    """

    def __init__(self, columns: Sequence[str], size: int = 1024) -> None:
        self.columns = tuple(columns)
        self.points: list[tuple[float | None, ...]] = []
        self._size = size
        self._every = 1
        self._offered = 0

    def add(self, point: tuple[float | None, ...]) -> None:
        """Take a point in, or leave it out where the curve is thinned."""
        number, self._offered = self._offered, self._offered + 1
        if number % self._every:
            return
        if len(self.points) >= self._size:
            self.points = self.points[::2]
            self._every *= 2
            if number % self._every:
                return
        self.points.append(point)

    def resume(self, points: Sequence[Sequence[float | None]]) -> None:
        """Go on from points that were kept before, as densely as they lie."""
        self.points = [tuple(point) for point in points]
