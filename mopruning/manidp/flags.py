"""Flags: the command line of the programs that train with ManiDP, in any framework."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mopruning.datasets.loading import VARIABLE
from mopruning.errors import RecipeError
from mopruning.manidp.settings import Settings
from mopruning.manidp.structure import SHORTCUTS, STRUCTURES, Structure, structure
from mopruning.training.data import NORMALIZATIONS, Data, find
from mopruning.training.pictures import PictureData, find_pictures

DATASETS = ("cifar10", "imagenet")

_TOLD = {
    "target_remain_rate": "share of a layer's channels whose mean saliency reaches the threshold in the end",
    "remain_ramp": "share of the epochs after which that rate is reached",
    "lambda_lasso": "weight of the penalty on saliencies",
    "lambda_graph": "weight of the distance between similarities",
    "thre_cls": "an image is hard from this times the last epoch's mean cross-entropy on",
    "gamma": "exponent of the weight of an easy image",
    "thre_freq": "thresholds change after every so many epochs",
    "thre_init": "threshold before the first change",
    "clamp_max": "largest saliency",
    "squeeze_rate": "hidden features of a gate are its channels divided by this, or by half of it below 80 channels",
    "epochs": "passes over the training images",
    "batch_size": "images of an update, on all devices together",
    "lr": "learning rate of the first update",
    "momentum": "of stochastic gradient descent, Nesterov's",
    "decay": "weight decay of the network",
    "decay_branch": "weight decay of the gates",
    "detach_weight": "the weight of an image is a plain number: no gradient through it",
    "detach_features": "similarities of features are plain numbers: no gradient through them",
}


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of what every training takes: the published flags with their defaults, and a few more.

    Args:
        description: What the program does.
    """
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    add = result.add_argument
    add("--data_path", help="folder or archive of the data set, or folder of several; without, MOPRUNING_DATA says it")
    add("--dataset", default="cifar10", choices=DATASETS, help="what to train on")
    add("--arch", default="dyresnet20", choices=sorted(STRUCTURES), help="what to train")
    add(
        "--shortcut",
        default="conv",
        choices=SHORTCUTS,
        help="what carries a block's input past it: a convolution, or A",
    )
    add("--normalize", choices=sorted(NORMALIZATIONS), help="mean and deviation of images; without, the data set's")
    add("--pretrain_path", help="file of a dense network's weights, or a folder that holds it under a published name")
    add(
        "--pretrain_gates",
        action="store_true",
        help="take gates and thresholds from --pretrain_path as well, which then is of such a training",
    )
    add(
        "--gate_scale",
        type=float,
        default=1.0,
        help="initial weights of gates times this; 0 starts as the dense network",
    )
    add("--save_path", default="manidp_results", help="folder for checkpoint, log and plot")
    add("--resume", action="store_true", help="go on from the checkpoint in --save_path")
    add("--manualSeed", dest="seed", type=int, default=0, help="draws initial gates, order and augmentation")
    add("--print_freq", type=int, default=200, help="without a terminal, print a line after so many updates")
    add("--workers", type=int, help="threads that read pictures of imagenet; without, 16")
    add("--train_images", type=int, help="use only the first so many training images")
    add("--test_images", type=int, help="use only the first so many test images")
    for field in dataclasses.fields(Settings):
        if field.name != "seed":
            kind = type(field.default)
            how = {"action": "store_true"} if kind is bool else {"type": kind}
            add(f"--{field.name}", default=field.default, help=_TOLD[field.name], **how)
    return result


def settings(options: argparse.Namespace) -> Settings:
    """Return the numbers of the training.

    Raises:
        RecipeError: If one is out of range.
    """
    return Settings(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Settings)})


def network_structure(options: argparse.Namespace) -> Structure:
    """Return the structure that the flags ask for.

    Raises:
        RecipeError: If the architecture is not one for the data set.
    """
    wanted = structure(options.arch, shortcut=options.shortcut, squeeze_rate=options.squeeze_rate)
    if (wanted.classes == 1000) != (options.dataset == "imagenet"):
        fitting = [name for name, one in STRUCTURES.items() if (one.classes == 1000) == (options.dataset == "imagenet")]
        raise RecipeError(f"--arch {options.arch} is not for {options.dataset}; those that are: {', '.join(fitting)}")
    if wanted.family.shortcut_norm and options.shortcut != "conv":
        raise RecipeError("--shortcut A: networks for imagenet have convolutions as shortcuts")
    return wanted


def data(options: argparse.Namespace) -> Data:
    """Load the images that the flags ask for.

    Raises:
        FileNotFoundError: If they are not there.
        FormatError: If a file is damaged.
    """
    splits = ("train", "test")
    if options.dataset == "imagenet":
        path = options.data_path or os.environ.get(VARIABLE, ".")
        train, test = (find_pictures(path, split, workers=options.workers or 16) for split in splits)
        kind: type[Data] = PictureData
        usual = "imagenet"
    else:
        train, test = (find(options.dataset, options.data_path, split) for split in splits)
        kind, usual = Data, "cifar"
    few = train[: options.train_images], test[: options.test_images]
    return kind(*few, normalize=options.normalize or usual, seed=options.seed)


def begun(options: argparse.Namespace) -> dict[str, Any]:
    """Return what a record keeps of how the network began."""
    return {name: getattr(options, name) for name in ("gate_scale", "pretrain_path", "pretrain_gates")}


def pretrained_file(path: str, arch: str) -> Path:
    """Return the file of a dense network's weights.

    Args:
        path: The file itself, or a folder that holds it under one of the names that such files are published with.
        arch: Which network.

    Raises:
        FileNotFoundError: If there is none.
        RecipeError: If a folder holds several.
    """
    place = Path(path)
    if not place.is_dir():
        if not place.exists():
            raise FileNotFoundError(f"--pretrain_path: there is no {path}")
        return place
    depth = arch.removeprefix("dy").removeprefix("resnet")
    patterns = (
        f"cifar_pretrained_nets/ck_resnet{depth}_cifar10.pth",
        f"ck_resnet{depth}_cifar10.pth",
        f"resnet{depth}-*.th",
        f"resnet{depth}-*.pth",
    )
    for pattern in patterns:
        if found := sorted(place.glob(pattern)):
            if len(found) > 1:
                raise RecipeError(f"--pretrain_path: name one file of {', '.join(map(str, found))}")
            return found[0]
    raise FileNotFoundError(f"--pretrain_path: {path} has none of {', '.join(patterns)}")


def parse(result: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; numbers out of range are errors as unknown flags are."""
    options = result.parse_args(arguments)
    try:
        settings(options)
        network_structure(options)
    except RecipeError as error:
        result.error(str(error))
    if options.pretrain_gates and not options.pretrain_path:
        result.error("--pretrain_gates: say with --pretrain_path whose gates")
    return options
