"""How fast, how lean and how exact are masks? ResNet-50's weights, ours against what PyTorch offers.

`python benchmarks/masks.py` prints the tables and writes docs/benchmarks/masks.md, its chart, and the figures as JSON
to build/benchmarks. `--quick` measures one block of layers and writes nothing; `--check` exits 1 where a
target is missed.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import resnet50
import rivals
import torch
from page import Table, chart, facts_table, verdict, write
from rivals import BANK, BANK_SPARSITY, SPARSITY
from timing import Bystanders, Side, aside, command_line, interleaved, machine, tell
from torch import Tensor, nn

from mopruning import mask
from mopruning.allocation import global_masks
from mopruning.granularity import parse_granularity
from mopruning.scores import magnitude

THREADS = 2


# ---- ours


def ours(weights: Mapping[str, Tensor], granularity: str, sparsity: float) -> list[Tensor]:
    return [mask(magnitude(weight), granularity, sparsity) for weight in weights.values()]


def ours_of_all(weights: Mapping[str, Tensor]) -> list[Tensor]:
    """One ranking of all layers; magnitudes are taken block by block and never stand in memory."""
    return list(global_masks(weights, SPARSITY, key=abs).values())


# ---- the questions


@dataclass(frozen=True)
class Question:
    """One kind of mask and who else makes it.

    Args:
        name: What the masks are.
        granularity: Its text; layers that it does not fit are left out on both sides.
        sparsity: Share of zeros.
        rival: How else it is done.
        by: The rival for one layer.
        target: How many times faster ours should be.
    """

    name: str
    granularity: str
    sparsity: float
    rival: str
    by: Callable[[Tensor], Tensor]
    target: float | None = None


QUESTIONS = (
    Question("unstructured 90%, each layer", "unstructured", SPARSITY, "torch.kthvalue", rivals.by_kthvalue, 5.0),
    Question("bank-balanced 64, 93.75%", "bank:64", BANK_SPARSITY, "topk + scatter", rivals.by_topk, 3.0),
    Question("2:4", "2:4", 0.5, "argmax of six patterns", rivals.by_six_patterns, 3.0),
    Question("filters 90%", "filter", SPARSITY, "sum + topk", rivals.filters_by_topk),
    Question("stripes 90%", "stripe", SPARSITY, "sum + topk", rivals.stripes_by_topk),
    Question("4x4 blocks 90%", "block:4x4", SPARSITY, "sum + topk", rivals.blocks_by_topk),
    Question("kernel patterns, 4 of 9", "pattern", 5 / 9, "argmax of patterns", rivals.kernels_by_patterns),
)
AS_ONE = "unstructured 90%, all layers as one"
L1_UNSTRUCTURED, GLOBAL_UNSTRUCTURED = "prune.l1_unstructured", "prune.global_unstructured"


@dataclass(frozen=True)
class Result:
    """One line of the speed table; times in seconds."""

    name: str
    rival: str
    layers: int
    ours: float
    theirs: float
    copy: float
    target: float | None

    @property
    def ratio(self) -> float:
        return self.theirs / self.ours

    @property
    def met(self) -> bool:
        return self.target is None or self.ratio >= self.target

    def row(self) -> list[str]:
        times = [f"{seconds * 1e3:.1f}" for seconds in (self.ours, self.theirs, self.copy)]
        verdict = ["", ""] if self.target is None else [f"{self.target:g}", "yes" if self.met else "**no**"]
        return [self.name, self.rival, str(self.layers), *times, f"{self.ratio:.1f}", *verdict]


def speed(weights: Mapping[str, Tensor], repeats: int) -> list[Result]:
    def layers() -> list[tuple[nn.Module, str]]:
        return rivals.layers_of(weights)

    results = []
    for question in QUESTIONS:
        fits = parse_granularity(question.granularity).misfit
        fitting = {name: weight for name, weight in weights.items() if fits(tuple(weight.shape)) is None}
        sides = {
            "ours": Side(partial(ours, fitting, question.granularity, question.sparsity)),
            question.rival: Side(partial(_each, question.by, fitting)),
        }
        targets = {question.rival: question.target}
        if question is QUESTIONS[0]:
            sides[L1_UNSTRUCTURED] = Side(rivals.by_l1_unstructured, layers)
            targets[L1_UNSTRUCTURED] = 40.0
        results += _compare(question.name, fitting, sides, targets, repeats)
    sides = {
        "ours": Side(partial(ours_of_all, weights)),
        "torch.kthvalue": Side(partial(rivals.by_kthvalue_of_all, list(weights.values()))),
        GLOBAL_UNSTRUCTURED: Side(rivals.by_global_unstructured, layers),
    }
    results[2:2] = _compare(AS_ONE, weights, sides, {"torch.kthvalue": 10.0, GLOBAL_UNSTRUCTURED: 50.0}, repeats)
    return results


def _each(way: Callable[[Tensor], Tensor], weights: Mapping[str, Tensor]) -> list[Tensor]:
    return [way(weight) for weight in weights.values()]


def _compare(
    name: str,
    weights: Mapping[str, Tensor],
    sides: dict[str, Side],
    targets: Mapping[str, float | None],
    repeats: int,
) -> list[Result]:
    room = [torch.empty_like(weight) for weight in weights.values()]
    copy = Side(lambda: [to.copy_(weight) for to, weight in zip(room, weights.values(), strict=True)])
    best = interleaved({**sides, "copy": copy}, repeats)
    return [
        Result(name, label, len(weights), best["ours"], best[label], best["copy"], target)
        for label, target in targets.items()
    ]


def memory(weights: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the peak of memory taken, masks handed back not counted, in multiples of the largest weight."""
    largest = max(weights.values(), key=Tensor.numel)
    jobs: dict[str, Callable[[], list[Tensor]]] = {
        question.name: partial(ours, {"largest": largest}, question.granularity, question.sparsity)
        for question in QUESTIONS
        if parse_granularity(question.granularity).misfit(tuple(largest.shape)) is None
    }
    jobs[AS_ONE] = partial(ours_of_all, weights)
    peaks = {}
    for name, job in jobs.items():
        job()  # tables that are made once are not counted
        tracemalloc.start()
        masks = job()
        peak = tracemalloc.get_traced_memory()[1] - sum(mask.nbytes for mask in masks)
        tracemalloc.stop()
        peaks[name] = peak / (largest.numel() * largest.element_size())
    return peaks


