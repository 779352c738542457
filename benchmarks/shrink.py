"""How small and fast does a network get that lost half of its channels? Against Torch-Pruning, at equal ratio.

`python benchmarks/shrink.py` prints the table and writes docs/benchmarks/shrink.md, its chart, and the figures as JSON
to build/benchmarks. `--quick` measures the two small networks with few repeats and writes nothing; `--check` exits 1
where a target is missed. The rival is `torch-pruning`, in the extra `test`.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from page import Table, chart, facts_table, verdict, write
from sessions import runner
from timing import Bystanders, Side, aside, command_line, interleaved, machine, tell
from torch import Tensor, nn
from torch_pruning_rival import cut

from mopruning import Recipe, ir
from mopruning.backends import pytorch
from mopruning.ir.passes import cost

RATIO = 0.5
THREADS = 2
LEAST = 0.95  # ratio at which next to no multiply-accumulates are left
WAYS = DENSE, RIVAL, OURS, FLOOR = "dense", "Torch-Pruning", "mopruning", f"mopruning, {LEAST:.0%}"
NETWORKS = {
    "VGG16": "vgg16_cifar",
    "ResNet-20": "resnet20_cifar",
    "ResNet-50": "resnet50",
    "MobileNetV2": "mobilenet_v2",
}
SMALL = ("VGG16", "ResNet-20")
PROMISE = 1.05  # a shrunk network may take this times its share of the multiply-accumulates
CLOSE = 1e-5  # of the largest output
NAME = "shrink"
COLUMNS = (
    *("network", "parameters", "MACs, M", "parameters, share", "MACs, share"),
    *("PyTorch, ms", "onnxruntime, ms", "PyTorch, share", "onnxruntime, share"),
)


@dataclass(frozen=True)
class Result:
    """One network, dense and with half of the channels of each group gone.

    Args:
        name: The network.
        image: Height and width.
        parameters: Way -> trained numbers.
        macs: Way -> multiply-accumulates of an image.
        torch: Way -> seconds for an image in PyTorch.
        runtime: Way -> seconds in onnxruntime.
        difference: Largest difference of an output, shrunk against masked, as a share of the largest output.
    """

    name: str
    image: int
    parameters: Mapping[str, int]
    macs: Mapping[str, int]
    torch: Mapping[str, float]
    runtime: Mapping[str, float]
    difference: float

    @property
    def missed(self) -> list[str]:
        found = []
        if self.macs[OURS] > self.macs[RIVAL]:
            found.append(f"{self.name}: {self.macs[OURS]:,} MACs, {RIVAL} {self.macs[RIVAL]:,}")
        if self.difference > CLOSE:
            found.append(f"{self.name}: outputs {self.difference:.1e} from the masked network's, target {CLOSE:g}")
        for kind, times in (("PyTorch", self.torch), ("onnxruntime", self.runtime)):
            promised, share = self.macs[OURS] / self.macs[DENSE], times[OURS] / times[DENSE]
            if share > promised * PROMISE:
                found.append(f"{self.name} in {kind}: {share:.2f} of the time at {promised:.2f} of the MACs")
        return found

    def rows(self) -> list[list[str]]:
        return [
            [
                f"{self.name}, {self.image} px" if way == DENSE else f"- {way}",
                f"{self.parameters[way]:,}",
                f"{self.macs[way] / 1e6:,.1f}",
                *(f"{self.parameters[way] / self.parameters[DENSE]:.3f}", f"{self.macs[way] / self.macs[DENSE]:.3f}"),
                *(f"{times[way] * 1e3:.2f}" for times in (self.torch, self.runtime)),
                *(f"{times[way] / times[DENSE]:.3f}" for times in (self.torch, self.runtime)),
            ]
            for way in WAYS
        ]


def measure(name: str, repeats: int) -> Result:
    model = ir.zoo.build(NETWORKS[name])
    size = int(model.graph.inputs[0].shape[-1])  # type: ignore[index,arg-type]
    example = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    dense = settled(pytorch.from_ir(model))
    masked, ours = shrunk(copy.deepcopy(dense), example, RATIO)
    rival = cut(copy.deepcopy(dense), example, RATIO).eval()
    networks = {DENSE: dense, RIVAL: rival, OURS: ours, FLOOR: shrunk(copy.deepcopy(dense), example, LEAST)[1]}
    with torch.no_grad():
        wanted, found = masked(example), ours(example)
    graphs = {way: pytorch.to_ir(network, example) for way, network in networks.items()}
    counted = {way: cost(graph) for way, graph in graphs.items()}
    with torch.inference_mode():
        eager = interleaved({way: Side(lambda net=net: net(example)) for way, net in networks.items()}, repeats)
    image = example.numpy()
    runtime = interleaved({way: Side(runner(graph, THREADS, image)) for way, graph in graphs.items()}, repeats)
    return Result(
        name,
        size,
        {way: one.parameters for way, one in counted.items()},
        {way: one.macs for way, one in counted.items()},
        eager,
        runtime,
        float((wanted - found).abs().max() / wanted.abs().max()),
    )


def settled(network: nn.Module) -> nn.Module:
    """Give normalisations in place numbers as a trained network has them, and return the network for evaluation."""
    random = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, mean, deviation in (
                (module.weight, 1.0, 0.1),
                (module.bias, 0.0, 0.1),
                (module.running_mean, 0.0, 0.1),
                (module.running_var, 1.0, 0.05),
            ):
                assert tensor is not None
                tensor.data = mean + deviation * torch.randn(tensor.shape, generator=random)
    return network.eval()


def shrunk(network: nn.Module, example: Tensor, ratio: float) -> tuple[nn.Module, nn.Module]:
    """Return the network with a share of its coupled filters zeroed, in place, and without them."""
    groups = pytorch.filter_groups(network, example)
    pytorch.Prune(network, recipe=Recipe(sparsity=ratio, granularity="filter:group"), groups=groups).prune()
    return network, pytorch.shrink(network, example).eval()


PAGE = """# Half of the channels gone: smaller and faster

