"""Encodings: exact to the bit for every dtype and pattern, and the one that takes the fewest bytes."""

import doctest
import importlib
import itertools
import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mopruning import BankBalanced, mask
from mopruning.errors import FormatError
from mopruning.ir.encodings import INDEX, OVERHEAD, Encoded, bitmask, decode, encode, gaps, ranks
from mopruning.ir.encodings.bank import SIZES, Bank

DTYPES = [np.dtype(name) for name in ("f4", "f2", "i1", "f8", "i8", "u2", "c8", "?")] + [
    np.dtype(ml_dtypes.bfloat16),
    np.dtype(ml_dtypes.float8_e4m3fn),
]
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def dense_weight(shape, dtype=np.float32, seed=0):
    """Numbers of which none is zero."""
    return (np.random.default_rng(seed).random(shape) * 100 + 1).astype(dtype)


def pruned(shape, sparsity, dtype=np.float32, seed=0):
    """Exactly floor(sparsity * size) zeros at random places."""
    rng = np.random.default_rng(seed)
    weight = dense_weight(shape, dtype, seed)
    weight.reshape(-1)[rng.permutation(weight.size)[: int(sparsity * weight.size)]] = 0
    return weight


def banked(shape, n, m, axis=1, dtype=np.float32, seed=0):
    """Exactly n non-zeros in every group of m along an axis."""
    weight = dense_weight(shape, dtype, seed)
    rows = np.moveaxis(weight, axis, -1).reshape(-1, m).copy()
    order = np.random.default_rng(seed).random(rows.shape).argsort(axis=1)
    rows[order >= n] = 0
    moved = np.moveaxis(weight, axis, -1).shape
    return np.ascontiguousarray(np.moveaxis(rows.reshape(moved), -1, axis))


def assert_exact(array, encoded=None):
    encoded = encode(array) if encoded is None else encoded
    got = decode(encoded)
    assert got.dtype == array.dtype
    assert got.shape == array.shape
    assert got.tobytes() == array.tobytes()
    return encoded


# ---- bit-exact


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 40), max_size=4).filter(lambda shape: math.prod(shape) < 50_000),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
@example(np.dtype("f4"), [], 0.0, 0)
@example(np.dtype("f4"), [0, 3], 0.0, 0)
@example(np.dtype("f4"), [40, 40], 1.0, 0)
@example(np.dtype("i1"), [40, 40, 30], 0.999, 0)
def test_any_bits_survive(dtype, shape, sparsity, seed):
    rng = np.random.default_rng(seed)
    unsigned = UNSIGNED[dtype.itemsize]
    highest = 1 if dtype == np.dtype("?") else np.iinfo(unsigned).max
    bits = rng.integers(0, highest, shape, unsigned, endpoint=True)
    bits = np.asarray(np.where(rng.random(shape) < sparsity, 0, bits), unsigned)
    array = bits.view(dtype)
    for only in (None, *INDEX):
        encoded = assert_exact(array, encode(array, only=only))
        assert only in (None, encoded.encoding) or encoded.encoding == "dense"


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(DTYPES[:4]), st.sampled_from(SIZES), st.sampled_from([0, 1]), st.integers(0, 99), st.data())
def test_every_bank_survives(dtype, m, axis, seed, data):
    n = data.draw(st.integers(1, min(m - 1, 8)))
    shape = data.draw(st.sampled_from([(m, 3 * m), (2 * m, m, 3, 3), (m, m, 1, 1), (m, 2 * m, 5)]))
    array = banked(shape, n, m, axis, dtype, seed)
    encoded = assert_exact(array, encode(array, only="bank"))
    assert encoded.encoding == "bank"
    found = encoded.parameters
    assert found["n"] * m == n * found["m"]  # another m may hold too, with the same share


SPECIAL = [0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1e-45, -1e-45]


@pytest.mark.parametrize("only", [None, *INDEX])
def test_negative_zero_and_payloads_of_nan_are_values(only):
    array = np.tile(np.array(SPECIAL, np.float32), 32)
    array.view(np.uint32)[2] = 0x7FC12345  # a NaN with a payload
    array.view(np.uint32)[10] = 0xFF800001  # a signalling one
    encoded = assert_exact(array.reshape(4, 64), encode(array.reshape(4, 64), only=only))
    if "values" in encoded.parts:
        assert encoded.parts["values"].size == array.size * 7 // 8


