"""PyTorch: sparse optimizers and `Prune`; `to_ir` and `from_ir` carry a network to the IR and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import torch as _torch  # noqa: F401  the message below is what a user without it should see
except ImportError as error:
    raise ImportError("backend 'pytorch' needs torch: pip install 'mopruning[pytorch]'") from error

from mopruning.backends import lazily
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

if TYPE_CHECKING:
    from mopruning.backends.pytorch.reader import to_ir
    from mopruning.backends.pytorch.shrinking import filter_groups, shrink
    from mopruning.backends.pytorch.source import to_folder
    from mopruning.backends.pytorch.writer import from_ir

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
    "filter_groups",
    "from_ir",
    "shrink",
    "to_folder",
    "to_ir",
]

# These need onnx, which takes time to load.
__getattr__ = lazily(
    __name__,
    {
        "filter_groups": "shrinking",
        "from_ir": "writer",
        "shrink": "shrinking",
        "to_folder": "source",
        "to_ir": "reader",
    },
)
