"""Flags: the command lines of `train_scratch.py` and `prune.py`, as the published data-parallel program has them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from mopruning.datasets.loading import VARIABLE
from mopruning.errors import RecipeError
from mopruning.training.data import NORMALIZATIONS
from mopruning.training.networks import IMAGENET, SMALL, TWO_SHORTCUTS, zoo_name
from mopruning.training.precision import PRECISIONS
from mopruning.training.program import Outputs
from mopruning.training.sets import SETS
from mopruning.training.settings import Settings
from mopruning.training.soft_pruning import SoftPruning

Options: TypeAlias = argparse.Namespace

PRUNE_TYPES = ("irre_prune", "mn_prune", "pat_prune", "stripe_prune", "filter_prune", "bank_prune")
DEVICES = ("auto", "cpu", "cuda")
_TORCHRUN = "torchrun says it; taken so that published command lines are, and not needed"


def scratch_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of the flags of `train_scratch.py`."""
    return _parser(description, wd=5e-5)


def prune_parser(description: str, configs: Path) -> argparse.ArgumentParser:
    """Return a parser of the flags of `prune.py`.

    Args:
        description: What the program does.
        configs: Folder of the configurations that come with it.
    """
    result = _parser(description, wd=1e-4)
    add = result.add_argument
    add("--weight_file", help="weights to start from, such as those that train_scratch.py or this program wrote")
    add(
        "--config_file",
        type=Path,
        help=f"YAML with a ratio for each layer; without, {configs.name}/MODEL_DATASET_TYPE.yaml beside the program",
    )
    add("--prune_type", default=PRUNE_TYPES[0], choices=PRUNE_TYPES, help="which shapes are zeroed")
    add("--prune_freq", type=int, default=1, help="epochs from one mask update to the next in the soft phase")
    add("--retrain_epoch", type=int, default=1, help="epochs of the soft phase, in which weights grow back")
    result.set_defaults(configs=configs)
    return result


def _parser(description: str, wd: float) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    add = result.add_argument
    add("--data_root", default="data", help=f"folder of the data set, or of several; if there is none, {VARIABLE}")
    add("--model", default="wrn40_2", choices=sorted({*SMALL, *IMAGENET}), help="what to train")
    add("--dataset", default="cifar10", choices=list(SETS), help="what to train on")
    add("--seed", type=int, default=0, help="draws initial weights, order and augmentation of the images")
    add("--batch_size", type=int, default=256, help="images of an update, on all devices together")
    add("--epochs", type=int, default=200, help="passes over the training images")
    add("--lr", type=float, default=0.1, help="learning rate of the first epoch")
    add("--lr_decay_milestones", type=_milestones, default="120,150,180", help="epochs at which it falls to a tenth")
    add("--resume", nargs="?", const="", help="go on: from this checkpoint (.resume.pth), or the usual one")
    add("--wd", "--weight-decay", type=float, default=wd, help="weight decay")
    add("-p", "--print_freq", type=int, default=0, help="without a terminal, print a line after so many updates")
    add(
        "--pretrained",
        nargs="?",
        const=True,
        default=False,
        type=_truth,
        help="start from torchvision's weights, which must lie in torch's cache; for imagenet",
    )
    add("--log_tag", default="", help="end of the names of all files that are written")
    add("--ip", default="127.0.0.29", help=_TORCHRUN)
    add("--port", default="23456", help=_TORCHRUN)
    add("--local_rank", "--local-rank", type=int, default=-1, help=_TORCHRUN)
    add("--device", default="auto", choices=DEVICES, help="where to train; auto is cuda where there is one")
    add("--amp", default="none", choices=PRECISIONS, help="precision that the network is computed in while it trains")
    add("--out", type=Path, default=Path("."), help="folder for checkpoints/ and the log")
    add("--shortcut", default="conv", choices=("conv", "A"), help="of resnet8 to resnet110: a convolution, or padding")
    add("--normalize", choices=sorted(NORMALIZATIONS), help="mean and deviation of images; without, the data set's")
    add("--workers", type=int, default=16, help="threads that read pictures of imagenet")
    add("--train_images", type=int, help="use only the first so many training images")
    add("--test_images", type=int, help="use only the first so many test images")
    return result


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> Options:
    """Read the command line; numbers out of range, and networks that do not fit, are errors as unknown flags are."""
    options = parser.parse_args(arguments)
    try:
        settings(options)
        zoo_name(options.model, options.dataset)
        if hasattr(options, "prune_type"):
            soft_pruning(options)
        if options.pretrained and options.dataset != "imagenet":
            raise RecipeError(f"--pretrained: torchvision has no networks for {options.dataset}; give --weight_file")
        if options.pretrained and getattr(options, "weight_file", None):
            raise RecipeError("--pretrained and --weight_file both say what to start from: give one")
        if options.shortcut != "conv" and options.model not in TWO_SHORTCUTS:
            raise RecipeError(f"--shortcut {options.shortcut} is for {', '.join(TWO_SHORTCUTS)}")
    except RecipeError as error:
        parser.error(str(error))
    return options


def settings(options: Options) -> Settings:
    """Return the numbers of the training.

    Raises:
        RecipeError: If one is out of range.
    """
    return Settings(
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        milestones=options.lr_decay_milestones,
        wd=options.wd,
        seed=options.seed,
    )


def soft_pruning(options: Options) -> SoftPruning:
    """Return when masks are made.

    Raises:
        RecipeError: If a number is out of range.
    """
    return SoftPruning(options.epochs, options.retrain_epoch, options.prune_freq)


def outputs(options: Options) -> Outputs:
    """Return what the files are called; those of a training that goes on stay what they are."""
    kind = getattr(options, "prune_type", "scratch")
    usual = Outputs(options.out, kind, options.dataset, options.model, options.log_tag)
    return usual.of_checkpoint(Path(options.resume)) if options.resume else usual


def config_file(options: Options) -> Path:
    """Return the file of ratios: the one asked for, or the one that comes with the program.

    Raises:
        FileNotFoundError: If it is not there; the message names those that are.
    """
    usual = options.configs / f"{options.model}_{options.dataset}_{options.prune_type.removesuffix('_prune')}.yaml"
    chosen: Path = options.config_file or usual
    if not chosen.is_file():
        known = ", ".join(sorted(file.name for file in options.configs.glob("*.yaml")))
        raise FileNotFoundError(f"--config_file: there is no {chosen}; in {options.configs} there are {known}")
    return chosen


def _milestones(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(one) for one in text.split(",") if one.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected epochs such as 40,70,90, got {text!r}") from None


def _truth(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"expected True or False, got {text!r}")
    return values[text.lower()]
