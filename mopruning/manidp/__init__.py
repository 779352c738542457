"""ManiDP: dynamic pruning, where each image keeps channels of its own. What no framework is needed for.

Source: Tang et al., "Manifold regularized dynamic network pruning", CVPR 2021 (https://arxiv.org/abs/2103.05861),
and the published program, where the two differ.
"""

from mopruning.manidp.controller import Controller
from mopruning.manidp.cost import Cost, cost, macs
from mopruning.manidp.evaluation import Evaluation
from mopruning.manidp.gates import NOTHING_PRUNED, gate, saliency, threshold
from mopruning.manidp.losses import Losses, instance_weights, lasso, losses, similarity
from mopruning.manidp.schedule import learning_rate, remain_rate
from mopruning.manidp.settings import Settings
from mopruning.manidp.structure import STRUCTURES, Structure, structure

__all__ = [
    "NOTHING_PRUNED",
    "STRUCTURES",
    "Controller",
    "Cost",
    "Evaluation",
    "Losses",
    "Settings",
    "Structure",
    "cost",
    "gate",
    "instance_weights",
    "lasso",
    "learning_rate",
    "losses",
    "macs",
    "remain_rate",
    "saliency",
    "similarity",
    "structure",
    "threshold",
]
