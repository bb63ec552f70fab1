"""Attention with partial forgetting, a few rows of scores at a time: memory linear in the number of keys.

With threshold a, forgotten level b and n allowed keys at or below a, a row of weights is

    P_j = 1[s_j > a] exp(s_j - a) / (sum_{s_k > a} exp(s_k - a) + n exp(b - a)),

exact, and P is zero wherever D' is, so that the backward of flash attention holds as it stands: with O = P V,
dV = P^T dO and dS = P * (dO V^T - rowsum(dO * O)). Weights are not divided by their sum; the rows of O and dO are.

What takes time, apart from the products, are passes over the scores. They are in place, over a block that fits into a
core's cache. Scores are in units of log 2, because exp2 is several times faster than exp. Where norms bound them,
exponentials need no maximum taken off, and one comparison of exp(max(s, 0)) with 1 is the indicator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hf_memoria.attentions.lwpf.forgetting import row_threshold
from hf_memoria.attentions.lwpf.tiles import (
    Block,
    Dropping,
    Forbidden,
    Masks,
    Rule,
    Workspace,
    blocks_of_scores,
    many_fit_a_block,
)

UNIT = 1 / math.log(2)
"""Scores times this are exponents of 2."""

SAFE_EXPONENT = 90.0
"""2 to this, summed over more keys than any memory holds, is finite in float32."""


@dataclass(frozen=True)
class Inputs:
    """What is attended, of one dtype of at least float32.

    Attributes:
        query: `[B, H, Q, d]`.
        key: `[B, H, K, d]`.
        value: `[B, H, K, e]`.
        allowed: bool `[B, 1 or H, 1 or Q, K]` or None.
        rule: the rule of what is forgotten and seen.
        offset: noise on the thresholds, a scalar.
        seed: the seed of the dropout.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    allowed: Tensor | None
    rule: Rule
    offset: Tensor
    seed: int

    def masks(self) -> Masks:
        """Return what is forbidden, by block."""
        return Masks(self.allowed, self.rule.causal, self.query.device)

    def dropping(self) -> Dropping:
        """Return the dropout, from its beginning."""
        return Dropping(self.query, self.rule.dropout, self.seed)

    def scores(self, block: Block, out: Tensor) -> Tensor:
        """Write the scores of a block, in units of log 2."""
        query, key = self.query[block.at], self.key[block.seen].transpose(1, 2)
        return torch.baddbmm(out, query, key, beta=0, alpha=self.rule.scaling * UNIT, out=out)

    def folded(self) -> Inputs:
        """Return the same with the batch among the heads: `[1, B * H, ...]`, copied.

        A block holds heads of one row of the batch. Where rows are small, far more of them then fit into one.
        """
        allowed = self.allowed
        if allowed is not None:
            allowed = _fold(allowed.expand(-1, self.query.shape[1], -1, -1))
        return replace(self, query=_fold(self.query), key=_fold(self.key), value=_fold(self.value), allowed=allowed)

    def are_bounded(self) -> bool:
        """Whether no exponential of a distance from threshold or bias can overflow, by Cauchy and Schwarz."""
        if not self.query.numel() or not self.key.numel():
            return True
        norms = self.query.norm(dim=-1).amax() * self.key.norm(dim=-1).amax()
        number = abs(self.rule.mu) if isinstance(self.rule.mu, float) else 0.0
        reach = 2 * abs(self.rule.scaling) * norms + self.offset.abs() + number + abs(self.rule.bias or 0.0)
        return bool(reach * UNIT < SAFE_EXPONENT)


