"""What does a sparse optimizer step cost over a native one? ResNet-50's weights, 90% unstructured masks in force.

`python benchmarks/optimizer_step.py` prints the table and writes docs/benchmarks/optimizer_step.md, its chart, and the
figures as JSON to build/benchmarks. `--quick` measures three layers and writes nothing; `--check` exits 1 where a
target is missed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import resnet50
import torch
from page import Table, chart, facts_table, verdict, write
from timing import Bystanders, Side, aside, command_line, interleaved, machine, tell
from torch import nn
from torch.optim import Optimizer

from mopruning.backends import pytorch

THREADS = 2
SPARSITY = 0.9
TARGET = 1.10
FREQUENCY = 100

SGD = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}
ADAM = {"lr": 1e-3}
CASES: tuple[tuple[str, type[Optimizer], Callable[..., Optimizer], dict[str, Any], float | None], ...] = (
    ("SGD, momentum, weight decay", torch.optim.SGD, pytorch.SGDSparse, SGD, TARGET),
    ("Adam", torch.optim.Adam, pytorch.AdamSparse, ADAM, TARGET),
    ("AdamW", torch.optim.AdamW, pytorch.AdamWSparse, ADAM, TARGET),
    ("SGD, momentum, no weight decay", torch.optim.SGD, pytorch.SGDSparse, {**SGD, "weight_decay": 0.0}, TARGET),
    ("SGD, foreach=True", torch.optim.SGD, pytorch.SGDSparse, {**SGD, "foreach": True}, None),
    ("SGD, fused=True", torch.optim.SGD, pytorch.SGDSparse, {**SGD, "fused": True}, None),
    ("Adam, fused=True", torch.optim.Adam, pytorch.AdamSparse, {**ADAM, "fused": True}, None),
)


class Network(nn.Module):
    """Weights of given shapes, each with a gradient; it computes nothing."""

    def __init__(self, only: str = "") -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        for name, array in resnet50.weights(only=only).items():
            weight = nn.Parameter(torch.from_numpy(array.copy()))
            weight.grad = torch.randn(weight.shape, generator=generator) * 1e-3
            self.register_parameter(name.replace(".", "_"), weight)


@dataclass(frozen=True)
class Result:
    """One line of the table; times in seconds."""

    name: str
    native: float
    sparse: float
    copy: float
    target: float | None

    @property
    def ratio(self) -> float:
        return self.sparse / self.native

    @property
    def met(self) -> bool:
        return self.target is None or self.ratio <= self.target

    def row(self) -> list[str]:
        times = [f"{seconds * 1e3:.2f}" for seconds in (self.native, self.sparse, self.copy)]
        verdict = ["", ""] if self.target is None else [f"{self.target:.2f}", "yes" if self.met else "**no**"]
        return [self.name, *times, f"{self.ratio:.2f}", *verdict]


def measure(only: str, repeats: int) -> list[Result]:
    results = []
    for name, native_class, sparse_class, options, target in CASES:
        networks = [Network(only) for _ in range(3)]
        native = native_class(networks[0].parameters(), **options)
        sparse = sparse_class(networks[1].named_parameters(), **options, target_sparsity=SPARSITY)
        sides = {"native": Side(native.step), "sparse": Side(sparse.step), "copy": copy_of(networks[0])}
        if name == CASES[0][0]:
            ramp = {"target_sparsity": SPARSITY, "sparse_step": 1_000_000, "frequency": 1}
            updating = sparse_class(networks[2].named_parameters(), **options, init_sparsity=0.8, **ramp)
            beside = Network(only)
            pruner = pytorch.Prune(
                beside, prune_dict=dict.fromkeys(dict(beside.named_parameters()), SPARSITY), balance="none"
            )
            sides |= {"update": Side(updating.step), "prune": Side(pruner.prune)}
        for side in sides.values():
            side.run()  # makes the masks and the optimizer's state
        best = interleaved(sides, repeats)
        results.append(Result(name, best["native"], best["sparse"], best["copy"], target))
        if "update" in best:
            mean = ((FREQUENCY - 1) * best["sparse"] + best["update"]) / FREQUENCY
            results += [
                Result(f"- masks anew every {FREQUENCY} steps, mean", best["native"], mean, best["copy"], None),
                Result("- masks anew, that step", best["native"], best["update"], best["copy"], None),
                Result(
                    "- native and Prune.prune()", best["native"], best["native"] + best["prune"], best["copy"], None
                ),
            ]
    return results


def copy_of(network: nn.Module) -> Side:
    weights = [weight.detach() for weight in network.parameters()]
    room = [torch.empty_like(weight) for weight in weights]
    return Side(lambda: [to.copy_(weight) for to, weight in zip(room, weights, strict=True)])


PAGE = """# The cost of a sparse optimizer step

