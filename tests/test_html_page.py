"""Pages of HTML: well-formed, harmless whatever a name holds, and in a real browser what they are meant to be."""

import doctest
import math
import xml.etree.ElementTree as ElementTree

import pytest

from mopruning import html_page
from mopruning.html_page import Bar, bars, page, paragraph, table
from tests.browser import Browser, executable

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '<script>document.title="taken"</script>\x00\x1b"\'&amp;'


def test_doctests():
    assert doctest.testmod(html_page).failed == 0


def test_bars_are_as_long_as_their_values():
    drawn = ElementTree.fromstring(
        bars("what", [Bar("a", (1.0, 0.0), ("1", "0")), Bar("b", (4.0, 2.0), ("4", "2"))], "xy")
    )
    rects = [rect for group in drawn.iter(f"{SVG}g") for rect in group.iter(f"{SVG}rect")]
    widths = [float(rect.get("width")) for rect in rects]
    assert widths == [widths[2] / 4, 0.0, widths[2], widths[2] / 2]
    assert [rect.get("class") for rect in rects] == ["s0", "s1", "s0", "s1"]
    assert [text.text for text in drawn.findall(f"{SVG}text")] == ["x", "y"]
    (whole,) = ElementTree.fromstring(bars("what", [Bar("a", (2.0,), ("2",))], largest=4.0)).iter(f"{SVG}rect")
    assert float(whole.get("width")) == widths[2] / 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_bars_without_a_length_are_refused(value):
    with pytest.raises(ValueError, match="what: a bar's length must be finite"):
        bars("what", [Bar("a", (value,), ("?",))])


def test_long_and_hostile_labels():
    long = "features." * 20 + "weight"
    drawn = ElementTree.fromstring(bars(HOSTILE, [Bar(HOSTILE, (0.0,), (HOSTILE,)), Bar(long, (0.0,), ("0",))]))
    titles = [title.text for title in drawn.iter(f"{SVG}title")]
    assert titles[1] == f"{long}: 0"
    assert "<script>" in titles[0]
    labels = [text.text for text in drawn.iter(f"{SVG}text") if text.get("class") == "label"]
    assert labels[1].startswith("…")
    assert long.endswith(labels[1][1:])
    assert ElementTree.fromstring(bars("nothing", [])).get("height") == "1"


@pytest.fixture(scope="module")
def browser():
    path = executable()
    if path is None:
        pytest.skip("needs a Chromium: python tests/browser.py brings one, MOPRUNING_TEST_BROWSER names one")
    running = Browser(path)
    yield running
    running.close()


@pytest.fixture
def shown(tmp_path, browser):
    rows = [("b", "1,000", "no"), (HOSTILE, "20", "yes"), ("c", "3", "https://example.org/x")]
    content = [
        ("Bars", bars("bars", [Bar(HOSTILE, (0.25,), ("0.25",)), Bar("b", (0.5,), ("0.5",))], largest=1.0)),
        ("Table", paragraph(HOSTILE) + table(("name", "size", "state"), rows, ("total", "1,023", ""), marked="yes")),
    ]
    (tmp_path / "page.html").write_text(page("title", content, [("12", "things")]), encoding="utf-8")
    browser.open(tmp_path / "page.html")
    return browser


def test_a_browser_shows_it_and_asks_for_nothing_else(shown, tmp_path):
    assert shown.requests() == [(tmp_path / "page.html").as_uri()]
    assert shown.complaints() == []
    assert shown.value("document.title") == "title"
    assert shown.value("document.compatMode") == "CSS1Compat"
    assert shown.value("document.querySelectorAll('script').length") == 1
    name = "document.querySelector('tbody').rows[1].cells[0].textContent"
    assert shown.value(name).startswith('<script>document.title="taken"</script>\ufffd')
    assert shown.value("document.querySelector('a').href") == "https://example.org/x"


def test_bars_are_drawn_in_proportion(shown):
    first, second = shown.value("[...document.querySelectorAll('rect')].map(r => r.getBoundingClientRect().width)")
    assert first > 50
    assert second == pytest.approx(2 * first, rel=0.01)
    colour = shown.value("getComputedStyle(document.querySelector('rect')).fill")
    assert colour == "rgb(0, 114, 178)"


def test_a_click_sorts_and_another_turns_it_round(shown):
    column = "[...document.querySelector('tbody').rows].map(row => row.cells[{}].textContent)"
    click = "document.querySelectorAll('thead th')[{}].click()"
    assert shown.value(column.format(1)) == ["1,000", "20", "3"]
    shown.value(click.format(1))
    assert shown.value(column.format(1)) == ["3", "20", "1,000"]
    shown.value(click.format(1))
    assert shown.value(column.format(1)) == ["1,000", "20", "3"]
    shown.value(click.format(0))
    assert shown.value(column.format(0))[1:] == ["b", "c"]
    assert shown.value("document.querySelector('tfoot').textContent") == "total1,023"


def test_it_follows_the_colours_and_width_of_the_reader(shown, tmp_path):
    colours = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    light = shown.value(colours)
    shown.open(tmp_path / "page.html", dark=True, width=360)
    dark = shown.value(colours)
    assert light == ["rgb(255, 255, 255)", "rgb(26, 26, 26)"]
    assert dark == ["rgb(22, 25, 29)", "rgb(232, 232, 232)"]
    wide = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    assert shown.value(wide) == [360, 360]  # tables scroll within themselves
