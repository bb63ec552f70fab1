"""Tests that look at one file each are counted apart."""

SUITE = """
import pytest

@pytest.mark.per_file
@pytest.mark.parametrize("path", ["a", "b", "c"])
def test_a_file(path):
    assert path != "c"

def test_code():
    pass
"""


def test_they_are_counted_apart(pytester):
    pytester.makepyfile(SUITE)
    result = pytester.runpytest("-p", "no:unraisableexception", "-p", "per_file")
    result.stdout.fnmatch_lines(["*2 of 3 that passed are lint (one file or page each), 1 run code"])


def test_nothing_is_said_where_there_are_none(pytester):
    pytester.makepyfile("def test_code(): pass")
    result = pytester.runpytest("-p", "no:unraisableexception", "-p", "per_file")
    result.stdout.no_fnmatch_line("*are lint*")
