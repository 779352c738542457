"""Train a network that prunes itself for each image, with MindSpore: ManiDP, on Ascend, GPU or CPU.

    python examples/manidp/train.py --data_path cifar10 --pretrain_path resnet20.th --shortcut A --normalize imagenet
    python examples/manidp/train.py --platform Ascend --amp_level O2 --data_path cifar10 --pretrain_path nets

It writes checkpoint.ckpt, log.csv, log.png and, at the end, evaluation.npz to --save_path; with --resume it goes on
there. eval.py reads the checkpoint.
"""

import argparse
import os
import sys
from functools import partial

# With AVX-512, MindSpore 2.10 on a CPU gets oneDNN's reference convolution, seen 30 times as slow as what it gets for
# AVX2. oneDNN reads this once, before it first computes.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")

import mindspore as ms

from mopruning.backends.mindspore.device import TARGETS, use_device
from mopruning.backends.mindspore.manidp import Training, checkpoint, network
from mopruning.backends.mindspore.manidp.networks import AMP_LEVELS
from mopruning.errors import MopruningError
from mopruning.manidp import flags, program
from mopruning.training.checkpoints import Checkpoints


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("--platform", default="CPU", choices=TARGETS, help="what to train on")
    parser.add_argument("--device_id", type=int, help="number of the device")
    parser.add_argument("--amp_level", default="O0", choices=AMP_LEVELS, help="how much is computed in float16")
    parser.add_argument("--mode", default="GRAPH", choices=("GRAPH", "PYNATIVE"), help="whether updates are compiled")
    options = flags.parse(parser)
    try:
        use_device(options.platform, options.device_id)
        ms.set_context(mode=ms.GRAPH_MODE if options.mode == "GRAPH" else ms.PYNATIVE_MODE)
        run(options)
    except (MopruningError, OSError, ImportError) as error:
        sys.exit(f"train.py: {error}")


def run(options: argparse.Namespace) -> None:
    structure, settings = flags.network_structure(options), flags.settings(options)
    net = network(
        structure,
        clamp_max=settings.clamp_max,
        seed=settings.seed,
        thre_init=settings.thre_init,
        gate_scale=options.gate_scale,
        amp_level=options.amp_level,
    )
    data = flags.data(options)
    if options.pretrain_path and not options.resume:
        file = flags.pretrained_file(options.pretrain_path, options.arch)
        checkpoint.load_pretrained(net, file, gates=options.pretrain_gates)
    training = Training(net, data, settings, begun=flags.begun(options))
    kept = Checkpoints("checkpoint.ckpt", partial(checkpoint.save, training), partial(checkpoint.restore, training))
    program.run(training, options, kept, options.platform)


if __name__ == "__main__":
    main()
