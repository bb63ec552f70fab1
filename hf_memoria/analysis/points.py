"""Every pair of one head, for a picture: how does log attention depend on the cosine?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_memoria.analysis.capture import AttentionCall, capture_attention
from hf_memoria.analysis.head_statistics import HeadStatistics
from hf_memoria.analysis.windows import windows_of
from hf_memoria.sdm.checks import whole


@dataclass(frozen=True)
class AttentionPoints:
    """The allowed pairs of one head."""

    cosine: Tensor
    """Of query and key, `[N]`."""
    log_attention: Tensor
    """Natural logarithm of the weight, `[N]`."""
    beta: float | None
    """Fitted with an intercept for every query."""
    intercept: float | None
    """The mean of those intercepts, weighted by keys."""


def attention_points(
    model: PreTrainedModel,
    texts: Iterable[str | Sequence[int] | Mapping[str, Tensor]],
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    module: str,
    head: int,
    max_length: int | None = None,
    max_points: int = 20_000,
    seed: int = 0,
) -> AttentionPoints:
    """Collect the pairs of one head, and the fit that `effective_betas` would make of them all.

    Args:
        model: the model, as for `effective_betas`.
        texts: the texts, as for `effective_betas`.
        tokenizer: the tokenizer, as for `effective_betas`.
        max_length: the tokens of a window, as for `effective_betas`.
        module: name of the attention module, as in the rows of `effective_betas`.
        head: the head of that module.
        max_points: the number of pairs to keep of a window that has more, drawn at random.
        seed: the seed of the random draws.

    Raises:
        TypeError, ValueError: as for `effective_betas`, or `module` or `head` is not one of the model.
    """
    statistics, points = HeadStatistics(), []
    names = {part: name for name, part in model.named_modules()}
    generator = torch.Generator().manual_seed(seed)

    def observe(call: AttentionCall) -> None:
        if names[call.module] == module:
            whole("head", head, 0, call.query.shape[1] - 1)
            statistics.add(call, 0, head)
            points.append(_points(call, head, max_points, generator))

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), capture_attention(model, observe):
            for inputs in windows_of(texts, model, tokenizer, max_length):
                model(**inputs)
    finally:
        model.train(was_training)
    if not points:
        raise ValueError(f"module must be one that attends; got {module!r}. See the rows of effective_betas.")
    cosine, logs = torch.cat(points, dim=-1)
    beta = statistics.row()["beta"]
    return AttentionPoints(cosine, logs, beta, None if beta is None else (logs - beta * cosine).mean().item())


def _points(call: AttentionCall, head: int, most: int, generator: torch.Generator) -> Tensor:
    """Cosine and log attention of the allowed pairs, `[2, N]`."""
    scores, allowed = call.scores(0, head)
    logs = scores.masked_fill(~allowed, float("-inf")).log_softmax(dim=-1)
    query, key = call.query[0, head].double(), call.key[0, call.key_head(head)].double()
    cosine = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).T
    pairs = torch.stack([cosine[allowed], logs[allowed]]).cpu()
    return pairs[:, torch.randperm(pairs.shape[1], generator=generator)[:most]]
