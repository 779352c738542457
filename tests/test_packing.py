"""Masks as bits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mopruning.errors import StateError
from mopruning.packing import pack, unpack

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5))


@given(MASKS)
def test_round_trip(mask):
    bits = pack(mask)
    assert (bits.dtype, bits.shape) == (np.uint8, ((mask.size + 7) // 8,))
    back = unpack(bits, mask.shape, "w")
    assert back.dtype == np.bool_
    assert back.flags.writeable
    np.testing.assert_array_equal(back, mask, strict=True)


@given(MASKS)
def test_views_pack_like_copies(mask):
    view = mask.T[..., ::-1] if mask.ndim else mask
    np.testing.assert_array_equal(pack(view), pack(view.copy()))


@given(hnp.arrays(np.bool_, st.integers(0, 40)))
def test_weight_i_is_bit_i(mask):
    number = int.from_bytes(pack(mask).tobytes(), "little")
    assert [bool(number >> i & 1) for i in range(mask.size)] == mask.tolist()
    assert number >> mask.size == 0


@pytest.mark.parametrize(("size", "shape"), [(0, (1,)), (2, (8,)), (1, (3, 3)), (3, (4, 4)), (1, (0,)), (0, ())])
def test_a_wrong_number_of_bytes_is_refused(size, shape):
    with pytest.raises(StateError, match=rf"mask of conv\.weight: {size} bytes, expected \d+ for shape"):
        unpack(np.zeros(size, np.uint8), shape, "conv.weight")
