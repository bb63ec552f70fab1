"""A Python that cannot import hf_memoria, as on a machine that does not have it."""

import os

import new_process

BLOCK = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_memoria":
            raise ModuleNotFoundError("No module named 'hf_memoria'", name="hf_memoria")

sys.meta_path.insert(0, Blocker())
"""


def run_without_the_package(code, folder, *arguments, **environment):
    """Run code in a new process; return what it printed."""
    (folder / "blocked").mkdir(exist_ok=True)
    (folder / "blocked" / "sitecustomize.py").write_text(BLOCK)
    here = {"PYTHONPATH": str(folder / "blocked"), "HF_HOME": str(folder / "home")}
    return run(code, *arguments, **here | environment)


def run(code, *arguments, check=True, **environment):
    """Run code in a new process; return what it printed, or with `check=False` the finished process."""
    result = new_process.run(["-c", code, *arguments], env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment)
    if not check:
        return result
    assert result.returncode == 0, result.stderr
    return result.stdout
