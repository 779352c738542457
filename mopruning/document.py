"""Documents: one mapping read from a YAML or JSON file, or from YAML text, without surprises in the numbers."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mopruning.errors import RecipeError

TEXT = "recipe text"
"""Where a document came from that is no file."""

_SUFFIXES = (".yaml", ".yml", ".json")


def read_document(source: str | Path) -> tuple[dict[str, Any], str]:
    """Read the mapping that a file or a text holds.

    YAML is read safely and in the sense of YAML 1.2: ``2:4`` is text (YAML 1.1 made it the number 124), ``1e-5``
    is a number, and a key given twice is an error.

    Args:
        source: Path of a .yaml, .yml or .json file, or YAML text.

    Returns:
        The mapping, and where it came from, for messages.

    Raises:
        RecipeError: If there is no such file, the syntax is broken (with the line) or it is no mapping.

    >>> read_document("granularity: 2:4")
    ({'granularity': '2:4'}, 'recipe text')
    """
    text, where = _text(source)
    content = _json(text, where) if where.endswith(".json") else _yaml(text, where)
    if not isinstance(content, Mapping):
        hint = f"; there is no file {text.strip()!r} either" if where == TEXT and isinstance(content, str) else ""
        raise RecipeError(f"{where}: expected a mapping such as 'sparsity: 0.9', got {type(content).__name__}{hint}")
    return dict(content), where


def _text(source: str | Path) -> tuple[str, str]:
    single = isinstance(source, str) and "\n" not in source
    if isinstance(source, str) and not (single and (source.endswith(_SUFFIXES) or _is_file(source))):
        return source, TEXT
    try:
        return Path(source).read_text(encoding="utf-8"), str(source)
    except OSError as error:
        raise RecipeError(f"recipe file {str(source)!r} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"recipe file {str(source)!r} is no UTF-8 text: {error.reason} at byte {error.start}"
        ) from None


def _is_file(source: str) -> bool:
    try:
        return Path(source).is_file()
    except (OSError, ValueError):  # too long for a path, or a NUL in it
        return False


def _json(text: str, where: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise RecipeError(f"{where}: key {twice[0]!r} is given twice")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise RecipeError(f"{where}, line {error.lineno}: {error.msg}") from None


def _yaml(text: str, where: str) -> Any:
    import yaml

    try:
        return yaml.load(text, Loader=_loader())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{where}{line}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{where}: {error}") from None
    except (ValueError, RecursionError) as error:  # a date that is none, an integer of thousands of digits
        raise RecipeError(f"{where}: {error}") from None


@functools.cache
def _loader() -> Any:
    """Build PyYAML's safe loader with the numbers of YAML 1.2 and without silent duplicates."""
    import yaml

    numbers = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key.value!r} is given twice", key.start_mark
                    )
                seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
            return super().construct_mapping(node, deep=deep)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in numbers]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver(numbers[0], re.compile(r"[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
    Loader.add_implicit_resolver(
        numbers[1],
        re.compile(r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"),
        list("-+0123456789."),
    )
    return Loader
