"""Dense layers, biases that stand by themselves, and batch normalisations."""

from __future__ import annotations

from onnx_ir import Value

from mopruning.backends.tensorflow1.exporting.context import (
    Operation,
    Tensor,
    Translation,
    Weight,
    name_of,
    rank_of,
)
from mopruning.backends.tensorflow1.exporting.layers import image_value, is_channels_first, put_image, weight_sizes
from mopruning.backends.tensorflow1.exporting.neighbours import bias_behind
from mopruning.backends.tensorflow1.orders import Held, plain
from mopruning.ir.attributes import shortest
from mopruning.ir.lowering import Refusal


def matmul(ctx: Translation, operation: Operation) -> None:
    """Add MatMul and the batched ones; with a weight [in, out] it is a dense layer."""
    x, y = operation.inputs
    batched = operation.type != "MatMul"
    turned = [
        bool(operation.get_attr(name)) for name in (("adj_x", "adj_y") if batched else ("transpose_a", "transpose_b"))
    ]
    weight = ctx.weight_behind(y)
    if weight is not None and len(weight_sizes(weight)) == 2 and not turned[0] and not ctx.is_constant(weight):
        _dense(ctx, operation, x, weight, turned[1])
        return
    values = []
    for tensor, turn in ((x, turned[0]), (y, turned[1])):
        rank = rank_of(tensor)
        order = (*range(rank - 2), rank - 1, rank - 2) if turn else plain(rank)
        values.append(ctx.value(tensor, order))
    ctx.put(operation.outputs[0], ctx.net.node("MatMul", name_of(operation), values))


def _dense(ctx: Translation, operation: Operation, x: Tensor, weight: Weight, canonical: bool) -> None:
    """Add a dense layer: its rows go with the features as the IR flattens them."""
    result = operation.outputs[0]
    bias = bias_behind(ctx, result, -1)
    held = ctx.held(x)
    rank = rank_of(x)
    if held.scatter is not None and not canonical:
        index = held.scatter.index()
        own = ctx.form(weight, ("dense", tuple(held.scatter.sizes), held.scatter.order), lambda a: a[index].T)
        features = held.tensor
    else:
        features = ctx.value(x)
        order = (0, 1) if canonical else (1, 0)
        own = ctx.operand(weight, order, trained=True)
    end = operation if bias is None else bias[0]
    vector = None if bias is None else ctx.vector(bias[1])
    value = ctx.net.dense(name_of(end), features, own, vector, axes=rank)
    ctx.done |= {operation.name, end.name}
    ctx.put(result, value)
    ctx.put(end.outputs[0], value)


def bias_add(ctx: Translation, operation: Operation) -> None:
    """Add BiasAdd that stands by itself."""
    x, bias = operation.inputs
    rank = rank_of(x)
    held = ctx.held(x)
    order = held.order if held.scatter is None else plain(rank)
    place = order.index(1 if is_channels_first(operation) and rank > 2 else rank - 1)
    weight = ctx.weight(bias)
    behind = rank - 1 - place
    if weight is None:
        added = ctx.value(bias)
        if behind:
            axes = ctx.net.constant(f"{name_of(operation)}.axes", list(range(1, behind + 1)))
            added = ctx.net.node("Unsqueeze", f"{name_of(operation)}.unsqueeze", [added, axes])
    elif behind:
        added = ctx.form(weight, ("behind", behind), lambda array: array.reshape(-1, *[1] * behind))
    else:
        added = ctx.operand(weight)
    value = ctx.net.node("Add", name_of(operation), [ctx.value(x, order), added])
    ctx.put(operation.outputs[0], Held(value, order))


def batch_norm(ctx: Translation, operation: Operation) -> None:
    """Add FusedBatchNorm of any version."""
    x, *given = operation.inputs
    if operation.get_attr("is_training") and not _has_statistics(given):
        raise Refusal("it normalises by the batch in inference, too; give the flag of training to the graph as false")
    if operation.get_attr("is_training"):
        raise Refusal("it normalises by the batch in inference, too, and keeps running statistics besides")
    value = add_norm(ctx, operation, image_value(ctx, x, operation), given, float(operation.get_attr("epsilon")))
    put_image(ctx, operation.outputs[0], value, operation)


def _has_statistics(given: list[Tensor]) -> bool:
    return len(given) == 4 and all(tensor.shape.num_elements() for tensor in given[2:])


def add_norm(ctx: Translation, operation: Operation, x: Value, given: list[Tensor], epsilon: float) -> Value:
    """Add a BatchNormalization of scale, bias, mean and variance."""
    leaf = ctx.weight_behind(given[2])
    momentum = None if leaf is None else ctx.momentum.get(leaf.leaf.name)
    vectors = [ctx.vector(tensor) for tensor in given]
    attributes = {"epsilon": shortest(epsilon), "momentum": 0.99 if momentum is None else momentum}
    return ctx.net.node("BatchNormalization", name_of(operation), [x, *vectors], attributes)
