"""The options that every example here has."""

import argparse
import os


def parser(description: str, *, epochs: int, batch_size: int, sparsity: float, out: str) -> argparse.ArgumentParser:
    """Build the parser of a training that prunes; an example adds what is its own."""
    result = common(description, epochs=epochs, batch_size=batch_size, out=out)
    result.add_argument("--sparsity", type=float, default=sparsity, help="target; 0 trains dense")
    result.epilog = "The learning rate grows with the batch size; dense and ramp epochs keep their shares."
    return result


def common(description: str, *, epochs: int, batch_size: int, out: str) -> argparse.ArgumentParser:
    """Build a parser with what any training takes."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    result.add_argument(
        "--data",
        default=os.environ.get("MOPRUNING_DATA") or "digits",
        help="'digits' for scikit-learn's, or name or folder of another set",
    )
    result.add_argument("--epochs", type=int, default=epochs, help="how often all images are seen")
    result.add_argument("--batch-size", type=int, default=batch_size, help="images an update")
    result.add_argument("--seed", type=int, default=0, help="of weights and batches")
    result.add_argument("--out", default=out, help="where the result goes")
    return result
