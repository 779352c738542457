"""Reductions, and what looks along an axis."""

from __future__ import annotations

import numpy as np
from onnx_ir import Value

from mopruning.backends.mxnet.exporting.network import Call, Translation, Values, typed
from mopruning.ir.lowering import Refusal

_REDUCED = {"sum": "ReduceSum", "mean": "ReduceMean", "max": "ReduceMax", "min": "ReduceMin", "prod": "ReduceProd"}


def _reduction(operator: str) -> Translation:
    def translate(call: Call) -> Values:
        return _reduced(call, operator)

    return translate


def norm(call: Call) -> Values:
    """Translate norm."""
    order = call.node.integer("ord", 2)
    if order not in (1, 2):
        raise Refusal(f"its ord is {order}")
    return _reduced(call, f"ReduceL{order}")


def _reduced(call: Call, operator: str) -> Value:
    node = call.node
    if node.text("initial") or node.text("dtype"):
        raise Refusal("it starts from a number, or in another type")
    axes, keep = list(node.integers("axis")), node.flag("keepdims")
    if node.flag("exclude"):
        rank = call.rank()
        axes = [axis for axis in range(rank) if axis not in {call.checked(one, rank) for one in axes}]
    if axes or keep or "_np" in node.operator:
        return call.network.reduction(operator, call.name, call.x, axes, keepdims=keep)
    total = call.part(operator, "total", [call.x], keepdims=0)  # a single number has an axis there
    return call.add("Unsqueeze", [total, call.constant("axis", [0])])


def extreme(call: Call) -> Values:
    """Translate argmax and argmin; the classic ones give floats."""
    node = call.node
    operator = "ArgMax" if "argmax" in node.operator else "ArgMin"
    if not node.text("axis") and node.operator != "argmax_channel":
        raise Refusal("it looks through all axes at once")
    axis = 1 if node.operator == "argmax_channel" else node.integer("axis", 0)
    attributes = {"axis": axis, "keepdims": int(node.flag("keepdims"))}
    if node.operator.startswith("_np"):
        return call.add(operator, [call.x], **attributes)
    return call.network.cast(call.name, call.part(operator, "index", [call.x], **attributes), np.float32)


def cumulative(call: Call) -> Values:
    """Translate cumsum."""
    if not call.node.text("axis") or call.node.text("dtype"):
        raise Refusal("it sums up over all axes, or in another type")
    return call.add("CumSum", [call.x, call.constant("axis", call.node.integer("axis", 0))])


def top_k(call: Call) -> Values:
    """Translate topk."""
    node = call.node
    kind, count = node.text("ret_typ", "indices"), node.integer("k", 1)
    if count < 1 or not node.text("axis", "-1") or kind not in ("both", "value", "indices"):
        raise Refusal(f"its k is {count}, its ret_typ {kind}")
    attributes = {"axis": node.integer("axis", -1), "largest": int(not node.flag("is_ascend"))}
    values, places = call.network.nodes("TopK", call.name, [call.x, call.constant("k", [count])], 2, attributes)
    places = call.network.index(f"{call.name}.index", places, typed("dtype", node))
    return {"both": (values, places), "value": (values,), "indices": (places,)}[kind]


TRANSLATIONS: dict[str, Translation] = {
    **{name: _reduction(operator) for name, operator in _REDUCED.items()},
    **{f"{name}_axis": _reduction(_REDUCED[name]) for name in ("sum", "max", "min")},
    **{f"_np_{name}": _reduction(operator) for name, operator in _REDUCED.items()},
    "_npi_mean": _reduction("ReduceMean"),
    **dict.fromkeys(("_np_amax",), _reduction("ReduceMax")),
    **dict.fromkeys(("_np_amin",), _reduction("ReduceMin")),
    "norm": norm,
    **dict.fromkeys(("argmax", "argmin", "argmax_channel", "_npi_argmax", "_npi_argmin"), extreme),
    **dict.fromkeys(("cumsum", "_np_cumsum"), cumulative),
    **dict.fromkeys(("topk", "_npx_topk"), top_k),
}
"""MXNet's operator -> its translation."""