@dataclass(frozen=True)
class Attended:
    """The result and what a backward needs of each row; scores are in units of log 2.

    Attributes:
        output: O, `[B, H, Q, e]`, with the axes in memory as Transformers wants them next: B, Q, H, e.
        inverse: one over the sum of the weights `[B, H, Q, 1]`, zero in rows without an allowed key.
        threshold: a, `[B, H, Q, 1]`; empty where it is zero for all.
        shift: the number that was taken off before the exponential, above the threshold, `[B, H, Q, 1]`.
    """

    output: Tensor
    inverse: Tensor
    threshold: Tensor
    shift: Tensor

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the fields in order."""
        return self.output, self.inverse, self.threshold, self.shift

    @classmethod
    def empty(cls, query: Tensor, value: Tensor, has_threshold: bool) -> Attended:
        """Return one of the right shapes, with shift zero."""
        batch, heads, queries, _ = query.shape
        row = query.new_zeros(batch, heads, queries, 1)
        output = query.new_empty(batch, queries, heads, value.shape[-1]).transpose(1, 2)
        return cls(output, torch.empty_like(row), torch.empty_like(row) if has_threshold else row.new_empty(0), row)


def attend(inputs: Inputs) -> Attended:
    """Attend; see the module."""
    query, value = inputs.query, inputs.value
    if not many_fit_a_block(query, inputs.key):
        return _attend(inputs)
    folded, kept = _attend(inputs.folded()), Attended.empty(query, value, inputs.rule.has_threshold)
    for whole, part in zip(kept.tensors(), folded.tensors(), strict=True):
        whole.copy_(_unfold(part, whole))
    return kept


def attend_backward(grad: Tensor, inputs: Inputs, attended: Attended) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value for that of the output, `[B, H, Q, e]`."""
    if not many_fit_a_block(inputs.query, inputs.key):
        return _attend_backward(grad, inputs, attended)
    done = Attended(*map(_fold, attended.tensors()))
    grads = _attend_backward(_fold(grad), inputs.folded(), done)
    of_query, of_key, of_value = map(_unfold, grads, (inputs.query, inputs.key, inputs.value))
    return of_query, of_key, of_value


def _fold(states: Tensor) -> Tensor:
    return states.flatten(0, 1).unsqueeze(0) if states.dim() == 4 else states


def _unfold(states: Tensor, like: Tensor) -> Tensor:
    return states.squeeze(0).unflatten(0, like.shape[:2]) if states.dim() == 4 else states


def _attend(inputs: Inputs) -> Attended:
    rule, value = inputs.rule, inputs.value
    kept = Attended.empty(inputs.query, value, rule.has_threshold)
    masks, dropping, workspace, bounded = inputs.masks(), inputs.dropping(), Workspace(value), inputs.are_bounded()
    for block in (block for part in blocks_of_scores(inputs.query, inputs.key, rule.causal) for block in part):
        forbidden = masks.forbidden(block)
        scores = inputs.scores(block, workspace.shaped(block.shape))
        if rule.has_threshold:
            kept.threshold[block.at] = _take_off_threshold(scores, forbidden, inputs)
        if bounded and rule.bias is None:
            total = _weigh_bounded(scores, forbidden)
        else:
            total = _weigh(scores, forbidden, _level(rule, kept, block), bounded, kept.shift[block.at])
        # A row without an allowed key has no sum to divide by, and gives zeros.
        inverse = total.reciprocal_().nan_to_num_(nan=math.nan, posinf=0.0)
        kept.inverse[block.at] = inverse
        dropping.drop(scores)
        kept.output[block.at] = torch.bmm(scores, value[block.seen]).mul_(inverse)
    return kept