Written by `{command}`; `make bench` runs it. Each network of the [zoo](../ir.md) loses half of the channels of every
group that can go, by sum of magnitudes: here `Prune` with `filter:group` and `pytorch.shrink`, there `BasePrune` of
Torch-Pruning with `GroupMagnitudeImportance(p=1)`, both at a ratio of {ratio:g} and but for the last layer. Weights are
the zoo's initial ones, normalisations have random numbers as a trained network has them. One image, {threads} threads,
best of {repeats} rounds in which all take turns{bystanders}.

{table}

![Share of the dense network's multiply-accumulates and time]({name}.png)

- *MACs* are multiply-accumulates of an image, in millions, of all of them counted by `mopruning cost`; shares
  are of the dense network. Times are of the network in PyTorch (eager, float32, evaluation) and of its ONNX file in
  onnxruntime, in milliseconds.
- The shrunk networks compute what the masked ones do: outputs are at most {difference:.0e} of the largest apart.
- Targets: not more MACs than the rival's, outputs within {close:g}, and at most {promise:g} times the share of the time
  that the share of MACs promises. {verdict}
- Why time falls less than MACs: the last row of each network has {least:.0%} of its channels gone, and next to no MACs
  left. What it still takes, {floors}, is calling the operators one by one, and no pruning shortens that: the smaller
  a network and the more layers it has, the more of its time it is. PyTorch calls each operator from Python's side;
  onnxruntime, which fuses normalisations and activations into convolutions, comes nearer to the promise. Besides,
  what runs along channels without multiplying (normalisation, activation, sums, pooling, depthwise convolutions)
  becomes half, not a quarter, and convolutions of few channels fill vector registers less.

{machine}
"""


def main() -> int:
    arguments = command_line(__doc__, "two networks, five rounds", 50, 5).parse_args()
    repeats = arguments.repeats
    torch.set_num_threads(THREADS)

    bystanders = Bystanders()
    results = [measure(name, repeats) for name in (SMALL if arguments.quick else NETWORKS)]
    others = bystanders.cores()
    table = Table("Half of the channels gone", COLUMNS, [row for result in results for row in result.rows()])
    table.print()
    missed = [line for result in results for line in result.missed]
    tell(missed, others)
    if not arguments.quick:
        report(results, table, missed, others, repeats)
    return 1 if arguments.check and missed else 0


def report(results: list[Result], table: Table, missed: list[str], others: float | None, repeats: int) -> None:
    facts = machine("torch", "torch-pruning", "onnxruntime", "numpy")
    text = PAGE.format(
        name=NAME,
        command=facts["command"],
        ratio=RATIO,
        threads=THREADS,
        repeats=repeats,
        bystanders=aside(others),
        table=table.markdown(),
        difference=max(result.difference for result in results),
        close=CLOSE,
        promise=PROMISE,
        least=LEAST,
        floors=", ".join(
            f"{one.torch[FLOOR] / one.torch[DENSE]:.2f} of the dense time in PyTorch and "
            f"{one.runtime[FLOOR] / one.runtime[DENSE]:.2f} in onnxruntime for {one.name}"
            for one in results
        ),
        verdict=verdict(missed, "All are met."),
        machine=facts_table(facts),
    )
    write(NAME, text, {"machine": facts, "other processes, cores": others, "networks": [vars(one) for one in results]})
    shares = [
        (f"{result.name}: {what}, {way}", values[way] / values[DENSE])
        for result in results
        for what, values in (("MACs", result.macs), ("PyTorch", result.torch), ("onnxruntime", result.runtime))
        for way in (RIVAL, OURS)
    ]
    chart(
        NAME,
        "Half of the channels gone: share of the dense network",
        [label for label, _ in shares],
        [share for _, share in shares],
        [None] * len(shares),
        log=False,
    )


if __name__ == "__main__":
    sys.exit(main())
