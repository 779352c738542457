"""What a ManiDP training came to, beside its dense start, its static rival and the published result: page and pictures.

    MOPRUNING_DATA=FOLDER python benchmarks/manidp_results.py manidp_results --pretrain_path resnet20.th \
        --static static_results --longer longer_results --flags "--gate_scale 0.1 --amp bf16"

It reads what `examples/manidp/main.py` and `benchmarks/manidp_static.py` write to --save_path. A training that is not
at its end is evaluated as it stands, and named so. Nothing is written to these folders.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from manidp_pictures import by_epoch, by_image, easy_and_hard
from manidp_runs import Result, arch, command, dense_answers, label, read
from manidp_static import differences
from page import PAGES, Table, facts_table, write
from timing import machine

from mopruning.datasets import Images
from mopruning.errors import MopruningError, StateError
from mopruning.manidp import STRUCTURES, Evaluation, cost
from mopruning.plots import save
from mopruning.training.data import find

NAME = "manidp"
MOST_LOST, LEAST_SAVED = 0.008, 0.5  # what is asked for: points of accuracy, share of multiply-accumulates


@dataclass(frozen=True)
class Published:
    """Errors and savings that the paper's table for CIFAR-10 has, shares."""

    dense: float
    error: float
    saved: float


PUBLISHED = {
    3: Published(0.0778, 0.0795, 0.542),
    5: Published(0.0734, 0.0785, 0.632),
    9: Published(0.063, 0.0636, 0.624),
}
"""Blocks of a stage -> what Tang et al. published: ResNet-20, 32 and 56."""


# ---- the page


def own_command(static: Result | None, longer: Result | None, pretrained: str | None, more: str) -> str:
    """Return the command that writes the page; folders are named as the programs name them."""
    words = ["python", "benchmarks/manidp_results.py", "manidp_results"]
    words += [] if static is None else ["--static", "static_results"]
    words += [] if longer is None else ["--longer", "longer_results"]
    words += ["--pretrain_path", Path(pretrained).name] if pretrained else []
    words += ["--flags", more] if more else []
    return shlex.join(words)


PAGE = """# ManiDP on CIFAR-10

{machine}

Written by `{written}`.
Accuracies are over all {count} test images, with the network of the last epoch, not of the best one. The standard
deviation of an accuracy of {accuracy:.1%} over so many images is {chance:.2f} points.

{table}

- **MACs** are multiply-accumulates of a test image: the mean, gates included for ManiDP. **saved** is against the dense
  network with its gates, {total} in this network, as published.
- {static}
{longer}- *published* is the table of Tang et al., CVPR 2021, for the same depth with convolutions in its shortcuts.
- {verdict}

![Accuracy against multiply-accumulates, epoch by epoch]({name}_epochs.png)

Made by

```sh
{commands}
```

in {durations}, the median.

## What images cost

{whose}An image takes {least} to {most} million multiply-accumulates: those answered right {right} in the mean, those
answered wrong {wrong}. The rank correlation between an image's cost and its cross-entropy is {correlation:.2f}.

![How many images cost how much, and cost by cross-entropy]({name}_images.png)

## Easy and hard images

![The cheapest and the dearest images, with the channels that each keeps]({name}_channels.png)

The cheapest and the dearest of the images that are answered right. Below each, a line for each gate, in the order in
which they are computed; dark is a channel that the image keeps. Stages have {channels} channels.
"""


def table(results: Sequence[Result], dense: Evaluation | None) -> Table:
    structure = results[0].record.structure
    total = cost(structure).total

    def row(name: str, error: float, macs: float | None, saved: float | None, before: float | None) -> list[str]:
        lost = "" if before is None else f"{100 * (error - before):+.2f}"
        spent = "" if macs is None else f"{macs / 1e6:.2f}"
        less = "" if saved is None else f"{100 * saved:.1f}"
        return [name, f"{100 * (1 - error):.2f}", f"{100 * error:.2f}", lost, spent, less]

    start = None if dense is None else 1 - dense.accuracy
    rows = []
    if start is not None:
        rows.append(row("dense start", start, cost(structure).dense, None, None))
    for one in results:
        found = one.answers
        rows.append(row(one.name, 1 - found.accuracy, found.mean_macs, 1 - found.mean_macs / total, start))
    published = PUBLISHED.get(structure.blocks[0]) if arch(structure) in STRUCTURES else None
    if published is not None:
        with_convolutions = cost(dataclasses.replace(structure, shortcut="conv"))
        rows.append(row("published: dense", published.dense, with_convolutions.dense, None, None))
        spent = with_convolutions.total * (1 - published.saved)
        rows.append(row("published: ManiDP", published.error, spent, published.saved, published.dense))
    columns = ("network", "accuracy, %", "error, %", "error more, points", "MACs, millions", "saved, %")
    return Table("ManiDP on CIFAR-10", columns, rows)


