"""MindSpore: sparse optimizers and `Prune`, in GRAPH and in PYNATIVE mode; to the IR and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import mindspore as _mindspore  # noqa: F401  the message below is what a user without it should see
except ImportError as error:
    raise ImportError("backend 'mindspore' needs mindspore: pip install 'mopruning[mindspore]'") from error

from mopruning.backends import lazily
from mopruning.backends.mindspore.callback import PruneCallback
from mopruning.backends.mindspore.device import devices, use_device
from mopruning.backends.mindspore.optimizers import (
    AdadeltaSparse,
    AdaFactorSparse,
    AdagradSparse,
    AdaMaxSparse,
    AdamOffloadSparse,
    AdamSparse,
    AdamWeightDecaySparse,
    ASGDSparse,
    FTRLSparse,
    LazyAdamSparse,
    MomentumSparse,
    ProximalAdagradSparse,
    RMSPropSparse,
    RpropSparse,
    SGDSparse,
    SparseOptimizer,
)
from mopruning.backends.mindspore.prune import Prune

if TYPE_CHECKING:
    from mopruning.backends.mindspore.reader import read_mindir, run_mindir, to_ir
    from mopruning.backends.mindspore.source import run_folder, to_folder
    from mopruning.backends.mindspore.writer import from_ir

__all__ = [
    "ASGDSparse",
    "AdaFactorSparse",
    "AdaMaxSparse",
    "AdadeltaSparse",
    "AdagradSparse",
    "AdamOffloadSparse",
    "AdamSparse",
    "AdamWeightDecaySparse",
    "FTRLSparse",
    "LazyAdamSparse",
    "MomentumSparse",
    "ProximalAdagradSparse",
    "Prune",
    "PruneCallback",
    "RMSPropSparse",
    "RpropSparse",
    "SGDSparse",
    "SparseOptimizer",
    "devices",
    "from_ir",
    "read_mindir",
    "run_folder",
    "run_mindir",
    "to_folder",
    "to_ir",
    "use_device",
]

# These need onnx, which takes time to load.
_READER = dict.fromkeys(("read_mindir", "run_mindir", "to_ir"), "reader")
__getattr__ = lazily(__name__, {**_READER, "from_ir": "writer", "run_folder": "source", "to_folder": "source"})
