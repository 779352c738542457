"""Every granularity against a reference in plain loops, and its properties."""

import itertools
import math
import re
from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mopruning import NM, BankBalanced, Block, Channel, Filter, KernelPattern, Stripe, Unstructured, mask
from mopruning.granularity import Balanced

# What fits: every granularity with the shapes it is tried on.
CASES = [
    (Unstructured(), [(), (1,), (13,), (4, 7), (2, 3, 5), (2, 3, 3, 3), (2, 3, 1, 2, 2)]),
    (BankBalanced(bank=1), [(3,), (2, 3)]),
    (BankBalanced(bank=4), [(8,), (3, 8), (2, 4, 5), (2, 8, 3, 3), (1, 4, 2, 1, 3)]),
    (BankBalanced(bank=6), [(12,), (4, 6)]),
    (BankBalanced(bank=4, tail="balance"), [(3,), (9,), (3, 7), (2, 5, 3), (2, 6, 2, 2), (1, 8, 2, 1, 3)]),
    (BankBalanced(bank=64, tail="balance"), [(10,), (2, 70), (1, 9, 2, 2)]),
    (NM(0, 4), [(8,), (2, 4)]),
    (NM(1, 1), [(3, 3)]),
    (NM(1, 2), [(6,), (3, 4)]),
    (NM(2, 3), [(6,), (2, 6, 2)]),
    (NM(2, 4), [(8,), (5, 8), (2, 4, 3, 3)]),
    (NM(3, 5), [(10,), (2, 5, 2, 2)]),
    (NM(5, 7), [(7,), (2, 14)]),
    (NM(7, 16), [(16,), (2, 16), (1, 16, 3, 1)]),
    (NM(4, 4), [(2, 8)]),
    (Filter(), [(5,), (4, 6), (3, 2, 4), (4, 2, 3, 3), (3, 2, 1, 2, 2)]),
    (Channel(), [(4, 6), (3, 5, 4), (2, 4, 3, 3), (3, 2, 1, 2, 2)]),
    (Stripe(), [(3, 5, 4), (2, 4, 3, 3), (3, 2, 1, 2, 2)]),
    (Block((4, 4)), [(8, 8), (4, 12), (8, 4, 3, 3)]),
    (Block((1, 2)), [(3, 8), (2, 4, 2)]),
    (Block((3,)), [(9,), (6, 2), (3, 2, 2)]),
    (Block((2, 2, 3, 1)), [(4, 2, 3, 3)]),
    (Balanced((-1,)), [(7,)]),
    (Balanced((1, 4)), [(3, 8)]),
    (Balanced((2, -1)), [(4, 5)]),
    (Balanced((2, 2, -1, 1)), [(4, 4, 3, 2)]),
    (KernelPattern(), [(1, 1, 3, 3), (2, 3, 3, 3)]),
    (KernelPattern(5), [(1, 1, 3, 3), (3, 2, 3, 3)]),
    (KernelPattern(patterns=("110000000", "000000011", "000110000")), [(2, 2, 3, 3)]),
    (KernelPattern(patterns=("111000000",)), [(2, 2, 3, 3)]),
    (KernelPattern(patterns=("1" * 9,)), [(2, 2, 3, 3)]),
]
GRANULARITIES = [case[0] for case in CASES]
BALANCED = [case for case in CASES if isinstance(case[0], Unstructured | BankBalanced | NM | Balanced)]
UNITS = [case for case in CASES if isinstance(case[0], Filter | Channel | Stripe | Block)]

# Every value is a short binary fraction: a float64 sum of a few hundred is exact, and so is the reference.
FEW = st.sampled_from([0.0, -0.0, 0.25, 1.0, 1.0, 2.0, 3.5, -1.0])
MANY = st.floats(-1000, 1000, width=16)
SPARSITIES = st.one_of(st.sampled_from([0, 1, 0.5, 0.9375]), st.integers(0, 10_000).map(lambda n: n / 10_000))


def zeros_in(sparsity, size):
    """The rule of counts in exact arithmetic, for sparsities of few decimals."""
    return math.floor(Fraction(str(sparsity)) * size)


def first(items, keep, score):
    """The `keep` items of highest score; of equal ones those that come first."""
    items = list(items)
    return [items[i] for i in sorted(range(len(items)), key=lambda i: (-score(items[i]), i))[:keep]]


