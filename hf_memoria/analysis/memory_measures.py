"""What Memoria's paper measures of a memory (section 5 and appendix), read from traces.

Primacy and recency, temporal contiguity, the growing age of what is reminded and the autocorrelation of firing appear
in a memory that is fed noise as well: they are properties of the mechanism. Compare them with the same measure with
`retrieval="fifo"` or `"random"`, and with what a task gains.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hf_memoria.analysis.engram_lives import DOCUMENT, document_ends, engram_lives, firings
from hf_memoria.analysis.trace_files import Traces

if TYPE_CHECKING:
    import networkx


def survivor_density(traces: Traces, bins: int = 10) -> pd.DataFrame:
    """Return when the engrams were made that are left at a document's end: primacy and recency.

    Args:
        traces: the traces of documents of at least `bins` segments that engrams can be made in; shorter ones are left
            out, and those that are not recorded from their beginning.
        bins: parts that a document's time is cut into.

    Returns:
        `made_at` (the middle of a part, 0 the first time at which an engram can be made and 1 the end) and `share` of
        the survivors, the mean over documents; empty without such a document.
    """
    lives = engram_lives(traces)
    # Where the cue is the segment before, nothing can be made in the first.
    length = document_ends(traces) + 1 - traces.source_lag
    length = length[traces.segments.groupby(DOCUMENT).time.min().reindex(length.index) == 0]
    shares = []
    for document, of_it in lives[~lives.forgotten].groupby(DOCUMENT):
        if length.get(document, 0) >= bins:
            part = ((of_it.created - traces.source_lag) * bins // length[document]).to_numpy()
            shares.append(np.bincount(part, minlength=bins) / len(part))
    middles = (np.arange(bins) + 0.5) / bins
    return pd.DataFrame(
        {"made_at": middles, "share": np.mean(shares, axis=0)} if shares else {"made_at": [], "share": []}
    )


def edge_weight_by_lag(traces: Traces) -> pd.DataFrame:
    """Return the mean edge weight between engrams by how far apart they were made: temporal contiguity.

    Of engrams that are left at a document's end. The weight of i to j is count_ij / count_ii, zero where they never
    fired together; both directions count.

    Returns:
        `lag` in segments, `weight`, and the number of `pairs`.
    """
    weights, pairs = np.zeros(0), np.zeros(0)
    for fired, created, alive in _firings(traces):
        fired, created = fired[:, alive], created[alive]
        counts = fired.T @ fired
        weight = counts / np.maximum(np.diag(counts), 1)[:, None]
        lag = np.abs(created[:, None] - created[None, :])
        apart = ~np.eye(len(created), dtype=bool)
        size = max(int(lag.max(initial=0)) + 1, len(weights))
        weights = np.pad(weights, (0, size - len(weights))) + np.bincount(lag[apart], weight[apart], size)
        pairs = np.pad(pairs, (0, size - len(pairs))) + np.bincount(lag[apart], minlength=size)
    seen = pairs > 0
    found = {"lag": np.flatnonzero(seen), "weight": weights[seen] / pairs[seen], "pairs": pairs[seen].astype(int)}
    return pd.DataFrame(found)


def age_of_reminded(traces: Traces, tier: str = "long-term") -> pd.DataFrame:
    """Return the mean `age` of the reminded engrams of a tier by `time` in the document, and their `number`."""
    events = traces.events[(traces.events.event == "reminded") & (traces.events.tier == tier)]
    ages = (events.time - events.created).groupby(events.time)
    return pd.DataFrame({"age": ages.mean(), "number": ages.size()}).rename_axis("time").reset_index()


def firing_autocorrelation(traces: Traces, lags: int = 20, tier: str | None = None) -> pd.DataFrame:
    """Return how much being reminded now goes with being reminded some segments later.

    Args:
        traces: the traces to read.
        lags: the largest lag.
        tier: the tier whose firings count, short-term (until the engram is promoted) or long-term memory; None is all.

    Returns:
        `lag` and `autocorrelation`: of the series of 0 and 1 of each engram from the step after its creation to its
        end, less its mean; sums over engrams, divided by those at lag 0. NaN where no series varies, or none is so
        long.
    """
    lives = engram_lives(traces)
    events = traces.events[traces.events.event == "reminded"]
    times = events.groupby(["lane", "document", "id"]).time.apply(np.array).to_dict()
    products, longest = np.zeros(lags + 1), 0
    for life in lives.itertuples():
        first, last = _span(life, tier)
        series = np.zeros(max(last - first + 1, 0))
        fired = times.get((life.lane, life.document, life.id), np.zeros(0, dtype=int))
        series[fired[(fired >= first) & (fired <= last)] - first] = 1
        if len(series):
            series -= series.mean()
        longest = max(longest, len(series))
        for lag in range(min(lags + 1, len(series))):
            products[lag] += series[lag:] @ series[: len(series) - lag]
    found = products / products[0] if products[0] > 0 else np.full(lags + 1, np.nan)
    found[longest:] = np.nan
    return pd.DataFrame({"lag": np.arange(lags + 1), "autocorrelation": found})


def cofire_graph(traces: Traces, lane: int, document: int, time: int | None = None) -> networkx.Graph:
    """Return who had fired together after a step: engrams as nodes, counts as edges.

    Args:
        traces: the traces to read.
        lane: the lane of the run.
        document: the document of the lane.
        time: step of the document, counting from 0; None is its last.

    Returns:
        A graph of the engrams that were left: nodes are ids with `created`, `tier` and `fired` (how often), edges have
        `count`. The weight of an edge i to j is count_ij / fired_i.

    Raises:
        ImportError: without networkx.
        ValueError: if nothing of the document is recorded.
    """
    try:
        import networkx
    except ImportError as error:
        raise ImportError("networkx must be installed for graphs; pip install 'hf-memoria[analysis]'.") from error

    of_it = traces.of_document(lane, document)
    if not len(of_it.segments):
        raise ValueError(f"lane and document must be recorded ones; got {lane} and {document}.")
    until = int(of_it.segments.time.max()) if time is None else time
    events, segments = (frame[frame.time <= until] for frame in (of_it.events, of_it.segments))
    past = Traces(events, segments, traces.settings)
    lives = engram_lives(past)
    graph = networkx.Graph()
    for (fired, _, alive), _ in zip(_firings(past), [0], strict=True):
        counts = fired.T @ fired
        for place in np.flatnonzero(alive):
            life = lives.iloc[place]
            tier = "short-term" if np.isnan(life.promoted) else "long-term"
            graph.add_node(int(life.id), created=int(life.created), tier=tier, fired=int(counts[place, place]))
        for i, j in np.argwhere(np.triu(counts, 1)):
            if alive[i] and alive[j]:
                graph.add_edge(int(lives.id.iloc[i]), int(lives.id.iloc[j]), count=int(counts[i, j]))
    return graph


def _span(life: pd.Series, tier: str | None) -> tuple[int, int]:
    """First and last time at which an engram may fire as what it is asked for."""
    if tier is None or (tier == "short-term" and np.isnan(life.promoted)):
        return life.created + 1, life.end
    if tier == "short-term":
        return life.created + 1, int(life.promoted)
    if tier != "long-term":
        raise ValueError(f"tier must be 'short-term', 'long-term' or None; got {tier!r}.")
    return (life.end + 1 if np.isnan(life.promoted) else int(life.promoted) + 1), life.end


def _firings(traces: Traces) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each document: who fired when `[T, M]`, when engrams were made `[M]`, and who is left at the end `[M]`."""
    lives = engram_lives(traces)
    events = dict(iter(firings(traces).groupby(DOCUMENT)))
    for document, of_it in lives.groupby(DOCUMENT):
        place = {id_: at for at, id_ in enumerate(of_it.id)}
        took_part = np.zeros((int(events[document].time.max()) + 1, len(place)))
        took_part[events[document].time, events[document].id.map(place)] = 1
        yield took_part, of_it.created.to_numpy(), ~of_it.forgotten.to_numpy()
