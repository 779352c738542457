"""Who may import whom, and that the core needs no framework and little time."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mopruning.backends import FRAMEWORKS as ADAPTERS

ROOT = Path(__file__).resolve().parents[1]
FRAMEWORKS = list(ADAPTERS.values())

BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FRAMEWORKS}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
"""


def python(code: str, cwd: Path) -> str:
    """Run code in a fresh interpreter outside the checkout and return its output."""
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_block_blocks(tmp_path):
    attempts = "\n".join(f"try: import {name}\nexcept ImportError as error: print(error)" for name in FRAMEWORKS)
    assert python(BLOCK + attempts, tmp_path).splitlines() == [f"{name} is blocked" for name in FRAMEWORKS]


def test_core_ir_and_backends_import_without_any_framework(tmp_path):
    python(BLOCK + "import mopruning, mopruning.ir, mopruning.backends", tmp_path)


def test_import_loads_no_framework(tmp_path):
    code = f"import sys, mopruning; print(*[name for name in {FRAMEWORKS} if name in sys.modules])"
    assert python(code, tmp_path) == ""


def test_import_is_quick(tmp_path):
    def seconds() -> float:
        start = time.perf_counter()
        python("import mopruning", tmp_path)
        return time.perf_counter() - start

    # The whole process, as a user waits for it; the best of five, because the machine may be busy.
    assert min(seconds() for _ in range(5)) < 0.3


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at the top or inside a function, with `from` names spelt out."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def offenders(folder: Path, banned: list[str], except_in: str = "") -> list[str]:
    """The imports under `folder` of a banned module or anything in it."""
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted(folder.rglob("*.py"))
        if not (except_in and path.is_relative_to(folder / except_in))
        for name in sorted(imported(path))
        if any(name == module or name.startswith(module + ".") for module in banned)
    ]


def test_core_imports_neither_ir_nor_backends_nor_a_framework():
    assert offenders(ROOT / "mopruning", ["mopruning.ir", "mopruning.backends", *FRAMEWORKS], except_in="cli") == []


def test_ir_imports_neither_backends_nor_a_framework():
    assert offenders(ROOT / "ir", ["mopruning.backends", *FRAMEWORKS]) == []


@pytest.mark.parametrize("backend", [name for name in ADAPTERS if (ROOT / "backends" / name).is_dir()])
def test_adapter_imports_no_other_adapter_or_framework(backend):
    others = [f"mopruning.backends.{name}" for name in ADAPTERS if name != backend]
    frameworks = [name for name in FRAMEWORKS if name != ADAPTERS[backend]]
    assert offenders(ROOT / "backends" / backend, others + frameworks) == []
