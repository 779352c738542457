"""The options that every example here has."""

import argparse
import os


def parser(description: str, *, epochs: int, batch_size: int, sparsity: float, out: str) -> argparse.ArgumentParser:
    """Build the parser; an example adds what is its own."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    result.add_argument(
        "--data",
        default=os.environ.get("MOPRUNING_DATA") or "digits",
        help="'digits' for scikit-learn's, or a folder with the idx files of MNIST",
    )
    result.add_argument("--epochs", type=int, default=epochs, help="dense and ramp epochs keep their shares of it")
    result.add_argument("--batch-size", type=int, default=batch_size, help="the learning rate grows with it")
    result.add_argument("--sparsity", type=float, default=sparsity, help="target; 0 trains dense")
    result.add_argument("--seed", type=int, default=0, help="of weights and batches")
    result.add_argument("--out", default=out, help="file for the weights")
    return result
