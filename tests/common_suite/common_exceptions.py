"""Which of Transformers' common tests cannot pass for our classes, or do not concern them, and why."""

from __future__ import annotations

from typing import NamedTuple

TEXT = ("GPT2", "Llama", "Bert", "Roberta")
IMAGES = ("ViT",)
WITHOUT_ROPE = ("GPT2", "Bert", "Roberta", "ViT")


class Failure(NamedTuple):
    """Where a test cannot pass, and why. That it fails there is checked."""

    families: tuple[str, ...]
    with_memory: tuple[bool, ...]
    reason: str


FAILURES: dict[str, Failure] = {
    "test_generation_tester_mixin_inheritance": Failure(
        TEXT,
        (False, True),
        "it asks for Transformers' tests of generation, which its source distribution leaves out; ours are in "
        "tests/generation",
    ),
    "test_training_gradient_checkpointing_use_reentrant_true": Failure(
        (*TEXT, *IMAGES),
        (True,),
        "use_reentrant=True is refused with memory: it sends the gradient of the working memory through its graph "
        "once a block",
    ),
    "test_reverse_loading_mapping": Failure(
        ("Llama",),
        (False, True),
        "the base model's prefix in checkpoints of other heads is renamed in loading and never in saving",
    ),
    "test_model_get_set_embeddings": Failure(
        IMAGES, (False, True), "it asks for an embedding of tokens; those of a plain ViT are of patches too"
    ),
    "test_resize_tokens_embeddings": Failure(IMAGES, (False, True), "there are no tokens; a plain ViT fails too"),
}

SKIPS_ITSELF: dict[str, tuple[str, ...]] = {
    "has no axial RoPE layer": (*TEXT, *IMAGES),
    "does not have RoPE": WITHOUT_ROPE,
    "does not have partial rope": ("Llama",),
    "does not support RoPE scaling": WITHOUT_ROPE,
    "no _keep_in_fp32_modules": (*TEXT, *IMAGES),
    "does not support grouped_mm": (*TEXT, *IMAGES),
    "has no sparse experts": (*TEXT, *IMAGES),
    "no `output_router_logits`": (*TEXT, *IMAGES),
    "does not support sliding window": (*TEXT, *IMAGES),
    "No sequence-to-sequence language modeling head": (*TEXT, *IMAGES),
    "is not a composite model": (*TEXT, *IMAGES),
    "is not composite": (*TEXT, *IMAGES),
    # It is asked of backbones from 2023 on; loading with new weights is tested in tests/models.
    "Not a prioritized model": (*TEXT, *IMAGES),
    # It looks for a named type of keyword arguments, which these two have only in part of their heads.
    "does not support output_attentions": ("GPT2", "Llama"),
    "No subconfigs": (*TEXT, *IMAGES),
    # Positions are not resized in any of the families.
    "does not have position embeddings": (*TEXT, *IMAGES),
    "does not have a TP plan": WITHOUT_ROPE,
    "No conversion found": ("GPT2", "Bert", "Roberta"),
    "doesn't use `inputs_embeds`": IMAGES,
    "No decoder-only language modeling head": IMAGES,
    "No model with a differentiable loss": IMAGES,
}
"""Reasons for which a test skips itself, with the families of which they are true: what the backbone has not got.

A skip for any other reason, or in another family, fails. Skips for want of a package or an accelerator are decorators
of the tests and are not looked at.
"""

SKIPS_ITSELF_BY_TEST: dict[str, str] = {
    "test_sdpa_can_dispatch_composite_models": "no family is composite, which it reports as no support of SDPA",
}
"""Tests that skip themselves in every family under a name that says something else."""
