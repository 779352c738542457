"""A training run to be killed: saves a checkpoint after every step and says so. Arguments: backend, folder."""

import importlib
import sys
import time
from pathlib import Path

import conftest  # noqa: F401  it makes `mopruning.backends` importable in a checkout
from tests.backends.harness import RECIPE, gradients_at, initial_weights


def main(backend: str, folder: Path) -> None:
    harness = importlib.import_module(f"tests.backends.{backend}_harness").HARNESS
    case = harness.plain_sgd
    weights = initial_weights(case)
    trainer = harness.sparse(case, weights, RECIPE)
    for step in range(1000):
        trainer.step(gradients_at(step, weights))
        unfinished = folder / "unfinished"
        unfinished.mkdir()
        trainer.save(unfinished)
        unfinished.rename(folder / str(step + 1))
        print(f"saved {step + 1}", flush=True)
        time.sleep(0.001)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
