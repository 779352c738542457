"""Evaluate a network that prunes itself for each image, with MindSpore: accuracy, and what an image costs.

    python examples/manidp/eval.py --dataset_path cifar10 --platform CPU --checkpoint_path results/checkpoint.ckpt

The checkpoint is MindSpore's or PyTorch's, or another file of weights such as .mopir; the published pair is a .ckpt
file with thres.npy beside it.
"""

import argparse
import os
import sys

# With AVX-512, MindSpore 2.10 on a CPU gets oneDNN's reference convolution, seen 30 times as slow as what it gets for
# AVX2. oneDNN reads this once, before it first computes.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")

import mindspore as ms

from mopruning.backends.mindspore.device import TARGETS, use_device
from mopruning.backends.mindspore.manidp import checkpoint, evaluate
from mopruning.backends.mindspore.manidp.networks import AMP_LEVELS
from mopruning.errors import MopruningError
from mopruning.manidp import STRUCTURES, program
from mopruning.manidp.structure import SHORTCUTS
from mopruning.training.data import NORMALIZATIONS, Data, find


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "--dataset_path",
        help="folder or archive of CIFAR-10, or folder of several sets; without, MOPRUNING_DATA says it",
    )
    add("--platform", default="CPU", choices=TARGETS, help="what to compute on")
    add("--device_id", type=int, help="number of the device")
    add("--checkpoint_path", required=True, help="file of weights and thresholds")
    add("--thres_path", help="file of thresholds, for weights without; by default thres.npy beside them")
    add("--drop_remainder", action="store_true", help="leave the last batch out where it is smaller, as published")
    add("--batch_size", type=int, default=128, help="for --drop_remainder")
    add("--images", type=int, help="use only the first so many images")
    add("--arch", choices=sorted(STRUCTURES), help="network; without, what the file says or its weights fit")
    add("--shortcut", choices=SHORTCUTS, help="what carries a block's input past it; without, likewise")
    add("--normalize", choices=sorted(NORMALIZATIONS), help="of images; without, what the file says, or cifar")
    add("--amp_level", default="O0", choices=AMP_LEVELS, help="how much is computed in float16")
    add("--mode", default="GRAPH", choices=("GRAPH", "PYNATIVE"), help="whether the network is compiled")
    options = parser.parse_args()
    if options.batch_size < 1:
        parser.error(f"--batch_size must be 1 or more, got {options.batch_size}")
    try:
        use_device(options.platform, options.device_id)
        ms.set_context(mode=ms.GRAPH_MODE if options.mode == "GRAPH" else ms.PYNATIVE_MODE)
        run(options)
    except (MopruningError, OSError, ImportError) as error:
        sys.exit(f"eval.py: {error}")


def run(options: argparse.Namespace) -> None:
    net, record = checkpoint.read_network(
        options.checkpoint_path,
        arch=options.arch,
        shortcut=options.shortcut,
        thresholds=options.thres_path,
        amp_level=options.amp_level,
    )
    images = find("cifar10", options.dataset_path, "test")[: options.images]
    if options.drop_remainder:
        images = images[: len(images) // options.batch_size * options.batch_size]
    normalize = options.normalize or (record.normalize if record else "cifar")
    found = evaluate(net, Data(images, images, normalize), images)
    print("result:", {"acc": found.accuracy})
    print(f"{program.told(found)}, an image; {len(images):,} images")


if __name__ == "__main__":
    main()