@pytest.mark.parametrize("layout", ["fortran", "strided", "reversed", "big-endian", "read-only"])
def test_any_memory_layout_is_taken(layout):
    base = pruned((64, 96), 0.8)
    array = {
        "fortran": np.asfortranarray(base),
        "strided": np.repeat(base, 2, axis=1)[:, ::2],
        "reversed": base[::-1, ::-1],
        "big-endian": base.astype(">f4"),
        "read-only": base,
    }[layout]
    array.flags.writeable = False
    encoded = encode(array)
    assert encoded.encoding == "bitmask"
    np.testing.assert_array_equal(decode(encoded), array)
    assert decode(encoded).dtype == np.dtype("<f4")


@pytest.mark.parametrize("size", [1 << 17, (1 << 17) + 1, (1 << 18) - 1, 3 << 17])
@pytest.mark.parametrize("sparsity", [0.5, 0.95, 0.9999, 1.0])
def test_arrays_of_several_blocks_survive(size, sparsity):
    array = pruned((size,), sparsity, np.int8)
    for only in ("bitmask", "gaps", None):
        assert_exact(array, encode(array, only=only))


def test_banks_of_several_blocks_survive():
    for shape, n, m in (((1024, 512), 4, 64), ((256, 64, 5, 5), 3, 8), ((8, 4, 9, 9999), 1, 4), ((2048, 64), 7, 64)):
        assert encode(banked(shape, n, m), only="bank").encoding == "bank"
        assert_exact(banked(shape, n, m))


@pytest.mark.parametrize("zeros", [0, 1, 253, 254, 255, 256, 509, 510, 511, 765, 100_000])
@pytest.mark.parametrize("after", [0, 1, 254, 255, 256, 600])
def test_gaps_of_every_length_survive(zeros, after):
    array = np.zeros(zeros + 1 + after + 2000, np.float32)
    array[[zeros, zeros + 1 + after]] = 3.0
    encoded = assert_exact(array, encode(array, only="gaps"))
    assert encoded.parts["gaps"].size % 8 == 0


# ---- which one, and how large


