"""Does every framework reach every other? All ordered pairs on every network of the zoo, pruned.

`python benchmarks/matrix.py` prints the tables and writes docs/conversion.md, and the figures as JSON to
build/benchmarks; names of networks after it measure those anew and no others. `--resume` goes on after an interruption,
`--page` writes the page of what is measured, `--check` exits 1 where a pair does not hold. What is measured is that of
the tests.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from campaign import Rows, campaign, counted
from page import ROOT, Table, facts_table, verdict, write
from timing import machine, tell

sys.path.insert(0, str(ROOT))  # the tests hold what is shared with them
from mopruning.ir import zoo
from tests.backends.conversions import FRAMEWORKS, OUTPUTS, PAIRS, Conversion, arrive, batches_for, depart, pruned
from tests.backends.small_zoo import SIDE, small

PAGE = """# From any framework to any other

{machine}

Written by `{command}`; `make bench` runs it. {which} of the [zoo](ir.md#the-zoo), pruned to 90%, or in banks
of 64 to 93.75% where that fits, is put into each of the five frameworks, read back from there, and taken to each of the
other four: twenty pairs. What arrives runs on two random batches, of 1 and of 3 images, in its own framework, and is
compared with what the network computed where it came from. ImageNet's networks see images of {side} (VGG 32, Inception
107, CenterNet 64) and have 10 classes here, the others their own.

{verdict}

## Pairs

The largest difference of an output over all networks, as a share of its range (limit {limit:.0e}), and the time that
reading from one and writing to the other took, summed over the networks: of one run, beside whatever else the machine
was doing.

{pairs}

## Networks

Of each network, over its twenty pairs: how many hold, the largest difference, and whether names, zeros and values are
the same bit for bit.

{networks}
"""


def measure(name: str) -> Rows:
    model = pruned(small(name))
    batches = batches_for(model)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for source in FRAMEWORKS:
            journey = depart(source, model, batches, Path(folder))
            for target in FRAMEWORKS:
                if target != source:
                    found.append(asdict(arrive(name, source, journey, target, batches, Path(folder))))
    return found


def pair_table(found: Sequence[Conversion]) -> Table:
    rows = []
    for source in FRAMEWORKS:
        row = [f"from {source}"]
        for target in FRAMEWORKS:
            some = [one for one in found if (one.source, one.target) == (source, target)]
            worst, seconds = max((one.difference for one in some), default=0.0), sum(one.seconds for one in some)
            row.append(f"{worst:.1e}, {seconds:.0f} s" if some else "-")
        rows.append(row)
    return Table("Pairs", ("", *(f"to {target}" for target in FRAMEWORKS)), rows)


def network_table(found: Sequence[Conversion]) -> Table:
    rows = []
    for name in dict.fromkeys(one.network for one in found):
        some = [one for one in found if one.network == name]
        held = sum(not one.problems() for one in some)
        same = "same" if all(one.names and one.zeros for one in some) else "**differ**"
        rows.append([name, f"{held} of {len(PAIRS)}", f"{max(one.difference for one in some):.1e}", same])
    return Table("Networks", ("network", "pairs that hold", "largest difference", "names, zeros, values"), rows)


def main() -> int:
    asked = campaign(__doc__, "matrix", zoo.names(), measure)
    found = [Conversion(**one) for name in zoo.names() for one in asked.parts.get(name, ())]
    pairs, networks = pair_table(found), network_table(found)
    pairs.print()
    networks.print()
    missed = [f"{one.network}, {one.source} to {one.target}: {text}" for one in found for text in one.problems()]
    tell(missed)
    if asked.whole:
        where = machine("torch", "mxnet", "tensorflow-cpu", "mindspore", "onnx", "onnxruntime")
        where["command"] = "python benchmarks/matrix.py"
        text = PAGE.format(
            machine=facts_table(where),
            command=where["command"],
            which=counted([*asked.parts], asked.names),
            side=SIDE,
            limit=OUTPUTS,
            verdict=verdict(missed, f"All {len(found)} conversions hold."),
            pairs=pairs.markdown(),
            networks=networks.markdown(),
        )
        write(
            "conversion", text, {"machine": where, "conversions": [asdict(one) for one in found]}, pages=ROOT / "docs"
        )
    return 1 if asked.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
