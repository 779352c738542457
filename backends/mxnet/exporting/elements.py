"""Operators that work element by element, activations and reductions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir
from onnx_ir import Value

from mopruning.backends.mxnet.exporting.network import Call, Translation, Values, dtype_of, typed
from mopruning.ir.lowering import Refusal

_BOOL = int(onnx_ir.DataType.BOOL)

UNARY = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "abs": "Abs",
    "absolute": "Abs",
    "negative": "Neg",
    "sign": "Sign",
    "reciprocal": "Reciprocal",
    "sqrt": "Sqrt",
    "exp": "Exp",
    "log": "Log",
    "erf": "Erf",
    "sin": "Sin",
    "cos": "Cos",
    "floor": "Floor",
    "ceil": "Ceil",
}
BINARY = {
    **dict.fromkeys(("elemwise_add", "broadcast_add", "broadcast_plus", "_plus", "_Plus", "_add", "_grad_add"), "Add"),
    **dict.fromkeys(("elemwise_sub", "broadcast_sub", "broadcast_minus", "_minus", "_Minus", "_sub"), "Sub"),
    **dict.fromkeys(("elemwise_mul", "broadcast_mul", "_mul", "_Mul"), "Mul"),
    **dict.fromkeys(("elemwise_div", "broadcast_div", "_div", "_Div"), "Div"),
    **dict.fromkeys(("broadcast_power", "_power", "_Power"), "Pow"),
    **dict.fromkeys(("broadcast_maximum", "_maximum", "_Maximum"), "Max"),
    **dict.fromkeys(("broadcast_minimum", "_minimum", "_Minimum"), "Min"),
    "_npi_add": "Add",
    "_npi_subtract": "Sub",
    "_npi_multiply": "Mul",
    "_npi_true_divide": "Div",
    "_npi_power": "Pow",
    "_npi_maximum": "Max",
    "_npi_minimum": "Min",
}
SCALAR = {
    **dict.fromkeys(("_plus_scalar", "_PlusScalar", "_npi_add_scalar"), ("Add", False)),
    **dict.fromkeys(("_minus_scalar", "_MinusScalar", "_npi_subtract_scalar"), ("Sub", False)),
    **dict.fromkeys(("_rminus_scalar", "_RMinusScalar", "_npi_rsubtract_scalar"), ("Sub", True)),
    **dict.fromkeys(("_mul_scalar", "_MulScalar", "_npi_multiply_scalar"), ("Mul", False)),
    **dict.fromkeys(("_div_scalar", "_DivScalar", "_npi_true_divide_scalar"), ("Div", False)),
    **dict.fromkeys(("_rdiv_scalar", "_RDivScalar", "_npi_rtrue_divide_scalar"), ("Div", True)),
    **dict.fromkeys(("_power_scalar", "_PowerScalar", "_npi_power_scalar"), ("Pow", False)),
    **dict.fromkeys(("_rpower_scalar", "_RPowerScalar", "_npi_rpower_scalar"), ("Pow", True)),
    **dict.fromkeys(("_maximum_scalar", "_MaximumScalar", "_npi_maximum_scalar"), ("Max", False)),
    **dict.fromkeys(("_minimum_scalar", "_MinimumScalar", "_npi_minimum_scalar"), ("Min", False)),
}
"""Operator of an array and a number -> ONNX's, and whether the number stands first."""

_COMPARED = {"equal": "Equal", "greater": "Greater", "less": "Less", "lesser": "Less"}
_COMPARED |= {"greater_equal": "GreaterOrEqual", "less_equal": "LessOrEqual", "lesser_equal": "LessOrEqual"}


def _unary(operator: str) -> Translation:
    return lambda call: call.add(operator, [call.x])


def _binary(operator: str) -> Translation:
    def translate(call: Call) -> Values:
        left, right = call.x, call.input(1)
        if call.node.operator == "_npi_true_divide" and dtype_of(left).startswith("int"):
            raise Refusal("it divides whole numbers with a remainder")
        if dtype_of(left) == dtype_of(right) == "bool" and operator == "Mul":
            return call.add("And", [left, right])
        return call.add(operator, [left, right])

    return translate


