import math

import pytest
from common.statistics import Estimate, mean_and_spread


def test_mean_and_spread_over_seeds():
    assert mean_and_spread([1.0, 2.0, 6.0]) == Estimate(3.0, pytest.approx(math.sqrt(7)))
    assert mean_and_spread([1.0]) == Estimate(1.0, None)
