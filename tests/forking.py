"""Import what is slow, then fork for every order that is read, and wait for the fork (see `new_process.py`).

Orders are lines of JSON; the answers are two numbers: the id of the fork, and later its exit code.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import site
import sys
import threading
import traceback
import types

SLOW = (
    "accelerate",
    "datasets",
    "scipy.optimize",
    "torch._dynamo",
    "transformers.trainer",
    "transformers.models.auto.modeling_auto",
    *(f"transformers.models.{name}.modeling_{name}" for name in ("bert", "bloom", "gpt2", "llama", "roberta", "vit")),
)
"""What hf_memoria imports of others, and what its training and its recipes do."""


def become(env, cwd, stdout, stderr):
    """Be a Python that was started in this environment and folder."""
    for number, (path, mode) in enumerate([(os.devnull, os.O_RDONLY), (stdout, os.O_WRONLY), (stderr, os.O_WRONLY)]):
        os.dup2(os.open(path, mode | os.O_CREAT), number)
    os.setsid()  # what it starts is killed with it
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    path = [entry for entry in env.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [*path, *sys.path[1:]]  # without the folder of this script
    sys.modules.pop("sitecustomize", None)
    site.execsitecustomize()


def execute(words):
    """Do what the words of a command line say: `-c CODE`, `-m MODULE` or a script, and its arguments."""
    kind, sys.argv = words[0], words[1:] if words[0] in ("-c", "-m") else words
    if kind == "-m":
        sys.path.insert(0, os.getcwd())
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        code, sys.argv[0] = sys.argv[0], "-c"
        sys.path.insert(0, "")
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        if not os.path.isdir(kind):
            sys.path.insert(0, os.path.dirname(os.path.abspath(kind)))
        runpy.run_path(kind, run_name="__main__")


def end_with(words):
    """Execute the words, and end as a Python does, but for taking apart all that was imported, which takes long."""
    code = 0
    try:
        execute(words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        code = 1
        traceback.print_exc()
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def wait_for_orders():
    """Fork for every order; return in forks alone, with the order."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what is printed here is no answer
    for line in sys.stdin.buffer:
        child = os.fork()
        if not child:
            answers.close()
            return json.loads(line)
        print(child, file=answers)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers)
    os._exit(0)


if __name__ == "__main__":
    for name in SLOW:
        importlib.import_module(name)
    assert not [name for name in sys.modules if name.partition(".")[0] == "hf_memoria"]
    assert len(os.listdir("/proc/self/task")) == 1, "a fork has one thread, and waits forever for the others"
    gc.collect()
    gc.freeze()
    order = wait_for_orders()
    become(**order["place"])
    end_with(order["words"])
