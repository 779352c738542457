"""Every Python snippet of the README and the docs runs, and prints what the page says it prints.

A ```python block runs in the page's own namespace, in an empty folder. Where a ```text block follows it, with at most a
line between, that is its output; lines that report an accuracy may differ in their numbers, which depend on the
machine's arithmetic.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from mopruning.backends import BACKENDS
from tests.backends.presence import require

ROOT = Path(__file__).parent.parent
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
PAGES = [*READMES, ROOT / "examples" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def snippets(page: Path) -> list[tuple[str, str | None, int]]:
    """Return (code, expected output or None, lines before it) of each Python block of a page."""
    text = page.read_text(encoding="utf-8")
    found = list(BLOCK.finditer(text))
    result = []
    for index, match in enumerate(found):
        if match[1] != "python":
            continue
        after = found[index + 1] if index + 1 < len(found) else None
        between = "" if after is None else text[match.end() : after.start()].strip()
        follows = after is not None and after[1] == "text" and "\n" not in between  # at most "It prints:"
        before = text.count("\n", 0, match.start(2))
        result.append((match[2], after[2] if follows and after is not None else None, before))
    return result


def comparable(output: str) -> list[str]:
    """Return the lines of an output without trailing blanks, and without numbers where they speak of accuracy."""
    lines = [line.rstrip() for line in output.strip().splitlines()]
    return [re.sub(r"[-\d.]+", "#", line) if "accuracy" in line else line for line in lines]


@pytest.mark.parametrize("page", [p for p in PAGES if p != READMES[1]], ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.name == "architecture.md":
        pytest.skip("its block lists fixed names, some of which belong to rooms not furnished yet")
    if page.stem in BACKENDS:
        require(page.stem)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for code, expected, before in snippets(page):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            # at its own lines of the page, where MindSpore looks for the source that it compiles
            exec(compile("\n" * before + code, str(page), "exec"), namespace)
        if expected is not None:
            assert comparable(printed.getvalue()) == comparable(expected), printed.getvalue()


def test_readmes_have_one_example_with_its_output() -> None:
    english, chinese = ([one[:2] for one in snippets(page)] for page in READMES)
    assert any(expected for _, expected in english)
    assert english == chinese


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    missing = [t for t in targets if not t.startswith(("http:", "https:")) and not (page.parent / t).exists()]
    assert not missing
