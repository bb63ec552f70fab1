"""Pictures show what the rows say."""

import pytest
import torch

from hf_memoria.analysis import (
    AttentionPoints,
    learned_betas,
    plot_attention_against_cosine,
    plot_beta_histogram,
    plot_betas_by_layer,
)


@pytest.fixture
def betas():
    return learned_betas([[9.0, 14.0], [30.0, 12.0]], 64)


def test_a_histogram_with_the_three_optima(betas, tmp_path):
    figure = plot_beta_histogram(betas, tmp_path / "histogram.png", bins=5)
    axes = figure.axes[0]
    assert sum(patch.get_height() for patch in axes.patches) == 4
    assert sorted(line.get_xdata()[0] for line in axes.lines) == pytest.approx(
        sorted(betas[name][0] for name in ("snr", "capacity", "critical"))
    )
    assert (tmp_path / "histogram.png").read_bytes().startswith(b"\x89PNG")


def test_heads_by_layer_with_their_mean(betas):
    axes = plot_betas_by_layer(betas).axes[0]
    assert axes.collections[0].get_offsets().tolist() == [[0, 9], [0, 14], [1, 30], [1, 12]]
    assert list(axes.lines[0].get_ydata()) == [11.5, 21.0]


def test_attention_against_cosine_with_its_line(tmp_path):
    points = AttentionPoints(torch.tensor([0.0, 0.5]), torch.tensor([-3.0, -1.0]), 4.0, -3.0)
    axes = plot_attention_against_cosine(points, tmp_path / "points.pdf", title="head").axes[0]
    assert list(axes.lines[0].get_ydata()) == [-3.0, -1.0]
    assert len(axes.collections[0].get_offsets()) == 2
    assert (tmp_path / "points.pdf").stat().st_size > 0
    without_fit = AttentionPoints(points.cosine, points.log_attention, None, None)
    assert not plot_attention_against_cosine(without_fit).axes[0].lines
