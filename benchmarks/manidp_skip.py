"""What does it save to skip what gates prune? Networks skipped, masked and dense, one image at a time.

`MOPRUNING_DATA=FOLDER python benchmarks/manidp_skip.py` prints the tables and writes docs/benchmarks/manidp_skip.md,
its chart, and the figures as JSON to build/benchmarks; docs/data.md says where CIFAR-10 and the pretrained networks
come from. `--checkpoint` measures trained gates, of a checkpoint that a training wrote, in place of the untrained ones.
`--quick` measures one network on few images and writes nothing; `--check` exits 1 where a target is missed.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from dynamic_networks import CALIBRATION, KEPT, Dense, Way, exported, label, opened, read_images, runtime, untrained
from page import Table, chart, facts_table, verdict, write
from timing import SETTLE, Bystanders, Side, aside, command_line, interleaved, machine, tell
from torch import Tensor

from mopruning.backends.pytorch.manidp import DynamicResNet, checkpoint
from mopruning.backends.pytorch.manidp.skipping import Skipping
from mopruning.manidp import STRUCTURES, cost, macs
from mopruning.training.data import find

COUNT = 1000
TARGET = 1.3
THREADS = (1, 2)
BATCHES = (8, 32, 128)
RUN = 10  # images that a side computes in its turn

NAME, TARGETED = "manidp_skip", "ResNet-56"
WAYS = DENSE, MASKED, RUNTIME, OPEN, SKIPPED = "dense", "masked", "onnxruntime", "all kept", "skipped"


# ---- one image at a time


@dataclass(frozen=True)
class Result:
    """One line of the table; times in seconds, the median over the images.

    Args:
        name: The network.
        threads: Of PyTorch and onnxruntime.
        macs: Multiply-accumulates of an image, gates included, as a share of the dense network's with its gates.
        times: Way -> seconds.
        others: Cores that other processes kept busy.
        target: How many times faster than PyTorch's dense network.
    """

    name: str
    threads: int
    macs: float
    times: Mapping[str, float]
    others: float | None
    target: float | None

    @property
    def ratio(self) -> float:
        return self.times[DENSE] / self.times[SKIPPED]

    @property
    def met(self) -> bool:
        return self.target is None or self.ratio >= self.target

    def row(self) -> list[str]:
        times = [f"{self.times[way] * 1e3:.2f}" for way in WAYS]
        against = [f"{self.times[way] / self.times[SKIPPED]:.2f}" for way in (DENSE, RUNTIME, OPEN)]
        verdict = ["", ""] if self.target is None else [f"{self.target:g}", "yes" if self.met else "**no**"]
        others = "" if self.others is None else f"{self.others:.2f}"
        return [self.name, str(self.threads), f"{self.macs:.3f}", *times, *against, *verdict, others]


def take_turns(ways: Mapping[str, Way], images: Sequence[Tensor], rounds: int) -> dict[str, float]:
    """Return seconds for an image, the median of the best of some rounds; ways take turns every few images."""
    best = {name: [float("inf")] * len(images) for name in ways}
    for begin in range(0, len(images), RUN):
        for _ in range(rounds):
            for name, way in ways.items():
                time.sleep(SETTLE)
                way(images[begin])  # unmeasured: caches are the last side's
                for number in range(begin, min(begin + RUN, len(images))):
                    start = time.perf_counter()
                    way(images[number])
                    best[name][number] = min(best[name][number], time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in best.items()}


@dataclass(frozen=True)
class Agreement:
    """How a network's answers, skipped, compare with the masked network's on all images.

    Args:
        images: How many there were.
        same: Of how many all gates keep the same channels.
        difference: Largest difference of a logit of these.
        largest: Largest logit.
        distinct: Different choices that a gate makes for 128 images, mean over gates.
    """

    images: int
    same: int
    difference: float
    largest: float
    distinct: float

    @property
    def close(self) -> bool:
        return self.difference <= 1e-5 * max(1.0, self.largest)

    def row(self, name: str) -> list[str]:
        return [name, str(self.images), str(self.same), f"{self.difference:.1e}", f"{self.largest:.1f}"]


def agreement(net: DynamicResNet, images: Tensor) -> tuple[Agreement, float]:
    """Return it, and the share of multiply-accumulates that the images take."""
    shown = [net.details(batch) for batch in images.split(100)]
    logits, kept = torch.cat([one.logits for one in shown]), torch.cat([one.kept() for one in shown])
    found, counted = Skipping(net).logits_and_kept(images)
    same = (counted == kept).all(1)
    few = net.details(images[:128]).factors
    distinct = statistics.mean(len(factor.ne(0).unique(dim=0)) for factor in few)
    difference = float((found - logits)[same].abs().max())
    result = Agreement(len(images), int(same.sum()), difference, float(logits.abs().max()), distinct)
    share = macs(net.structure, kept.numpy()).mean() / cost(net.structure).total
    return result, float(share)


def one_by_one(
    name: str, net: DynamicResNet, images: Tensor, share: float, rounds: int, target: float | None
) -> list[Result]:
    content = exported(net)
    results = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        ways: dict[str, Way] = {
            DENSE: Dense(net),
            MASKED: net,
            RUNTIME: runtime(content, threads),
            OPEN: Skipping(opened(net)),
            SKIPPED: Skipping(net),
        }
        bystanders = Bystanders()
        times = take_turns(ways, images.split(1), rounds)
        results.append(Result(name, threads, share, times, bystanders.cores(), target))
        print(" ".join(results[-1].row()), flush=True)
    return results


# ---- batches


def in_batches(name: str, net: DynamicResNet, images: Tensor, rounds: int) -> list[list[str]]:
    """Return rows: milliseconds for an image in batches."""
    rows = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        ways: dict[str, Way] = {DENSE: Dense(net), MASKED: net, SKIPPED: Skipping(net)}
        for size in BATCHES:
            best = interleaved({way: Side(partial(run, images[:size])) for way, run in ways.items()}, rounds)
            times = [f"{best[way] / size * 1e3:.2f}" for way in ways]
            faster = [f"{best[way] / best[SKIPPED]:.2f}" for way in (DENSE, MASKED)]
            rows.append([name, str(threads), str(size), *times, *faster])
    return rows


# ---- the page

PAGE = """# Channels skipped: what dynamic pruning saves

