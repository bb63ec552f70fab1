"""Run a worker on two processes, as a user does."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import new_process

SECONDS = 240


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def surroundings(folder):
    """Return an environment without graphics cards and without what the user has told accelerate."""
    return os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}


def fork(worker, folder):
    """Run the worker of a module on two processes that nothing launches, which takes less long."""
    script = Path(__file__).with_name("forked.py")
    done = new_process.run([script, worker.__name__, folder], env=surroundings(folder), cwd=folder, timeout=SECONDS)
    assert done.returncode == 0, done.stderr


def launch(worker, folder):
    """Run the worker of a module on two processes; return what it printed."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", str(free_port()), worker.__file__, str(folder)]
    environment = surroundings(folder) | {"OMP_NUM_THREADS": "1"}
    with (folder / "printed.txt").open("w+") as printed:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(timeout=SECONDS)
        finally:
            # The launcher's own processes are of its group, and outlive it when it is killed alone.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        printed.seek(0)
        text = printed.read()
    assert code == 0, text
    return text
