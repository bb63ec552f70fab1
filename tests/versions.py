"""What the oldest versions that are promised do not do yet, or do wrong."""

import pytest
import torch
import transformers
from packaging.version import Version

OLD_DYNAMO = torch.__version__ < "2.12"
OLD_TRANSFORMERS = Version(transformers.__version__) < Version("5.18")

NOT_SEEN = "a forward on random input fails" if OLD_TRANSFORMERS else "is not changed by what is remembered"
"""What is said of memory tokens that no attention sees; Transformers 5.17 fails at the size of their mask."""

needs_new_dynamo = pytest.mark.skipif(
    OLD_DYNAMO,
    reason="torch.compile needs torch 2.12: before, Dynamo finds no parameter whose name says that it is not decayed, "
    "and makes no guard of the call under way",
)
needs_resuming_on_cpus = pytest.mark.skipif(
    OLD_TRANSFORMERS,
    reason="two processes without an accelerator resume from Transformers 5.18 on: before, Trainer loads their "
    "optimizer's state onto 'cpu:0', which torch does not know",
)
needs_given_caches = pytest.mark.skipif(
    OLD_TRANSFORMERS,
    reason="RecurrentGemma takes a cache that has no layers yet from Transformers 5.18 on",
)
