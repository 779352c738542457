"""The operator profile as a page of the docs: `python -m mopruning.ir.operators_page > docs/operators.md`."""

from __future__ import annotations

import itertools
import re

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
- **PyTorch**: what `pytorch.to_ir` reads it from, as a rule, and `pytorch.from_ir` makes of it. (`F` is
  `torch.nn.functional`, `x` a tensor.)

This page is written from the table in `mopruning.ir.operators`:
`{command}`.
"""

_CALL = re.compile(r"\b(?:nn|torch|F)\.\w+(?:\([^)]*\))?|\bx(?:\.[\w.]+(?:\([^)]*\))?|\[[^\]]*\])")
_COLUMNS = ("operator", "inputs", "outputs", "attributes", "PyTorch", "notes")


def page() -> str:
    """Return the page in Markdown: one table for each kind of operator, one row for each operator.

    >>> [line.split(" | ")[1:] for line in page().splitlines() if "GlobalMaxPool" in line]
    [['1', '1', '', '`nn.AdaptiveMaxPool2d(1)`', ' |']]
    """
    text = _PAGE.format(
        count=len(OPERATORS),
        opset=OPSET,
        dtypes=", ".join(DTYPES[:-1]) + f" or {DTYPES[-1]}",
        command=COMMAND,
    )
    parts = [text]
    for kind, rows in itertools.groupby(OPERATORS.values(), key=lambda row: row.kind):
        lines = [_COLUMNS, ("---",) * len(_COLUMNS), *map(_cells, rows)]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        parts.append(f"## {kind.capitalize()}\n\n{table}\n")
    return "\n".join(parts)


def _cells(row: Operator) -> tuple[str, ...]:
    parameters = [f"{index}: {text}".replace("*", r"\*") for index, text in row.parameters.items()]
    cells = (
        f"[{row.name}](https://onnx.ai/onnx/operators/onnx__{row.name}.html)",
        "; ".join([_range(row.inputs), *parameters]),
        _range(row.outputs),
        ", ".join(_attribute(name, row) for name in row.attributes),
        _CALL.sub(r"`\g<0>`", row.pytorch),
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
