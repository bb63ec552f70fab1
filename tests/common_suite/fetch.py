"""Fetch Transformers' own common tests, of the version that is installed, from its source distribution on PyPI.

`python tests/common_suite/fetch.py` downloads and unpacks them once, into the folder that the environment variable
HF_MEMORIA_TRANSFORMERS_SOURCE names, by default `hf_memoria/transformers_source` in the user's cache. They are never
part of this repository.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

VARIABLE = "HF_MEMORIA_TRANSFORMERS_SOURCE"
FILES = ("test_modeling_common.py", "test_configuration_common.py")


def source_folder() -> Path:
    """Return the folder of the installed version's tests, whether it is there or not."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(os.environ.get(VARIABLE) or cache / "hf_memoria" / "transformers_source")
    return root / f"transformers-{version('transformers')}" / "tests"


def is_fetched() -> bool:
    """Return whether the tests are there."""
    return all((source_folder() / name).is_file() for name in FILES)


def fetch() -> None:
    """Download and unpack the tests, unless they are there.

    Raises:
        subprocess.CalledProcessError: if pip cannot download the source distribution.
    """
    if is_fetched():
        return
    with tempfile.TemporaryDirectory() as download:
        wanted = f"transformers=={version('transformers')}"
        options = ("--quiet", "--no-binary", "transformers", "--no-deps", "--no-build-isolation", "--dest", download)
        subprocess.run([sys.executable, "-m", "pip", "download", *options, wanted], check=True)
        (archive,) = Path(download).glob("*.tar.gz")
        _unpack(archive)


def _unpack(archive: Path) -> None:
    folder = source_folder()
    folder.mkdir(parents=True, exist_ok=True)
    # One of the tests takes its own folder for a package.
    (folder / "__init__.py").touch()
    with tarfile.open(archive) as packed:
        for name in FILES:
            (folder / name).write_bytes(packed.extractfile(f"{folder.parent.name}/tests/{name}").read())


if __name__ == "__main__":
    fetch()
    print(source_folder())
