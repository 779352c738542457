"""Train a network from scratch, in one process or in several that share every batch.

    python examples/ddp/train_scratch.py --data_root data --model vgg16 --dataset cifar10 --lr 0.2 --wd 5e-5
    torchrun --nproc_per_node 4 examples/ddp/train_scratch.py --model vgg16 --dataset cifar10 --batch_size 1024

It writes checkpoints/scratch/DATASET_MODEL_scratch_ddp-TAG.pth, the best network, which prune.py takes as
--weight_file, and ..._scratch_ddp_le-TAG.pth, the last; both as .mopir as well; beside them a table and a picture of
the epochs and what --resume goes on from; and log-DATASET-MODEL-TAG.txt.
"""

from mopruning.backends.pytorch.programs import train_scratch
from mopruning.backends.pytorch.ranks import together
from mopruning.training import flags


def main() -> None:
    options = flags.parse(flags.scratch_parser(__doc__))
    with together(options.device) as (device, ranks):
        train_scratch(options, device, ranks)


if __name__ == "__main__":
    main()
