"""The matrix of families, heads and checks: what fills a cell, and what does not."""

import json
from pathlib import Path

import matrix_table
import pytest
from families import FAMILIES
from matrix_table import CELLS, CHECKS, Cell, Matrix

WRAP, RESUME = Cell("wrap", "GPT2", "Model"), Cell("resume", "GPT2", "Model")


def filled(*but):
    matrix = Matrix(reasons={})
    for cell in set(CELLS) - set(but):
        matrix.counts[cell]["passed"] += 1
    return matrix


def test_every_head_of_every_family_has_a_cell_for_every_check():
    assert len(CELLS) == len(set(CELLS)) == len(CHECKS) * sum(len(heads) for heads in FAMILIES.values())
    assert set(matrix_table.REASONS) <= set(CELLS)


def test_a_full_matrix_has_no_complaint():
    matrix = filled()
    assert not matrix.complaints()
    assert sum(line.split().count("1") for line in matrix.lines()) == len(CELLS)


@pytest.mark.parametrize("outcome", [None, "skipped"])
def test_a_cell_without_a_test_that_passed_is_empty(outcome):
    matrix = filled(WRAP)
    matrix.counts[WRAP].update([outcome] if outcome else [])
    (complaint,) = matrix.complaints()
    assert complaint.startswith(f"wrap GPT2 Model: no test passed ({len(outcome or '') // 7} skipped)")
    assert complaint in matrix.lines()
    assert matrix.shown(WRAP) == "EMPTY"


def test_a_reason_stands_in_for_a_test_until_there_is_one():
    matrix = filled(WRAP, RESUME)
    matrix.reasons = {WRAP: "not yet", RESUME: "never"}
    assert not matrix.complaints()
    assert (matrix.shown(WRAP), matrix.shown(RESUME)) == ("a", "b")
    assert {"a: not yet", "b: never"} <= set(matrix.lines())
    matrix.counts[WRAP]["passed"] += 1
    assert matrix.shown(WRAP) == "1"
    assert matrix.complaints() == ["wrap GPT2 Model: is tested, take its reason out of the table"]


def test_one_failure_is_not_outweighed():
    matrix = filled()
    matrix.counts[WRAP].update(passed=9, failed=1)
    assert matrix.shown(WRAP) == "FAILED"


SUITE = """
import unittest
import pytest
from matrix_report import fill
from matrix_table import Cell

@pytest.mark.parametrize(("family", "head"), [("GPT2", "Model"), ("GPT2", "ForCausalLM")])
@pytest.mark.matrix("wrap")
def test_parameters(family, head):
    assert head == "Model"

@pytest.mark.matrix("resume", family="Bert", heads=("Model", "ForMaskedLM"))
@pytest.mark.matrix("DDP", family="Bert", head="Model")
def test_arguments():
    pass

@pytest.mark.matrix("PEFT", family="ViT", head="Model")
def test_skipped():
    pytest.skip("no")

@pytest.mark.matrix("compile", family="ViT", head="Model")
@pytest.mark.xfail
def test_expected_failure():
    pass

@pytest.fixture
def broken():
    yield
    raise RuntimeError

@pytest.mark.matrix("PEFT", family="Bert", head="Model")
def test_broken(broken):
    pass

class TestAtRunTime(unittest.TestCase):
    pytestmark = [pytest.mark.matrix("common suite", family="Llama", heads=())]

    @pytest.fixture(autouse=True)
    def _item(self, request):
        self.item = request.node

    def test_filled(self):
        fill(self.item, Cell("common suite", "Llama", "Model"))

    def test_a_part_fails(self):
        for number in range(3):
            with self.subTest(number=number):
                assert number != 1
        fill(self.item, Cell("common suite", "Llama", "ForCausalLM"))
"""

SHOWN = {
    ("wrap", "GPT2", "Model"): "1",
    ("wrap", "GPT2", "ForCausalLM"): "FAILED",
    ("resume", "Bert", "Model"): "1",
    ("resume", "Bert", "ForMaskedLM"): "1",
    ("DDP", "Bert", "Model"): "1",
    ("PEFT", "Bert", "Model"): "FAILED",
    ("common suite", "Llama", "Model"): "1",
    ("common suite", "Llama", "ForCausalLM"): "FAILED",
}


# A process of xdist needs the names of the families, and not all that it takes to build them.
CONFTEST = f"""
import sys, types
sys.path.append({str(Path(__file__).parent)!r})
sys.modules.setdefault("families", types.SimpleNamespace(FAMILIES={FAMILIES}))
pytest_plugins = ["matrix_report"]
"""


@pytest.fixture
def run(pytester):
    """Run a suite with the plugin."""
    pytester.makeconftest(CONFTEST)

    def start(suite, *options):
        pytester.makepyfile(suite)
        # Which would collect all the garbage of the process around it, several times.
        return pytester.runpytest("-p", "no:unraisableexception", *options)

    return start


@pytest.mark.parametrize("processes", [0, 2])
def test_cells_are_filled_by_what_tests_did_in_whichever_process(processes, run, pytester):
    result = run(SUITE, "--matrix", "--matrix_output", "matrix.json", "-n", str(processes))
    written = json.loads((pytester.path / "matrix.json").read_text())
    shown = {(cell["check"], cell["family"], cell["head"]): cell["shown"] for cell in written["cells"]}
    assert {cell: found for cell, found in shown.items() if found != "EMPTY"} == SHOWN
    result.stdout.fnmatch_lines(["*PEFT ViT Model: no test passed (1 skipped), and no reason is given"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert all(written["seconds"][check] > 0 for check in ("wrap", "resume", "DDP", "common suite"))


PASSING = """
import pytest

@pytest.mark.matrix("wrap", family="GPT2", head="Model")
def test_it():
    pass
"""


def test_an_empty_cell_fails_a_session_whose_tests_passed(run, monkeypatch):
    assert run(PASSING, "--matrix").ret == pytest.ExitCode.TESTS_FAILED
    monkeypatch.setattr(matrix_table, "REASONS", dict.fromkeys(set(CELLS) - {WRAP}, "not today"))
    assert run(PASSING, "--matrix").ret == pytest.ExitCode.OK


def test_nothing_is_asked_of_a_session_that_prints_no_matrix(run):
    result = run(PASSING)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("*families x heads*")


@pytest.mark.parametrize("arguments", ['"wrap"', '"wraps", family="GPT2", head="Model"', '"wrap", family="GPT2"'])
def test_a_cell_that_there_is_not_is_named(arguments, run):
    result = run(f"import pytest\n@pytest.mark.matrix({arguments})\ndef test_it():\n    pass\n")
    result.stderr.fnmatch_lines(["*test_it must fill a cell of the matrix; got Cell(*"])
    assert result.ret == pytest.ExitCode.USAGE_ERROR
