"""Checks of settings: numbers that no float holds are refused as any other, by field."""

import pytest

from hf_memoria import LwpfAttentionConfig, TokenMemoryConfig
from hf_memoria.sdm.memories import SoftmaxMemory
from hf_memoria.settings import check_count, check_number, is_finite, shown


@pytest.mark.parametrize("value", [10**400, -(10**400), 10**5000, float("inf"), float("nan")], ids=range(5))
def test_what_is_no_finite_float_is_refused_by_field(value):
    assert not is_finite(value)
    with pytest.raises(ValueError, match=r"^size must be a finite number of any size; got .{1,40}\.$"):
        check_number("size", value, lambda number: True, "of any size")


@pytest.mark.parametrize("value", [0, -1, 1.5, 10**300])
def test_what_is_a_finite_float_passes(value):
    assert is_finite(value)
    check_number("size", value, lambda number: True, "of any size")


def test_integers_that_fill_lines_are_told_by_their_length():
    assert shown(10**30) == str(10**30)
    assert shown(-(2**300)) == "a negative integer of 301 bits"
    with pytest.raises(ValueError, match=r"at most 4; got an integer of 16610 bits\.$"):
        check_count("size", 10**5000, most=4)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda value: TokenMemoryConfig(variance_target=value), "variance_target"),
        (lambda value: LwpfAttentionConfig(forgetting="pfu", sigma=value), "sigma"),
        (lambda value: LwpfAttentionConfig(forgetting="pfu", mu=value), "mu"),
        (lambda value: SoftmaxMemory(8, 2, beta=value), "beta"),
    ],
)
def test_every_setting_that_is_a_number_refuses_it(make, field):
    with pytest.raises(ValueError, match=f"^{field} must be .*; got an integer of 1329 bits"):
        make(10**400)
