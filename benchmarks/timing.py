"""Timing on a machine that is never quite still: sides take turns, and the best of each counts."""

from __future__ import annotations

import argparse
import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

SETTLE = 0.01  # seconds: the threads of the side before spin for a while before they sleep


@dataclass(frozen=True)
class Side:
    """One way to do a job.

    Args:
        run: Does the job; is passed what `prepare` returned, if there is one.
        prepare: Makes what `run` uses up, outside the clock.
    """

    run: Callable[..., Any]
    prepare: Callable[[], Any] | None = None

    def time(self) -> float:
        arguments = () if self.prepare is None else (self.prepare(),)
        time.sleep(SETTLE)
        start = time.perf_counter()
        result = self.run(*arguments)
        elapsed = time.perf_counter() - start
        del result, arguments
        return elapsed


def interleaved(sides: Mapping[str, Side], repeats: int) -> dict[str, float]:
    """Return the best time of each side in seconds; in every round each side has its turn, after one unmeasured."""
    best = dict.fromkeys(sides, float("inf"))
    gc.collect()
    gc.disable()
    try:
        for repeat in range(repeats + 1):
            for name, side in sides.items():
                elapsed = side.time()
                if repeat:
                    best[name] = min(best[name], elapsed)
    finally:
        gc.enable()
    return best


@dataclass
class Bystanders:
    """How many cores other processes kept busy while a measurement ran, on Linux; None elsewhere."""

    _began: tuple[float, float, float] | None = field(default_factory=lambda: _clocks())

    def cores(self) -> float | None:
        now = _clocks()
        if now is None or self._began is None:
            return None
        wall, own, everyone = (after - before for after, before in zip(now, self._began, strict=True))
        return max(0.0, (everyone - own) / wall) if wall else 0.0


def aside(others: float | None) -> str:
    """Return the end of a page's sentence: what `Bystanders.cores` has counted."""
    return "" if others is None else f"; {_busy(others)}"


def _busy(others: float) -> str:
    return f"other processes kept {others:.2f} cores busy meanwhile"


def tell(missed: Sequence[str], others: float | None = None) -> None:
    """Print what was missed, and how busy others kept the machine."""
    for line in missed:
        print("missed:", line)
    if others is not None:
        print(_busy(others))


def command_line(description: str | None, quick: str, rounds: int, quick_rounds: int) -> argparse.ArgumentParser:
    """Return the options of a benchmark that times: `quick`, `check` and `repeats`, how many rounds that are.

    Args:
        description: What the program says of itself.
        quick: What --quick measures.
        rounds: How many rounds there are unless --repeats says otherwise.
        quick_rounds: And with --quick.
    """

    class Parser(argparse.ArgumentParser):
        def parse_args(self, *given: Any, **options: Any) -> Any:
            found = super().parse_args(*given, **options)
            found.repeats = found.repeats or (quick_rounds if found.quick else rounds)
            return found

    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{quick}, nothing written")
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--repeats", type=int, default=None, help=f"rounds ({rounds}; {quick_rounds} with --quick)")
    return parser


def _clocks() -> tuple[float, float, float] | None:
    """Return seconds of wall time, of this process's CPU time and of all CPU time spent."""
    try:
        fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
    except OSError:
        return None
    busy = (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")  # without idle and waiting for disks
    return time.perf_counter(), sum(os.times()[:4]), busy  # our children's time is ours


def machine(*packages: str) -> dict[str, str]:
    """Describe what the figures depend on: processor, cores, memory, versions, command, date."""
    return {
        "date": date.today().isoformat(),
        # of a path, what any machine has: a file's name and its folder's
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(_short, sys.argv[1:])]),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def _short(word: str) -> str:
    return "/".join(Path(word).parts[-2:]) if os.path.isabs(word) else word


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {name.strip(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
    vectors = [flag for flag in ("avx512f", "avx2", "asimd") if flag in facts.get("flags", "").split()]
    return facts.get("model name", platform.machine()) + (f", {vectors[0].upper()}" if vectors else "")


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (AttributeError, ValueError, OSError):
        return "unknown"