{machine}

Written by `{command}`; `make bench` runs it. {count} test images of CIFAR-10, one at a time. PyTorch is in evaluation
and inference mode. All ways compute an image in the same process, ten images in turn; a figure is the median over the
images of the best of {rounds} rounds{bystanders}.

{speed}

![Times faster than the dense network in PyTorch]({name}.png)

- **MACs** is what an image's multiply-accumulates are of the dense network's with its gates, mean over the images.
- **dense** is PyTorch without gates; **masked** PyTorch with gates, which computes every channel and multiplies it by
  its saliency or by 0; **onnxruntime** the dense network there; **all kept** ours with every gate open; **skipped**
  ours: milliseconds for an image.
- The next three columns say how many times faster *skipped* is. Over *dense* it is better kernels and fewer channels
  together; over *all kept* it is the channels alone.
- Threads are those of PyTorch and onnxruntime. Ours computes one image in one thread; the first convolution and the
  classifier are PyTorch's, in as many as there are.
- **others** is how many cores other processes kept busy meanwhile: two threads that wait for each other suffer from
  that most.
- {gates}
- {verdict}

## The same answers

{agreement}

*same* is for how many images all gates keep the same channels, *difference* how far their logits lie apart at most. A
saliency that lies within rounding of its threshold may fall on the other side of it.

## Larger batches

{batches}

Milliseconds for an image, in batches. Images are computed one by one, each thread its own. Grouping them by what they
keep would not pay: among 128 images a gate chooses between {distinct}
sets of channels, so that a group would hold one or two images, and nothing is gathered or copied for an image that a
group could share.

## What bounds it

- Dense, PyTorch spends most of a ResNet-56's time in 55 convolutions of 16 to 64 channels, which take 70 to 80
  microseconds each, in one thread, 30 billion multiply-accumulates a second, where a convolution of 64 channels of
  32x32 pixels reaches 97; calls and normalisations come on top. Masked, it is {masked_over_dense} times slower still.
- Skipped, arithmetic bounds it again: {rate} billion multiply-accumulates a second for ResNet-56 in one thread,
  against {rate_open} with all channels kept and {rate_runtime} in onnxruntime. What is lost goes to channels that
  do not fill a group of four, and to gates, borders and ReLU, which do not shrink with the square of what is kept.
- One image keeps one thread busy. Where there are two, onnxruntime shares each layer between them, and its dense
  network overtakes the skipped one; two images at once, as in a batch, use both.

## What was tried

ResNet-56, one thread, half of the multiply-accumulates, milliseconds of CPU time for an image, best of many, measured
once on the machine above:

| way | ms |
| --- | ---: |
| dense, PyTorch | 7.45 |
| dense, PyTorch, channels last | 6.79 |
| masked, PyTorch | 9.60 |
| skipped, PyTorch: weights gathered, normalisation folded | 5.50 |
| skipped, the same through `torch.jit.script` | 5.23 |
| skipped, PyTorch: weights gathered, strided copy and `addmm` | 5.65 |
| skipped, NumPy: weights gathered, strided copy and `dot` | 7.05 |
| dense, onnxruntime | 1.51 |
| **skipped, Numba with vectors of LLVM** | 1.02 |
| the same with AVX2 instead of AVX-512 | 2.01 |

