"""Long measurements over many networks: each in a process of its own, kept as soon as it is done, and resumed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from page import FIGURES

Rows = list[dict[str, Any]]

QUICK = ("mnist_cnn", "resnet8_cifar", "squeezenet1_1")


@dataclass(frozen=True)
class Campaign:
    """What was asked for on the command line, and what is measured of it.

    Args:
        parts: Network -> its rows.
        names: The networks that were asked for.
        whole: Whether these are all, so that the page is written.
        check: Whether a miss is to be an error.
    """

    parts: dict[str, Rows]
    names: Sequence[str]
    whole: bool
    check: bool


def campaign(
    description: str | None,
    name: str,
    networks: Sequence[str],
    measure: Callable[[str], Rows],
    last: Collection[str] = (),
) -> Campaign:
    """Read the command line of a long benchmark, and measure what it asks for.

    Args:
        description: What the program says of itself.
        name: See `measured`.
        networks: All there are.
        measure: See `measured`.
        last: See `measured`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NETWORK", help="networks to measure; all if none is named")
    parser.add_argument("--quick", action="store_true", help=f"{len(QUICK)} small networks, nothing written")
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted run ended")
    parser.add_argument("--page", action="store_true", help="write the page of what an interrupted run has measured")
    parser.add_argument("--jobs", type=int, default=1, help="measure so many at a time; only times suffer")
    parser.add_argument("--check", action="store_true", help="exit 1 where something does not hold")
    given = parser.parse_args()
    names = given.names or (QUICK if given.quick else networks)
    whole = list(names) == list(networks)
    if given.page:
        parts = so_far(name)
    else:
        parts = measured(name, names, measure, resume=given.resume, anew=not whole, jobs=given.jobs, last=last)
    return Campaign(parts, names, whole, given.check)


def measured(
    name: str,
    networks: Sequence[str],
    measure: Callable[[str], Rows],
    *,
    resume: bool = False,
    anew: bool = False,
    jobs: int = 1,
    last: Collection[str] = (),
) -> dict[str, Rows]:
    """Measure networks in order, and return the rows of each.

    Args:
        name: Name of the benchmark; its figures so far are build/benchmarks/NAME.parts.json.
        networks: What to measure.
        measure: A function of a module: network -> rows of plain values, which are kept as JSON.
        resume: Take over what an earlier, interrupted run has measured.
        anew: Measure all of these, and keep what is known of others.
        jobs: How many at a time.
        last: Those that need the others, or quiet: they come after them, one at a time.
    """
    FIGURES.mkdir(parents=True, exist_ok=True)
    kept = FIGURES / f"{name}.parts.json"
    found = so_far(name) if resume or anew else {}
    if anew:
        found = {network: rows for network, rows in found.items() if network not in networks}
    left = [network for network in networks if network not in found]
    turns = (jobs, [one for one in left if one not in last]), (1, [one for one in left if one in last])
    for workers, turn in turns:
        # a process for each: frameworks do not give memory back, and that of the largest networks would add up
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
            coming = {pool.submit(measure, network): network for network in turn}
            for done in as_completed(coming):
                network = coming[done]
                found[network] = done.result()
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
