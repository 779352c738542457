"""Does computing only the kept stripes pay? Convolutions as VGG16 has them, and VGG16 itself, in onnxruntime.

`python benchmarks/stripes.py` prints the table and writes docs/benchmarks/stripes.md, and the figures as JSON to
build/benchmarks. `--quick` measures two layers with few repeats and writes nothing;
`--check` exits 1 where outputs differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir
from page import Table, facts_table, write
from sessions import session
from timing import Bystanders, Side, aside, command_line, interleaved, machine, tell

from mopruning import ir, mask
from mopruning.ir.parameters import parameters
from mopruning.ir.passes import cost, fold_batchnorm, infer_shapes
from mopruning.ir.passes.lower_stripes import lower_stripes

THREADS = (1, 2)
SPARSITIES = (0.5, 0.7, 0.9)
LAYERS = ((64, 64, 224), (64, 128, 112), (128, 128, 112), (256, 256, 56), (512, 512, 28), (512, 512, 14))
NETWORK, IMAGE = "vgg16_bn", 224
CLOSE = 1e-5
NAME = "stripes"
COLUMNS = (
    *("convolution, image", "sparsity", "MACs", "default"),
    *(f"{what}, {threads}t" for threads in THREADS for what in ("dense ms", "stripes ms", "share")),
)


@dataclass(frozen=True)
class Result:
    """One network at one sparsity, as it is and with its stripes lowered.

    Args:
        name: What was measured.
        sparsity: Share of stripes that are zero.
        macs: Multiply-accumulates of the lowered one, as a share.
        default: How many of the convolutions are lowered unless told otherwise.
        dense: Number of threads -> seconds of the network as it is.
        lowered: Number of threads -> seconds of the lowered one.
        difference: Largest difference of an output, as a share of the largest output.
    """

    name: str
    sparsity: float
    macs: float
    default: str
    dense: Mapping[int, float]
    lowered: Mapping[int, float]
    difference: float

    def row(self) -> list[str]:
        cells = [self.name, f"{self.sparsity:g}", f"{self.macs:.2f}", self.default]
        for threads in THREADS:
            dense, lowered = self.dense[threads], self.lowered[threads]
            cells += [f"{dense * 1e3:.2f}", f"{lowered * 1e3:.2f}", f"{lowered / dense:.2f}"]
        return cells


def layer(inputs: int, outputs: int, image: int, sparsity: float) -> onnx_ir.Model:
    """Return a 3x3 convolution of random weights, pruned by stripes."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((outputs, inputs, 3, 3)).astype(np.float32) / np.float32(9 * inputs) ** 0.5
    x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, [1, inputs, image, image])
    content = {"w": weight * mask(abs(weight), "stripe", sparsity), "b": np.ones(outputs, np.float32)}
    values = [onnx_ir.val(name, const_value=onnx_ir.tensor(array, name=name)) for name, array in content.items()]
    conv = onnx_ir.node("Conv", [x, *values], {"pads": [1, 1, 1, 1]}, name="conv")
    conv.outputs[0].name = "y"
    graph = onnx_ir.Graph([x], conv.outputs, nodes=[conv], initializers=values, opset_imports={"": 20})
    return infer_shapes(onnx_ir.Model(graph, ir_version=10))


def network(sparsity: float) -> onnx_ir.Model:
    """Return VGG16 with the zoo's initial weights, every 3x3 convolution but the first pruned by stripes."""
    model = fold_batchnorm(infer_shapes(ir.zoo.build(NETWORK), image=IMAGE, batch=1))
    for parameter in parameters(model).values():
        tensor = parameter.value.const_value
        assert tensor is not None
        array = tensor.numpy()
        if array.ndim == 4 and array.shape[1] > 3:
            kept = array * mask(abs(array), "stripe", sparsity)
            parameter.value.const_value = onnx_ir.tensor(kept.astype(array.dtype), name=tensor.name)
    return model


