"""Ranks that are threads of one process: what the tests put in place of a process group."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from mopruning.shards import NumPyArray, Shard


class Together:
    """An exchange for each of several threads; records all that is told."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.told: list[NumPyArray] = []
        self._barrier = threading.Barrier(size, timeout=20)
        self._slots: list[Any] = [None] * size

    def meet(self, rank: int, values: NumPyArray) -> NumPyArray:
        self._slots[rank] = values
        self._barrier.wait()
        found = np.stack(self._slots)
        self._barrier.wait()
        if rank == 0:
            self.told.append(values)
        return found

    def run(self, work: Callable[[Thread], Any]) -> list[Any]:
        """Return what ``work(exchange)`` returned on each rank; the first rank's error where all have one."""
        results: list[Any] = [None] * self.size
        errors: list[Any] = [None] * self.size

        def one(rank: int) -> None:
            try:
                results[rank] = work(Thread(self, rank))
            except Exception as error:
                errors[rank] = error

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        raised = [error for error in errors if error is not None]
        if raised:
            assert [str(error) for error in errors] == [str(raised[0])] * self.size
            raise raised[0]
        return results


class Thread:
    """The exchange as one of the threads sees it."""

    def __init__(self, together: Together, rank: int) -> None:
        self._together, self.rank, self.size = together, rank, together.size

    def add(self, values: NumPyArray) -> NumPyArray:
        return self._together.meet(self.rank, values).sum(axis=0)

    def largest(self, values: NumPyArray) -> NumPyArray:
        return self._together.meet(self.rank, values).max(axis=0)

    def gather(self, values: NumPyArray) -> NumPyArray:
        return self._together.meet(self.rank, values)


def shards(shape: tuple[int, ...], axis: int, borders: tuple[int, ...]) -> list[Shard]:
    """What each rank holds of an array."""
    return [Shard(shape, axis, borders, rank) for rank in range(len(borders) - 1)]


def chunks(extent: int, ranks: int) -> tuple[int, ...]:
    """Borders as torch draws them: equal chunks, rounded up, until nothing is left."""
    step = -(-extent // ranks)
    return tuple(min(rank * step, extent) for rank in range(ranks + 1))
