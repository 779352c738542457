"""A new last layer for a network that was trained on other classes."""

import onnx_ir

from mopruning.errors import FormatError
from mopruning.ir.initial import uniform_dense
from mopruning.ir.parameters import parameters


def with_new_head(model: onnx_ir.Model, classes: int, seed: int) -> onnx_ir.Model:
    """Return a network whose last layer is a new, dense one for so many classes, and all else as it is.

    Raises:
        FormatError: If it does not end in a dense layer whose weight is stored as [out, in].
    """
    result = model.clone()
    output = result.graph.outputs[0]
    last = output.producer()
    own = {one.role: one for one in parameters(result).values() if one.node is last}
    weight = own.get("weight")
    if last is None or last.op_type != "Gemm" or weight is None or weight.order or weight.layout != "canonical":
        raise FormatError(f"model {model.graph.name!r} does not end in a dense layer: a new one cannot take its place")
    inputs = weight.value.shape[1]
    for role, shape in (("weight", (classes, inputs)), ("bias", (classes,))):
        if role in own:
            value = own[role].value
            value.const_value = uniform_dense(str(value.name), shape, inputs, seed).tensor()
            value.shape = onnx_ir.Shape(shape)
    output.shape = onnx_ir.Shape([*output.shape[:-1], classes])
    return result
