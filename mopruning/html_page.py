"""Pages of HTML that need nothing else: tables, bars drawn as SVG, light and dark; every text is escaped.

A page loads no resource and says so to the browser, so that it can be mailed, archived and opened offline. Its one
script sorts tables by a click on a column's head; without it the page shows the same.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

_FORBIDDEN = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")  # XML 1.0, production 2
_LABEL, _BAR, _VALUE, _LINE = 250, 440, 170, 16  # widths of the parts of a row, and its height for one bar
_LONGEST = 34  # characters of a label


def text(content: object) -> str:
    r"""Return text that stands for itself in HTML, SVG and attributes; what XML cannot hold becomes U+FFFD.

    >>> text('<b a="1"> & \x00')
    '&lt;b a=&quot;1&quot;&gt; &amp; �'
    """
    return html.escape(_FORBIDDEN.sub("\ufffd", str(content)))


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart.

    Args:
        label: What stands before it.
        values: Length of each of its bars, finite and not negative.
        shown: What stands behind each.
    """

    label: str
    values: tuple[float, ...]
    shown: tuple[str, ...]


def bars(title: str, rows: Sequence[Bar], series: Sequence[str] = ("",), largest: float | None = None) -> str:
    """Draw a chart of horizontal bars as SVG.

    Args:
        title: What it shows, for those who do not see it.
        rows: Its rows; each has one bar for each series.
        series: Names of the series, at most two; a legend is drawn where there are several.
        largest: Value of a bar of full length; by default the largest of all.

    Raises:
        ValueError: If a value is negative, infinite or NaN.
    """
    values = [value for row in rows for value in row.values]
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise ValueError(f"{title}: a bar's length must be finite and not negative")
    scale = _BAR / (largest or max(values, default=0) or 1)
    height, top = _LINE * len(series) + 6, 22 if len(series) > 1 else 0
    parts = [_legend(series)] if top else []
    for index, row in enumerate(rows):
        y = top + index * height
        label = row.label if len(row.label) <= _LONGEST else "…" + row.label[1 - _LONGEST :]
        parts.append(f"<g><title>{text(row.label)}: {text(', '.join(row.shown))}</title>")
        parts.append(
            f'<text class="label" x="{_LABEL - 8}" y="{y + height / 2 + 2.5:g}" text-anchor="end">{text(label)}</text>'
        )
        for number, (value, shown) in enumerate(zip(row.values, row.shown, strict=True)):
            at, width = y + 3 + number * _LINE, min(value * scale, _BAR)
            parts.append(f'<rect class="s{number}" x="{_LABEL}" y="{at}" width="{width:.2f}" height="{_LINE - 3}" />')
            parts.append(f'<text x="{_LABEL + width + 6:.2f}" y="{at + 10.5:g}">{text(shown)}</text>')
        parts.append("</g>")
    whole = max(1, top + len(rows) * height)
    size = f'viewBox="0 0 {_LABEL + _BAR + _VALUE} {whole}" width="{_LABEL + _BAR + _VALUE}" height="{whole}"'
    drawn = "".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{text(title)}" {size}>{drawn}</svg>'


def _legend(series: Sequence[str]) -> str:
    parts = []
    for number, name in enumerate(series):
        x = _LABEL + number * 180
        parts.append(f'<rect class="s{number}" x="{x}" y="3" width="12" height="12" />')
        parts.append(f'<text x="{x + 18}" y="13.5">{text(name)}</text>')
    return "".join(parts)


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    total: Sequence[str] = (),
    *,
    right: Collection[int] = (),
    marked: str | None = None,
    wrap: bool = True,
) -> str:
    """Return a table that a click on a column's head sorts.

    Args:
        head: Names of its columns.
        rows: Its cells; one that is an URL becomes a link.
        total: Its last row, which is not sorted.
        right: Indices of the columns that are set flush right.
        marked: Cells of this text stand out.
        wrap: Let text run over several lines where the page is narrow; else the table scrolls.
    """

    def line(cells: Sequence[str], tag: str = "td") -> str:
        return "".join(
            f"<{tag}{_class(index in right, cell == marked)}>{_linked(cell)}</{tag}>"
            for index, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line(row)}</tr>" for row in rows)
    foot = f"<tfoot><tr>{line(total)}</tr></tfoot>" if total else ""
    kind = "" if wrap else ' class="even"'
    whole = f"<thead><tr>{line(head, 'th')}</tr></thead><tbody>{body}</tbody>{foot}"
    return f'<div class="wide"><table{kind}>{whole}</table></div>'


