"""Long measurements over many networks: each in a process of its own, kept as soon as it is done, and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from page import FIGURES

Rows = list[dict[str, Any]]


def measured(
    name: str, networks: Sequence[str], measure: Callable[[str], Rows], *, resume: bool = False, anew: bool = False
) -> dict[str, Rows]:
    """Measure networks one after the other, and return the rows of each.

    Args:
        name: Name of the benchmark; its figures so far are build/benchmarks/NAME.parts.json.
        networks: What to measure.
        measure: A function of a module: network -> rows of plain values, which are kept as JSON.
        resume: Take over what an earlier, interrupted run has measured.
        anew: Measure all of these, and keep what is known of others.
    """
    FIGURES.mkdir(parents=True, exist_ok=True)
    kept = FIGURES / f"{name}.parts.json"
    found = so_far(name) if resume or anew else {}
    if anew:
        found = {network: rows for network, rows in found.items() if network not in networks}
    left = [network for network in networks if network not in found]
    # a process for each: frameworks do not give memory back, and that of the largest networks would add up
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for network, rows in zip(left, pool.map(measure, left), strict=True):
            found[network] = rows
            kept.write_text(json.dumps(found), encoding="utf-8")
            print(f"{network}: {len(found)} measured", flush=True)
    return {network: found[network] for network in networks}


def so_far(name: str) -> dict[str, Rows]:
    """Return what an interrupted run has measured."""
    kept = FIGURES / f"{name}.parts.json"
    return json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}


def counted(parts: Sequence[str], networks: Sequence[str]) -> str:
    """Say in words how many of the networks were measured; those that were not are named."""
    left = [network for network in networks if network not in parts]
    if not left:
        return "Every network"
    return f"{len(parts)} of the {len(networks)} networks (not yet: {', '.join(left)})"
