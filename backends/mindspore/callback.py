"""A callback of `Model.train` that keeps masks up to date."""

from __future__ import annotations

from typing import Any

from mindspore import Tensor
from mindspore import dtype as mstype
from mindspore.train.callback import Callback

from mopruning.backends.mindspore.optimizers import SparseOptimizer
from mopruning.backends.mindspore.prune import Prune


class PruneCallback(Callback):  # type: ignore[misc]  # MindSpore brings no types
    """Prunes after every step of `Model.train`; put it before callbacks that look at weights.

    With a `Prune` it calls `prune()`, except after steps that loss scaling left out. With a sparse optimizer it does
    the mask updates that are due: on a CPU the training graph has done them itself, so that the callback finds
    nothing to do; on other devices, in GRAPH mode, masks change by it alone. Where data sinks to the device
    (`dataset_sink_mode=True`) `Model` calls back once in `sink_size` steps: choose 1, or masks come late.

    Args:
        pruning: A `Prune` or a sparse optimizer.

    Raises:
        TypeError: If `pruning` is neither.

    >>> from mindspore import nn
    >>> optimizer = SparseOptimizer(nn.SGD(nn.Dense(8, 4).trainable_params()), target_sparsity=0.5)
    >>> callback = PruneCallback(optimizer)  # model.train(10, data, callbacks=[callback, ...])
    """

    def __init__(self, pruning: Prune | SparseOptimizer) -> None:
        super().__init__()
        if not isinstance(pruning, (Prune, SparseOptimizer)):
            raise TypeError(f"PruneCallback takes a Prune or a sparse optimizer, got {type(pruning).__name__}")
        self.pruning = pruning

    def on_train_step_end(self, run_context: Any) -> None:
        """Do what is due after a step."""
        if isinstance(self.pruning, SparseOptimizer):
            self.pruning.update_masks()
        elif not _left_out(run_context.original_args().net_outputs):
            self.pruning.prune()


def _left_out(outputs: Any) -> bool:
    """Tell whether a step ended in an overflow: cells that scale the loss return (loss, overflow, scale)."""
    if not isinstance(outputs, (tuple, list)) or len(outputs) < 3 or not isinstance(outputs[1], Tensor):
        return False
    return outputs[1].dtype == mstype.bool_ and bool(outputs[1].asnumpy().any())
