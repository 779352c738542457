"""Readers of the published formats: what other programs' users have written loads here unchanged."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from mopruning.document import TEXT, read_document
from mopruning.errors import RecipeError
from mopruning.granularity import NM, Balanced, BankBalanced, Filter, Granularity, KernelPattern, Stripe, Unstructured
from mopruning.names import check_choice
from mopruning.recipe import LayerRule, Recipe
from mopruning.schedules import Polynomial
from mopruning.values import read_flag, read_granularity, read_names, read_number, read_pairs, read_sparsity

KEYWORDS_NO_SPARSE = ("bias", "beta", "gamma")
SPARSE_BLOCK: Mapping[str, tuple[int, ...]] = {"1d": (1,), "2d": (1, 1), "4d": (-1, 4, -1, 1)}
"""The published default of `sparse_block`, the only value the published programs support."""

_CHANNEL_MULTIPLE = 4  # the published hardware rule for convolutions
_L1 = 1e-5  # what `L1_regularization=True` stands for
_PATTERN_SPARSITY = 4 / 9  # five of nine entries kept


def from_prune_dict(
    prune_dict: Mapping[str, float],
    pretrain_step: int = 0,
    sparse_step: int = 0,
    frequency: float = 100,
    restore_sparsity: bool = False,
    fix_sparsity: bool = False,
    balance: str | Granularity = "fix",
    prune_device: str = "default",
) -> Recipe:
    """Read the arguments of the published `Prune` class.

    Parameters that the mapping does not list stay dense, and so do the 1-D ones that it does list.

    Args:
        prune_dict: Parameter name -> target sparsity.
        pretrain_step: Optimizer updates before pruning.
        sparse_step: Optimizer updates that the ramp takes; 0 prunes all at once.
        frequency: Optimizer updates between two mask updates; a fraction is cut off.
        restore_sparsity: Whether the ramp starts from the zeros that are there.
        fix_sparsity: Whether the zeros that are there stay as they are.
        balance: "fix" for banks of 64, "none" for unstructured, or any granularity.
        prune_device: "default" or "cpu"; an adapter's affair, checked here and left to it.

    Raises:
        RecipeError: If an argument has the wrong type or lies out of range.

    >>> from_prune_dict({"conv1.weight": 0.9}, 100, 800, 100.0).schedule
    Polynomial(start=100, length=800, frequency=100, exponent=3.0)
    """
    check_choice(prune_device, ("default", "cpu"), "prune_device")
    layers = read_pairs(prune_dict, "prune_dict")
    granularity: Granularity
    if balance == "fix":
        granularity = BankBalanced(64)
    else:
        try:
            granularity = Unstructured() if balance == "none" else read_granularity(balance, "balance")
        except RecipeError as error:
            raise RecipeError(f"balance: expected 'fix', 'none' or a granularity; {error}") from None
    return Recipe(
        sparsity=None if layers else 0.0,
        granularity=granularity,
        schedule=_ramp(pretrain_step, sparse_step, frequency),
        layers=layers,
        restore_sparsity=restore_sparsity,
        fix_sparsity=fix_sparsity,
        layers_from="prune_dict",
    )


def from_optimizer_arguments(
    *,
    target_sparsity: float | None = None,
    init_sparsity: float = 0.0,
    pretrain_step: int = 0,
    sparse_step: int = 0,
    frequency: float = 100,
    keywords_no_sparse: Sequence[str] | None = None,
    special_sparsity_dict: Mapping[str, float] | None = None,
    sparse_block: Mapping[str, Sequence[int]] | None = None,
    enable_channel_balance: bool | None = None,
    restore_sparsity: bool = False,
    fix_sparsity: bool = False,
    resume: bool = False,
    finetune: bool = False,
    fineune: bool | None = None,
    L1_regularization: bool | float = False,
    granularity: str | Granularity | None = None,
    score: str = "magnitude",
    allocation: str = "uniform",
    exponent: float = 3.0,
    skip: Sequence[str] = (),
    include_1d: bool = False,
    min_sparsity: float = 0.0,
    max_sparsity: float = 1.0,
    bn_scales: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Recipe:
    """Read the sparse arguments of the published optimizers, of all frameworks.

    Without a target sparsity (or anything else that prunes) the recipe is inactive: the optimizer behaves as its
    native one. The published documents do not say what an entry of `sparse_block` means; here it is read as the
    extent of a balanced tile along an axis, -1 for the whole axis, and a tile of ones as unstructured.

    Args:
        target_sparsity: Sparsity in the end; by default 0, or ``1 - n/m`` where `granularity` is N:M.
        init_sparsity: Sparsity that the ramp starts from.
        pretrain_step: Optimizer updates before pruning.
        sparse_step: Optimizer updates that the ramp takes; 0 prunes all at once.
        frequency: Optimizer updates between two mask updates; a fraction is cut off.
        keywords_no_sparse: Substrings of names left dense; by default "bias", "beta" and "gamma", or none with
            `include_1d` and for coupled filters, which take bias and normalisation along.
        special_sparsity_dict: Parameter name -> its own target.
        sparse_block: Tile of the balanced groups for 1-D, 2-D and 4-D weights, keys "1d", "2d", "4d". With it,
            convolutions whose input or output channels are no multiple of 4 stay dense.
        enable_channel_balance: True for the published default of `sparse_block`.
        restore_sparsity: Whether the ramp starts from the zeros that are there.
        fix_sparsity: Whether the zeros that are there stay as they are.
        resume: The same as `restore_sparsity`.
        finetune: The same as `fix_sparsity`.
        fineune: The published misspelling of `finetune`.
        L1_regularization: True for a penalty of 1e-5, or its coefficient.
        granularity: Which shapes may be zeroed; unstructured by default.
        score: As in `Recipe`; so are the arguments that follow, with `exponent` that of the ramp.
        allocation: As in `Recipe`.
        exponent: 3 for the cubic ramp, 1 for a linear one.
        skip: As in `Recipe`.
        include_1d: As in `Recipe`.
        min_sparsity: As in `Recipe`.
        max_sparsity: As in `Recipe`.
        bn_scales: As in `Recipe`.
        seed: As in `Recipe`.

    Raises:
        RecipeError: If an argument has the wrong type, lies out of range or contradicts another.

    Warns:
        DeprecationWarning: If `fineune` is used.

    >>> recipe = from_optimizer_arguments(target_sparsity=0.95, sparse_step=2400, frequency=60000 / 1000 / 5)
    >>> recipe.sparsity, recipe.schedule.frequency, recipe.skip_keywords
    (0.95, 12, ('bias', 'beta', 'gamma'))
    >>> from_optimizer_arguments().active
    False
    """
    if fineune is not None:
        warnings.warn("'fineune' is a misspelling: write finetune", DeprecationWarning, stacklevel=2)
        finetune = read_flag(finetune, "finetune") or read_flag(fineune, "fineune")
    if enable_channel_balance is not None and read_flag(enable_channel_balance, "enable_channel_balance"):
        sparse_block = sparse_block or SPARSE_BLOCK
    tiles = _tiles(sparse_block) if sparse_block else {}
    if sparse_block and granularity is not None:
        raise RecipeError("granularity and sparse_block (or enable_channel_balance) both say what is grouped: give one")
    shapes = Unstructured() if granularity is None else read_granularity(granularity, "granularity")
    if keywords_no_sparse is None:  # coupled filters take bias and normalisation along
        keywords_no_sparse = () if include_1d or shapes == Filter(group=True) else KEYWORDS_NO_SPARSE
    if target_sparsity is None:
        target_sparsity = shapes.ceiling() if isinstance(shapes, NM) else 0.0
    penalty = (_L1 if L1_regularization else 0.0) if isinstance(L1_regularization, bool) else L1_regularization
    special = read_pairs(special_sparsity_dict or {}, "special_sparsity_dict")
    return Recipe(
        sparsity=read_sparsity(target_sparsity, "target_sparsity"),
        granularity=shapes,
        score=score,
        allocation=allocation,
        schedule=_ramp(pretrain_step, sparse_step, frequency, exponent),
        layers={k: LayerRule(read_sparsity(v, f"special_sparsity_dict[{k!r}]")) for k, v in special.items()},
        skip=skip,  # type: ignore[arg-type]  # any list of names; Recipe makes it a tuple
        skip_keywords=read_names(keywords_no_sparse, "keywords_no_sparse"),
        include_1d=include_1d,
        min_sparsity=min_sparsity,
        max_sparsity=max_sparsity,
        bn_scales=bn_scales or {},
        seed=seed,
        restore_sparsity=read_flag(restore_sparsity, "restore_sparsity") or read_flag(resume, "resume"),
        fix_sparsity=read_flag(fix_sparsity, "fix_sparsity") or read_flag(finetune, "finetune"),
        l1=read_number(penalty, "L1_regularization", least=0.0),
        initial_sparsity=read_sparsity(init_sparsity, "init_sparsity"),
        granularity_by_axes=tiles,
        channel_multiple=_CHANNEL_MULTIPLE if sparse_block else 1,
        layers_from="special_sparsity_dict",
    )


_PRUNE_TYPES: Mapping[str, Granularity | None] = {
    "irre_prune": Unstructured(),
    "mn_prune": None,  # each value says its own
    "pat_prune": KernelPattern(5),
    "stripe_prune": Stripe(),
    "filter_prune": Filter(),
    "bank_prune": BankBalanced(64),
}


def from_prune_ratio(source: Mapping[str, Any] | str | Path, prune_type: str | None = None) -> Recipe:
    """Read the `prune_ratio` YAML of the published data-parallel program.

    Parameters that it does not list stay dense. "m4n2" keeps 2 of every 4 consecutive input channels. Under
    `pat_prune` a ratio below 0.5 means patterns alone, sparsity 4/9, as it does there.

    Args:
        source: The whole YAML (key `prune_ratio`, and `prune_type` where it has one) or what is under that key:
            parameter name, with or without `module.`, -> a number or text such as "m4n2". As a mapping, the path of a
            YAML or JSON file, which messages name then, or YAML text.
        prune_type: One of irre_prune, mn_prune, pat_prune, stripe_prune, filter_prune and, beyond the published
            ones, bank_prune for banks of 64. None: what the YAML says, else numbers are unstructured.

    Raises:
        RecipeError: If the type is none of these, a value does not belong to it, or the file cannot be read.

    >>> recipe = from_prune_ratio({"prune_ratio": {"module.features.0.weight": 0.3}}, "filter_prune")
    >>> str(recipe.granularity), recipe.layers
    ('filter', {'module.features.0.weight': LayerRule(sparsity=0.3, granularity=None)})
    """
    if not isinstance(source, Mapping):
        return read_source(source, lambda mapping, _: from_prune_ratio(mapping, prune_type))
    mapping = source
    if "prune_ratio" in mapping:
        for key in mapping:
            check_choice(key, ("prune_ratio", "prune_type"), "prune_ratio YAML: key")
        prune_type = mapping.get("prune_type") if prune_type is None else prune_type
        mapping = mapping["prune_ratio"] or {}
    ratios = read_pairs(mapping, "prune_ratio")
    if prune_type is not None:
        check_choice(prune_type, _PRUNE_TYPES, "prune_type")
    return Recipe(
        sparsity=None if ratios else 0.0,
        granularity=_PRUNE_TYPES.get(prune_type or "irre_prune") or Unstructured(),
        layers={name: _ratio(name, value, prune_type) for name, value in ratios.items()},
        layers_from="prune_ratio",
    )


def read_source(source: str | Path, read: Callable[[Mapping[str, Any], str], Recipe]) -> Recipe:
    """Read a recipe from a file or text; what is wrong in a file is told with its name, now and when it is planned.

    Args:
        source: Path of a YAML or JSON file, or YAML text.
        read: Takes the mapping that it holds and where that came from; returns the recipe.

    Raises:
        RecipeError: If it cannot be read or is no recipe.
    """
    mapping, where = read_document(source)
    if where == TEXT:
        return read(mapping, where)
    try:
        recipe = read(mapping, where)
    except RecipeError as error:
        told = str(error)
        raise type(error)(told if told.startswith(where) else f"{where}: {told}") from None
    return dataclasses.replace(recipe, layers_from=f"{where}: {recipe.layers_from}")


def read_mapping(mapping: Mapping[Any, Any], where: str) -> Recipe:
    """Read a mapping in the native or any published form, told apart by their keys; see `Recipe.load`."""
    for key in mapping:
        if not isinstance(key, str):
            raise RecipeError(f"{where}: keys are text, got {key!r}")
    native = {f.name for f in dataclasses.fields(Recipe) if f.compare}
    optimizer, prune = _parameters(from_optimizer_arguments), _parameters(from_prune_dict)
    if "prune_ratio" in mapping:
        return from_prune_ratio(mapping)
    if "prune_dict" in mapping:
        return _call(from_prune_dict, mapping, prune, f"{where} (arguments of Prune): key")
    if (optimizer - native - {"exponent"}) & mapping.keys():
        return _call(from_optimizer_arguments, mapping, optimizer, f"{where} (arguments of a sparse optimizer): key")
    if mapping and _is_prune_dict(mapping, native | optimizer | prune):
        return from_prune_dict(mapping)
    return _call(Recipe, mapping, native, f"{where}: key")


def _parameters(function: Callable[..., Recipe]) -> set[str]:
    return set(inspect.signature(function).parameters)


def _call(function: Callable[..., Recipe], mapping: Mapping[str, Any], known: Collection[str], where: str) -> Recipe:
    for key in mapping:
        check_choice(key, known, where)
    return function(**mapping)


def _is_prune_dict(mapping: Mapping[str, Any], known: Collection[str]) -> bool:
    """Tell whether a mapping is a bare `prune_dict`: numbers under names that are no key, and no misspelt one."""
    return all(
        isinstance(value, Real)
        and not isinstance(value, bool)
        and not difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        for key, value in mapping.items()
    )


def _ramp(start: float, length: float, frequency: float, exponent: float = 3.0) -> Polynomial:
    """Build the ramp of the published step arguments; they may be fractions, which are cut off."""
    named = {"pretrain_step": start, "sparse_step": length, "frequency": frequency, "exponent": exponent}
    numbers = {name: read_number(value, name, least=0.0) for name, value in named.items()}
    start, length, frequency, exponent = numbers.values()
    return Polynomial(int(start), int(length), frequency, exponent)


def _tiles(sparse_block: Mapping[str, Sequence[int]]) -> dict[str, Granularity]:
    """Read `sparse_block`: a tile for weights of so many axes; all ones mean no groups, and are left out."""
    tiles: dict[str, Granularity] = {}
    for axes, tile in read_pairs(sparse_block, "sparse_block").items():
        if not isinstance(tile, Sequence) or isinstance(tile, str) or f"{len(tile)}d" != axes:
            raise RecipeError(f"sparse_block[{axes!r}]: expected a list of as many extents as axes, got {tile!r}")
        if any(extent != 1 for extent in tile):
            tiles[axes] = Balanced(tuple(tile))
    return tiles


def _ratio(name: str, value: Any, prune_type: str | None) -> LayerRule:
    where = f"prune_ratio[{name!r}]"
    if isinstance(value, str):
        try:
            granularity = read_granularity(value, where)
        except RecipeError as error:
            raise RecipeError(f"{where}: {error}") from None
        if prune_type not in (None, "mn_prune") or not isinstance(granularity, NM):
            raise RecipeError(f"{where}: expected a number for {prune_type or 'prune_ratio'}, got {value!r}")
        return LayerRule(granularity.ceiling(), granularity)
    if prune_type == "mn_prune":
        raise RecipeError(f"{where}: mn_prune expects text such as 'm4n2', got {value!r}")
    ratio = read_sparsity(value, where)
    if prune_type == "pat_prune" and 0.0 < ratio < 0.5:
        ratio = _PATTERN_SPARSITY
    return LayerRule(ratio)