Gathering weights in PyTorch is 1.36 times faster than its dense network, and far behind the dense network in
onnxruntime, which whoever wants speed would run instead. Loops that Numba translates by itself cannot tell LLVM that
arrays do not overlap, nor hold the sums of several channels in registers, so the convolution is written as vectors.
`torch.compile` needs a C++ compiler on the user's machine and was left out.
"""


def main() -> int:
    parser = command_line(__doc__, "one network, 20 images", 3, 2)
    parser.add_argument(
        "--checkpoint", type=Path, action="append", default=[], help="trained gates, in place of a network's untrained"
    )
    arguments = parser.parse_args()
    rounds = arguments.repeats
    torch.set_num_threads(1)
    folder = os.environ.get("MOPRUNING_DATA")
    if not folder:
        parser.error("set MOPRUNING_DATA to the folder that holds cifar10 and cifar_resnets")
    test = find("cifar10", None, "test")[: 20 if arguments.quick else COUNT]
    calibration = read_images(find("cifar10", None, "train")[:CALIBRATION], "imagenet")

    networks: dict[str, tuple[DynamicResNet, str]] = {}
    for depth, width in ((20, 1),) if arguments.quick else ((20, 1), (56, 1), (20, 4)):
        net = untrained(depth, width, Path(folder), calibration)
        networks[label(net)] = net, "imagenet"
    trained = []
    for path in arguments.checkpoint:
        net = checkpoint.read_network(path)
        networks[label(net)] = net, checkpoint.read(path)["normalize"]
        trained.append(label(net))

    results: list[Result] = []
    agreements: dict[str, Agreement] = {}
    rows: list[list[str]] = []
    bystanders = Bystanders()
    with torch.inference_mode():
        for name, (net, normalize) in networks.items():
            images = read_images(test, normalize)
            agreements[name], share = agreement(net, images)
            target = TARGET if name == TARGETED else None
            results += one_by_one(name, net, images, share, rounds, target)
            if net.structure.channels[0] == 16 and not arguments.quick:
                rows += in_batches(name, net, images, 2 * rounds)
    others = bystanders.cores()

    against = (f"x {way}" for way in (DENSE, RUNTIME, OPEN))
    columns = ("network", "threads", "MACs", *(f"{way}, ms" for way in WAYS), *against, "target", "met", "others")
    tables = {
        "speed": Table("One image at a time", columns, [result.row() for result in results]),
        "agreement": Table(
            "The same answers",
            ("network", "images", "same", "difference", "largest logit"),
            [found.row(name) for name, found in agreements.items()],
        ),
        "batches": Table(
            "Larger batches",
            ("network", "threads", "batch", *(f"{way}, ms" for way in (DENSE, MASKED, SKIPPED)), "x dense", "x masked"),
            rows,
        ),
    }
    for table in tables.values():
        table.print()
    missed = [f"{r.name}, {r.threads} threads: {r.ratio:.2f}, target {r.target:g}" for r in results if not r.met]
    missed += [
        f"{name}: logits differ by {found.difference:.1e}" for name, found in agreements.items() if not found.close
    ]
    tell(missed, others)
    if not arguments.quick:
        report(results, agreements, tables, trained, missed, others, rounds)
    return 1 if arguments.check and missed else 0


def report(
    results: Sequence[Result],
    agreements: Mapping[str, Agreement],
    tables: Mapping[str, Table],
    trained: Sequence[str],
    missed: Sequence[str],
    others: float | None,
    rounds: int,
) -> None:
    facts = machine("numpy", "torch", "onnxruntime", "numba")
    shown = next(result for result in results if result.name == TARGETED)
    dense = cost(STRUCTURES["dyresnet56"])
    rates = {
        "rate": dense.total * shown.macs / shown.times[SKIPPED],
        "rate_open": dense.total / shown.times[OPEN],
        "rate_runtime": dense.dense / shown.times[RUNTIME],
    }
    gates = "The gates are trained: " + ", ".join(trained) + "." if trained else ""
    if len(trained) < len(agreements):
        gates += (
            f" {'The other' if trained else 'The'} gates are untrained: random, with thresholds that keep about "
            f"{KEPT:.0%} of the channels of {CALIBRATION} training images. The networks around them are public ones "
            "with shortcuts of option A, but for the wide one, whose weights are random."
        )
    text = PAGE.format(
        name=NAME,
        machine=facts_table(facts),
        command=facts["command"],
        count=f"{COUNT:,}",
        rounds=rounds,
        bystanders=aside(others),
        gates=gates.strip(),
        verdict=verdict(missed, "The target is met."),
        distinct=" or ".join(f"{found.distinct:.0f} ({name})" for name, found in agreements.items()),
        masked_over_dense=f"{shown.times[MASKED] / shown.times[DENSE]:.1f}",
        **{name: f"{rate / 1e9:.0f}" for name, rate in rates.items()},
        **{name: table.markdown() for name, table in tables.items()},
    )
    figures = {
        "machine": facts,
        "other processes, cores": others,
        "one image": [{**vars(result), "ratio": result.ratio, "met": result.met} for result in results],
        "agreement": {name: vars(found) for name, found in agreements.items()},
        "batches": [dict(zip(tables["batches"].columns, row, strict=True)) for row in tables["batches"].rows],
    }
    write(NAME, text, figures)
    chart(
        NAME,
        "Times faster than the dense network in PyTorch, one image at a time",
        [f"{result.name}, {result.threads} threads\n{way}" for result in results for way in (RUNTIME, OPEN, SKIPPED)],
        [result.times[DENSE] / result.times[way] for result in results for way in (RUNTIME, OPEN, SKIPPED)],
        [result.target if way == SKIPPED else None for result in results for way in (RUNTIME, OPEN, SKIPPED)],
        log=False,
    )


if __name__ == "__main__":
    sys.exit(main())
