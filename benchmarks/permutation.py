"""How much more magnitude does 2:4 pruning keep after a permutation of channels, and how long does the search take?

`python benchmarks/permutation.py` searches on the matrix of the published table, on one core, and on all of ResNet-50,
and writes docs/benchmarks/permutation.md and the figures as JSON to build/benchmarks. `matrix` or `network` measures
that part alone and takes the other's figures from the last run; `--quick` leaves the long searches out and writes
nothing; `--check` exits 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from page import FIGURES, Table, facts_table, verdict, write
from timing import Bystanders, machine

from mopruning.permutation import kept, kept_at_best, search

NAME = "permutation"
NETWORK, SEED = "resnet50", 1
TARGETS = {8: 1.0, 12: 10.0}  # seconds on one core, for each window
NETWORK_TARGET = 180.0  # seconds on two cores


@dataclass(frozen=True)
class Published:
    """A row of the published table: 128 filters of 64 channels, `numpy.random.seed(1)`.

    Args:
        name: What was done.
        settings: How we do it; None for what is no search.
        kept: Published magnitude, where there is one.
        efficacy: Published efficacy in percent.
        gpu: Published seconds on a V100.
        cpu: Published seconds on a CPU.
    """

    name: str
    settings: dict[str, Any] | None
    kept: float | None = None
    efficacy: float | None = None
    gpu: float | None = None
    cpu: float | None = None

    @property
    def long(self) -> bool:
        return self.settings is not None and self.settings["escapes"] * self.settings.get("window", 8) > 1000


def stripes(window: int, escapes: int) -> dict[str, Any]:
    return {"method": "stripe_groups", "window": window, "escapes": escapes}


def swaps(escapes: int) -> dict[str, Any]:
    return {"method": "channel_swap", "escapes": escapes}


ROWS = (
    Published("unpruned", None, 4083.169),
    Published("unstructured, 50%", None, 3060.238),
    Published("50% of every row", None, 3042.332, 100.0),
    Published("2:4, order as it was", None, 2852.377, 0.0),
    Published("random, 1,000 orders", {"method": "random", "escapes": 1000}, efficacy=11.1),
    Published("channel swap", swaps(0), 2913.352, 32.1, 0.214, 56.0),
    Published("channel swap, 100 escapes", swaps(100), None, 32.5, 2.25, 450.0),
    Published("channel swap, 1,000 escapes", swaps(1000), None, 36.0, 20.2),
    Published("stripe groups of 8", stripes(8, 0), 2919.757, 35.5, 0.013, 60.7),
    Published("stripe groups of 8, 100 escapes", stripes(8, 100), None, 35.5, 0.152),
    Published("stripe groups of 8, 1,000 escapes", stripes(8, 1000), None, 35.6, 1.39),
    Published("stripe groups of 12", stripes(12, 0), 2921.947, 36.6, 0.860),
    Published("stripe groups of 12, 100 escapes", stripes(12, 100)),
)


def published_matrix() -> np.ndarray[Any, Any]:
    return np.random.RandomState(1).uniform(size=(128, 64))


def matrix(quick: bool, repeats: int = 3) -> dict[str, Any]:
    """Search on the matrix of the published table, on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    weight = published_matrix()
    flat = np.sort(weight, axis=None)
    bounds = [weight.sum(), flat[flat.size // 2 :].sum(), kept_at_best(weight), kept(weight)]
    watched = Bystanders()
    rows = []
    for row in ROWS:
        if row.settings is None:
            rows.append({"name": row.name, "kept": float(bounds.pop(0))})
            continue
        if quick and row.long:
            continue
        best = float("inf")
        for _ in range(1 if row.long else repeats):
            began = time.process_time()  # neighbours make wall time longer, and this less so
            found = search([weight], **row.settings)
            best = min(best, time.process_time() - began)
        rows.append({"name": row.name, "kept": found.after, "efficacy": 100 * found.efficacy, "seconds": best})
    return {"rows": rows, "others": watched.cores(), "machine": machine("numpy")}


def network(quick: bool) -> dict[str, Any]:
    """Permute all of ResNet-50."""
    from mopruning import ir

    net = ir.zoo.build("resnet8_cifar" if quick else NETWORK, seed=SEED)
    watched = Bystanders()
    began, cpu = time.perf_counter(), time.process_time()
    found = ir.passes.permute(net)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    groups = [
        {
            "name": group.name,
            "channels": group.channels,
            "weights": len(group.weights),
            "reason": group.reason,
            "seconds": group.found.seconds if group.found else 0.0,
            "efficacy": 100 * group.found.efficacy if group.found else 0.0,
        }
        for group in found.groups
    ]
    result = {"seconds": seconds, "cpu": cpu, "groups": groups, "report": str(found), **found.to_dict()}
    return result | {"others": watched.cores(), "machine": machine("numpy")}


# ---- the page


def number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def matrix_table(figures: dict[str, Any]) -> Table:
    published = {row.name: row for row in ROWS}
    rows = []
    for row in figures["rows"]:
        theirs = published[row["name"]]
        rows.append(
            [
                row["name"],
                f"{row['kept']:,.3f}",
                number(theirs.kept, ",.3f"),
                number(row.get("efficacy"), ".1f"),
                number(theirs.efficacy, ".1f"),
                number(row.get("seconds"), ".3f"),
                number(theirs.gpu, ".3f"),
                number(theirs.cpu, ".1f"),
            ]
        )
    columns = (
        *("2:4 on 128x64", "kept", "published", "efficacy, %", "published", "one core, s"),
        *("published, V100, s", "published, CPU, s"),
    )
    return Table("The published table", columns, rows)


def layers_table(figures: dict[str, Any]) -> Table:
    rows = []
    for name, row in [*figures["layers"].items(), ("total", {**figures["total"], "shape": [], "reason": ""})]:
        before, after, best = (f"{row[key] / row['total']:.2%}" for key in ("before", "after", "best"))
        gain = (row["after"] - row["before"]) / (row["best"] - row["before"]) if row["best"] > row["before"] else 0.0
        rows.append([name, "x".join(map(str, row["shape"])), before, after, best, f"{gain:.1%}", row["reason"]])
    return Table("Magnitude kept", ("weight", "shape", "before", "after", "at best", "efficacy", "left because"), rows)


def missed(figures: dict[str, Any]) -> list[str]:
    found = []
    for row in figures.get("matrix", {}).get("rows", ()):
        for window, target in TARGETS.items():
            if row["name"] == f"stripe groups of {window}" and row["seconds"] > target:
                found.append(f"{row['name']}: {row['seconds']:.1f} s, target {target:g}")
    net = figures.get("network", {"seconds": 0.0})
    if net["seconds"] > NETWORK_TARGET:
        busy = f", with {net['others']:.1f} cores busy elsewhere" if net["others"] else ""
        text = f"{net['seconds']:.0f} s of wall time and {net['cpu']:.0f} s of processor time{busy}"
        found.append(f"{NETWORK}: {text}, target {NETWORK_TARGET:g} s on two cores")
    return found


PAGE = """# N:M channel permutation: magnitude kept, and time

{machine}

Written by `python benchmarks/permutation.py`; `make bench` runs it.

## The published table

A matrix of 128 filters and 64 channels, uniform from 0 to 1 by NumPy's legacy generator with seed 1, as in the table
that NVIDIA publishes with apex's ASP; its figures are quoted beside ours. Our times are processor time on one core, the
best of 3; a search with 1,000 escapes or orders, or with escapes from windows of 12, runs once{others_matrix}.

{matrix}

- **kept** is the sum of the magnitudes that 2:4 pruning leaves, in double precision. Added up in single precision, one
  after the other, our order for stripe groups of 8 gives the published 2,919.757 too.
- **efficacy** is the share of the loss that an order could avoid: 0 is the order as it was, 100 what pruning half of
  every row would keep.
- Escapes that find nothing better are undone here, so more of them never keep less.

## ResNet-50

All layers of the zoo's ResNet-50 with the initial weights of seed {seed}: {moved} of {groups} groups of channels
searched, in **{seconds:.0f} s** of wall time and {cpu:.0f} s of processor time on {cores} cores{others_network}.

"Left because" says why the input channels of a weight stand as they did; convolutions that 2:4 does not fit are not
listed.

{layers}

Initial weights are the hard case: no channel differs from another but by chance. The layers of a group share one order;
the more rows they have together, the less one order can do for all of them.

{verdict}
"""


def page(figures: dict[str, Any]) -> str:
    facts, net = figures["matrix"]["machine"], figures["network"]
    others = {
        part: ""
        if (cores := figures[part]["others"]) is None
        else f"; other processes kept {cores:.2f} cores busy meanwhile"
        for part in ("matrix", "network")
    }
    lost = missed(figures)
    return PAGE.format(
        machine=facts_table(facts),
        matrix=matrix_table(figures["matrix"]).markdown(),
        layers=layers_table(net).markdown(),
        others_matrix=others["matrix"],
        others_network=others["network"],
        seed=SEED,
        moved=sum(not group["reason"] for group in net["groups"]),
        groups=len(net["groups"]),
        seconds=net["seconds"],
        cpu=net["cpu"],
        cores=facts["cores"],
        verdict=verdict(lost),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", choices=("matrix", "network"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:  # in a process of its own, as one part holds itself to one core
        print(json.dumps({"matrix": matrix, "network": network}[arguments.part](arguments.quick)))
        return 0
    stored = FIGURES / f"{NAME}.json"
    figures = json.loads(stored.read_text()) if arguments.part and stored.is_file() else {}
    for part in (arguments.part,) if arguments.part else ("matrix", "network"):
        command = [sys.executable, __file__, part, "--measure", *(["--quick"] if arguments.quick else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        figures[part] = json.loads(done.stdout)
        figures[part]["machine"]["command"] = f"python benchmarks/{NAME}.py"
        {"matrix": matrix_table, "network": layers_table}[part](figures[part]).print()
    for line in missed(figures):
        print("missed:", line)
    if not arguments.quick and {"matrix", "network"} <= figures.keys():
        write(NAME, page(figures), figures)
    elif not arguments.quick:
        FIGURES.mkdir(parents=True, exist_ok=True)
        stored.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 1 if arguments.check and missed(figures) else 0


if __name__ == "__main__":
    sys.exit(main())
