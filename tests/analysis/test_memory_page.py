"""Pictures of traces, and the page: what is in it, and what a browser makes of it.

The browser is a Chromium named by HF_MEMORIA_CHROMIUM or on the path, driven by playwright (`pip install playwright`);
where either is missing those tests are skipped. Chromium comes with a distribution, or with npm's @sparticuz/chromium.
"""

import importlib.util
import io
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor
from trace_models import read, tiny_model

from hf_memoria.analysis import (
    TraceRecorder,
    cofire_graph,
    engram_lives,
    inspect_run,
    plot_lives,
    plot_memory_measures,
    read_traces,
    write_memory_page,
)
from hf_memoria.analysis.memory_plots import TIER_COLORS
from hf_memoria.analysis.trace_contents import png_of

pytestmark = pytest.mark.slow

NASTY = "</script><script>document.title = 'broken'</script> {{data}} & \u2028 <b>bold</b>"
CHROMIUM = os.environ.get("HF_MEMORIA_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


class NastyTokenizer:
    """Decodes everything to what would break a careless page."""

    def decode(self, ids):
        return f"{len(ids)} tokens {NASTY}"


def record(folder, retrieval="graph", tokenizer=None):
    model = tiny_model(retrieval=retrieval, initial_lifespan=5)
    with TraceRecorder(model, folder, tokenizer=tokenizer):
        read(model, 26)
    return read_traces(folder)


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    return record(tmp_path_factory.mktemp("traces"), tokenizer=NastyTokenizer())


@pytest.fixture(scope="module")
def page(traces, tmp_path_factory):
    return write_memory_page(traces, tmp_path_factory.mktemp("page") / "memory.html", title="A <memory>")


def test_plots_of_several_runs_have_a_curve_each(traces, tmp_path):
    runs = {
        "graph": traces,
        "fifo": record(tmp_path / "fifo", "fifo"),
        "random": record(tmp_path / "random", "random"),
    }
    figure = plot_memory_measures(runs, tmp_path / "measures.png")
    assert (tmp_path / "measures.png").read_bytes().startswith(b"\x89PNG")
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        assert [label.removesuffix(" (none)") for label in labels] == ["graph", "fifo", "random"]
        for handle, label in zip(handles, labels, strict=True):
            assert np.isfinite(np.asarray(handle.get_ydata(), dtype=float)).any() == (not label.endswith("(none)"))
    one = plot_lives(traces, 0, 0, tmp_path / "lives.pdf").axes[0]
    assert one.get_legend_handles_labels()[1] == ["short-term", "long-term", "reminded"]
    reminded = traces.of_document(0, 0).events
    assert len(one.collections[-1].get_offsets()) == (reminded.event == "reminded").sum()


def test_the_page_needs_nothing_else(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img)[^>]+(src|href)\s*=", text)
    assert "<title>A &lt;memory&gt;</title>" in text
    # Scripts end where they are meant to, whatever a text holds.
    assert text.count("</script>") == 2
    assert NASTY not in text


def test_a_run_is_inspected_whole(tmp_path):
    record(tmp_path / "run" / "traces")
    written = inspect_run(tmp_path / "run", tmp_path / "out")
    assert [path.name for path in written] == [
        "measures.png",
        "lives.csv",
        "life_table.csv",
        "lives.png",
        "memory.html",
    ]
    assert all(path.stat().st_size for path in written)
    record(tmp_path / "both" / "graph")
    record(tmp_path / "both" / "fifo", "fifo")
    names = {str(path.relative_to(tmp_path / "two")) for path in inspect_run(tmp_path / "both", tmp_path / "two")}
    assert names >= {"measures.png", "graph/memory.html", "fifo/memory.html"}
    with pytest.raises(FileNotFoundError, match="folder must hold traces of a run"):
        inspect_run(tmp_path / "out", tmp_path / "three")


def test_images_are_kept_as_they_look():
    grey = png_of(torch.tensor([[[-1.0, 1.0], [0.0, 1.0]]]))
    assert np.asarray(Image.open(io.BytesIO(grey))).tolist() == [[0, 255], [128, 255]]
    assert Image.open(io.BytesIO(png_of(torch.rand(3, 4, 5)))).size == (5, 4)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None or importlib.util.find_spec("playwright") is None:
        pytest.skip("a browser and playwright are needed; set HF_MEMORIA_CHROMIUM to a Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=False)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, page):
    """The page in a browser without network, in which any error fails the test."""
    context = browser.new_context(offline=True, viewport={"width": 1300, "height": 900})
    tab, errors = context.new_page(), []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.goto(page.as_uri())
    tab.wait_for_selector("#plot .main-svg")
    yield tab
    assert errors == []
    context.close()


def place_of(tab, time, engram):
    """Where in the window a point of the plot is."""
    script = """([time, engram]) => {
        const plot = document.getElementById("plot"), box = plot.getBoundingClientRect();
        const {xaxis, yaxis} = plot._fullLayout;
        return [box.x + xaxis._offset + xaxis.d2p(time), box.y + yaxis._offset + yaxis.d2p(engram)];
    }"""
    return tab.evaluate(script, [time, engram])


def click(tab, time, engram):
    at = place_of(tab, time, engram)
    tab.mouse.move(at[0] - 30, at[1] - 2)
    tab.mouse.move(*at, steps=4)
    tab.wait_for_timeout(150)
    tab.mouse.click(*at)


def test_a_click_on_an_engram_shows_where_it_comes_from_and_what_it_is_wired_to(opened, traces):
    one = traces.of_document(0, 0)
    life = engram_lives(one).sort_values("age").iloc[-1]
    click(opened, int(life.created) + 1, int(life.id))
    opened.wait_for_selector("#detail[data-engram]")
    detail = opened.inner_text("#detail")
    assert f"Engram {life.id}" in detail
    assert f"reminded {life.reminded} times" in detail
    source = one.segments[one.segments.time == life.created - 1].text.item()
    assert opened.inner_text("#detail .text").split() == source.split()
    assert opened.title() == "A <memory>"
    graph = cofire_graph(traces, 0, 0)
    counts = {int(a): int(b) for a, b in re.findall(r"(\d+) \((\d+) times?\)", detail)}
    for other in graph.neighbors(life.id):
        if other in counts:
            assert counts[other] == graph.edges[life.id, other]["count"]
    assert set(counts) & set(graph.neighbors(life.id))


def test_time_and_engrams_are_the_axes_and_tiers_are_colours(opened, traces):
    assert opened.text_content("#plot .xtitle") == "time in the document (segments)"
    assert opened.text_content("#plot .ytitle") == "engram"
    lines = opened.evaluate("plot.data.slice(0, 2).map(({name, line, x, y}) => ({name, color: line.color, x, y}))")
    assert {line["name"]: line["color"] for line in lines} == TIER_COLORS
    lives = engram_lives(traces.of_document(0, 0))
    drawn = [(x, y) for line in lines for x, y in zip(line["x"], line["y"], strict=True) if x is not None]
    for life in lives.itertuples():
        times = [x for x, y in drawn if y == life.id]
        assert (min(times), max(times)) == (life.created, life.end + 1)
    seen = Image.open(io.BytesIO(opened.locator("#plot").screenshot())).convert("RGB")
    colors = {color for count, color in seen.getcolors(2**20) if count > 50}
    assert {ImageColor.getrgb(color) for color in TIER_COLORS.values()} <= colors


def test_a_click_shows_the_image_that_an_engram_was_made_of(browser, traces, tmp_path):
    picture = png_of(torch.arange(48.0).view(1, 6, 8))
    segments = traces.segments.assign(image=[picture] * len(traces.segments))
    page = write_memory_page(replace(traces, segments=segments), tmp_path / "memory.html")
    tab = browser.new_page(viewport={"width": 1300, "height": 900})
    tab.goto(page.as_uri())
    tab.wait_for_selector("#plot .main-svg")
    click(tab, 1.2, 0)
    tab.wait_for_selector("#detail img")
    assert tab.evaluate("(image => [image.naturalWidth, image.naturalHeight])(document.images[0])") == [8, 6]
    tab.close()


def test_what_it_is_wired_to_can_be_followed(opened):
    click(opened, 1, 0)
    opened.wait_for_selector("#detail button")
    other = opened.inner_text("#detail button").split()[0]
    opened.click("#detail button")
    assert opened.inner_text("#detail h2") == f"Engram {other}"
    names = opened.evaluate("document.getElementById('plot').data.map(trace => trace.name)")
    assert names == ["short-term", "long-term", "reminded", "wired to it", "chosen"]


def test_every_document_can_be_chosen(opened, traces):
    options = opened.locator("#document option").all_inner_texts()
    assert len(options) == 3
    opened.select_option("#document", "2")
    ids = opened.evaluate("new Set(document.getElementById('plot').data[0].customdata.filter(id => id !== null)).size")
    lane, document = map(int, re.findall(r"\d+", options[2])[:2])
    assert ids == len(engram_lives(traces.of_document(lane, document)))
