"""Layers of a small network and a granularity that fits each, for what ranks layers together."""

from mopruning.granularity import NM, BankBalanced, Block, Channel, Filter, KernelPattern, Stripe, Unstructured

NET = {"stem": (16, 3, 3, 3), "conv": (32, 16, 3, 3), "wide": (64, 32, 1, 1), "head": (10, 64), "gain": (7,)}
MIXED = {
    "stem": Unstructured(),
    "conv": BankBalanced(4),
    "wide": Filter(),
    "head": NM(2, 4),
    "next": Stripe(),
    "grid": Block((4, 4)),
    "last": Channel(),
    "kernel": KernelPattern(),
}
MIXED_SHAPES = NET | {"next": (8, 16, 3, 3), "grid": (16, 16), "last": (10, 12), "kernel": (8, 8, 3, 3)}
del MIXED_SHAPES["gain"]
