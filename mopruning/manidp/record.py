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

# what checkpoints of earlier versions do not say
_LATER = {"amp": str, "gate_scale": float, "pretrain_path": str, "pretrain_gates": bool}


@dataclass(frozen=True)
class Record:
    """What a training was. What is None is not known, and not compared.

    Args:
        structure: Its network's.
        settings: Its numbers.
        normalize: How its images were normalised, a key of `data.NORMALIZATIONS`.
        amp: What its network was computed in, a key of `training.precision.PRECISIONS`.
        gate_scale: What the gates' second layers were multiplied by in the beginning.
        pretrain_path: Where the weights that it began with lay, as it was said.
        pretrain_gates: Whether gates and thresholds came from there as well.

    >>> from mopruning.manidp.structure import structure
    >>> record = Record(structure("dyresnet20"), Settings(epochs=3), "cifar")
    >>> Record.of(record.values(), "file") == record
    True
    """

    structure: Structure
    settings: Settings
    normalize: str
    amp: str | None = None
    gate_scale: float | None = None
    pretrain_path: str | None = None
    pretrain_gates: bool | None = None

    def values(self) -> dict[str, Any]:
        """Return plain values, for a file; `of` reads them."""
        return {
            "structure": description(self.structure),
            "settings": dataclasses.asdict(self.settings),
            "normalize": self.normalize,
            **self.begun,
        }

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> Record:
        """Return the record that `values` was taken of; `where` is what errors call it.

        Raises:
            StateError: If an entry is missing or out of range.
        """
        try:
            later = {name: values[name] for name in _LATER if name in values}
            if any(not isinstance(value, _LATER[name]) for name, value in later.items()):
                raise TypeError(later)
            known = described(values["structure"]), Settings(**values["settings"]), str(values["normalize"])
            return cls(*known, **later)
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"{where}: expected what a ManiDP training was: {error!r}") from error

    @property
    def begun(self) -> dict[str, Any]:
        """What is known of how it began, and of its precision."""
        return {name: getattr(self, name) for name in _LATER if getattr(self, name) is not None}

    def check_same(self, then: Record, where: str) -> None:
        """Raise StateError where a training that is to go on is another one than the saved one.

        Args:
            then: What was saved.
            where: What errors call it.
        """
        now, saved = self._all(), then._all()
        found = [
            f"{name} {saved[name]!r}, now {value!r}"
            for name, value in now.items()
            if saved[name] != value and not (name in _LATER and None in (value, saved[name]))
        ]
        if found:
            raise StateError(f"{where}: was written by a training with {'; '.join(found)}")

    def _all(self) -> dict[str, Any]:
        values = self.values()
        later = {name: getattr(self, name) for name in _LATER}
        return {**values["settings"], "normalize": self.normalize, **values["structure"], **later}
