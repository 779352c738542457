"""`mopruning demo`: train a small network on real digits, dense, then sparse, and show what came of it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from mopruning.counting import check_sparsity
from mopruning.granularity import parse_granularity
from mopruning.ir.atomic import atomic
from mopruning.plots import TrainingCurve, save, training_summary
from mopruning.report import sparsity as measure

if TYPE_CHECKING:
    import numpy as np

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_OTHERS = {
    "mxnet": "digits-sparse-symbol.json",
    "tensorflow1": "digits-sparse.meta",
    "mindspore": "digits-sparse-mindspore",
}
"""Framework -> file, or folder, that the network is written to."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and the plot; made if absent.")] = Path(
        "mopruning-demo"
    ),
    sparsity: Annotated[float, typer.Option(help="Target share of zeros, 0 to 1.")] = 0.9375,
    granularity: Annotated[str, typer.Option(help="Such as bank:64, 2:4, unstructured, filter.")] = "bank:64",
    seed: Annotated[int, typer.Option(help="Seed of weights and batches.")] = 0,
) -> None:
    """Train a three-convolution network on handwritten digits and prune it on the way."""
    from rich.console import Console

    from mopruning.cli.output import show
    from mopruning.cli.progress import epochs
    from mopruning.cli.staging import bytes_of

    parse_granularity(granularity), check_sparsity(sparsity)  # a typing error should not cost a training
    pytorch_demo = importlib.import_module("mopruning.backends.pytorch.demo")
    torch = importlib.import_module("torch")
    console = Console()
    out.mkdir(parents=True, exist_ok=True)

    with epochs(pytorch_demo.EPOCHS, console) as advance:
        outcome = pytorch_demo.run(
            sparsity,
            granularity,
            seed,
            lambda so_far, epoch: advance(
                f"accuracy {so_far.sparse_accuracy:.2%}  sparsity {so_far.progress.sparsity[-1]:.2%}", epoch
            ),
        )

    checkpoint, picture = out / "digits-sparse.pth", out / "digits-sparse.png"
    with atomic(checkpoint) as temporary:
        torch.save(outcome.model.state_dict(), temporary)
    save(_figure(outcome, granularity), picture)
    show(_table(outcome))
    carried = _carry(outcome, pytorch_demo, out)
    loss = 100.0 * (outcome.dense_accuracy - outcome.sparse_accuracy)
    console.print(
        f"accuracy: dense {outcome.dense_accuracy:.2%} -> sparse {outcome.sparse_accuracy:.2%} "
        f"({'loss' if loss > 0 else 'gain'} {abs(loss):.2f} points)\n"
        f"sparsity of the pruned weights: {outcome.optimizer.pruner.sparsity:.4f} ({granularity})\n"
        f"plot: {picture}\n"
        f"{checkpoint}: {checkpoint.stat().st_size:,} bytes",
        *(f"{path}: {bytes_of(_files(path)):,} bytes, {verdict}" for path, verdict in carried.items()),
        sep="\n",
        highlight=False,
        soft_wrap=True,
    )


def _files(path: Path) -> tuple[Path, ...]:
    from mopruning.model_files import graph_format_of

    return graph_format_of(path).files(path)


def _carry(outcome: Any, pytorch_demo: Any, out: Path) -> dict[Path, str]:
    """Write the network in the formats that travel, reload each, and say whether it still predicts the same."""
    pytorch = importlib.import_module("mopruning.backends.pytorch")
    ir = importlib.import_module("mopruning.ir")
    digits = pytorch_demo.load_digits()
    images = digits.test_images
    network = pytorch.to_ir(outcome.model, images[:2])
    before = pytorch_demo.predictions(outcome.model, images)
    verdicts = {}
    for path, write, read in (
        (out / "digits-sparse.onnx", ir.write_onnx, ir.read_onnx),
        (out / "digits-sparse.mopir", ir.save, ir.load),
    ):
        write(network, path)
        after = pytorch_demo.predictions(pytorch.from_ir(read(path)), images)
        verdicts[path] = f"reloaded: {int((before == after).sum())} of {len(images)} test images predicted alike"
    return verdicts | _carry_on(network, images.numpy(), digits.test_labels.numpy(), out)


def _carry_on(network: Any, images: NumPyArray, labels: NumPyArray, out: Path) -> dict[Path, str]:
    """Write the network for each other framework that is installed, run it there, and say how many it recognises."""
    from mopruning.backends import installed
    from mopruning.model_files import graph_format_of

    verdicts = {}
    for name, file in _OTHERS.items():
        if installed(name):
            row = graph_format_of(out / file, name)
            row.write(network, out / file)
            scores = row.run(out / file, [images])
            assert scores is not None  # what was written here says how it is run
            verdicts[out / file] = f"accuracy in {name}: {(scores[0].argmax(1) == labels).mean():.2%}"
    return verdicts


def _table(outcome: Any) -> Any:
    """What happened to each parameter: how many zeros it has in the end, and why."""
    from rich.table import Table

    table = Table("parameter", "shape", "granularity")
    table.add_column("zeros", justify="right")
    table.add_column("sparsity", justify="right")
    table.add_column("why")
    report = {row.name: row for row in measure(outcome.model).rows}
    for row in outcome.optimizer.plan.rows:
        name, shape, granularity, _, reason = row.texts()
        counted = report[name]
        dense = row.granularity is None
        table.add_row(
            name,
            shape,
            granularity,
            f"{counted.zeros:,}",
            f"{counted.sparsity:.4f}",
            reason,
            style="dim" if dense else "",
        )
    return table


def _figure(outcome: Any, granularity: str) -> Any:
    curve = TrainingCurve(
        outcome.progress.steps,
        outcome.progress.sparsity,
        outcome.progress.accuracy,
        {"ramp starts": outcome.ramp_start, "target reached": outcome.ramp_end},
    )
    return training_summary(
        curve,
        outcome.model.conv2.weight.detach(),
        title=f"Handwritten digits, {granularity}: dense {outcome.dense_accuracy:.2%}, "
        f"sparse {outcome.sparse_accuracy:.2%} of the test images",
        name="conv2.weight",
        bank=getattr(parse_granularity(granularity), "bank", 0),
    )
