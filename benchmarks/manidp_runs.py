"""Trainings of ManiDP and of its static rival, read back from the folders that they left."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from manidp_static import SCORES, StaticEvaluation, answers

from mopruning.backends.pytorch.manidp import DynamicResNet, Training, checkpoint, load_state, network
from mopruning.datasets import Images
from mopruning.errors import FormatError
from mopruning.manidp import STRUCTURES, Evaluation, Settings, Structure, flags
from mopruning.manidp.history import History, Row
from mopruning.manidp.record import Record
from mopruning.training.data import Data

EARLIER = "manidp_results/checkpoint.pth"
"""What commands call the network that a training went on from."""


@dataclass(frozen=True)
class Result:
    """What a training has come to.

    Args:
        record: What it is.
        epoch: Epochs that it has completed.
        rows: One each.
        net: Its network.
        answers: What that answers for the test images.
        static: What was asked of the static rival; None for ManiDP.
        before: Epochs of the ManiDP training that it went on from, with its gates; 0 where it began anew.
    """

    record: Record
    epoch: int
    rows: Sequence[Row]
    net: DynamicResNet
    answers: Evaluation
    static: Mapping[str, Any] | None
    before: int = 0

    @property
    def name(self) -> str:
        """What it is called in table and pictures."""
        what = "ManiDP" if self.static is None else "static filters"
        total = self.record.settings.epochs
        if self.before:
            what = f"{what}, {total} epochs more"
        return what if self.epoch == total else f"{what}, after {self.epoch} of {total} epochs"


def read(folder: Path, test: Images, *, static: bool = False, before: int = 0) -> Result:
    """Read the folder of a training.

    Args:
        folder: What it was given as --save_path.
        test: All test images.
        static: Whether filters are expected to be pruned for all images alike.
        before: Epochs of the ManiDP training that it went on from, with its gates.

    Raises:
        FormatError: If it holds none.
        StateError: If a file in it belongs to another network.
    """
    file, log = folder / "checkpoint.pth", folder / "log.csv"
    if not file.is_file() or not log.is_file():
        raise FormatError(f"{folder}: is no result of a training: expected checkpoint.pth and log.csv in it")
    content = checkpoint.read(file)
    record = Record.of(content, str(file))
    asked = content["training"].get("static")
    if static != (asked is not None):
        told = "prunes filters for all images alike: --static" if asked else "is no static rival, but a ManiDP training"
        raise FormatError(f"{folder}: {told}")
    net = network(record.structure, clamp_max=record.settings.clamp_max)
    load_state(net, content["state_dict"], str(file))
    epoch = int(content["epoch"])
    rows = History.read(log, epoch).rows
    kind = StaticEvaluation if static else Evaluation
    result = folder / "evaluation.npz"
    if epoch == record.settings.epochs and result.is_file():
        with np.load(result, allow_pickle=False) as held:
            found = kind(record.structure, *(held[name] for name in ("predictions", "labels", "cross_entropy", "kept")))
        if not np.array_equal(found.labels, test.labels):
            raise FormatError(f"{result}: holds answers for other images than the {len(test):,} of the test set")
    else:
        training = Training(net, Data(test, test, record.normalize), record.settings)
        found = answers(training, test) if static else training.evaluate(test)
    return Result(record, epoch, rows, net.eval(), found, asked, before)


def dense_answers(path: str, like: Result, test: Images) -> Evaluation:
    """Return what the network answers that the training started from."""
    structure = like.record.structure
    net = network(structure)
    checkpoint.load_pretrained(net, flags.pretrained_file(path, arch(structure)))
    training = Training(net, Data(test, test, like.record.normalize), like.record.settings)
    return answers(training, test)


# ---- how it was made


def arch(structure: Structure) -> str:
    """Return what --arch calls a network."""
    for name, one in STRUCTURES.items():
        if (one.blocks, one.channels, one.family) == (structure.blocks, structure.channels, structure.family):
            return name
    return "x".join(map(str, structure.blocks))


def label(structure: Structure) -> str:
    """Return what a network is called in pictures."""
    return arch(structure).replace("dyresnet", "ResNet-") + " on CIFAR-10"


def command(result: Result, pretrained: str | None, more: str) -> str:
    """Return the command that makes a result, as far as its checkpoint says it; `more` is what it does not."""
    record, static = result.record, result.static
    words = ["python", "examples/manidp/main.py" if static is None else "benchmarks/manidp_static.py"]
    words += ["--arch", arch(record.structure), "--shortcut", record.structure.shortcut]
    words += ["--data_path", "cifar10", "--normalize", record.normalize]
    if result.before:
        words += ["--pretrain_path", EARLIER, "--pretrain_gates"]
    elif pretrained:
        words += ["--pretrain_path", Path(pretrained).name]
    for field in dataclasses.fields(Settings):
        value = getattr(record.settings, field.name)
        if value != field.default:
            flag = "manualSeed" if field.name == "seed" else field.name
            words += [f"--{flag}"] if value is True else [f"--{flag}", str(value)]
    if static is not None:
        words += ["--macs", str(int(result.answers.macs[0])), "--ramp", str(static["ramp"])]
        words += ["--score", static["score"]] if static["score"] != SCORES[0] else []
        more = " ".join(flag for flag in ("--amp bf16", "--amp fp16") if flag in more)  # the rest is about gates
    words += shlex.split(more)
    return _folded(words)


def _folded(words: Sequence[str]) -> str:
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) > 108 and word.startswith("--"):
            lines.append("   ")
        lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return " \\\n".join(lines)