def _class(right: bool, marked: bool) -> str:
    names = " ".join(name for name, wanted in (("number", right), ("yes", marked)) if wanted)
    return f' class="{names}"' if names else ""


def _linked(cell: str) -> str:
    if not re.fullmatch(r"(https://\S+\s*)+", cell):
        return text(cell)
    return " ".join(f'<a href="{text(url)}">{text(url.split("/", 2)[2])}</a>' for url in cell.split())


def page(title: str, sections: Sequence[tuple[str, str]], facts: Sequence[tuple[str, str]] = ()) -> str:
    """Return a whole page.

    Args:
        title: Its title.
        sections: Headings, and below each HTML that `bars`, `table` or `paragraph` made.
        facts: Figures that stand at the top: a number, and what it is.
    """
    tiles = "".join(f"<div><b>{text(number)}</b>{text(what)}</div>" for number, what in facts)
    body = "".join(f"<section><h2>{text(heading)}</h2>{content}</section>" for heading, content in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'; img-src data:\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head><body>"
        f'<h1>{text(title)}</h1><div class="facts">{tiles}</div>{body}<script>{_SORT}</script></body></html>\n'
    )


def paragraph(content: str) -> str:
    """Return a paragraph of text."""
    return f"<p>{text(content)}</p>"


# Okabe and Ito's colours, which colour-blind readers can tell apart; the lighter ones on dark.
_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a1a1a; --pale: #6b6b6b; --line: #dcdfe3; --tile: #f4f6f8;
  --s0: #0072b2; --s1: #d55e00; --yes: #00704f; }
@media (prefers-color-scheme: dark) { :root { --paper: #16191d; --ink: #e8e8e8; --pale: #a3a9b0; --line: #363c44;
  --tile: #1f242a; --s0: #56b4e9; --s1: #e69f00; --yes: #35c795; } }
body { margin: 2rem auto; max-width: 80rem; padding: 0 1.5rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p { max-width: 60rem; color: var(--pale); }
.facts { display: flex; flex-wrap: wrap; gap: .8rem; }
.facts div { background: var(--tile); border-radius: 6px; padding: .6rem 1rem; color: var(--pale); font-size: .85rem; }
.facts b { display: block; color: var(--ink); font-size: 1.25rem; font-variant-numeric: tabular-nums; }
svg { max-width: 100%; height: auto; font: 12px system-ui, sans-serif; } svg text { fill: var(--ink); }
.s0 { fill: var(--s0); } .s1 { fill: var(--s1); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { cursor: pointer; white-space: nowrap; } tfoot td { font-weight: 600; border-top: 2px solid var(--line); }
td:first-child { overflow-wrap: break-word; } .number { text-align: right; font-variant-numeric: tabular-nums; }
.even td { white-space: nowrap; } .yes { color: var(--yes); font-weight: 600; }
a { color: var(--s0); overflow-wrap: anywhere; }
@media print { body { max-width: none; } }
"""

# A second click turns the order round; cells that begin with a number, as 12,345 or 3x3, sort by it.
_SORT = """
for (const head of document.querySelectorAll("thead th")) head.addEventListener("click", () => {
  const column = head.cellIndex, body = head.closest("table").tBodies[0];
  const up = head.dataset.up !== "1";
  for (const other of head.parentNode.cells) delete other.dataset.up;
  head.dataset.up = up ? "1" : "0";
  const key = row => row.cells[column].textContent, number = cell => parseFloat(cell.replaceAll(",", ""));
  const order = (a, b) => number(a) - number(b) || a.localeCompare(b);
  const rows = [...body.rows].sort((a, b) => isNaN(number(key(a))) || isNaN(number(key(b)))
    ? key(a).localeCompare(key(b)) : order(key(a), key(b)));
  body.append(...(up ? rows : rows.reverse()));
});
"""
