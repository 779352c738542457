"""Train a network that prunes itself for each image: ManiDP, on a CPU, a GPU, or several of them.

    python examples/manidp/main.py --data_path cifar10 --pretrain_path resnet20.th --shortcut A --normalize imagenet
    torchrun --nproc_per_node 4 examples/manidp/main.py --ngpu 4 --data_path cifar10 --pretrain_path nets

It writes checkpoint.pth, log.csv, log.png and, at the end, evaluation.npz to --save_path; with --resume it goes on
there.
"""

import argparse
import os
import sys
from functools import partial

import torch

from mopruning.backends.pytorch.manidp import checkpoint, network
from mopruning.backends.pytorch.manidp.training import Training
from mopruning.backends.pytorch.ranks import Ranks, join, leave
from mopruning.errors import MopruningError
from mopruning.manidp import flags, program
from mopruning.training.checkpoints import Checkpoints
from mopruning.training.precision import PRECISIONS


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("--ngpu", type=int, default=1, help="how many GPUs; the CPU where there is none, or with 0")
    parser.add_argument("--amp", default="none", choices=PRECISIONS, help="precision of convolutions")
    options = flags.parse(parser)
    device = chosen_device(parser, options.ngpu)
    ranks = join(device)
    try:
        run(options, device, ranks)
    except (MopruningError, OSError, ImportError) as error:
        sys.exit(f"main.py: {error}")
    finally:
        leave(ranks)


def chosen_device(parser: argparse.ArgumentParser, ngpu: int) -> torch.device:
    started, present = int(os.environ.get("WORLD_SIZE", "1")), torch.cuda.device_count()
    if ngpu > 1 and started != ngpu:
        parser.error(
            f"--ngpu {ngpu}: start one process a GPU: torchrun --nproc_per_node {ngpu} examples/manidp/main.py"
        )
    if ngpu > 1 and present < ngpu:
        parser.error(f"--ngpu {ngpu}: this machine has {present}")
    if ngpu == 1 and started > 1 and present:
        parser.error(f"--ngpu 1: torchrun has started {started} processes: --ngpu {started}, or 0 for the CPU")
    if not ngpu or not present:
        return torch.device("cpu")
    number = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def run(options: argparse.Namespace, device: torch.device, ranks: Ranks) -> None:
    structure, settings = flags.network_structure(options), flags.settings(options)
    net = network(
        structure,
        clamp_max=settings.clamp_max,
        seed=settings.seed,
        thre_init=settings.thre_init,
        gate_scale=options.gate_scale,
    )
    data = flags.data(options)
    if options.pretrain_path and not options.resume:
        file = flags.pretrained_file(options.pretrain_path, options.arch)
        checkpoint.load_pretrained(net, file, gates=options.pretrain_gates)
    training = Training(net, data, settings, device=device, amp=options.amp, ranks=ranks, begun=flags.begun(options))
    kept = Checkpoints("checkpoint.pth", partial(checkpoint.save, training), partial(checkpoint.restore, training))
    program.run(training, options, kept, str(device), first=ranks.first)


if __name__ == "__main__":
    main()