def hard_inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn((256, 256, 3, 3), generator=generator) * 0.02
    alive = torch.rand(normal.shape, generator=generator) >= 0.95
    return {
        "normal": normal,
        "int8 grid": (normal / normal.abs().max() * 127).round(),
        "rounded to bfloat16": normal.bfloat16().float(),
        "95% zero already": normal * alive,
        "constant": torch.full(normal.shape, 0.02),
    }


def exactness() -> dict[str, dict[str, int]]:
    """Return for each hard input and way how many zeros the masks have beyond what was asked, groups summed up."""
    found: dict[str, dict[str, int]] = {}
    for name, weight in hard_inputs().items():
        layer = rivals.layers_of({name: weight})
        rivals.by_l1_unstructured(layer)
        ways = {
            "90%: torch.kthvalue": (rivals.by_kthvalue(weight), weight.numel(), SPARSITY),
            f"90%: {L1_UNSTRUCTURED}": (layer[0][0].get_buffer("weight_mask").bool(), weight.numel(), SPARSITY),
            "bank: rival": (rivals.by_topk(weight), BANK, BANK_SPARSITY),
            "2:4: rival": (rivals.by_six_patterns(weight), 4, 0.5),
        }
        for title, granularity, group, sparsity in (
            ("90%", "unstructured", weight.numel(), SPARSITY),
            ("bank", "bank:64", BANK, BANK_SPARSITY),
            ("2:4", "2:4", 4, 0.5),
        ):
            (kept,) = ours({name: weight}, granularity, sparsity)
            ways[f"{title}: ours"] = (kept, group, sparsity)
        order = sorted(ways, key=lambda way: (("90%", "bank", "2:4").index(way.split(": ")[0]), "ours" not in way))
        found[name] = {way: _beyond(*ways[way]) for way in order}
    return found


def _beyond(kept: Tensor, group: int, sparsity: float) -> int:
    """Return the zeros beyond what was asked; of several groups the differences summed up without sign."""
    if group == kept.numel():
        return group - int(kept.sum()) - int(sparsity * group)
    zeros = group - rivals.rows(kept.int(), group).sum(1)
    return int((zeros - int(sparsity * group)).abs().sum())


# ---- the page

