"""TensorFlow 1 (graphs and sessions, by `tensorflow.compat.v1`): sparse optimizers, `Prune`, to the IR and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import tensorflow as _tensorflow  # noqa: F401  the message below is what a user without it should see
except ImportError as error:
    raise ImportError("backend 'tensorflow1' needs tensorflow: pip install 'mopruning[tensorflow1]'") from error

from mopruning.backends import lazily
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

if TYPE_CHECKING:
    from mopruning.backends.tensorflow1.files import (
        read_frozen,
        read_meta,
        read_saved_model,
        write_frozen,
        write_meta,
        write_saved_model,
    )
    from mopruning.backends.tensorflow1.network import Network
    from mopruning.backends.tensorflow1.reader import to_ir
    from mopruning.backends.tensorflow1.running import run_frozen, run_meta, run_saved_model
    from mopruning.backends.tensorflow1.writer import from_ir

__all__ = [
    "AdadeltaOptimizerSparse",
    "AdagradDAOptimizerSparse",
    "AdagradOptimizerSparse",
    "AdamOptimizerSparse",
    "FtrlOptimizerSparse",
    "GradientDescentOptimizerSparse",
    "MomentumOptimizerSparse",
    "Network",
    "ProximalAdagradOptimizerSparse",
    "ProximalGradientDescentOptimizerSparse",
    "Prune",
    "RMSPropOptimizerSparse",
    "SparseOptimizer",
    "from_ir",
    "read_frozen",
    "read_meta",
    "read_saved_model",
    "run_frozen",
    "run_meta",
    "run_saved_model",
    "to_ir",
    "write_frozen",
    "write_meta",
    "write_saved_model",
]

# These need onnx, which takes time to load.
_FILES = ("read_frozen", "read_meta", "read_saved_model", "write_frozen", "write_meta", "write_saved_model")
_HOMES = {
    "to_ir": "reader",
    "from_ir": "writer",
    "Network": "network",
    **dict.fromkeys(_FILES, "files"),
    **dict.fromkeys(("run_frozen", "run_meta", "run_saved_model"), "running"),
}
__getattr__ = lazily(__name__, _HOMES)
