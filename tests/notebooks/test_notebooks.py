"""Every notebook in notebooks/ runs from top to bottom at a small size, and was saved with what it shows."""

import os
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def images(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.fixture(scope="module")
def kernel():
    """One process for all, for imports take most of the time. It has no network, one thread, and this package."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    settings = {"HF_MEMORIA_NOTEBOOK_SIZE": "small", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    manager, _ = start_new_kernel(kernel_name="python3", env=os.environ | settings, cwd=str(ROOT / "notebooks"))
    yield manager
    manager.shutdown_kernel(now=True)


def as_in_a_new_kernel(manager):
    """Forget every name that notebooks have made, and whether they wanted gradients."""
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready()
    told = client.execute_interactive("import torch\ntorch.set_grad_enabled(True)\n%reset -f")
    client.stop_channels()
    assert told["content"]["status"] == "ok"


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_at_a_small_size(path, kernel):
    saved = nbformat.read(path, as_version=4)
    assert any("HF_MEMORIA_NOTEBOOK_SIZE" in cell.source for cell in saved.cells if cell.cell_type == "code")
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    as_in_a_new_kernel(kernel)
    NotebookClient(notebook, km=kernel, timeout=300, resources={"metadata": {"path": path.parent}}).execute()
    assert images(notebook) == images(saved) > 0


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_was_saved_with_outputs_in_order_and_without_errors(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert path.stat().st_size < 1_500_000