PAGE = """# Masks: speed, memory, exactness

{machine}

Written by `{command}`; `make bench` runs it. Torch runs {threads} threads, ours at most one a core. Best of {repeats}
rounds in which all sides take turns, so that all see the same noise{bystanders}.
Weights: ResNet-50's {layers} shapes, {size:,} numbers, normal with deviation 0.02, float32; both sides start from the
weights, so |w| is in the time.

## Speed

{speed}

![Times faster than each rival]({name}.png)

- **ours** and **rival** are milliseconds for the masks of all layers that the granularity fits (column *layers*); the
  others, such as the stem's 3 input channels, are left dense on both sides.
- **copy** is what copying the same weights takes, once, to memory that is there already.
- **times faster** is rival over ours. A ratio in one run says more than milliseconds, which depend on the machine.
- `torch.kthvalue` then compares with the threshold, and `topk + scatter` writes its indices to a bool mask; both run on
  contiguous rows where that is faster. `prune.*` are the functions of `torch.nn.utils.prune`, which also multiply the
  mask into the weight.
- *unstructured, all layers as one* ranks the weights of all layers against each other.
- Filters, stripes, blocks and kernel patterns rank sums. Ours are exact, in whole numbers, so that every device ranks
  them alike; plain torch adds in float32, which is faster and comes out differently in another order.
- {verdict}

## Memory

Peak of memory taken on the way, in multiples of the largest weight (512x512x3x3, 9.4 MB), |w| included, the masks
handed back not; target: 2 or less.

{memory}

## Exactness

Zeros beyond what was asked, on one weight of 589,824 numbers: 0 is exact. For banks and 2:4 it is the differences of
all groups, summed up without sign. (`prune.l1_unstructured` rounds 530,841.6 zeros up, ours always down.)

{exactness}
"""


def main() -> int:
    arguments = command_line(__doc__, "three layers, two rounds", 7, 2).parse_args()
    repeats = arguments.repeats
    torch.set_num_threads(THREADS)
    arrays = resnet50.weights(only="layer4.2" if arguments.quick else "")
    weights = {name: torch.from_numpy(array) for name, array in arrays.items()}

    bystanders = Bystanders()
    results = speed(weights, repeats)
    others = bystanders.cores()
    peaks = memory(weights)
    deviations = exactness()

    columns = ("masks", "rival", "layers", "ours, ms", "rival, ms", "copy, ms", "times faster", "target", "met")
    ways = list(next(iter(deviations.values())))
    tables = {
        "speed": Table("Speed", columns, [result.row() for result in results]),
        "memory": Table("Peak memory", ("masks", "x largest weight"), [[k, f"{v:.2f}"] for k, v in peaks.items()]),
        "exactness": Table(
            "Zeros beyond what was asked",
            ("weights", *ways),
            [[name, *(f"{row[way]:,}" for way in ways)] for name, row in deviations.items()],
        ),
    }
    for table in tables.values():
        table.print()
    missed = [f"{r.name} against {r.rival}: {r.ratio:.1f}, target {r.target:g}" for r in results if not r.met]
    missed += [f"{name}: {peak:.2f} times the largest weight, target 2" for name, peak in peaks.items() if peak > 2.0]
    missed += [
        f"{name}, {way}: {row[way]} zeros off"
        for name, row in deviations.items()
        for way in ways
        if "ours" in way and row[way]
    ]
    tell(missed, others)

    if not arguments.quick:
        facts = machine("numpy", "torch")
        text = PAGE.format(
            name="masks",
            machine=facts_table(facts),
            command=facts["command"],
            threads=THREADS,
            repeats=repeats,
            bystanders=aside(others),
            layers=len(weights),
            size=sum(weight.numel() for weight in weights.values()),
            verdict=verdict(missed),
            **{name: table.markdown() for name, table in tables.items()},
        )
        figures = {
            "machine": facts,
            "other processes, cores": others,
            "speed": [{**vars(result), "ratio": result.ratio, "met": result.met} for result in results],
            "memory": peaks,
            "exactness": deviations,
        }
        write("masks", text, figures)
        chart(
            "masks",
            "Times faster than each rival, ResNet-50's weights",
            [f"{result.name}\n{result.rival}" for result in results],
            [result.ratio for result in results],
            [result.target for result in results],
            log=True,
        )
    return 1 if arguments.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
