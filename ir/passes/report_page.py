"""A network's report as one page of HTML, with plots."""

from __future__ import annotations

from mopruning import html_page, runtimes
from mopruning.html_page import Bar, paragraph
from mopruning.ir.passes import report_tables
from mopruning.ir.passes.report import ENCODINGS, NetworkReport
from mopruning.ir.passes.report_tables import Cells


def page(found: NetworkReport, name: str, size: int) -> str:
    """Return a page that needs no other file.

    Args:
        found: The report.
        name: Name of the file that it is of.
        size: Its bytes.

    >>> import numpy as np
    >>> from mopruning.ir.passes.report import report_weights
    >>> made = page(report_weights({"<fc>": np.eye(8)}), "net.npz", 600)
    >>> made.count("<svg"), "&lt;fc&gt;" in made, "<fc>" in made
    (2, True, False)
    """
    counted = found.counted
    sections = [
        ("Sparsity of each layer", _sparsity(found)),
        ("Bytes of all weights in each encoding", _sizes(found, size)),
        ("Multiply-accumulates of each layer", _macs(found)),
        ("Layers", _table(report_tables.layers(found), wrap=False)),
        (
            "Who uses these zeros today",
            paragraph("“yes”, or what is in the way first. What each of them needs and gives stands below.")
            + _table(report_tables.gains(found)),
        ),
        (f"What runtimes need and give, as of {runtimes.CHECKED}", _offers(found)),
    ]
    dense, smallest = found.bytes("dense"), found.bytes("smallest")
    facts = [
        (f"{counted.sparsity:.2%}", f"of {counted.size:,} weights are zero"),
        (f"{dense / max(1, smallest):.1f} times", "smaller in the smallest encoding of each"),
    ]
    if found.macs is not None:
        effective = (found.effective_macs or 0) / max(1, found.macs)
        facts.append((f"{effective:.2%}", f"of {found.macs:,} multiply-accumulates are left"))
    if found.shrunk is not None and found.macs:
        facts.append((f"{found.shrunk.macs / found.macs:.2%}", "of them in the network that shrink leaves"))
    return html_page.page(f"{name}: what its zeros are worth", sections, facts)


def _sparsity(found: NetworkReport) -> str:
    rows = [Bar(row.name, (row.sparsity,), (f"{row.sparsity:.2%}",)) for row in found.counted.rows]
    return html_page.bars("sparsity of each layer", rows, largest=1.0)


def _sizes(found: NetworkReport, size: int) -> str:
    names = {**{name: name for name in ENCODINGS}, "smallest": "smallest for each"}
    rows = [Bar(shown, (found.bytes(name),), (f"{found.bytes(name):,}",)) for name, shown in names.items()]
    return html_page.bars("bytes in each encoding", [*rows, Bar("the file itself", (size,), (f"{size:,}",))])


def _macs(found: NetworkReport) -> str:
    if found.cost is None:
        return paragraph(f"Not known: {found.without_cost}.")
    rows = []
    for row in found.rows:
        dense, effective = row.macs or 0, row.effective_macs or 0
        rows.append(Bar(row.counted.name, (dense, effective), (f"{dense:,}", f"{effective:,}")))
    drawn = html_page.bars("multiply-accumulates of each layer", rows, ("all", "with a weight that is not zero"))
    return paragraph(f"F{found.of_what[1:]}.") + drawn


def _offers(found: NetworkReport) -> str:
    head = ("runtime", "what it is", "runs on", "needs", "gives", "layers", "share", "sources")
    rows = []
    for one in runtimes.RUNTIMES:
        using = found.gains(one.key)
        share = f"{report_tables.share(found, using):.4f}"
        gain = f"{one.never}: {one.gain}" if one.never else one.gain
        words = (one.key, one.name, one.hardware, one.needs, gain)
        rows.append((*words, str(len(using)), share, " ".join(one.sources)))
    what = "multiply-accumulates" if found.cost is not None else "weights"
    return paragraph(f"Share: of all {what}.") + html_page.table(head, rows, right=(5, 6))


def _table(cells: Cells, *, wrap: bool = True) -> str:
    return html_page.table(cells.head, cells.rows, cells.total, right=cells.right, marked="yes", wrap=wrap)
