"""What `hf_memoria.sdm` offers: all of it typed, documented, and with examples that run."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

from hf_memoria import sdm

FUNCTIONS = [name for name in sdm.__all__ if inspect.isfunction(getattr(sdm, name))]
MODULES = [module.name for module in pkgutil.walk_packages(sdm.__path__, f"{sdm.__name__}.")]


def test_names_exist_once():
    assert sdm.__all__ == sorted(set(sdm.__all__))
    assert all(inspect.getdoc(getattr(sdm, name)) for name in sdm.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_typed(name):
    signature = inspect.signature(getattr(sdm, name))
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_signatures_that_others_build_on():
    expected = {
        "circle_intersection": ["n", "radius", "distance"],
        "expected_neurons": ["n", "radius", "distance", "num_neurons"],
        "cap_intersection": ["n", "radius", "cosine"],
        "fit_beta": ["n", "radius", "kind", "ddof"],
        "critical_distance": ["n", "radius", "num_patterns", "num_neurons"],
    }
    for name, parameters in expected.items():
        assert list(inspect.signature(getattr(sdm, name)).parameters) == parameters
    optimal = inspect.signature(sdm.optimal_radius).parameters
    assert list(optimal)[:4] == ["n", "criterion", "num_patterns", "num_neurons"]
    assert optimal["num_neurons"].default is None
