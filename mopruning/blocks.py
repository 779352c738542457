"""Large arrays in blocks: worked through piece by piece, in a core's cache and on all cores."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

BLOCK = 1 << 17  # elements of a block: with its temporaries it stays in a core's second-level cache
PARALLEL = 1 << 20  # elements from which waking threads usually costs less than it saves


def in_blocks(work: Callable[[int, int], Result], length: int, size: int) -> list[Result]:
    """Call ``work(start, stop)`` over blocks of an axis, on all cores where the array is large.

    Args:
        work: Handles one block, writing where no other block writes.
        length: Length of the axis.
        size: Elements of the whole array, which decide the block length.

    Returns:
        What each call returned, in the order of the blocks.
    """
    step = max(1, BLOCK * length // max(size, 1))
    return each(work, spans(length, step), parallel=size >= PARALLEL)


def spans(length: int, step: int) -> list[tuple[int, int]]:
    """List the start and stop of each block of `step` along an axis; the last may be shorter."""
    return [(start, min(start + step, length)) for start in range(0, length, step)]


def each(work: Callable[..., Result], jobs: Iterable[tuple[int, ...]], *, parallel: bool) -> list[Result]:
    """Call ``work(*job)`` for each job; where `parallel`, on all cores.

    Returns:
        What each call returned, in the order of the jobs.
    """
    waiting = deque(enumerate(jobs))
    helpers = min(_cores(), len(waiting)) - 1 if parallel else 0
    results: dict[int, Result] = {}

    def run() -> None:
        while waiting:
            try:
                index, job = waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            results[index] = work(*job)

    started = [_pool().submit(run) for _ in range(helpers)]
    try:
        run()
    finally:
        for helper in started:
            if not helper.cancel():
                helper.result()
    return [results[index] for index in range(len(results))]


@functools.cache
def _cores() -> int:
    """Count the cores this process may use, up to eight: with more, all wait for memory."""
    if hasattr(os, "sched_getaffinity"):
        return min(8, len(os.sched_getaffinity(0)))
    return min(8, os.cpu_count() or 1)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=_cores(), thread_name_prefix="mopruning")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork: a child starts its own
    os.register_at_fork(after_in_child=_pool.cache_clear)
