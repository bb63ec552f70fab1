"""Modules that refuse to run on nothing, as kernels of quantized layers do by ending the process."""

import torch


def _forward(self, *args, **kwargs):
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor) and value.numel() == 0:
            raise FloatingPointError(f"{type(self).__name__} runs on {list(value.shape)}")
    return super(type(self), self).forward(*args, **kwargs)


_CLASSES = {}


def make_picky(model):
    """Let every module without parts of its own raise a FloatingPointError on an empty tensor; return the model."""
    for module in model.modules():
        cls = type(module)
        if not list(module.children()) and cls not in _CLASSES.values():
            module.__class__ = _CLASSES.setdefault(cls, type(f"Picky{cls.__name__}", (cls,), {"forward": _forward}))
    return model
