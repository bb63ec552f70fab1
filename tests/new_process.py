"""A new process that has not imported hf_memoria, without seconds of importing what hf_memoria needs.

`run(words, ...)` is `subprocess.run([sys.executable, *words], ...)`. What runs is a fork of a process that has
imported torch and Transformers, and nothing of this repository (`forking.py`). Not for what asks how long an import
takes, what it imports, or whether a Python starts at all.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PREFIXES = ("HF_", "HUGGINGFACE_", "OMP_", "TOKENIZERS_", "TORCH", "TRANSFORMERS_")
ARGUMENTS = [sys.executable, str(Path(__file__).with_name("forking.py"))]


class Nursery:
    """A process that has imported what is slow, and forks when it is told to; one fork at a time.

    What libraries read of the environment on import is `settings` in every fork; HF_HOME alone may be another in each.
    """

    def __init__(self, settings: dict[str, str]) -> None:
        folder = tempfile.TemporaryDirectory()
        atexit.register(folder.cleanup)
        self.settings, self.home = settings, Path(folder.name) / "home"  # a link to the HF_HOME of the one that runs
        others = {name: value for name, value in os.environ.items() if name not in read_on_import(os.environ)}
        others["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # a fork would not have it
        others.pop("PYTHONPATH", None)
        environment = others | settings | {"HF_HOME": str(self.home)}
        # It ends when its input does, with this process.
        self.process = subprocess.Popen(ARGUMENTS, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def close(self) -> None:
        """Let it end."""
        with self.process:
            self.process.stdin.close()

    def fork(self, words: list[str], timeout: float, place: dict[str, Any]) -> int | None:
        """Run in a fork; return its exit code, or None if it was killed after the timeout."""
        self.home.unlink(missing_ok=True)
        home = Path(place["env"].get("HF_HOME") or Path.home() / ".cache" / "huggingface")
        home.mkdir(parents=True, exist_ok=True)
        self.home.symlink_to(home)
        self.process.stdin.write(json.dumps({"words": words, "place": place}).encode() + b"\n")
        self.process.stdin.flush()
        child = self._answer()
        in_time = bool(select.select([self.process.stdout], [], [], timeout)[0])
        if not in_time:
            os.killpg(child, signal.SIGKILL)
        code = self._answer()
        return code if in_time else None

    def _answer(self) -> int:
        told = self.process.stdout.readline()
        assert told, "the process that forks has ended"
        return int(told)


def read_on_import(env: Any) -> dict[str, str]:
    """Return what of an environment libraries may read on import, but HF_HOME."""
    names = [name for name in env if name.startswith(PREFIXES) and not name.startswith(("HF_HOME", "HF_MEMORIA_"))]
    return {name: env[name] for name in names}


_nurseries: list[Nursery] = []


def nursery(env: dict[str, str]) -> Nursery:
    """Return the process whose forks have imported everything in such an environment; one at a time is kept."""
    settings = read_on_import(env)
    if not _nurseries or _nurseries[0].settings != settings:
        for other in _nurseries:
            other.close()
        _nurseries[:] = [Nursery(settings)]
    return _nurseries[0]


def run(
    words: Any, *, cwd: Any = None, env: dict[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a Python with these words on its command line, and no input; return the finished process with its text."""
    words, env = list(map(str, words)), {"OMP_NUM_THREADS": "1"} | dict(os.environ if env is None else env)
    if sys.platform != "linux":  # where a fork of a process with many libraries is not safe
        given = {"cwd": cwd, "env": env, "timeout": timeout, "stdin": subprocess.DEVNULL}
        return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, **given)
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        place = {"env": env, "cwd": str(cwd or Path.cwd()), "stdout": str(out), "stderr": str(err)}
        code = nursery(env).fork(words, timeout, place)
        printed = out.read_text(), err.read_text()
    command = [sys.executable, *words]
    if code is None:
        raise subprocess.TimeoutExpired(command, timeout, *printed)
    return subprocess.CompletedProcess(command, code, *printed)
