"""Prune a network and fine-tune it, in one process or in several that share every batch.

    python examples/ddp/prune.py --data_root data --model vgg16 --dataset cifar10 --prune_type filter_prune \
        --weight_file checkpoints/scratch/cifar10_vgg16_scratch_ddp-a.pth --retrain_epoch 50 --prune_freq 5
    torchrun --nproc_per_node 4 examples/ddp/prune.py --model vgg16 --dataset cifar10 --prune_type mn_prune

It writes checkpoints/TYPE/DATASET_MODEL-TAG.pth, the best of the sparse networks, and ..._le-TAG.pth, the last; both as
.mopir as well; beside them a table and a picture of the epochs and what --resume goes on from; and
log-DATASET-MODEL-TAG.txt.
"""

from pathlib import Path

from mopruning.backends.pytorch.programs import prune
from mopruning.backends.pytorch.ranks import together
from mopruning.training import flags


def main() -> None:
    options = flags.parse(flags.prune_parser(__doc__, Path(__file__).parent / "prune_config"))
    with together(options.device) as (device, ranks):
        prune(options, device, ranks)


if __name__ == "__main__":
    main()
