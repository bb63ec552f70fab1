"""Two processes equal one: replicated (DDP) and sharded (FSDP2), with and without activation checkpointing.

Losses, states of the lanes, gradients and gathered weights; the first segment has no memory to read.
"""

import json

import pytest
import scale_worker
from launching import launch

pytestmark = pytest.mark.slow


def case_of(name, way):
    family, head, _ = scale_worker.MODELS[name]
    checks = [check for check in ("DDP", "checkpointing") if check in way]
    marks = [pytest.mark.matrix(check, family=family, head=head) for check in checks]
    return pytest.param(f"{name}: {way}", marks=marks)


CASES = [case_of(*case) for case in scale_worker.CASES]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale")
    launch(scale_worker, folder)
    return [json.loads((folder / f"scale-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case, reports):
    for report in reports:
        found = report[case]
        assert found["losses"] < 1e-6
        assert found["data"] < 1e-5
        assert found["gradients"] < 1e-5
        assert found["weights"] == 0.0
        assert found["remembered"] > 0
        assert found["sharded"] == ("FSDP2" in case)