def _attend_backward(grad: Tensor, inputs: Inputs, attended: Attended) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value, rule = inputs.query, inputs.key, inputs.value, inputs.rule
    of_query, of_key, of_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    masks, dropping, shifted = inputs.masks(), inputs.dropping(), bool(attended.shift.any())
    spaces = Workspace(query), Workspace(query)
    for part in blocks_of_scores(query, key, rule.causal):
        heads = part[0].batch, part[0].heads
        # Sums over rows grow in cache, in one piece; the first block writes all of them.
        sums = [states.new_empty(states[heads].shape) for states in (key, value)]
        for block in part:
            weights = _weights_again(inputs, attended, block, masks, shifted, spaces[0])
            of_output = grad[block.at] * attended.inverse[block.at]
            delta = (of_output * attended.output[block.at]).sum(dim=-1, keepdim=True)
            grads = spaces[1].shaped(block.shape)
            torch.bmm(of_output, value[block.seen].transpose(1, 2), out=grads)
            dropped = weights.clone() if rule.dropout else weights
            dropping.drop(grads, dropped)
            _add_product(sums[1][:, : block.keys], dropped, of_output, new=block is part[0])
            grads.sub_(delta).mul_(weights)
            of_query[block.at] = torch.bmm(grads, key[block.seen]).mul_(rule.scaling)
            _add_product(sums[0][:, : block.keys], grads, query[block.at], new=block is part[0])
        of_key[heads], of_value[heads] = sums[0].mul_(rule.scaling), sums[1]
    return of_query, of_key, of_value


def _add_product(total: Tensor, left: Tensor, right: Tensor, new: bool) -> None:
    """Add left^T right to `total`, in place, or write it there."""
    if new:
        torch.bmm(left.transpose(1, 2), right, out=total)
    else:
        total.baddbmm_(left.transpose(1, 2), right)


def _weights_again(
    inputs: Inputs, attended: Attended, block: Block, masks: Masks, shifted: bool, space: Workspace
) -> Tensor:
    """Return the weights of a block, before they are divided by their sum."""
    scores = inputs.scores(block, space.shaped(block.shape))
    if inputs.rule.has_threshold:
        scores.sub_(attended.threshold[block.at])
    masks.forbidden(block).fill(scores, -math.inf)
    return exponentials(scores, attended.shift[block.at] if shifted else None)


def _take_off_threshold(scores: Tensor, forbidden: Forbidden, inputs: Inputs) -> Tensor:
    mu = inputs.rule.mu
    assert mu is not None
    if isinstance(mu, str):
        # Forbidden scores are no numbers to median and mean, and filled again before they are used.
        forbidden.fill(scores, math.nan)
    threshold = row_threshold(scores, mu if isinstance(mu, str) else mu * UNIT).add_(inputs.offset * UNIT)
    scores.sub_(threshold)
    return threshold


def _level(rule: Rule, kept: Attended, block: Block) -> Tensor:
    """Return b - a in units of log 2."""
    if rule.bias is None:
        return kept.inverse.new_zeros(1)
    bias = kept.inverse.new_full((1,), rule.bias * UNIT)
    return bias - kept.threshold[block.at] if rule.has_threshold else bias


def _weigh_bounded(scores: Tensor, forbidden: Forbidden) -> Tensor:
    """Make weights of scores, in place; return their sum, with a 1 for each forgotten key."""
    scores.clamp_min_(0).exp2_()
    forbidden.fill(scores, 0.0)
    total = scores.sum(dim=-1, keepdim=True)
    torch.threshold_(scores, 1.0, 0.0)
    return total


def _weigh(scores: Tensor, forbidden: Forbidden, level: Tensor, bounded: bool, shift: Tensor) -> Tensor:
    """The same for scores and levels of any size; what has to be taken off first is left in `shift`."""
    forbidden.fill(scores, -math.inf)
    if not bounded and scores.shape[-1]:
        shift.copy_(torch.maximum(scores.amax(dim=-1, keepdim=True), level).clamp_min_(0))
    forgotten = forbidden.allowed_count(scores) - (scores > 0).sum(dim=-1, keepdim=True)
    exponentials(scores, None if bounded else shift)
    return scores.sum(dim=-1, keepdim=True) + forgotten * torch.exp2(level - shift)


def exponentials(scores: Tensor, shift: Tensor | None) -> Tensor:
    """Make 2^(s - shift) of scores above zero and zero of the others, in place."""
    torch.threshold_(scores, 0.0, -math.inf)
    if shift is not None:
        scores.sub_(shift)
    return scores.exp2_()