def group_of(granularity, index, shape):
    """The group that an element belongs to, in a balanced granularity."""
    if isinstance(granularity, Unstructured):
        return ()
    if isinstance(granularity, Balanced):
        extents = [n if tile == -1 else tile for n, tile in zip(shape, granularity.tile, strict=True)]
        return tuple(i // extent for i, extent in zip(index, extents, strict=True))
    size = granularity.bank if isinstance(granularity, BankBalanced) else granularity.m
    axis = min(1, len(shape) - 1)
    return (*index[:axis], index[axis] // size, *index[axis + 1 :])


def unit_of(granularity, index):
    """The unit that an element is zeroed with, in a structured granularity."""
    if isinstance(granularity, Filter):
        return index[0]
    if isinstance(granularity, Channel):
        return index[1]
    if isinstance(granularity, Stripe):
        return (index[0], *index[2:])
    extents = (*granularity.shape, *(1 for _ in index[len(granularity.shape) :]))
    return tuple(i // extent for i, extent in zip(index, extents, strict=True))


def collect(indices, key):
    groups = defaultdict(list)
    for index in indices:
        groups[key(index)].append(index)
    return groups


def reference(scores, granularity, sparsity):
    """The mask, slowly: dictionaries of indices, exact sums, one sort."""
    shape, indices = scores.shape, list(np.ndindex(scores.shape))

    def total(members):
        return sum(Fraction(float(scores[index])) for index in members)

    kept = []
    if isinstance(granularity, KernelPattern):
        kept = reference_pattern(granularity, collect(indices, lambda i: i[:2]).values(), sparsity, total)
    elif isinstance(granularity, Filter | Channel | Stripe | Block):
        units = collect(indices, lambda i: unit_of(granularity, i))
        kept = itertools.chain(*first(units.values(), len(units) - zeros_in(sparsity, len(units)), total))
    else:
        for group in collect(indices, lambda i: group_of(granularity, i, shape)).values():
            zeros = zeros_in(sparsity, len(group))
            if isinstance(granularity, NM):
                zeros = min(zeros, granularity.m - granularity.n)
            kept += first(group, len(group) - zeros, lambda index: scores[index])
    result = np.zeros(shape, bool)
    for index in kept:
        result[index] = True
    return result


def reference_pattern(granularity, kernels, sparsity, total):
    """Kernels are lists of nine indices, row-major."""
    cells = [[i for i, bit in enumerate(pattern) if bit == "1"] for pattern in granularity.patterns]

    def best(kernel):
        choices = [[kernel[i] for i in pattern] for pattern in cells]
        return first(choices, 1, total)[0]

    kernels = list(kernels)
    asked, entries = zeros_in(sparsity, 9 * len(kernels)), len(cells[0])
    if asked >= len(kernels) * (9 - entries):
        removed = (asked - len(kernels) * (9 - entries)) // entries
        return itertools.chain(*map(best, first(kernels, len(kernels) - removed, lambda k: total(best(k)))))
    patterned = asked // (9 - entries)
    whole = first(kernels, len(kernels) - patterned, lambda k: total(k) - total(best(k)))
    return itertools.chain(*(kernel if kernel in whole else best(kernel) for kernel in kernels))


def draw_scores(data, shapes, elements, **options):
    return data.draw(hnp.arrays(np.float64, data.draw(st.sampled_from(shapes)), elements=elements, **options))


@pytest.mark.parametrize(("granularity", "shapes"), CASES, ids=str)
@given(st.data(), SPARSITIES, st.sampled_from([FEW, MANY]))
@settings(max_examples=40)
def test_the_mask_is_that_of_the_reference(granularity, shapes, data, sparsity, elements):
    scores = draw_scores(data, shapes, elements)
    assert granularity.misfit(scores.shape) is None
    kept = mask(scores, granularity, sparsity)
    np.testing.assert_array_equal(kept, reference(scores, granularity, sparsity), strict=True)
    assert kept.size - np.count_nonzero(kept) == granularity.zeros(scores.shape, sparsity)


@pytest.mark.parametrize(("granularity", "shapes"), CASES, ids=str)
@given(st.data(), SPARSITIES, SPARSITIES)
@settings(max_examples=25)
def test_more_sparsity_only_removes(granularity, shapes, data, one, other):
    scores = draw_scores(data, shapes, FEW)
    less, more = mask(scores, granularity, min(one, other)), mask(scores, granularity, max(one, other))
    assert (less | ~more).all()


@pytest.mark.parametrize(("granularity", "shapes"), CASES, ids=str)
@given(st.data(), SPARSITIES, st.integers(-20, 20))
@settings(max_examples=15)
def test_scaling_changes_nothing(granularity, shapes, data, sparsity, exponent):
    scores = draw_scores(data, shapes, FEW)
    np.testing.assert_array_equal(
        mask(scores * 2.0**exponent, granularity, sparsity), mask(scores, granularity, sparsity)
    )


@pytest.mark.parametrize(("granularity", "shapes"), BALANCED, ids=str)
@given(st.data(), SPARSITIES)
@settings(max_examples=20)
def test_every_group_holds_the_same_number_of_zeros(granularity, shapes, data, sparsity):
    scores = draw_scores(data, shapes, FEW)
    kept = mask(scores, granularity, sparsity)
    groups = collect(np.ndindex(kept.shape), lambda i: group_of(granularity, i, kept.shape)).values()
    counts = {(len(group), sum(bool(kept[index]) for index in group)) for group in groups}
    assert len(counts) == len({size for size, _ in counts}) <= 2  # one count; two where a short tail is balanced too


@pytest.mark.parametrize(("granularity", "shapes"), UNITS, ids=str)
@given(st.data(), SPARSITIES)
@settings(max_examples=20)
def test_units_go_whole(granularity, shapes, data, sparsity):
    kept = mask(draw_scores(data, shapes, FEW), granularity, sparsity)
    units = collect(np.ndindex(kept.shape), lambda i: unit_of(granularity, i)).values()
    assert all(len({bool(kept[index]) for index in unit}) == 1 for unit in units)
    assert len(units) == granularity.units(kept.shape)


@pytest.mark.parametrize("granularity", [g for g in GRANULARITIES if isinstance(g, KernelPattern)], ids=str)
@given(st.data(), SPARSITIES)
def test_a_kernel_is_whole_or_a_pattern_or_gone(granularity, data, sparsity):
    shape = (2, 3, 3, 3)
    kept = mask(draw_scores(data, [shape], MANY), granularity, sparsity)
    texts = {"".join(str(int(bit)) for bit in kernel.flat) for kernel in kept.reshape(-1, 3, 3)}
    assert texts <= {*granularity.patterns, "0" * 9, "1" * 9}
    assert len(texts & {"0" * 9, "1" * 9}) < 2 or granularity.entries == 9  # connectivity begins where patterns end
    # As near to what was asked as the shapes allow, never beyond.
    entries, kernels = granularity.entries, 6
    possible = {n * (9 - entries) for n in range(kernels + 1)}
    possible |= {kernels * (9 - entries) + n * entries for n in range(kernels + 1)}
    asked = zeros_in(sparsity, 9 * kernels)
    assert granularity.zeros(shape, sparsity) == max(n for n in possible if n <= asked)


# Axes of a [8, 12, 3, 3] weight along which shuffled scores must give the shuffled mask. Bank and tile: within one.
SHUFFLES = [
    (Unstructured(), ["all"]),
    (BankBalanced(bank=4), [0, 2, 3, "bank"]),
    (BankBalanced(bank=5, tail="balance"), [0, 2, 3]),
    (NM(2, 4), [0, 2, 3, "bank"]),
    (Balanced((1, 4, 1, 1)), [0, 2, 3, "bank"]),
    (Balanced((-1, 1, -1, 1)), [0, 1, 2, 3]),
    (Filter(), [0, 1, 2, 3]),
    (Channel(), [0, 1, 2, 3]),
    (Stripe(), [0, 1, 2, 3]),
    (Block((4, 1)), [1, 2, 3]),
    (KernelPattern(), [0, 1]),
    (KernelPattern(5), [0, 1]),
]


@pytest.mark.parametrize(("granularity", "axes"), SHUFFLES, ids=str)
@given(st.integers(0, 2**32 - 1), SPARSITIES)
@settings(max_examples=20)
def test_shuffled_scores_give_the_shuffled_mask(granularity, axes, seed, sparsity):
    rng = np.random.default_rng(seed)
    scores = rng.permutation(8 * 12 * 9).astype(np.float64).reshape(8, 12, 3, 3) ** 2
    if isinstance(granularity, Filter | Channel | Stripe | Block | KernelPattern):
        scores += 2.0 ** rng.permutation(scores.size).reshape(scores.shape) % 1009  # sums without ties, most likely
    kept = mask(scores, granularity, sparsity)
    for axis in axes:
        if axis == "all":
            order = rng.permutation(scores.size)
            shuffled = mask(scores.reshape(-1)[order], granularity, sparsity)
            np.testing.assert_array_equal(shuffled, kept.reshape(-1)[order])
            continue
        order = rng.permutation(scores.shape[1 if axis == "bank" else axis])
        if axis == "bank":  # within each bank of four, and the banks among each other
            order = (
                rng.permutation(3)[:, np.newaxis] * 4 + rng.permuted(np.tile(np.arange(4), (3, 1)), axis=1)
            ).reshape(-1)
            axis = 1
        shuffled = mask(np.take(scores, order, axis), granularity, sparsity)
        np.testing.assert_array_equal(shuffled, np.take(kept, order, axis))


@given(st.data(), st.integers(1, 12), SPARSITIES)
def test_bank_balance_is_n_of_m(data, size, sparsity):
    shape = data.draw(st.sampled_from([(2 * size,), (3, 2 * size), (2, size, 2, 2)]))
    scores = draw_scores(data, [shape], FEW)
    bank = BankBalanced(bank=size)
    kept = mask(scores, bank, sparsity)
    n = size - zeros_in(sparsity, size)
    np.testing.assert_array_equal(mask(scores, NM(n, size)), kept)
    np.testing.assert_array_equal(mask(scores, NM(n, size), 1.0), kept)  # more than it can: still n
    np.testing.assert_array_equal(mask(scores, NM(0, size), sparsity), kept)
    np.testing.assert_array_equal(mask(scores, BankBalanced(size, "balance"), sparsity), kept)
    tile = (size,) if len(shape) == 1 else (1, size, *(1 for _ in shape[2:]))
    np.testing.assert_array_equal(mask(scores, Balanced(tile), sparsity), kept)


@given(st.data(), SPARSITIES)
def test_one_granularity_in_terms_of_another(data, sparsity):
    scores = draw_scores(data, [(4, 3, 3, 2)], FEW)
    for one, other in (
        (Unstructured(), Balanced((-1, -1, -1, -1))),
        (Unstructured(), Block((1, 1, 1, 1))),
        (Filter(), Block((1, 3, 3, 2))),
        (Channel(), Block((4, 1, 3, 2))),
        (Stripe(), Block((1, 3))),
    ):
        np.testing.assert_array_equal(
            mask(scores, one, sparsity), mask(scores, other, sparsity), err_msg=f"{one}, {other}"
        )
    row = scores.reshape(-1)
    np.testing.assert_array_equal(
        mask(row, BankBalanced(100, "balance"), sparsity), mask(row, Unstructured(), sparsity)
    )


def test_a_large_weight_in_blocks_is_like_its_parts():
    # More than a million weights, so that threads share the work; each output channel alone gives its part.
    scores = np.random.default_rng(0).integers(0, 50, (260, 512, 3, 3)).astype(np.float32)
    for granularity, sparsity in ((BankBalanced(64), 0.9375), (BankBalanced(100, "balance"), 0.7), (NM(2, 4), 0.5)):
        kept = mask(scores, granularity, sparsity)
        for output in (0, 1, 58, 59, 258, 259):
            np.testing.assert_array_equal(kept[output], mask(scores[output : output + 1], granularity, sparsity)[0])


# ---- what does not fit

MISFITS = [
    (BankBalanced(64), (64, 127, 3, 3), "127"),
    (BankBalanced(64), (), "a single number has no input channels"),
    (BankBalanced(64, "balance"), (), "a single number has no input channels"),
    (BankBalanced(64), (10,), "multiple of the bank of 64"),
    (NM(2, 4), (8, 6), "multiple of the group of 4"),
    (NM(2, 4), (4, 3, 4, 4), "multiple of the group of 4"),  # groups lie along axis 1, whatever the others are
    (Filter(), (), "no output channels"),
    (Channel(), (8,), "no input channels"),
    (Stripe(), (8, 8), "2 axes"),
    (KernelPattern(), (8, 8), r"3x3 kernels, got shape \(8, 8\)"),
    (KernelPattern(), (8, 8, 1, 1), "3x3 kernels"),
    (KernelPattern(), (8, 8, 3), "3x3 kernels"),
    (KernelPattern(), (8, 8, 3, 3, 3), "3x3 kernels"),
    (Block((4, 4)), (8,), "1 axes are fewer than the block's 2"),
    (Block((4, 4)), (6, 10), "axis 0 of 6 and axis 1 of 10 no multiple of the block"),
    (Balanced((1, 4)), (8, 4, 3, 3), "4 axes do not match the tile of 2"),
    (Balanced((1, 4)), (8, 6), "axis 1 of 6 not a multiple"),
]


@pytest.mark.parametrize(("granularity", "shape", "reason"), MISFITS, ids=str)
def test_a_misfit_says_why(granularity, shape, reason):
    assert re.search(reason, granularity.misfit(shape))
