"""PyTorch: sparse optimizers and `Prune`."""

try:
    import torch as _torch  # noqa: F401  the message below is what a user without it should see
except ImportError as error:
    raise ImportError("backend 'pytorch' needs torch: pip install 'mopruning[pytorch]'") from error

from mopruning.backends.pytorch.optimizers import (
    AdadeltaSparse,
    AdafactorSparse,
    AdagradSparse,
    AdamaxSparse,
    AdamSparse,
    AdamWSparse,
    ASGDSparse,
    LBFGSSparse,
    MuonSparse,
    NAdamSparse,
    RAdamSparse,
    RMSpropSparse,
    RpropSparse,
    SGDSparse,
    SparseOptimizer,
)
from mopruning.backends.pytorch.prune import Prune

__all__ = [
    "ASGDSparse",
    "AdadeltaSparse",
    "AdafactorSparse",
    "AdagradSparse",
    "AdamSparse",
    "AdamWSparse",
    "AdamaxSparse",
    "LBFGSSparse",
    "MuonSparse",
    "NAdamSparse",
    "Prune",
    "RAdamSparse",
    "RMSpropSparse",
    "RpropSparse",
    "SGDSparse",
    "SparseOptimizer",
]
