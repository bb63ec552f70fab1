"""Which beta does each head of a trained model have, and is it one that sparse distributed memory would choose?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_memoria.analysis.capture import AttentionCall, capture_attention
from hf_memoria.analysis.head_statistics import HeadStatistics
from hf_memoria.analysis.windows import windows_of
from hf_memoria.sdm import optimal_betas


def effective_betas(
    model: PreTrainedModel,
    texts: Iterable[str | Sequence[int] | Mapping[str, Tensor]],
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    max_length: int | None = None,
    num_patterns: int = 1024,
    ddof: int | str = 0,
) -> Dataset:
    """Fit the inverse temperature of every head of a model: log attention = beta cos(query, key) + a number a query.

    Any model of Transformers whose attention goes through its AttentionInterface: decoders, encoders, vision; with
    grouped keys, rotary embeddings, masks. Only pairs that the mask allows count. Memory is that of one eager forward:
    sums are kept and no pairs. The model is as it was afterwards, its attention and training mode included.

    Args:
        model: the model to analyse.
        texts: strings, token ids, or what the model is called with (`{"pixel_values": ...}`), without padding. Text
            longer than `max_length` is read in windows that do not overlap.
        tokenizer: the tokenizer for strings.
        max_length: tokens of a window; None: the positions that the model has, at most 1,024.
        num_patterns: m of the optimal betas: how many keys a query chooses from. The paper takes 1,024.
        ddof: the ddof of the optimal betas, 0 or "paper"; see `fit_beta`.

    Returns:
        One row for each layer and head: `layer` (of the attention modules, in the order of the model), `module` (its
        name), `head`; `beta`, null where all cosines are alike, and `r_squared`, of the regression; `peak_score`, the
        largest score of a window's last position, in the mean, which the paper's code takes for beta; `snr`,
        `capacity`, `critical`, the optimal betas for the head's dimension (null where there is none), and `nearest`,
        whichever of them is nearest on a logarithmic scale (null for a beta that is not positive); `query_norm`,
        `key_norm`, `value_norm`, `value_norm_deviation`; `value_norm_with_attention` and `value_norm_with_key_norm`,
        the correlation over keys of the value's length with the logarithm of the mean attention that it got, and with
        the key's length; `head_dim`, `num_queries`, `num_pairs`.

    Raises:
        TypeError: a text is none of the above, or a string without a tokenizer.
        ValueError: there is no text, a text is padded, or the model's attention cannot be captured or is not a softmax
            of scaled products.

    References:
        Bricken & Pehlevan (2021), arXiv 2111.05498, section 4.
    """
    heads: dict[nn.Module, list[HeadStatistics]] = {}
    sizes: dict[nn.Module, int] = {}

    def observe(call: AttentionCall) -> None:
        statistics = heads.setdefault(call.module, [HeadStatistics() for _ in range(call.query.shape[1])])
        sizes[call.module] = call.query.shape[-1]
        for row in range(call.query.shape[0]):
            for head, one in enumerate(statistics):
                one.add(call, row, head)

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), capture_attention(model, observe):
            for inputs in tqdm(windows_of(texts, model, tokenizer, max_length), desc="Windows", unit="window"):
                model(**inputs)
    finally:
        model.train(was_training)
    if not heads:
        raise ValueError("texts must hold at least two tokens, and model some attention; got none. Pass more text.")
    return Dataset.from_list(list(_rows(model, heads, sizes, num_patterns, ddof)))


def _rows(
    model: PreTrainedModel,
    heads: Mapping[nn.Module, Sequence[HeadStatistics]],
    sizes: Mapping[nn.Module, int],
    num_patterns: int,
    ddof: int | str,
) -> Iterator[dict[str, Any]]:
    optima = {size: optimal_betas(size, num_patterns, ddof=ddof) for size in set(sizes.values())}
    modules = [(name, module) for name, module in model.named_modules() if module in heads]
    for layer, (name, module) in enumerate(modules):
        for head, statistics in enumerate(heads[module]):
            found = statistics.row()
            compared = _compared(found.pop("beta"), optima[sizes[module]])
            yield {"layer": layer, "module": name, "head": head, **compared, "head_dim": sizes[module], **found}


def _compared(beta: float | None, optima: Mapping[str, float | None]) -> dict[str, Any]:
    known = {name: value for name, value in optima.items() if value is not None}
    nearest = None
    if known and beta is not None and beta > 0:
        nearest = min(known, key=lambda name: abs(math.log(beta / known[name])))
    return {"beta": beta, **optima, "nearest": nearest}


def learned_betas(
    betas: Sequence[float] | Sequence[Sequence[float]] | Tensor,
    head_dim: int,
    *,
    num_patterns: int = 1024,
    ddof: int | str = 0,
) -> Dataset:
    """Compare betas that a model has learned as parameters (query-key normalisation) with the optimal ones.

    Args:
        betas: one a layer, or a row of heads for each layer.
        head_dim: n of the circles.
        num_patterns: m of the optimal betas.
        ddof: the ddof of the optimal betas, 0 or "paper".

    Returns:
        Rows as those of `effective_betas`, with `layer`, `head`, `beta`, `snr`, `capacity`, `critical`, `nearest` and
        `head_dim`.

    Raises:
        ValueError: `betas` has neither one dimension nor two, or an argument is out of its range.

    References:
        Henry et al., Query-Key Normalization for Transformers (EMNLP 2020); Bricken & Pehlevan (2021), section 4.

    Examples:
        >>> learned_betas([[13.2, 30.0]], head_dim=64)["nearest"][:]
        ['snr', 'capacity']
    """
    table = torch.as_tensor(betas, dtype=torch.float64)
    if table.ndim not in (1, 2):
        raise ValueError(f"betas must be one a layer, or a row a layer; got {table.ndim} dimensions. Flatten them.")
    optima = optimal_betas(head_dim, num_patterns, ddof=ddof)
    rows = table.reshape(len(table), -1).tolist()
    return Dataset.from_list(
        [
            {"layer": layer, "head": head, **_compared(beta, optima), "head_dim": head_dim}
            for layer, row in enumerate(rows)
            for head, beta in enumerate(row)
        ]
    )
