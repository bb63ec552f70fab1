"""Which Dynamo is installed."""

import pytest
import torch

OLD_DYNAMO = torch.__version__ < "2.12"

needs_new_dynamo = pytest.mark.skipif(
    OLD_DYNAMO,
    reason="torch.compile needs torch 2.12: before, Dynamo finds no parameter whose name says that it is not decayed, "
    "and makes no guard of the call under way",
)
