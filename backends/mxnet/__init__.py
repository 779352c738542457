"""MXNet: sparse optimizers for Gluon's Trainer, Module and plain updaters, and `Prune`."""

from __future__ import annotations

try:
    from mopruning.backends.mxnet import framework as _framework  # noqa: F401  before any other room needs it
except ImportError as error:
    raise ImportError("backend 'mxnet' needs mxnet: pip install 'mopruning[mxnet]'") from error

from mopruning.backends.mxnet.optimizers import (
    AdaDeltaSparse,
    AdaGradSparse,
    AdamaxSparse,
    AdamSparse,
    DCASGDSparse,
    FTMLSparse,
    FtrlSparse,
    GroupAdaGradSparse,
    LAMBSparse,
    LARSSparse,
    LBSGDSparse,
    NadamSparse,
    NAGSparse,
    RMSPropSparse,
    SGDSparse,
    SGLDSparse,
    SignumSparse,
    SparseOptimizer,
)
from mopruning.backends.mxnet.prune import Prune

__all__ = [
    "AdaDeltaSparse",
    "AdaGradSparse",
    "AdamSparse",
    "AdamaxSparse",
    "DCASGDSparse",
    "FTMLSparse",
    "FtrlSparse",
    "GroupAdaGradSparse",
    "LAMBSparse",
    "LARSSparse",
    "LBSGDSparse",
    "NAGSparse",
    "NadamSparse",
    "Prune",
    "RMSPropSparse",
    "SGDSparse",
    "SGLDSparse",
    "SignumSparse",
    "SparseOptimizer",
]
