"""MXNet: sparse optimizers for Gluon's Trainer, Module and plain updaters, and `Prune`; to the IR and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from mopruning.backends.mxnet import framework as _framework  # noqa: F401  before any other room needs it
except ImportError as error:
    raise ImportError("backend 'mxnet' needs mxnet: pip install 'mopruning[mxnet]'") from error

from mopruning.backends import lazily
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

if TYPE_CHECKING:
    from mopruning.backends.mxnet.reader import to_ir
    from mopruning.backends.mxnet.symbol_files import read_symbol, run_symbol, write_symbol
    from mopruning.backends.mxnet.writer import from_ir

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
    "from_ir",
    "read_symbol",
    "run_symbol",
    "to_ir",
    "write_symbol",
]

# These need onnx, which takes time to load.
_FILES = dict.fromkeys(("read_symbol", "run_symbol", "write_symbol"), "symbol_files")
__getattr__ = lazily(__name__, {"to_ir": "reader", "from_ir": "writer", **_FILES})
