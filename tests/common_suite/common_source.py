"""Transformers' common tests as modules, with stand-ins for what its source distribution leaves out."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from fetch import source_folder

PACKAGE = "transformers_common_tests"


class GenerationTesterMixin:
    """Stands in for the tests of generation, which no distribution of Transformers holds."""


class ExportTesterMixin:
    """Stands in for the tests of exporters, which no distribution of Transformers holds."""


config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["Backbone"],
    "id2label": {0: "no", 1: "yes", 2: "perhaps"},
    "label2id": {"no": 0, "yes": 1, "perhaps": 2},
    "problem_type": "regression",
}
"""Fields of every config, none at its default."""


def common_tests(name: str) -> ModuleType:
    """Return one of the common tests' modules: `test_modeling_common` or `test_configuration_common`."""
    if PACKAGE not in sys.modules:
        _module(PACKAGE, __path__=[str(source_folder())])
        _module(f"{PACKAGE}.generation.test_utils", GenerationTesterMixin=GenerationTesterMixin)
        _module(f"{PACKAGE}.exporters.test_export", ExportTesterMixin=ExportTesterMixin)
        _module(f"{PACKAGE}.utils.test_configuration_utils", config_common_kwargs=config_common_kwargs)
    return importlib.import_module(f"{PACKAGE}.{name}")


def _module(name: str, **content: Any) -> None:
    package = name.rpartition(".")[0]
    if package and package not in sys.modules:
        _module(package, __path__=[])
    sys.modules[name] = ModuleType(name)
    vars(sys.modules[name]).update(content)