def measure(name: str, sparsity: float, model: onnx_ir.Model, gain: float, repeats: int) -> Result:
    lowered, default = lower_stripes(model, gain), lower_stripes(model)
    images = {str(value.name): tuple(value.shape or ()) for value in model.graph.inputs if not value.is_initializer()}
    feeds = {name: np.random.default_rng(1).standard_normal(shape).astype(np.float32) for name, shape in images.items()}
    convolutions = [node.name for node in model.graph if node.op_type == "Conv"]
    gone = len(convolutions) - sum(node.name in convolutions for node in default.graph)
    dense_times, lowered_times, outputs = {}, {}, []
    for threads in THREADS:
        sessions = [session(one, threads) for one in (model, lowered)]
        outputs = [one.run(None, feeds)[0] for one in sessions]
        sides = [Side(lambda one=one: one.run(None, feeds)) for one in sessions]
        times = interleaved(dict(zip(("dense", "lowered"), sides, strict=True)), repeats)
        dense_times[threads], lowered_times[threads] = times["dense"], times["lowered"]
    return Result(
        name,
        sparsity,
        cost(lowered).macs / cost(model).macs,
        f"{gone} of {len(convolutions)}" if len(convolutions) > 1 else "yes" if gone else "no",
        dense_times,
        lowered_times,
        float(abs(outputs[0] - outputs[1]).max() / abs(outputs[0]).max()),
    )


PAGE = """# Convolutions of the kept stripes alone

Written by `{command}`; `make bench` runs it. A convolution that was pruned by stripes (`stripe`) becomes the
computation of the stripes it keeps (`lower_stripes`): 1x1 convolutions, shifts and sums. Random weights pruned by
magnitude, which leaves filters with unlike many stripes; 3x3 kernels with padding 1, one image, float32, onnxruntime
with one thread (1t) and two (2t); best of {repeats} rounds in which dense and lowered take turns{bystanders}. A share
is of the dense one: below 1 is faster.

{table}

- *MACs* counts the multiply-accumulates of the lowered one, shifts included, as `mopruning cost` does.
- *By default* says whether `lower_stripes` lowers the convolution by its own count. The lines of single convolutions
  show what happens if it is lowered all the same; the network is lowered by default.
- That count is one of a single thread. With two, dense convolutions of large images gain more from the second one than
  stripes do, so at half of the stripes the whole network gains nothing.
- Outputs differ by at most {difference:.0e} of the largest; wanted is {close:g}.

{machine}
"""


def main() -> int:
    arguments = command_line(__doc__, "two layers, three rounds", 20, 3).parse_args()
    repeats = arguments.repeats
    bystanders, results = Bystanders(), []
    for sparsity in SPARSITIES:
        for inputs, outputs, image in LAYERS[-2:] if arguments.quick else LAYERS:
            model = layer(inputs, outputs, image, sparsity)
            results.append(measure(f"{inputs} to {outputs}, {image}", sparsity, model, 0.0, repeats))
        if not arguments.quick:
            results.append(measure(f"VGG16, {IMAGE}", sparsity, network(sparsity), 1.1, max(3, repeats // 4)))
    table = Table("Convolutions of the kept stripes alone", COLUMNS, [result.row() for result in results])
    table.print()
    difference = max(result.difference for result in results)
    others = bystanders.cores()
    if not arguments.quick:
        facts = machine("onnxruntime", "numpy")
        figures: dict[str, Any] = {"machine": facts, "others": others, "results": [asdict(one) for one in results]}
        text = PAGE.format(
            command=facts["command"],
            repeats=repeats,
            bystanders=aside(others),
            table=table.markdown(),
            difference=difference,
            close=CLOSE,
            machine=facts_table(facts),
        )
        write(NAME, text, figures)
    missed = [f"outputs differ by {difference:.0e} of the largest, wanted {CLOSE:g}"] if difference > CLOSE else []
    tell(missed, others)
    return 1 if arguments.check and missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