def missed(result: Result, static: Result | None, dense: Evaluation | None, longer: Result | None = None) -> list[str]:
    """Return what was asked for and is not there; the static rival is held against what was trained for as long."""
    found, faults = (longer or result).answers, []
    if found.reduction < LEAST_SAVED:
        faults.append(f"{found.reduction:.1%} saved, {LEAST_SAVED:.0%} asked for")
    lost = 0.0 if dense is None else round(dense.accuracy - found.accuracy, 9)  # 0.9 - 0.892 is a little above 0.008
    if lost > MOST_LOST:
        faults.append(f"{100 * lost:.2f} points below the dense start, {100 * MOST_LOST:g} allowed")
    if static is not None and result.answers.accuracy <= static.answers.accuracy:
        faults.append(f"not ahead of static filters ({static.answers.accuracy:.2%})")
    return faults


def verdict(result: Result, faults: Sequence[str]) -> str:
    asked = (
        f"Asked for are {LEAST_SAVED:.0%} saved or more, at most {100 * MOST_LOST:g} points below the dense start and "
        "ahead of static filters" + (" trained for as long" if result.before else "")
    )
    if not faults:
        return f"{asked}: so it is."
    so_far = "" if result.epoch == result.record.settings.epochs else " so far"
    return f"{asked}. Missed{so_far}: {'; '.join(faults)}."


def compared(result: Result, static: Result | None) -> str:
    """Say what the static rival is, and how the two differ image by image."""
    if static is None:
        return "The static rival has not been trained yet."
    good, rival = (one.answers.predictions == one.answers.labels for one in (result, static))
    unlike = differences(static.record, result.record, "ManiDP")
    how = "for as many epochs" if not unlike else f"(unlike ManiDP with {'; '.join(unlike)})"
    assert static.static is not None
    return (
        f"**static filters** started from the same network and trained on the same images {how}, with the sparse "
        f"optimizer, granularity filter and score {static.static['score']}. Every convolution in a block loses the "
        f"same share of its filters and keeps {_left(static)}. Normalisations behind the others are zeroed too, so "
        f"that their channels could be cut out. {int((good & ~rival).sum()):,} images only ManiDP answers right, "
        f"{int((rival & ~good).sum()):,} only the static network."
    )


def went_on(longer: Result | None) -> str:
    """Say what the longer training is, as a line of a list; nothing where there is none."""
    if longer is None:
        return ""
    settings = longer.record.settings
    return (
        f"- **{longer.name}** went on from ManiDP's last network and gates as a training of its own: the learning rate "
        f"falls from {settings.lr:g} again, and the rate of channels that remain from 1 to "
        f"{settings.target_remain_rate:g}. "
        f"Of {longer.before + settings.epochs} epochs in all there is no static rival.\n"
    )


def _left(static: Result) -> str:
    """Say how many filters the static network keeps, such as "9 or 10 of 16, 19 of 32"."""
    found: dict[int, set[int]] = {}
    for channels, kept in zip(static.record.structure.gate_channels, static.answers.kept[0].tolist(), strict=True):
        found.setdefault(channels, set()).add(kept)
    return ", ".join(f"{' or '.join(map(str, sorted(kept)))} of {channels}" for channels, kept in found.items())


def _stages(result: Result) -> str:
    first, last = result.record.structure.channels[:-1], result.record.structure.channels[-1]
    return f"{', '.join(map(str, first))} and {last}" if first else str(last)


