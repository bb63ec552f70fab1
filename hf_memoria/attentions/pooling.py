"""Pooling a bag of vectors into one: with learned state patterns (Hopfield), or with scores (DeepRC)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from hf_memoria.attentions.lwpf.forgetting import ForgettingFunction
from hf_memoria.attentions.lwpf.naive import attention_weights, lwpf_attention_naive


class HopfieldPooling(nn.Module):
    """Retrieve from a bag of stored patterns with learned state patterns (Ramsauer et al., ICLR 2021).

    Names and defaults are those of hflayers' layer of this name, as far as it has them; `forgetting` puts partial
    forgetting into the association (LwPF, Ota et al., AISTATS 2023).

    Args:
        input_size: D, width of the patterns.
        hidden_size: width of the association space of a head; D by default.
        output_size: E, width of what is retrieved; D by default.
        num_heads: heads.
        scaling: beta, the inverse temperature; 1 / sqrt(hidden_size) by default.
        update_steps_max: the number of times that the state is replaced by what it retrieves, before the pattern is
            read.
        normalize_stored_pattern: a layer norm before the projection to keys.
        normalize_state_pattern: a layer norm before the projection to queries.
        normalize_pattern_projection: a layer norm before the projection to values.
        dropout: the dropout on the association, in training.
        input_bias: whether the projections have one.
        quantity: state patterns S, each of which retrieves a vector.
        trainable: whether the state patterns learn.
        forgetting: the forgetting, which gives D and D'; None is ordinary association.

    Raises:
        ValueError: if a size is not positive.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int | None = None,
        output_size: int | None = None,
        num_heads: int = 1,
        scaling: float | None = None,
        update_steps_max: int = 0,
        normalize_stored_pattern: bool = True,
        normalize_state_pattern: bool = True,
        normalize_pattern_projection: bool = True,
        dropout: float = 0.0,
        input_bias: bool = True,
        quantity: int = 1,
        trainable: bool = True,
        forgetting: ForgettingFunction | None = None,
    ) -> None:
        super().__init__()
        hidden_size, output_size = hidden_size or input_size, output_size or input_size
        for name, size in (("input_size", input_size), ("num_heads", num_heads), ("quantity", quantity)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1; got {size}.")
        self.num_heads, self.scaling, self.dropout = num_heads, scaling, dropout
        self.update_steps_max, self.forgetting = update_steps_max, forgetting
        self.state_pattern = nn.Parameter(torch.empty(quantity, input_size), requires_grad=trainable)
        norms = (normalize_state_pattern, normalize_stored_pattern, normalize_pattern_projection)
        self.norms = nn.ModuleList(nn.LayerNorm(input_size) if wanted else nn.Identity() for wanted in norms)
        width = num_heads * hidden_size
        self.query, self.key, self.value = (nn.Linear(input_size, width, bias=input_bias) for _ in range(3))
        self.output = nn.Linear(width, output_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw small state patterns and weights, and no biases, as hflayers does.

        So scores begin near zero, and their signs differ from pattern to pattern. With torch's biases ReLU often
        begins with all of a bag forgotten, and stays there.
        """
        nn.init.normal_(self.state_pattern, std=0.02)
        for layer in (self.query, self.key, self.value, self.output):
            nn.init.normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, input: Tensor, stored_pattern_padding_mask: Tensor | None = None) -> Tensor:
        """Pool `[B, N, D]` into `[B, S * E]`; the mask, bool `[B, N]`, is true where a pattern is padding."""
        return self._associate(input, stored_pattern_padding_mask)[0].flatten(1)

    def get_association_matrix(self, input: Tensor, stored_pattern_padding_mask: Tensor | None = None) -> Tensor:
        """Return how much each state pattern takes from each stored one, `[B, heads, S, N]`."""
        return self._associate(input, stored_pattern_padding_mask)[1]

    def _associate(self, stored: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        state_norm, stored_norm, value_norm = self.norms
        state = state_norm(self.state_pattern).expand(stored.shape[0], -1, -1)
        query, key = self._heads(self.query(state)), self._heads(self.key(stored_norm(stored)))
        value = self._heads(self.value(value_norm(stored)))
        mask = None if padding is None else ~padding[:, None, None]
        for _ in range(self.update_steps_max):
            query, _ = lwpf_attention_naive(query, key, key, self.forgetting, mask=mask, scaling=self.scaling)
        found, weights = lwpf_attention_naive(
            query,
            key,
            value,
            self.forgetting,
            mask=mask,
            scaling=self.scaling,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.output(found.transpose(1, 2).flatten(2)), weights

    def _heads(self, vectors: Tensor) -> Tensor:
        return vectors.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class AttentionPooling(nn.Module):
    """Weigh the instances of a bag by scores of their own, as DeepRC does (Widrich et al., NeurIPS 2020).

    A small network of SELU layers gives each instance a score: its last layer is the one fixed query. Weights are the
    softmax over the instances of a bag, here with partial forgetting if asked.

    Args:
        input_size: D, width of an instance.
        hidden_size: width of the layers.
        num_layers: layers before the score.
        forgetting: the forgetting, which gives D and D'; None is ordinary softmax.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 32,
        num_layers: int = 2,
        forgetting: ForgettingFunction | None = None,
    ) -> None:
        super().__init__()
        widths = [input_size, *[hidden_size] * num_layers]
        layers = [(nn.Linear(size, after), nn.SELU()) for size, after in itertools.pairwise(widths)]
        score = nn.Linear(widths[-1], 1)
        # Scores start around one. Below zero ReLU forgets, and a network that begins by forgetting every instance gets
        # no gradient, ever. A number added to all scores means nothing to softmax, or to a threshold of the row.
        nn.init.ones_(score.bias)
        self.network = nn.Sequential(*itertools.chain(*layers), score)
        self.forgetting = forgetting

    def forward(self, instances: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pool `[B, N, D]` into `[B, D]`; bool `mask` `[B, N]` is true where an instance is.

        Returns:
            what is pooled, and the weights `[B, N]`. A bag without an instance gives zeros.
        """
        scores = self.network(instances).transpose(1, 2)
        allowed = None if mask is None else mask.unsqueeze(1)
        weights = attention_weights(scores, self.forgetting, allowed).to(instances.dtype)
        return (weights @ instances).squeeze(1), weights.squeeze(1)
