"""Every transcript of the command line in the docs is what `mopruning` prints now.

In a ```console block a line `$ mopruning ...` is run, in the page's folder, after the page's Python blocks that stand
before it (whose output is compared here too, as a command may have changed it); `$ echo $?` is the exit code of the
command before. A line `...` stands for any lines. A block after `<!-- not run: REASON -->` is left alone, and so is one
without a `$ `.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from mopruning.cli import main

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^(<!-- not run: .*? -->\n)?```(python|text|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return (kind, text) of a page's Python blocks, texts and the transcripts to be run, in order."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [(m[2], m[3]) for m in found if m[2] != "console" or (not m[1] and m[3].startswith("$ "))]


PAGES = [p for p in sorted((ROOT / "docs").rglob("*.md")) if any(kind == "console" for kind, _ in blocks(p))]


def run(command: str, last: int) -> tuple[str, int]:
    """Run one command in this process; return what it printed on both streams, and its exit code."""
    words = shlex.split(command)
    if words == ["echo", "$?"]:
        return f"{last}\n", last
    assert words[0] == "mopruning", f"a transcript may only run mopruning: {command}"
    printed, code = io.StringIO(), 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main(words[1:])
        except SystemExit as end:
            code = int(end.code or 0)
    return printed.getvalue(), code


def matches(printed: str, expected: str) -> bool:
    """Compare line by line without trailing blanks; a line `...` of `expected` is any number of lines."""
    lines = [".*" if line.strip() == "..." else re.escape(line.rstrip()) for line in expected.strip().splitlines()]
    text = "\n".join(line.rstrip() for line in printed.strip().splitlines())
    return re.fullmatch("\n".join(lines), text, re.DOTALL) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_transcripts_are_real(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    namespace: dict[str, object] = {"__name__": "__main__"}
    code, output = 0, ""
    for kind, text in blocks(page):
        if kind == "python":
            with contextlib.redirect_stdout(stream := io.StringIO()):
                exec(compile(text, str(page), "exec"), namespace)
            output = stream.getvalue()
            continue
        if kind == "text":
            assert matches(output, text), output
            continue
        for turn in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, expected = turn.partition("\n")
            printed, code = run(command, code)
            assert matches(printed, expected), f"$ {command}\n{printed}"


def test_there_are_transcripts() -> None:
    assert {page.name for page in PAGES} >= {"command-line.md", "errors.md"}


def test_a_changed_transcript_is_noticed() -> None:
    assert matches("a\nb\nc \n", "a\n...\nc\n")
    assert not matches("a\nb\n", "a\nx\n")
    assert not matches("a\nb\n", "a\n")