def report(
    result: Result,
    static: Result | None,
    dense: Evaluation | None,
    test: Images,
    pages: Path = PAGES,
    *,
    pretrained: str | None = None,
    more: str = "",
    longer: Result | None = None,
) -> list[str]:
    """Write page and pictures; return what was missed. What is said of images is of `longer`, where there is one."""
    last = longer or result
    record, found = last.record, last.answers
    results = [one for one in (result, static, longer) if one is not None]
    for name, one in (("--static: it is the rival", static), ("--longer: it goes on with a training", longer)):
        if one is not None and one.record.structure != result.record.structure:
            raise StateError(f"{name} of another network")
    facts = machine("numpy", "torch") | {"command": own_command(static, longer, pretrained, more)}
    faults = missed(result, static, dense, longer)
    good = found.predictions == found.labels
    ranks = [np.argsort(np.argsort(values, kind="stable")) for values in (found.macs, found.cross_entropy)]
    spent = found.macs / 1e6
    shown = table(results, dense)
    text = PAGE.format(
        name=NAME,
        machine=facts_table(facts),
        written=facts["command"],
        count=f"{len(test):,}",
        accuracy=found.accuracy,
        chance=100 * (found.accuracy * (1 - found.accuracy) / len(test)) ** 0.5,
        table=shown.markdown(),
        total=f"{cost(record.structure).total:,}",
        static=compared(result, static),
        longer=went_on(longer),
        whose=f"Of {last.name}. " if longer else "",
        verdict=verdict(last, faults),
        commands="\n".join(command(one, pretrained, more) for one in results),
        durations=" and ".join(
            f"{len(one.rows)} epochs of {np.median([row.seconds for row in one.rows]):.0f} s ({one.name})"
            for one in results
        ),
        least=f"{spent.min():.1f}",
        most=f"{spent.max():.1f}",
        right=f"{spent[good].mean():.2f}" if good.any() else "-",
        wrong=f"{spent[~good].mean():.2f}" if not good.all() else "-",
        correlation=np.corrcoef(*ranks)[0, 1],
        channels=_stages(last),
    )
    pages.mkdir(parents=True, exist_ok=True)
    others = {} if dense is None else {"dense start": (float(cost(record.structure).dense), dense.accuracy)}
    published = PUBLISHED.get(record.structure.blocks[0])
    if published is not None and arch(record.structure) in STRUCTURES:
        total = cost(dataclasses.replace(record.structure, shortcut="conv")).total
        others["published ManiDP"] = (total * (1 - published.saved), 1 - published.error)
    pictures = {
        "epochs": by_epoch({one.name: one.rows for one in results}, others, label(record.structure)),
        "images": by_image(found),
        "channels": easy_and_hard(last.net, test, found, record.normalize),
    }
    for what, figure in pictures.items():
        save(figure, pages / f"{NAME}_{what}.png")
    figures = {"machine": facts, "table": [dict(zip(shown.columns, row, strict=True)) for row in shown.rows]}
    write(NAME, text, figures, pages)
    shown.print()
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="--save_path of a ManiDP training")
    parser.add_argument("--static", type=Path, help="--save_path of benchmarks/manidp_static.py")
    parser.add_argument("--longer", type=Path, help="--save_path of a ManiDP training that went on, --pretrain_gates")
    parser.add_argument("--pretrain_path", help="the dense network that both started from")
    parser.add_argument("--data_path", help="CIFAR-10; without, MOPRUNING_DATA says it")
    parser.add_argument("--flags", default="", help="of the training, where its checkpoint does not hold them")
    parser.add_argument("--out", type=Path, default=PAGES, help="where page and pictures go (docs/benchmarks)")
    parser.add_argument("--check", action="store_true", help="exit 1 where something is missed")
    options = parser.parse_args()
    if options.folder is None:
        print("left out: no folder of a training")
        return 0
    try:
        test = find("cifar10", options.data_path, "test")
        result = read(options.folder, test)
        static = None if options.static is None else read(options.static, test, static=True)
        before = result.record.settings.epochs
        longer = None if options.longer is None else read(options.longer, test, before=before)
        dense = None if options.pretrain_path is None else dense_answers(options.pretrain_path, result, test)
        faults = report(
            *(result, static, dense, test, options.out),
            pretrained=options.pretrain_path,
            more=options.flags,
            longer=longer,
        )
    except (MopruningError, OSError, ImportError) as error:
        sys.exit(f"manidp_results.py: {error}")
    for fault in faults:
        print("missed:", fault)
    return 1 if options.check and faults else 0


if __name__ == "__main__":
    sys.exit(main())
