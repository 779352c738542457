"""Record: what a training was, kept in its checkpoints beside weights and thresholds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mopruning.errors import StateError
from mopruning.manidp.settings import Settings
from mopruning.manidp.states import described, description
from mopruning.manidp.structure import Structure


@dataclass(frozen=True)
class Record:
    """What a training was.

    Args:
        structure: Its network's.
        settings: Its numbers.
        normalize: How its images were normalised, a key of `data.NORMALIZATIONS`.

    >>> from mopruning.manidp.structure import structure
    >>> record = Record(structure("dyresnet20"), Settings(epochs=3), "cifar")
    >>> Record.of(record.values(), "file") == record
    True
    """

    structure: Structure
    settings: Settings
    normalize: str

    def values(self) -> dict[str, Any]:
        """Return plain values, for a file; `of` reads them."""
        return {
            "structure": description(self.structure),
            "settings": dataclasses.asdict(self.settings),
            "normalize": self.normalize,
        }

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> Record:
        """Return the record that `values` was taken of; `where` is what errors call it.

        Raises:
            StateError: If an entry is missing or out of range.
        """
        try:
            return cls(described(values["structure"]), Settings(**values["settings"]), str(values["normalize"]))
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"{where}: expected what a ManiDP training was: {error!r}") from error

    def check_same(self, then: Record, where: str) -> None:
        """Raise StateError where a training that is to go on is another one than the saved one.

        Args:
            then: What was saved.
            where: What errors call it.
        """
        now, before = self.values(), then.values()
        changed = {**now["settings"], "normalize": now["normalize"], **now["structure"]}
        saved = {**before["settings"], "normalize": before["normalize"], **before["structure"]}
        found = [f"{name} {saved[name]!r}, now {value!r}" for name, value in changed.items() if saved[name] != value]
        if found:
            raise StateError(f"{where}: was written by a training with {'; '.join(found)}")
