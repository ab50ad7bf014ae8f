from __future__ import annotations

import numpy as np
import pytest

from indexer.comparison.paired_queries import interval


def test_the_interval_counts_a_user_once() -> None:
    differences = np.tile([1.0, -1.0, 0.0, 1.0], 50)
    alone = interval(differences, np.arange(200), 0.95)
    crowds = interval(differences, np.repeat(np.arange(20), 10), 0.95)
    assert alone[0] == crowds[0] == pytest.approx(0.25)
    expected = 1.959964 * differences.std(ddof=1) / np.sqrt(200)
    assert alone[2] - alone[0] == pytest.approx(expected, rel=1e-6)
    one = interval(differences, np.ones(200, np.int64), 0.95)
    assert one[1:] == (-np.inf, np.inf)
