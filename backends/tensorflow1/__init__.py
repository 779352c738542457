"""TensorFlow 1 (graphs and sessions, through `tensorflow.compat.v1`): sparse optimizers and `Prune`."""

from __future__ import annotations

try:
    import tensorflow as _tensorflow  # noqa: F401  the message below is what a user without it should see
except ImportError as error:
    raise ImportError("backend 'tensorflow1' needs tensorflow: pip install 'mopruning[tensorflow1]'") from error

from mopruning.backends.tensorflow1.optimizers import (
    AdadeltaOptimizerSparse,
    AdagradDAOptimizerSparse,
    AdagradOptimizerSparse,
    AdamOptimizerSparse,
    FtrlOptimizerSparse,
    GradientDescentOptimizerSparse,
    MomentumOptimizerSparse,
    ProximalAdagradOptimizerSparse,
    ProximalGradientDescentOptimizerSparse,
    RMSPropOptimizerSparse,
    SparseOptimizer,
)
from mopruning.backends.tensorflow1.prune import Prune

__all__ = [
    "AdadeltaOptimizerSparse",
    "AdagradDAOptimizerSparse",
    "AdagradOptimizerSparse",
    "AdamOptimizerSparse",
    "FtrlOptimizerSparse",
    "GradientDescentOptimizerSparse",
    "MomentumOptimizerSparse",
    "ProximalAdagradOptimizerSparse",
    "ProximalGradientDescentOptimizerSparse",
    "Prune",
    "RMSPropOptimizerSparse",
    "SparseOptimizer",
]
