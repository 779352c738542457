"""Flags: the published names and defaults; what is unknown or out of range is an error."""

import dataclasses
import doctest
import io
import sys

import numpy as np
import pytest
from rich.console import Console

from mopruning.datasets import Images
from mopruning.errors import RecipeError
from mopruning.manidp import Settings, flags
from mopruning.manidp.history import Row
from mopruning.training.data import NORMALIZATIONS, Data, ahead, find
from mopruning.training.progress import Display

PUBLISHED = {
    "dataset": "cifar10",
    "arch": "dyresnet20",
    "batch_size": 128,
    "momentum": 0.9,
    "decay": 5e-4,
    "decay_branch": 0.0,
    "print_freq": 200,
    "squeeze_rate": 2,
    "thre_freq": 1,
    "epochs": 400,
    "lr": 0.05,
    "thre_init": -10000,
    "thre_cls": 0.5,
    "gamma": 1.0,
    "clamp_max": 1000,
    "lambda_lasso": 0.1,
    "lambda_graph": 0.1,
    "target_remain_rate": 0.65,
}


def parse(*arguments: str):
    return flags.parse(flags.parser("trains"), arguments)


def write_cifar(folder, train: int = 20, test: int = 10) -> None:
    """Write random images in the official binary form."""
    rng = np.random.default_rng(0)
    for name, count in (*((f"data_batch_{i}", train // 5) for i in range(1, 6)), ("test_batch", test)):
        rows = rng.integers(0, 256, (count, 3073), dtype=np.uint8)
        rows[:, 0] %= 10
        (folder / f"{name}.bin").write_bytes(rows.tobytes())


def test_doctests():
    result = doctest.testmod(sys.modules[Data.__module__])
    assert result.attempted > 0
    assert result.failed == 0


def test_published_defaults():
    options = vars(parse())
    assert {name: options[name] for name in PUBLISHED} == PUBLISHED
    assert flags.settings(parse()) == Settings()


def test_every_number_has_a_flag():
    given = {"target_remain_rate": 0.5, "epochs": 3, "lr": 0.25, "detach_weight": True, "seed": 7, "gamma": 2.0}
    options = parse(
        *("--target_remain_rate", "0.5", "--epochs", "3", "--lr", "0.25", "--detach_weight", "--manualSeed", "7"),
        *("--gamma", "2"),
    )
    assert flags.settings(options) == dataclasses.replace(Settings(), **given)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--traget_remain_rate", "0.5"], "unrecognized arguments: --traget_remain_rate"),
        (["--epoch", "3"], "unrecognized arguments: --epoch 3"),  # no abbreviations either
        (["--arch", "resnet50"], "invalid choice: 'resnet50'"),
        (["--target_remain_rate", "1.5"], "target_remain_rate must be above 0 and at most 1"),
        (["--epochs", "0"], "epochs must be a whole number from 1"),
        (["--arch", "dyresnet18"], "--arch dyresnet18 is not for cifar10; those that are: dyresnet20"),
        (["--dataset", "imagenet"], "--arch dyresnet20 is not for imagenet"),
        (["--dataset", "imagenet", "--arch", "resnet18", "--shortcut", "A"], "have convolutions as shortcuts"),
    ],
)
def test_mistakes_are_errors(arguments, told, capsys):
    with pytest.raises(SystemExit):
        parse(*arguments)
    assert told in capsys.readouterr().err


def test_structure_of_the_flags():
    found = flags.network_structure(parse("--arch", "dyresnet56", "--shortcut", "A", "--squeeze_rate", "4"))
    assert (found.blocks, found.shortcut, found.squeeze_rate) == ((9, 9, 9), "A", 4)


@pytest.mark.parametrize(
    "name", ["cifar_pretrained_nets/ck_resnet20_cifar10.pth", "resnet20-12fca82f.th", "resnet20-x.pth"]
)
def test_weights_in_a_folder(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    (tmp_path / "resnet56-4bfd9763.th").touch()
    assert flags.pretrained_file(str(tmp_path), "dyresnet20") == tmp_path / name
    assert flags.pretrained_file(str(tmp_path / name), "dyresnet20") == tmp_path / name


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has none of cifar_pretrained_nets/ck_resnet20_cifar10\.pth"):
        flags.pretrained_file(str(tmp_path), "dyresnet20")
    with pytest.raises(FileNotFoundError, match="there is no"):
        flags.pretrained_file(str(tmp_path / "x.th"), "dyresnet20")
    for name in ("resnet20-a.th", "resnet20-b.th"):
        (tmp_path / name).touch()
    with pytest.raises(RecipeError, match=r"name one file of .*resnet20-a\.th, .*resnet20-b\.th"):
        flags.pretrained_file(str(tmp_path), "dyresnet20")


def test_images_of_the_flags(tmp_path):
    write_cifar(tmp_path)
    options = parse("--data_path", str(tmp_path), "--train_images", "7", "--manualSeed", "3")
    found = flags.data(options)
    assert (len(found.train), len(found.test), found.normalize, found.seed) == (7, 10, "cifar", 3)
    assert flags.data(parse("--data_path", str(tmp_path), "--normalize", "imagenet")).normalize == "imagenet"


def test_a_set_in_its_own_folder_or_in_one_of_several(tmp_path):
    own = tmp_path / "cifar10"
    own.mkdir()
    write_cifar(own)
    np.testing.assert_array_equal(find("cifar10", tmp_path, "test").images, find("cifar10", own, "test").images)


def test_images_are_normalised_as_published():
    grey = Images(np.full((2, 4, 4, 3), 128, np.uint8), np.zeros(2, np.int64))
    ((images, _),) = Data(grey, grey).plain(grey, 2)
    wanted = (128 - np.array([125.3, 123.0, 113.9])) / np.array([63.0, 62.1, 66.7])
    np.testing.assert_allclose(images[0, :, 0, 0], wanted, rtol=1e-5)
    assert NORMALIZATIONS["imagenet"][0] == (0.485, 0.456, 0.406)


def test_order_and_augmentation_follow_from_seed_and_epoch():
    rng = np.random.default_rng(0)
    some = Images(rng.integers(0, 256, (9, 8, 8, 3), np.uint8), np.arange(9))

    def epoch(seed: int, number: int) -> np.ndarray:
        return np.concatenate([images for images, _ in Data(some, some, seed=seed).training(number, 4)])

    np.testing.assert_array_equal(epoch(0, 1), epoch(0, 1))
    assert not np.array_equal(epoch(0, 1), epoch(0, 2))
    assert not np.array_equal(epoch(0, 1), epoch(1, 1))


def test_what_fails_in_the_thread_fails_in_the_loop():
    def broken():
        yield 1
        raise OSError("gone")

    items = ahead(broken())
    assert next(items) == 1
    with pytest.raises(OSError, match="gone"):
        next(items)


ROW = Row(1, 0.1, 0.5, 2.0, 1.5, 0.1, 0.1, 0.4, 0.5, 4e7, 0.02, 61.0)


def test_lines_where_there_is_no_terminal():
    stream = io.StringIO()
    with Display(2, 5, Console(file=stream, width=40), every=2) as display:
        for done in range(1, 6):
            display.update(0, done, 0.5 if display.wants_loss(done) else None)
        display.epoch(ROW)
    assert stream.getvalue().splitlines() == [
        "epoch 1/2  update 2/5  loss 0.5000",
        "epoch 1/2  update 4/5  loss 0.5000",
        f"epoch 1/2  {ROW}",
    ]


def test_a_bar_on_a_terminal():
    stream = io.StringIO()
    with Display(2, 5, Console(file=stream, force_terminal=True, width=120)) as display:
        display.update(0, 5, 0.25)
        display.epoch(ROW)
        display.update(1, 5, None)
    assert "10/10" in stream.getvalue()
    assert "loss 0.2500" in stream.getvalue()
    assert str(ROW) in stream.getvalue()
