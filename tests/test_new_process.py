"""What runs in a fork has what it would have in a new Python: words, folder, environment, modules, exit code."""

import json
import os
import signal
import subprocess

import new_process
import pytest

pytestmark = pytest.mark.slow

TELL = """
import json, os, sys
known = [name for name in sys.modules if name.partition(".")[0] == "hf_memoria"]
from huggingface_hub import constants
from told import what
home = os.path.realpath(constants.HF_HOME)
print(json.dumps([__name__, sys.argv, os.getcwd(), os.environ.get("MINE"), known, home, sys.stdin.read(), what]))
"""


@pytest.mark.parametrize("kind", ["-c", "-m", "script"])
def test_words_folder_and_environment_are_those_that_are_told(tmp_path, kind):
    for name in ("here", "path", "home"):
        (tmp_path / name).mkdir()
    (tmp_path / "path" / "told.py").write_text("what = 'from the path'")
    script = tmp_path / "here" / "tell.py"
    script.write_text(TELL)
    words = {"-c": ["-c", TELL], "-m": ["-m", "tell"], "script": ["tell.py"]}[kind]
    env = os.environ | {"MINE": kind, "PYTHONPATH": str(tmp_path / "path"), "HF_HOME": str(tmp_path / "home")}
    done = new_process.run([*words, "one", 2], cwd=tmp_path / "here", env=env)
    first = {"-c": "-c", "-m": str(script), "script": "tell.py"}[kind]
    assert (done.returncode, done.stderr) == (0, "")
    told = ["__main__", [first, "one", "2"], str(tmp_path / "here"), kind, [], str(tmp_path / "home")]
    assert json.loads(done.stdout) == [*told, "", "from the path"]


@pytest.mark.parametrize(
    ("code", "expected", "said"),
    [("1 / 0", 1, "ZeroDivisionError"), ("raise SystemExit(3)", 3, ""), ("os.kill(os.getpid(), 9)", -9, "")],
)
def test_how_it_ends_is_told(code, expected, said):
    done = new_process.run(["-c", f"import os; print('begun', flush=True); {code}"])
    assert (done.returncode, done.stdout) == (expected, "begun\n")
    assert said in done.stderr


def test_what_takes_too_long_is_killed(tmp_path):
    code = "import os, time; open('id', 'w').write(str(os.getpid())); time.sleep(60)"
    with pytest.raises(subprocess.TimeoutExpired):
        new_process.run(["-c", code], cwd=tmp_path, timeout=2)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "id").read_text()), signal.SIGKILL)


def test_what_is_read_on_import_is_that_of_the_environment():
    code = "from huggingface_hub import constants; print(constants.ENDPOINT)"
    done = new_process.run(["-c", code], env=os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert done.stdout == "http://127.0.0.1:9\n", done.stderr
