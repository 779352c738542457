"""What survives a round trip? Every network of the zoo, pruned, through .mopir and ONNX files and back, at full size.

`python benchmarks/round_trips.py` prints the table and writes docs/benchmarks/round_trips.md and the figures as JSON to
build/benchmarks; names of networks after it measure those anew and no others, and `--quick` three small ones.
`--resume` goes on after an interruption, `--page` writes the page of what is measured, `--check` exits 1 where
something does not hold. What is measured, and the limits, are those of the tests.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from campaign import Rows, campaign, counted
from page import ROOT, Table, facts_table, verdict, write
from timing import machine, tell

sys.path.insert(0, str(ROOT))  # the tests hold what is shared with them
from mopruning.ir import zoo
from tests.backends.round_trips import LOSSES, OUTPUTS, STEPS, Trip, original, trips

COLUMNS = (
    *("network", "chain", "sparsity", "outputs", "onnxruntime", "names", "weights", "zeros", "step 1", "step 2"),
    *("statistics", "loss at step 1", "loss after 5 steps"),
)
PAGE = """# Round trips

{machine}

Written by `{command}`; `make bench` runs it. {which} of the zoo at its full image size, pruned to 50% in banks of
64 where that fits at least half of its weights, else to 90% unstructured, sent through files and back, and trained
where it arrived. The tests do the same with smaller images.

{table}

- **outputs**: the largest difference between the outputs of what arrived and of the original, as a share of the range
  of the output. Limit: {outputs:.0e}.
- **onnxruntime**: the same between the ONNX file on the way, run in onnxruntime, and the original in PyTorch. Limit:
  {outputs:.0e}, or three times what float32 itself is off from float64 in this network, if that is more.
- **names**, **weights**, **zeros**: whether parameters and buffers have the same names in the same order, the same
  types, shapes and bits, and zeros in the same places.
- **step 1**, **step 2**: the relative difference of the loss before and after the first update, between what arrived
  and the original, trained alike on one batch by `SGDSparse(fix_sparsity=True)`. Limit: {losses:.0e}.
- **statistics**: the largest relative difference of BatchNorm's running statistics after the first step; - where there
  is no BatchNorm. Limit: {losses:.0e}.
- **loss after 5 steps**: the loss falls, and the pruned weights are still 0.
- What arrives by ONNX arrives as a trainable network, too.
- {verdict}
"""


def row(trip: Trip) -> list[str]:
    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.1e}" if value else "0"

    facts = ["same" if fact else "**differ**" for fact in (trip.names and trip.order, trip.weights, trip.zeros)]
    compared = [share(value) for value in (trip.first, trip.second, trip.statistics)]
    losses = [f"{trip.losses[0]:.4g}", f"{trip.losses[STEPS]:.4g}"]
    start = [trip.network, trip.chain.replace("->", "→"), f"{trip.sparsity:.4f}"]
    return [*start, share(trip.difference), share(trip.runtime), *facts, *compared, *losses]


def measure(name: str) -> Rows:
    with tempfile.TemporaryDirectory() as folder:
        return [asdict(trip) for trip in trips(original(name), Path(folder))]


def main() -> int:
    asked = campaign(__doc__, "round_trips", zoo.names(), measure)
    found = [
        Trip(**{**one, "losses": tuple(one["losses"])}) for name in zoo.names() for one in asked.parts.get(name, ())
    ]
    table = Table("Round trips", COLUMNS, [row(trip) for trip in found])
    table.print()
    missed = [f"{trip.network}, {trip.chain}: {text}" for trip in found for text in trip.problems()]
    tell(missed)
    if asked.whole:
        where = machine("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime") | {
            "threads": str(torch.get_num_threads())
        }
        where["command"] = "python benchmarks/round_trips.py"
        text = PAGE.format(
            machine=facts_table(where),
            command=where["command"],
            which=counted([*asked.parts], asked.names),
            table=table.markdown(),
            outputs=OUTPUTS,
            losses=LOSSES,
            verdict=verdict(missed, "Everything holds."),
        )
        write("round_trips", text, {"machine": where, "trips": [asdict(trip) for trip in found]})
    return 1 if asked.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
