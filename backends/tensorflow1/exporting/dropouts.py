"""Dropout, which TensorFlow spells with a random number for each element, in several ways over the years."""

from __future__ import annotations

from mopruning.backends.tensorflow1.exporting.nodes import NodeDef, Nodes, Reference

_RANDOM = frozenset({"RandomUniform", "StatelessRandomUniform", "StatelessRandomUniformV2"})
_PLUS = frozenset({"Add", "AddV2"})


def dropped(nodes: Nodes, reference: Reference) -> tuple[Reference, float | None] | None:
    """Return what a tensor is a dropout of, and its ratio (None where it is fed); None if it is something else.

    Up to TensorFlow 1.12 it is ``x / keep * floor(keep + random)``, up to 2.5 ``x * scale * cast(random >= rate)``,
    since then ``select(random >= rate, x * scale, 0)``.
    """
    node = nodes.by_name.get(reference[0])
    if node is None or node.op not in ("Mul", "SelectV2", "Select"):
        return None
    inputs = nodes.inputs(node)
    if node.op == "Mul" and len(inputs) == 2:
        for kept, mask in (inputs, inputs[::-1]):
            found, ratio = _mask(nodes, mask)
            if found:
                return _unscaled(nodes, kept), ratio
    elif len(inputs) == 3:
        found, ratio = _comparison(nodes, inputs[0])
        if found:
            return _unscaled(nodes, inputs[1]), ratio
    return None


def _mask(nodes: Nodes, reference: Reference) -> tuple[bool, float | None]:
    node = _node(nodes, reference)
    if node is None or not node.input:
        return False, None
    inputs = nodes.inputs(node)
    if node.op == "Cast":
        return _comparison(nodes, inputs[0])
    total = _node(nodes, inputs[0]) if node.op == "Floor" else None
    if total is None or total.op not in _PLUS:
        return False, None
    operands = nodes.inputs(total)
    random = [_is_random(nodes, one) for one in operands]
    if len(operands) != 2 or not any(random):
        return False, None
    keep = _number(nodes, operands[random.index(False)]) if False in random else None
    return True, None if keep is None else round(1.0 - keep, 6)


def _comparison(nodes: Nodes, reference: Reference) -> tuple[bool, float | None]:
    node = _node(nodes, reference)
    if node is None or node.op != "GreaterEqual":
        return False, None
    inputs = nodes.inputs(node)
    if len(inputs) != 2 or not _is_random(nodes, inputs[0]):
        return False, None
    rate = _number(nodes, inputs[1])
    return True, None if rate is None else round(rate, 6)


def _is_random(nodes: Nodes, reference: Reference) -> bool:
    """Whether a tensor is random between 0 and 1; old graphs spell out how it comes between its bounds."""
    for _ in range(4):
        node = _node(nodes, reference)
        if node is None:
            return False
        if node.op in _RANDOM:
            return True
        if node.op not in ("Mul", "Cast", *_PLUS) or not node.input:
            return False
        reference = nodes.inputs(node)[0]
    return False


def _unscaled(nodes: Nodes, reference: Reference) -> Reference:
    """Return what is scaled by 1 / (1 - rate): a tensor times or over a number."""
    node = _node(nodes, reference)
    if node is not None and node.op in ("Mul", "RealDiv", "Div") and len(nodes.inputs(node)) == 2:
        first, second = nodes.inputs(node)
        if node.op == "Mul" and _number(nodes, first) is not None:
            return second
        return first
    return reference


def _number(nodes: Nodes, reference: Reference) -> float | None:
    """Return a number of a formula; None if it is fed."""
    content = nodes.constant(reference)
    if content is not None:
        return float(content.reshape(-1)[0]) if content.size == 1 and content.dtype.kind == "f" else None
    node = _node(nodes, reference)
    if node is None or node.op != "Sub" or len(nodes.inputs(node)) != 2:
        return None
    first, second = (nodes.constant(one) for one in nodes.inputs(node))
    if first is None or second is None or first.size != 1 or second.size != 1:
        return None
    return float(first.reshape(-1)[0]) - float(second.reshape(-1)[0])


def _node(nodes: Nodes, reference: Reference) -> NodeDef | None:
    return nodes.by_name.get(nodes.through(reference)[0])