def _scalar(operator: str, first: bool) -> Translation:
    def translate(call: Call) -> Values:
        number = call.number("scalar", call.node.number("scalar", 1.0), call.x)
        return call.add(operator, [number, call.x] if first else [call.x, number])

    return translate


def _compared(operator: str, *, classic: bool, scalar: bool) -> Translation:
    """Translate a comparison; the classic ones give numbers of the type they compare."""

    def translate(call: Call) -> Values:
        other = call.number("scalar", call.node.number("scalar", 0.0), call.x) if scalar else call.input(1)
        negated = operator == "NotEqual"
        if negated and dtype_of(call.x) == "bool" and not scalar:
            return call.add("Xor", [call.x, other])
        found = call.part if negated or classic else None
        result = (
            call.add(operator, [call.x, other])
            if found is None
            else call.part("Equal" if negated else operator, "compared", [call.x, other])
        )
        if negated:
            result = call.part("Not", "not", [result]) if classic else call.add("Not", [result])
        return call.add("Cast", [result], to=_code(call.x)) if classic else result

    return translate


def _logical(operator: str) -> Translation:
    def translate(call: Call) -> Values:
        sides = [
            value if dtype_of(value) == "bool" else call.part("Cast", f"bool_{index}", [value], to=_BOOL)
            for index, value in enumerate((call.x, call.input(1)))
        ]
        return call.add("Cast", [call.part(operator, "both", sides)], to=_code(call.x))

    return translate


def remainder(call: Call) -> Values:
    """Translate mod: with the sign of the divisor, which ONNX has for whole numbers only."""
    left = call.x
    scalar = "scalar" in call.node.operator
    right = call.number("scalar", call.node.number("scalar", 1.0), left) if scalar else call.input(1)
    if not dtype_of(left).startswith("float"):
        return call.add("Mod", [left, right])
    rest = call.part("Mod", "rest", [left, right], fmod=1)
    zero = call.number("zero", 0, left)
    other_sign = call.part("Less", "other_sign", [call.part("Mul", "signs", [rest, right]), zero])
    return call.add("Where", [other_sign, call.part("Add", "moved", [rest, right]), rest])


def bitwise(call: Call) -> Values:
    """Translate what is "and" and "or" among bools."""
    if dtype_of(call.x) != "bool" or dtype_of(call.input(1)) != "bool":
        raise Refusal("it works on the bits of whole numbers")
    return call.add({"_npi_bitwise_and": "And", "_npi_bitwise_or": "Or"}[call.node.operator], [call.x, call.input(1)])


def logical_not(call: Call) -> Values:
    """Translate logical_not; the classic one gives numbers."""
    classic = call.node.operator == "logical_not"
    x = call.x if dtype_of(call.x) == "bool" else call.part("Cast", "bool", [call.x], to=_BOOL)
    return call.add("Cast", [call.part("Not", "not", [x])], to=_code(call.x)) if classic else call.add("Not", [x])


def where(call: Call) -> Values:
    """Translate where."""
    condition = call.x
    if dtype_of(condition) != "bool":
        condition = call.part("Cast", "condition", [condition], to=_BOOL)
    return call.add("Where", [condition, call.input(1), call.input(2)])


def square(call: Call) -> Values:
    """Translate square."""
    return call.add("Mul", [call.x, call.x])


def inverse_root(call: Call) -> Values:
    """Translate rsqrt."""
    return call.add("Reciprocal", [call.part("Sqrt", "root", [call.x])])


def divided_by_root(call: Call) -> Values:
    """Translate div_sqrt_dim: x / sqrt(size of the last axis)."""
    size = call.sizes()[-1]
    if not isinstance(size, int):
        raise Refusal("it divides by the root of a size that is open")
    return call.add("Div", [call.x, call.number("root", float(np.sqrt(size)), call.x)])


def log1p(call: Call) -> Values:
    """Translate log1p."""
    return call.add("Log", [call.part("Add", "shifted", [call.x, call.number("one", 1, call.x)])])


