"""The operator profile as a page of the docs: `python -m mopruning.ir.operators_page > docs/operators.md`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from mopruning.ir.operator_names import FRAMEWORKS, OPERATOR_NAMES
from mopruning.ir.operators import DTYPES, MANY, OPERATORS, OPSET, Operator

COMMAND = "python -m mopruning.ir.operators_page > docs/operators.md"
"""What writes the page anew after the table has changed."""

_PAGE = """# The operator profile

The {count} operators that a model of the [sparse graph IR](ir.md) may use. Each computes what ONNX's operator of that
name computes in [opset {opset}](https://onnx.ai/onnx/operators/); a model with others is refused, and all of those are
named at once. Values are {dtypes}.

- **inputs** and **outputs**: how many there may be. Trained parameters are named with their place, from 0, and how they
  lie; those called "weight" can be pruned.
- **attributes**: those that a node may have; where only some values are allowed, they follow. An attribute that is
  absent counts with ONNX's default.
[The last section](#names-in-the-frameworks) says what each framework calls them: what its reader reads one from, as a
rule, and its writer makes of it. `F` is `torch.nn.functional`, `tf` is `tensorflow.compat.v1`, `ops` is
`mindspore.ops`, `x` a tensor.

This page is written from the table in `mopruning.ir.operators`:
`{command}`.
"""

_NAMES = "Names in the frameworks"

_COLUMNS = ("operator", "inputs", "outputs", "attributes", "notes")


def page() -> str:
    """Return the page in Markdown: one table for each kind of operator, one row for each operator.

    >>> [line.split(" | ")[1:] for line in page().splitlines() if "GlobalMaxPool" in line]
    [['1', '1', '', ' |'], ['nn.AdaptiveMaxPool2d(1)', 'Pooling(global_pool=True)', 'tf.reduce_max', 'ops.amax |']]
    """
    text = _PAGE.format(
        count=len(OPERATORS),
        opset=OPSET,
        dtypes=", ".join(DTYPES[:-1]) + f" or {DTYPES[-1]}",
        command=COMMAND,
    )
    parts = [text]
    for kind, rows in itertools.groupby(OPERATORS.values(), key=lambda row: row.kind):
        parts.append(f"## {kind.capitalize()}\n\n{_table(_COLUMNS, map(_cells, rows))}\n")
    named = ((name, *(text.replace("*", r"\*") for text in texts)) for name, texts in OPERATOR_NAMES.items())
    parts.append(f"## {_NAMES}\n\n{_table(('operator', *FRAMEWORKS.values()), named)}\n")
    return "\n".join(parts)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(row: Operator) -> tuple[str, ...]:
    parameters = [f"{index}: {text}".replace("*", r"\*") for index, text in row.parameters.items()]
    cells = (
        f"[{row.name}](https://onnx.ai/onnx/operators/onnx__{row.name}.html)",
        "; ".join([_range(row.inputs), *parameters]),
        _range(row.outputs),
        ", ".join(_attribute(name, row) for name in row.attributes),
        row.note,
    )
    return tuple(cell.replace("|", r"\|") for cell in cells)


def _range(counts: tuple[int, int]) -> str:
    """Say how many there may be.

    >>> _range((1, 1)), _range((2, 3)), _range((1, MANY))
    ('1', '2 to 3', '1 or more')
    """
    least, most = counts
    if least == most:
        return str(least)
    return f"{least} or more" if most == MANY else f"{least} to {most}"


def _attribute(name: str, row: Operator) -> str:
    allowed = row.only.get(name)
    return f"`{name}`" if allowed is None else f"`{name}` = {' or '.join(f'`{value}`' for value in allowed)}"


if __name__ == "__main__":
    print(page(), end="")