def by_hand(array):
    """The size of each encoding as its description says, without running any of them."""
    bits = array.reshape(-1).view(UNSIGNED[array.dtype.itemsize])
    places = np.flatnonzero(bits)
    values = places.size * array.itemsize
    zeros = np.diff(places, prepend=-1) - 1
    last = int(places[-1]) + 1 if places.size else 0
    steps = places.size + int((zeros // 255).sum()) + (bits.size - last) // 255
    sizes = {"dense": array.nbytes, "bitmask": values + -(-bits.size // 64) * 8, "gaps": values + -(-steps // 8) * 8}
    for axis, m in itertools.product((0, 1), SIZES):
        if array.ndim < 2 or array.shape[axis] % m or not array.size:
            continue
        counts = set(np.count_nonzero(np.moveaxis(array, axis, -1).reshape(-1, m), axis=1).tolist())
        if len(counts) == 1 and 0 < (n := counts.pop()) < m and (n <= 8 or math.comb(m, n) < 2**32):
            width = math.ceil(math.log2(math.comb(m, n)))
            size = values + -(-(array.size // m * width) // 64) * 8
            sizes["bank"] = min(size, sizes.get("bank", size))
    return sizes


@settings(deadline=None, max_examples=80)
@given(
    st.sampled_from(DTYPES[:4] + DTYPES[-2:]),
    st.sampled_from([(64, 64), (16, 128, 3, 3), (128, 16, 2), (3, 1000), (7777,)]),
    st.one_of(st.floats(0, 1), st.sampled_from([(2, 4), (1, 4), (1, 8), (4, 16), (4, 64), (9, 16)])),
    st.integers(0, 9),
)
def test_the_smallest_is_chosen(dtype, shape, how, seed):
    if isinstance(how, tuple) and len(shape) > 1 and shape[1] % how[1] == 0:
        array = banked(shape, *how, 1, dtype, seed)
    else:
        array = pruned(shape, how if isinstance(how, float) else 0.7, dtype, seed)
    sizes = by_hand(array)
    smallest = min(size for name, size in sizes.items() if name != "dense")
    encoded = encode(array)
    if smallest < sizes["dense"] - OVERHEAD:
        assert encoded.nbytes == smallest
        assert sizes[encoded.encoding] == smallest
    else:
        assert encoded.encoding == "dense"


@pytest.mark.parametrize(
    ("array", "encoding", "nbytes"),
    [
        (dense_weight((64, 64)), "dense", 16384),
        (np.zeros((0, 64), np.float32), "dense", 0),
        (np.zeros((), np.float32), "dense", 4),
        (np.zeros(32, np.float32), "dense", 128),  # a second part would take more than it saves
        (pruned((256, 256), 0.5), "bitmask", 131072 + 8192),
        (pruned((1, 65536), 0.9), "gaps", 26216 + 6560),
        (np.zeros((256, 256), np.float32), "gaps", 264),  # 257 bytes, filled up to a multiple of 8
        (banked((256, 256), 2, 4), "bank", 131072 + 16384 * 3 // 8),
        (banked((256, 256), 4, 64), "bank", 16384 + 1024 * 20 // 8),
        (banked((256, 256, 3, 3), 4, 64), "bank", 147456 + 9216 * 20 // 8),
        (banked((256, 250), 4, 64, axis=0), "bank", 16000 + 1000 * 20 // 8 + 4),
    ],
)
def test_sizes_are_as_stated(array, encoding, nbytes):
    encoded = assert_exact(array)
    assert (encoded.encoding, encoded.nbytes) == (encoding, nbytes)


def test_our_masks_give_banks():
    weight = np.random.default_rng(0).standard_normal((64, 128, 3, 3)).astype(np.float32)
    weight[~mask(np.abs(weight), BankBalanced(bank=64), 0.9375)] = 0
    encoded = assert_exact(weight)
    assert (encoded.encoding, encoded.parameters) == ("bank", {"n": 4, "m": 64})


# ---- ranks


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (3, 4), (4, 8), (5, 16)])
def test_ranks_count_all_sets(n, m):
    sets = np.array(list(itertools.combinations(range(m), n)))
    found = ranks.rank(sets, m)
    assert sorted(found.tolist()) == list(range(math.comb(m, n)))
    np.testing.assert_array_equal(ranks.unrank(found, n, m), sets)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([(4, 64), (8, 64), (16, 32), (31, 32), (62, 64), (8, 16)]), st.integers(0, 2**32), st.data())
def test_any_rank_is_the_rank_of_its_set(pair, seed, data):
    n, m = pair
    count = math.comb(m, n)
    drawn = np.random.default_rng(seed).integers(0, count, 20, np.uint64)
    codes = np.concatenate([drawn, np.array([0, count - 1, data.draw(st.integers(0, count - 1))], np.uint64)])
    sets = ranks.unrank(codes, n, m)
    assert (np.diff(sets.astype(int), axis=1) > 0).all()
    assert sets.max() < m
    np.testing.assert_array_equal(ranks.rank(sets, m), codes)


@given(st.integers(1, 33), st.lists(st.integers(0, 2**33 - 1), max_size=70))
def test_packed_numbers_are_read_back(bits, numbers):
    codes = np.array(numbers, np.uint64) % np.uint64(2**bits)
    packed = ranks.pack(codes, bits)
    assert packed.size == math.ceil(len(numbers) * bits / 8)
    assert int.from_bytes(packed.tobytes(), "little") == sum(int(code) << i * bits for i, code in enumerate(codes))
    np.testing.assert_array_equal(ranks.unpack(packed, bits, codes.size), codes)


# ---- what cannot be


def stored(encoding, shape, values, index, **parameters):
    parts = {"values": np.ones(values, np.float32), INDEX[encoding]: np.array(index, np.uint8)}
    return Encoded(encoding, np.dtype(np.float32), shape, parts, parameters)


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (stored("bitmask", (8,), 9, [255] * 8), "do not make 8 numbers"),
        (stored("bitmask", (8,), 1, [1]), "do not make 8 numbers"),
        (stored("bitmask", (8,), 1, [3] + [0] * 7), "marks more than its 1 values"),
        (stored("bitmask", (8,), 3, [3] + [0] * 7), "marks 2 numbers, but there are 3 values"),
        (stored("gaps", (2**40,), 0, [255] * 8), "do not make"),
        (stored("gaps", (300,), 9, [0] * 8), "do not make 300 numbers"),
        (stored("gaps", (300,), 1, [0] * 7), "do not make 300 numbers"),
        (stored("gaps", (300,), 1, [0, 0] + [255] * 6), "lead to more than its 1 values"),
        (stored("gaps", (300,), 2, [0] + [255] * 7), "lead to 1 values, but there are 2"),
        (stored("gaps", (300,), 8, [254] * 8), "lead past the end of its 300 numbers"),
        (stored("gaps", (300,), 1, [255, 255, 0] + [255] * 5), "lead past the end"),
        (stored("gaps", (1024,), 8, [0] * 8), "end after 8 of 1024 numbers"),
        (stored("bank", (4, 64), 4, [0] * 16, n=1, m=63), "no bank encoding of 1 of 63"),
        (stored("bank", (4, 64), 4, [0] * 16, n=0, m=64), "no bank encoding of 0 of 64"),
        (stored("bank", (4, 64), 4, [0] * 16, n=64, m=64), "no bank encoding of 64 of 64"),
        (stored("bank", (4, 64), 4, [0] * 16, n=32, m=64), "no bank encoding of 32 of 64"),
        (stored("bank", (4, 64), 4, [0] * 16, n=1, m=64, axis=2), "along axis 2"),
        (stored("bank", (4, 60), 4, [0] * 16, n=1, m=64), "has no groups of 64"),
        (stored("bank", (64,), 4, [0] * 16, n=1, m=64), "has no groups of 64"),
        (stored("bank", (4, 64), 5, [0] * 8, n=1, m=64), "do not make 256 numbers, 1 of 64"),
        (stored("bank", (4, 64), 4, [0] * 16, n=1, m=64), "16 bytes of ranks"),
        (stored("bank", (4, 4), 8, [7, 0, 0, 0, 0, 0, 0, 0], n=2, m=4), "a rank stands for no 2 of 4"),
        (stored("bank", (4, 64), 4, [0] * 8), "has parts"),
        (stored("gaps", (8,), 1, [0] * 8, n=1), "has parts"),
        (Encoded("zip", np.dtype("f4"), (1,), {"": np.ones(1)}), "unknown encoding 'zip'"),
        (Encoded("dense", np.dtype("f4"), (3,), {"": np.ones(1)}), "do not fill the shape"),
        (Encoded("dense", np.dtype("f4"), (3,), {"values": np.ones(3)}), "has parts"),
        (Encoded("bitmask", np.dtype("c16"), (1,), {"values": np.ones(1), "bitmask": np.ones(8)}), "does not hold"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(encoded, reason):
    with pytest.raises(FormatError, match=reason):
        decode(encoded)


def test_index_that_is_read_only_and_unaligned_is_decoded():
    array = pruned((64, 64), 0.95)
    encoded = encode(array)
    raw = np.frombuffer(b"?" + b"".join(part.tobytes() for part in encoded.parts.values()), np.uint8)
    values = raw[1 : 1 + encoded.parts["values"].nbytes].view(np.float32)
    index = raw[1 + encoded.parts["values"].nbytes :]
    assert not values.flags.aligned
    parts = {"values": values, str(INDEX[encoded.encoding]): index}
    assert_exact(array, Encoded(encoded.encoding, array.dtype, array.shape, parts, encoded.parameters))


def test_least_sizes_are_reached_or_below():
    for sparsity in (0.0, 0.3, 0.9, 0.99, 0.9999, 1.0):
        bits = pruned((70_000,), sparsity).view(np.uint32)
        kept = int(np.count_nonzero(bits))
        assert bitmask.encode(bits, kept)[1].nbytes == bitmask.least(bits.size)
        assert gaps.encode(bits, kept)[1].nbytes >= gaps.least(bits.size, kept)
    assert Bank(4, 64).index_bytes(6400) == 256


@pytest.mark.parametrize("name", ["", ".ranks"])
def test_doctests(name):
    failed, attempted = doctest.testmod(importlib.import_module(f"mopruning.ir.encodings{name}"))
    assert attempted
    assert not failed
