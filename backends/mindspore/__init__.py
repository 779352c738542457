"""MindSpore: sparse optimizers and `Prune`, in GRAPH and in PYNATIVE mode."""

from __future__ import annotations

try:
    import mindspore as _mindspore  # noqa: F401  the message below is what a user without it should see
except ImportError as error:
    raise ImportError("backend 'mindspore' needs mindspore: pip install 'mopruning[mindspore]'") from error

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
    "use_device",
]