def expm1(call: Call) -> Values:
    """Translate expm1."""
    return call.add("Sub", [call.part("Exp", "power", [call.x]), call.number("one", 1, call.x)])


def round_even(call: Call) -> Values:
    """Translate NumPy's around; the classic round and rint treat halves otherwise."""
    if call.node.integer("decimals", 0):
        raise Refusal("it rounds to decimals")
    return call.add("Round", [call.x])


def truncate(call: Call) -> Values:
    """Translate trunc and fix: towards 0."""
    return call.add(
        "Mul", [call.part("Sign", "sign", [call.x]), call.part("Floor", "size", [call.part("Abs", "abs", [call.x])])]
    )


def same(call: Call) -> Values:
    """Translate what does nothing in inference to nothing."""
    return call.x


def cast(call: Call) -> Values:
    """Translate Cast."""
    return call.network.cast(call.name, call.x, typed("dtype", call.node))


def activation(call: Call) -> Values:
    """Translate Activation."""
    kind = call.node.text("act_type")
    plain = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softrelu": "Softplus", "mish": "Mish"}
    if kind in plain:
        return call.add(plain[kind], [call.x])
    if kind == "softsign":
        return softsign(call)
    if kind == "log_sigmoid":
        return call.add("Log", [call.part("Sigmoid", "sigmoid", [call.x])])
    raise Refusal(f"its act_type is {kind}")


def softsign(call: Call) -> Values:
    """Translate softsign: x / (1 + abs(x))."""
    size = call.part("Add", "size", [call.part("Abs", "abs", [call.x]), call.number("one", 1, call.x)])
    return call.add("Div", [call.x, size])


def leaky(call: Call) -> Values:
    """Translate LeakyReLU, which is many activations."""
    node, kind = call.node, call.node.text("act_type", "leaky")
    if kind == "leaky":
        return call.add("LeakyRelu", [call.x], alpha=node.number("slope", 0.25))
    if kind == "elu":
        return call.add("Elu", [call.x], alpha=node.number("slope", 0.25))
    if kind == "rrelu":  # in inference the slope is the mean of those drawn in training
        return call.add(
            "LeakyRelu", [call.x], alpha=(node.number("lower_bound", 0.125) + node.number("upper_bound", 0.334)) / 2
        )
    if kind in ("selu", "gelu"):
        return call.add(kind.capitalize(), [call.x])
    if kind != "prelu":
        raise Refusal(f"its act_type is {kind}")
    slope, rank = call.input(1), call.rank()
    if call.rank(1) == 1 and rank > 2 and call.sizes(1) != [1]:
        slope = call.part("Unsqueeze", "slope", [slope, call.constant("axes", list(range(1, rank - 1)))])
    return call.add("PRelu", [call.x, slope])


def hard_sigmoid(call: Call) -> Values:
    """Translate hard_sigmoid."""
    return call.add("HardSigmoid", [call.x], alpha=call.node.number("alpha", 0.2), beta=call.node.number("beta", 0.5))


def clip(call: Call) -> Values:
    """Translate clip; bounds that no number reaches are none."""
    bounds: list[Value | None] = []
    for name in ("a_min", "a_max"):
        limit = call.node.number(name, -np.inf if name == "a_min" else np.inf)
        bounds.append(call.number(name[2:], limit, call.x) if np.isfinite(limit) else None)
    while bounds and bounds[-1] is None:
        bounds.pop()
    return call.add("Clip", [call.x, *bounds])


def softmax(call: Call) -> Values:
    """Translate softmax, log_softmax and softmin."""
    node = call.node
    if node.flag("use_length"):
        raise Refusal("it has lengths")
    x, temperature = call.x, node.number("temperature", 1.0)
    if node.operator == "softmin":
        x = call.part("Neg", "negative", [x])
    if temperature != 1.0:
        x = call.part("Div", "tempered", [x, call.number("temperature", temperature, x)])
    operator = "LogSoftmax" if "log_softmax" in node.operator else "Softmax"
    return call.add(operator, [x], axis=node.integer("axis", -1))


