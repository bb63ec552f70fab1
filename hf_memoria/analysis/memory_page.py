"""One HTML file that shows what a memory held: nothing else is needed to look at it, no server and no network."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hf_memoria.analysis.engram_lives import DOCUMENT, engram_lives, firings
from hf_memoria.analysis.memory_plots import TIER_COLORS, spans
from hf_memoria.analysis.trace_files import Traces
from hf_memoria.memories.shared.files import write_text_whole

TEMPLATE = Path(__file__).parent / "memory_page.html"
MOST_WIRED = 12
"""Neighbours that are named for each engram, those with the most common firings."""


def write_memory_page(traces: Traces, path: str | Path, *, documents: int = 8, title: str = "Memory") -> Path:
    """Write a page with time on one axis and engrams on the other; a click on one shows where it comes from.

    Args:
        traces: the traces of a run.
        path: the path of the page. It holds the text or the images of the segments: share it as you would share those.
        documents: the number of documents shown at most, those with the most segments.
        title: the title of the page.

    Raises:
        ImportError: without plotly.
        ValueError: if nothing is recorded.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError("plotly must be installed for the page; pip install 'hf-memoria[analysis]'.") from error
    if not len(traces.segments):
        raise ValueError("traces must hold at least one segment; got none. Has the recorder been flushed?")
    lengths = traces.segments.groupby(DOCUMENT).size().sort_values(ascending=False, kind="stable")
    data = [_document(traces, lane, document) for lane, document in lengths.index[:documents]]
    page = TEMPLATE.read_text(encoding="utf-8")
    shown = {"documents": data, "settings": traces.settings["memory"], "colors": TIER_COLORS}
    # The data last: what a text holds is not looked into for further marks.
    for mark, text in (
        ("{{title}}", html.escape(title)),
        ("{{plotly}}", get_plotlyjs()),
        ("{{data}}", _in_script(shown)),
    ):
        page = page.replace(mark, text)
    path = Path(path)
    write_text_whole(page, path)
    return path


def _document(traces: Traces, lane: int, document: int) -> dict[str, Any]:
    one = traces.of_document(lane, document)
    lives = engram_lives(one)
    segments = one.segments.set_index("time")
    return {
        "name": f"lane {lane}, document {document}: {len(segments)} segments, {len(lives)} engrams",
        "segments": {int(time): _contents(segment) for time, segment in segments.iterrows()},
        "engrams": _engrams(one, lives),
    }


def _engrams(one: Traces, lives: pd.DataFrame) -> list[dict[str, Any]]:
    reminded = one.events[one.events.event == "reminded"].groupby("id")[["time", "credit"]]
    fired = {int(id_): of_it.to_numpy().round(3).tolist() for id_, of_it in reminded}
    tiers = {tier: spans(lives, tier) for tier in TIER_COLORS}
    wired = _wired(one, lives)
    engrams = []
    for place, life in enumerate(lives.itertuples()):
        id_ = int(life.id)
        engrams.append(
            {
                "id": id_,
                "created": int(life.created),
                "source": int(life.created) - one.source_lag,
                "end": int(life.end),
                "forgotten": bool(life.forgotten),
                "spans": {
                    tier: [float(first[place]), float(last[place])]
                    for tier, (first, last) in tiers.items()
                    if not np.isnan(first[place])
                },
                "reminded": fired.get(id_, []),
                "wired": wired[id_],
            }
        )
    return engrams


def _wired(one: Traces, lives: pd.DataFrame) -> dict[int, list[list[int]]]:
    """With whom each engram fired most, those that are forgotten by now too: `[id, count]`."""
    events = firings(one)
    took_part = pd.crosstab(events.time, events.id).to_numpy(dtype=float)
    ids = np.sort(events.id.unique())
    counts = took_part.T @ took_part
    np.fill_diagonal(counts, 0)
    found: dict[int, list[list[int]]] = {int(id_): [] for id_ in lives.id}
    for place, id_ in enumerate(ids):
        best = np.argsort(-counts[place], kind="stable")[:MOST_WIRED]
        found[int(id_)] = [[int(ids[i]), int(counts[place, i])] for i in best if counts[place, i] > 0]
    return found


def _contents(segment: Any) -> dict[str, str]:
    if segment["image"] is not None:
        return {"image": "data:image/png;base64," + base64.b64encode(segment["image"]).decode()}
    return {"text": segment["text"] or ""}


def _in_script(value: Any) -> str:
    # A text may hold </script>, or what JavaScript takes for the end of a line.
    text = json.dumps(value, allow_nan=False)
    for character in ("<", ">", "&", "\u2028", "\u2029"):
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
