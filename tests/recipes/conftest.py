"""Recipes are files to run, not a package: their folder is put on the path, as running one does."""

import contextlib
import io
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import new_process
import pytest
import torch

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
sys.path.insert(0, str(RECIPES))


@pytest.fixture(scope="session")
def run_here():
    """Run a recipe as from the command line, from another folder, but in this process: what it imports is there."""
    from common import generation

    def run(path, *flags, cwd):
        printed = io.StringIO()

        def in_fork(command, check):
            assert check
            done = new_process.run(command[1:])
            assert done.returncode == 0, done.stderr[-3000:]
            printed.write(done.stdout)

        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
            patch.chdir(cwd)
            patch.syspath_prepend(path.parent)
            patch.setattr(sys, "argv", [str(path), *map(str, flags)])
            # A model that was trained is loaded by another process, which need not import everything again.
            patch.setattr(generation, "subprocess", SimpleNamespace(run=in_fork))
            runpy.run_path(str(path), run_name="__main__")
        return printed.getvalue()

    return run


@pytest.fixture
def gpt2():
    """A tiny GPT-2 without memory, whose attention is far from uniform."""
    from common.training import small_gpt2

    torch.manual_seed(0)
    model = small_gpt2(vocabulary=50, end_of_text=0, positions=8, layers=2, hidden_size=16, heads=2, dropout=0.0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)
    return model.eval()


@pytest.fixture
def documents():
    """Documents of different lengths, one of them shorter than a window, one that ends with a full one."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(50, (length,), generator=generator).tolist() for length in (3, 37, 17, 8, 26)]


@pytest.fixture(scope="session")
def words():
    """Some 100,000 characters of Python's own documentation."""
    from pydoc_data.topics import topics

    return "\n".join(sorted(topics.values(), key=len)[-12:])


@pytest.fixture(scope="session")
def tokenizer(words):
    """A tokenizer of 400 ids for these words."""
    from common.tokenizer import train_tokenizer

    return train_tokenizer([words], 400)


@pytest.fixture
def llama(tokenizer):
    """A tiny Llama without memory for its ids, whose attention is far from uniform."""
    from common.training import small_llama

    torch.manual_seed(0)
    model = small_llama(
        vocabulary=len(tokenizer),
        end_of_text=0,
        positions=512,
        layers=2,
        hidden_size=16,
        heads=2,
        initializer_range=0.3,
    )
    return model.eval()