{machine}

Written by `{command}`; `make bench` runs it. {threads} threads. Best of {repeats} rounds in which native and sparse
steps take turns, so that both see the same noise{bystanders}.
{layers} weights of ResNet-50, {size:,} numbers, float32, each with a dense gradient; masks of 90%, unstructured, are
in force on all of them.

{steps}

![Time of a sparse step over a native one]({name}.png)

- **native** is `optimizer.step()` of `torch.optim` in milliseconds, **sparse** that of the class of the same name plus
  `Sparse`, which zeroes the gradients of pruned weights first. **ratio** is sparse over native; target: {target:.2f} or
  less.
- **copy** is what copying the weights takes, once, to memory that is there already.
- Zeroing the gradients costs about as much as the copy. Where the choice of kernel is left to the optimizer, a native
  step of SGD with weight decay, or of Adam, makes more passes over memory than it needs; once masks are in force, the
  sparse step takes torch's fused kernel instead, which pays for the zeroing. SGD without weight decay has no pass to
  spare, and where the user chose a kernel (`foreach=True`, `fused=True`) both sides run it: there the zeroing comes
  on top.
- *masks anew* is a step that also scores and ranks all weights, as every {frequency}th does on a ramp with
  `frequency={frequency}`; *mean* is over {frequency} steps, one of them such a step.
- `Prune.prune()` zeroes the pruned weights after a native step.
- Forward and backward pass, which take most of a training step, are not in these figures.
- {verdict}
"""


def main() -> int:
    arguments = command_line(__doc__, "three layers, five rounds", 30, 5).parse_args()
    repeats = arguments.repeats
    torch.set_num_threads(THREADS)

    bystanders = Bystanders()
    results = measure("layer4.2" if arguments.quick else "", repeats)
    others = bystanders.cores()
    columns = ("step", "native, ms", "sparse, ms", "copy, ms", "ratio", "target", "met")
    table = Table("Sparse over native step", columns, [result.row() for result in results])
    table.print()
    missed = [f"{r.name}: {r.ratio:.2f}, target {r.target:.2f}" for r in results if not r.met]
    tell(missed, others)
    if not arguments.quick:
        report(results, table, missed, others, repeats)
    return 1 if arguments.check and missed else 0


def report(results: list[Result], table: Table, missed: list[str], others: float | None, repeats: int) -> None:
    facts: Mapping[str, str] = machine("numpy", "torch")
    shapes = resnet50.shapes()
    text = PAGE.format(
        name="optimizer_step",
        machine=facts_table(facts),
        command=facts["command"],
        threads=THREADS,
        repeats=repeats,
        bystanders=aside(others),
        layers=len(shapes),
        size=sum(torch.Size(shape).numel() for shape in shapes.values()),
        target=TARGET,
        frequency=FREQUENCY,
        steps=table.markdown(),
        verdict=verdict(missed),
    )
    figures = {
        "machine": facts,
        "other processes, cores": others,
        "steps": [{**vars(result), "ratio": result.ratio, "met": result.met} for result in results],
    }
    write("optimizer_step", text, figures)
    chart(
        "optimizer_step",
        "Time of a sparse step over a native one, ResNet-50's weights",
        [result.name.removeprefix("- ") for result in results],
        [result.ratio for result in results],
        [result.target for result in results],
        log=False,
    )


if __name__ == "__main__":
    sys.exit(main())