def softmax_output(call: Call) -> Values:
    """Translate SoftmaxOutput and SoftmaxActivation: what they give; labels and losses stay behind."""
    node = call.node
    if node.operator == "SoftmaxActivation":
        axis = 1 if node.text("mode", "instance") == "channel" else -1
    else:
        axis = 1 if node.flag("multi_output") else -1
    whole = axis == -1 and not node.flag("preserve_shape") and node.operator != "SoftmaxActivation"
    if (whole or node.text("mode") == "instance") and call.x.shape is not None and call.rank() > 2:
        raise Refusal("its softmax goes over all axes of a sample")
    return call.add("Softmax", [call.x], axis=axis)


def _code(value: Value) -> int:
    return int(value.dtype or onnx_ir.DataType.FLOAT)


def _comparisons() -> dict[str, Translation]:
    found: dict[str, Translation] = {}
    for name, operator in {**_COMPARED, "not_equal": "NotEqual"}.items():
        for own, classic in ((f"broadcast_{name}", True), (f"_{name}", True), (f"_npi_{name}", False)):
            found[own] = _compared(operator, classic=classic, scalar=False)
        for own, classic in ((f"_{name}_scalar", True), (f"_npi_{name}_scalar", False)):
            found[own] = _compared(operator, classic=classic, scalar=True)
    return found


_SPECIAL: dict[str, Callable[[Call], Values]] = {
    "square": square,
    "rsqrt": inverse_root,
    "_contrib_div_sqrt_dim": divided_by_root,
    "log1p": log1p,
    "expm1": expm1,
    **dict.fromkeys(("trunc", "fix"), truncate),
    "softsign": softsign,
    "isnan": _unary("IsNaN"),
}

TRANSLATIONS: dict[str, Translation] = {
    **{name: _unary(operator) for name, operator in UNARY.items()},
    **{f"_npi_{name}": _unary(operator) for name, operator in UNARY.items()},
    **{f"_npx_{name}": _unary(operator) for name, operator in UNARY.items()},
    **_SPECIAL,
    **{f"_npi_{name}": translation for name, translation in _SPECIAL.items()},
    "_npi_around": round_even,
    **{name: _binary(operator) for name, operator in BINARY.items()},
    **dict.fromkeys(("broadcast_mod", "_mod", "_mod_scalar", "_npi_mod", "_npi_mod_scalar"), remainder),
    **{name: _scalar(*row) for name, row in SCALAR.items()},
    **_comparisons(),
    **{f"broadcast_logical_{name.lower()}": _logical(name) for name in ("And", "Or", "Xor")},
    **{f"_logical_{name.lower()}": _logical(name) for name in ("And", "Or", "Xor")},
    **dict.fromkeys(("_npi_bitwise_and", "_npi_bitwise_or"), bitwise),
    **dict.fromkeys(("logical_not", "_npi_logical_not"), logical_not),
    **dict.fromkeys(("where", "_npi_where"), where),
    **dict.fromkeys(("identity", "_copy", "_np_copy", "BlockGrad", "stop_gradient", "make_loss", "MakeLoss"), same),
    **dict.fromkeys(("LinearRegressionOutput", "MAERegressionOutput", "IdentityAttachKLSparseReg"), same),
    "LogisticRegressionOutput": _unary("Sigmoid"),
    **dict.fromkeys(("Cast", "cast", "amp_cast", "_npi_cast"), cast),
    "Activation": activation,
    "LeakyReLU": leaky,
    "hard_sigmoid": hard_sigmoid,
    **dict.fromkeys(("clip", "_npi_clip"), clip),
    **dict.fromkeys(("softmax", "log_softmax", "softmin", "_npx_softmax", "_npx_log_softmax"), softmax),
    **dict.fromkeys(("SoftmaxOutput", "Softmax", "SoftmaxActivation"), softmax_output),
    **dict.fromkeys(("add_n", "ElementWiseSum", "_sum"), lambda call: call.add("Sum", call.inputs)),
}
"""MXNet's operator -> its translation."""
