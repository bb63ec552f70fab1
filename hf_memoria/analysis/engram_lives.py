"""How long engrams live, read from traces: a row for each engram, and life tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from hf_memoria.analysis.trace_files import Traces

ENGRAM = ["lane", "document", "id"]
DOCUMENT = ["lane", "document"]


def engram_lives(traces: Traces) -> pd.DataFrame:
    """Return a row for each engram whose making was recorded.

    Those that a memory held when recording began, or whose beginning is in a part that is gone, are left out: how long
    they had lived, and with whom they had fired, is not known.

    Columns: `lane`, `document`, `id`, `created` (time), `promoted` (time at which it became long-term, or NaN), `end`
    (the last time at which it was there, its document's last one if it was never forgotten), `forgotten` (whether it
    was), `age` (steps that it lived, 1 for an engram that was forgotten in the step that made it), `reminded` (how
    often), `credit` (steps of life that this earned it).

    Raises:
        ValueError: if an engram is made, promoted or forgotten twice, as in traces of two runs.
    """
    events = traces.events
    _check_once(events)
    lives = _of(events, "created").set_index(ENGRAM)[["created"]]
    lives["promoted"] = _of(events, "promoted").set_index(ENGRAM).time
    last = document_ends(traces)
    lives["end"] = _of(events, "forgotten").set_index(ENGRAM).time
    lives["forgotten"] = lives.end.notna()
    lives = lives.reset_index()
    ends = pd.MultiIndex.from_frame(lives[DOCUMENT])
    lives["end"] = lives.end.fillna(pd.Series(last.reindex(ends).to_numpy(), index=lives.index)).astype(int)
    lives["age"] = lives.end - lives.created + 1
    reminded = _of(events, "reminded").groupby(ENGRAM).credit.agg(["size", "sum"])
    reminded = reminded.reindex(pd.MultiIndex.from_frame(lives[ENGRAM])).fillna(0)
    lives["reminded"], lives["credit"] = reminded["size"].to_numpy(dtype=int), reminded["sum"].to_numpy()
    return lives


def life_table(traces: Traces) -> pd.DataFrame:
    """Return for each age in steps: engrams `at_risk`, how many were `forgotten`, `hazard`, and `survival` beyond it.

    Survival is Kaplan and Meier's product of 1 - hazard: engrams that were there when their document ended count as
    long as they were seen.
    """
    lives = engram_lives(traces)
    ages = np.arange(1, int(lives.age.max()) + 1 if len(lives) else 1)
    at_risk = np.bincount(lives.age, minlength=1)[::-1].cumsum()[::-1][1:]
    forgotten = np.bincount(lives.age[lives.forgotten], minlength=len(ages) + 1)[1:]
    hazard = forgotten / np.maximum(at_risk, 1)
    table = {"at_risk": at_risk, "forgotten": forgotten, "hazard": hazard, "survival": np.cumprod(1 - hazard)}
    return pd.DataFrame(table, index=pd.Index(ages, name="age"))


def _check_once(events: pd.DataFrame) -> None:
    once = events[events.event != "reminded"]
    twice = once.duplicated([*ENGRAM, "event"], keep=False)
    if twice.any():
        first = once[twice].iloc[0]
        same = once[twice & (once[[*ENGRAM, "event"]] == first[[*ENGRAM, "event"]]).all(axis=1)]
        raise ValueError(
            f"events must say once that an engram is {first.event}; got steps {same.step.tolist()} for engram "
            f"{first.id} of lane {first.lane}, document {first.document}. Are there files of two runs?"
        )


def document_ends(traces: Traces) -> pd.Series:
    """Return the last time of each document that anything is recorded of, by lane and document."""
    return pd.concat([traces.segments, traces.events])[[*DOCUMENT, "time"]].groupby(DOCUMENT).time.max()


def firings(traces: Traces) -> pd.DataFrame:
    """Return the events in which an engram of `engram_lives` fired: it was made, or reminded."""
    fired = traces.events[traces.events.event.isin(["created", "reminded"])]
    return fired[_engrams(fired).isin(_engrams(_of(fired, "created")))]


def unknown_engrams(traces: Traces) -> int:
    """Return how many engrams something is recorded of, but not how they were made."""
    known = _engrams(_of(traces.events, "created"))
    return int((~_engrams(traces.events).unique().isin(known)).sum())


def _engrams(events: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(events[ENGRAM])


def _of(events: pd.DataFrame, event: str) -> pd.DataFrame:
    return events[events.event == event]
