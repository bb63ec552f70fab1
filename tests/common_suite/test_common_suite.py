"""Transformers' own common tests over every family and head, with memory and without."""

from __future__ import annotations

import contextlib
import re
import unittest
from unittest import mock

import pytest
import torch
from common_exceptions import FAILURES, SKIPS_ITSELF, SKIPS_ITSELF_BY_TEST
from common_tester import SETTINGS, FamilyTester
from families import FAMILIES, memoria_class
from fetch import VARIABLE, is_fetched, source_folder
from matrix_report import fill
from matrix_table import Cell
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from hf_memoria.models.mixin import MemoriaMixin

if not is_fetched():
    pytest.skip(
        f"Transformers' own tests are not in {source_folder()}; run tests/common_suite/fetch.py, or set {VARIABLE}",
        allow_module_level=True,
    )

from common_source import common_tests

pytestmark = pytest.mark.slow

modeling, configuration = common_tests("test_modeling_common"), common_tests("test_configuration_common")

NAME_TABLES = {
    "Model": modeling_auto.MODEL_MAPPING_NAMES,
    "ForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "ForMaskedLM": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "ForSequenceClassification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "ForTokenClassification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "ForQuestionAnswering": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "ForImageClassification": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "ForMaskedImageModeling": modeling_auto.MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING_NAMES,
}
"""By these the common tests know which targets a class takes."""


class Visited(list):
    """Model classes, of which those that a test goes over are noted."""

    def __init__(self, classes):
        super().__init__(classes)
        self.visited = {}

    def __iter__(self):
        for cls in super().__iter__():
            self.visited[cls] = True
            yield cls


def without_values():
    """Some tests write out all that they compare, for the case that two differ, and take most of their time for it."""
    return mock.patch.object(torch.Tensor, "__format__", lambda tensor, how: f"a tensor {tuple(tensor.shape)}")


class CommonTests(modeling.ModelTesterMixin):
    """The common tests over all heads of a family."""

    family: str
    with_memory: bool
    item = None

    @pytest.fixture(autouse=True)
    def _known_item(self, request):
        self.item = request.node

    def fill_cells(self):
        for head in FAMILIES[self.family]:
            if self.item is not None and memoria_class(self.family, head) in self.all_model_classes.visited:
                fill(self.item, Cell("common suite", self.family, head))

    def setUp(self):
        self.model_tester = FamilyTester(self.family, self.with_memory)
        self.all_model_classes = Visited(self.model_tester.heads)
        self.addCleanup(self.fill_cells)
        model_type = memoria_class(self.family, "Config").model_type
        for head in FAMILIES[self.family]:
            known = mock.patch.dict(NAME_TABLES[head], {model_type: memoria_class(self.family, head).__name__})
            known.start()
            self.addCleanup(known.stop)

    def skipTest(self, reason):  # noqa: N802
        known = self._testMethodName in SKIPS_ITSELF_BY_TEST or any(
            re.search(pattern, reason) and self.family in families for pattern, families in SKIPS_ITSELF.items()
        )
        if not known:
            self.fail(f"skipped for a reason that is not in the table of exceptions: {reason}")
        super().skipTest(reason)

    @contextlib.contextmanager
    def subTest(self, *args, **kwargs):  # noqa: N802
        # Some 28,000 parts that pass would each be reported. What fails ends its test, what is skipped does not.
        with contextlib.suppress(unittest.SkipTest):
            yield

    def test_bc_torch_dtype(self):
        with without_values():
            super().test_bc_torch_dtype()

    def test_model_outputs_equivalence(self):
        with without_values():
            super().test_model_outputs_equivalence()

    def test_reverse_loading_mapping(self):
        # It asks for names of old checkpoints in what is saved, which is what we do only if told to.
        with mock.patch.object(MemoriaMixin, "save_pretrained", PreTrainedModel.save_pretrained):
            super().test_reverse_loading_mapping()

    def test_config(self):
        config = self.model_tester.get_config()
        tester = configuration.ConfigTester(
            self,
            config_class=type(config),
            has_text_modality=self.family != "ViT",
            **SETTINGS[self.family],
            memory=config.to_dict()["memory"],
        )
        tester.run_common_tests()


def still_fails(name, reason):
    """Return a test that is skipped if the common test of that name fails, and fails if that one passes."""

    def check(self):
        as_it_is = type(self).as_it_is(name)
        result = unittest.TestResult()
        as_it_is.run(result)
        assert result.testsRun == 1
        if result.wasSuccessful():
            self.fail(f"{name} passes: take it out of the table of exceptions")
        unittest.TestCase.skipTest(self, f"fails, as it has to: {reason}")

    return check


def suite_of(family, with_memory):
    """Return the test case of a family: the common tests, with those that cannot pass turned into `still_fails`."""
    name = f"Test{family}{'WithMemory' if with_memory else 'WithoutMemory'}"
    own = {"family": family, "with_memory": with_memory, "__module__": __name__}
    # Each test fills the cells of the heads that it goes over.
    own["pytestmark"] = [pytest.mark.matrix("common suite", family=family, heads=())]
    as_it_is = type(f"AsItIs{name}", (CommonTests, unittest.TestCase), own)
    failures = {
        test: still_fails(test, failure.reason)
        for test, failure in FAILURES.items()
        if family in failure.families and with_memory in failure.with_memory
    }
    return type(name, (CommonTests, unittest.TestCase), {**own, **failures, "as_it_is": as_it_is})


for family in FAMILIES:
    for with_memory in (False, True):
        suite = suite_of(family, with_memory)
        globals()[suite.__name__] = suite
del suite


@pytest.mark.parametrize("name", [*FAILURES, *SKIPS_ITSELF_BY_TEST])
def test_the_table_of_exceptions_names_tests_that_there_are(name):
    assert callable(getattr(modeling.ModelTesterMixin, name))
