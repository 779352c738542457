"""Recurrent layers as readers spell them are recognised, and others are not."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx_ir")

from mopruning.ir.passes.shapes import infer_shapes
from mopruning.ir.recurrent import joint, only_user, sources
from tests.ir.small_models import model, node

ORDER = (0, 3, 1, 2)


def lstm(*, order=ORDER, axes=1, both=False):
    """One layer whose weights are a parameter's gates in another order."""
    rng = np.random.default_rng(0)
    weights = {"axes": np.array([0]), "output": np.array([axes]), "joined": np.array([0, 0, -1])}
    nodes, directions = [], ("f", "b") if both else ("f",)
    for what, parts, shape in (("w", 1, (12, 4)), ("r", 1, (12, 3)), ("b", 2, (12,))):
        for one in directions:
            for part in range(parts):
                name = f"{what}{one}{part}"
                weights[name] = rng.standard_normal(shape).astype(np.float32)
                cut = " ".join(f"{name}.{index}" for index in range(4))
                nodes.append(node("Split", f"{name}.split", name, cut, axis=0, num_outputs=4))
                gates = " ".join(f"{name}.{index}" for index in order)
                nodes.append(node("Concat", f"{name}.ordered", gates, axis=0))
            pieces = " ".join(f"{what}{one}{part}.ordered" for part in range(parts))
            if parts > 1:
                nodes.append(node("Concat", f"{what}{one}.both", pieces, axis=0))
                pieces = f"{what}{one}.both"
            nodes.append(node("Unsqueeze", f"{what}{one}", f"{pieces} axes"))
        stacked = " ".join(f"{what}{one}" for one in directions)
        nodes.append(node("Concat", what, stacked, axis=0) if both else node("Identity", f"{what}.same", stacked))
    ends = ["w", "r", "b"] if both else ["wf", "rf", "bf"]
    options = {"hidden_size": 3} | ({"direction": "bidirectional"} if both else {})
    nodes.append(node("LSTM", "lstm", f"x {' '.join(ends)}", "y", **options))
    if both:
        nodes += [node("Transpose", "turned", "y", perm=[0, 2, 1, 3]), node("Reshape", "out", "turned joined")]
    else:
        nodes.append(node("Squeeze", "out", "y output"))
    net = infer_shapes(model({"x": [5, "N", 4]}, nodes, ["out"], weights))
    return net, next(one for one in net.graph if one.op_type == "LSTM")


@pytest.mark.parametrize("both", [False, True])
def test_parameters_are_found_behind_their_reordering(both):
    _, layer = lstm(both=both)
    count = 2 if both else 1
    found = [sources(layer.inputs[index], count, ORDER) for index in (1, 2)]
    found.append(sources(layer.inputs[3], count, ORDER, 2))
    directions = "fb" if both else "f"
    assert [[[v.name for v in one] for one in each] for each in found] == [
        [["wf0"], ["wb0"]][:count],
        [["rf0"], ["rb0"]][:count],
        [[f"b{one}0", f"b{one}1"] for one in directions],
    ]
    assert [one.name for one in joint(layer, count)] == (["turned", "out"] if both else ["out"])


def test_other_orders_and_other_axes_are_none():
    _, layer = lstm(order=(0, 1, 2, 3))
    assert sources(layer.inputs[1], 1, ORDER) is None
    assert sources(layer.inputs[3], 1, ORDER, 2) is None
    assert sources(layer.inputs[1], 2, ORDER) is None
    assert sources(None, 1, ORDER) is None
    _, layer = lstm(both=True)
    assert joint(layer, 1) is None
    assert sources(layer.inputs[1], 1, ORDER) is None
    assert only_user(layer.inputs[0]) is layer
