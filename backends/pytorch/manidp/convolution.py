"""Convolution: kept output channels of a 3x3 convolution from kept input channels, as vectors of LLVM for Numba.

A loop that Numba translates cannot hold the sums of several channels in registers while it runs over the input
channels, and that is what makes a convolution fast. So the code is generated here.
"""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import binding, ir
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
"""Numbers of a vector: one register of AVX-512, two of AVX2."""

GROUP = 4
"""Output channels that are computed together; 2 and 1 where there are fewer."""

# As many vectors as leave all sums in registers: AVX-512 has 32 of them, AVX2 has 16 of half the length.
_VECTORS = 4 if binding.get_host_cpu_features().get("avx512f") else 1


def _convolution(group: int) -> Any:
    """Make the function that computes `group` output channels; its arguments are those of `_Convolution`."""

    def convolve(
        typingctx: Any,
        sums: Any,
        source: Any,
        taps: Any,
        inputs: Any,
        count: Any,
        weights: Any,
        rows: Any,
        vectors: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            found = [
                context.make_array(kind)(context, builder, value).data if isinstance(kind, numba.types.Array) else value
                for kind, value in zip(signature.args, values, strict=True)
            ]
            _Convolution(builder, group, *found).generate()
            return context.get_dummy_value()

        return numba.types.void(sums, source, taps, inputs, count, weights, rows, vectors), generate

    return intrinsic(convolve)


class _Convolution:
    """Generates the code of a convolution; each argument from the third on is a number or pointer in it.

    Args:
        builder: Takes the code.
        group: Output channels.
        sums: Takes a plane for each of them.
        source: Planes of the input.
        taps: See `kernels.Room`.
        inputs: Numbers of the input channels that are read.
        count: How many these are.
        weights: All weights of the layer, OIHW.
        rows: Where the weights of each output channel begin.
        vectors: Length of the result.
    """

    def __init__(
        self, builder: Any, group: int, sums: Any, source: Any, taps: Any, inputs: Any, count: Any, *others: Any
    ) -> None:
        weights, rows, self.vectors = others
        self.builder, self.group, self.sums, self.source = builder, group, sums, source
        self.inputs, self.count = inputs, count
        self.vector = ir.VectorType(ir.FloatType(), LANES)
        self.rows = [self._at(weights, self._item(rows, number)) for number in range(group)]
        self.taps = [self._item(taps, number) for number in range(9)]
        self.length_in, self.length = self._item(taps, 9), self._item(taps, 10)

    def generate(self) -> None:
        builder, wide = self.builder, _whole(_VECTORS)
        many = builder.udiv(self.vectors, wide)
        with cgutils.for_range(builder, many) as loop:
            self._tile(builder.mul(loop.index, _whole(_VECTORS * LANES)), _VECTORS)
        if _VECTORS > 1:
            done = builder.mul(many, wide)
            with cgutils.for_range(builder, builder.sub(self.vectors, done)) as loop:
                self._tile(builder.mul(builder.add(done, loop.index), _whole(LANES)), 1)

    def _tile(self, place: Any, vectors: int) -> None:
        builder = self.builder
        # LLVM turns these variables into registers
        sums = [[cgutils.alloca_once(builder, self.vector) for _ in range(vectors)] for _ in range(self.group)]
        for variable in (one for row in sums for one in row):
            builder.store(ir.Constant(self.vector, None), variable)
        source = self._at(self.source, place)
        with cgutils.for_range(builder, self.count) as loop:
            channel = self._item(self.inputs, loop.index)
            seen = self._at(source, builder.mul(channel, self.length_in))
            kernels = [self._at(row, builder.mul(channel, _whole(9))) for row in self.rows]
            for number, tap in enumerate(self.taps):
                pixels = [self._load(seen, builder.add(tap, _whole(LANES * one))) for one in range(vectors)]
                for kernel, row in zip(kernels, sums, strict=True):
                    weight = self._spread(self._item(kernel, number))
                    for pixel, variable in zip(pixels, row, strict=True):
                        builder.store(self._multiply_add(pixel, weight, builder.load(variable)), variable)
        for number, row in enumerate(sums):
            target = self._at(self.sums, builder.add(place, builder.mul(self.length, _whole(number))))
            for one, variable in enumerate(row):
                builder.store(builder.load(variable), self._vectors(target, _whole(LANES * one)), align=4)

    def _at(self, pointer: Any, index: Any) -> Any:
        return self.builder.gep(pointer, [index])

    def _item(self, pointer: Any, index: Any) -> Any:
        return self.builder.load(self._at(pointer, _whole(index) if isinstance(index, int) else index))

    def _vectors(self, pointer: Any, index: Any) -> Any:
        return self.builder.bitcast(self._at(pointer, index), self.vector.as_pointer())

    def _load(self, pointer: Any, index: Any) -> Any:
        return self.builder.load(self._vectors(pointer, index), align=4)

    def _spread(self, number: Any) -> Any:
        undefined, first = ir.Constant(self.vector, ir.Undefined), ir.VectorType(ir.IntType(32), LANES)
        one = self.builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(one, undefined, ir.Constant(first, None))

    def _multiply_add(self, left: Any, right: Any, addend: Any) -> Any:
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        # llvmlite 0.50's declare_intrinsic does not name vectors
        function = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
        return self.builder.call(function, [left, right, addend])


def _whole(number: int) -> Any:
    return ir.Constant(ir.IntType(64), number)


convolve4, convolve2, convolve1 = _convolution(GROUP), _convolution(2), _convolution(1)
"""For code that Numba compiles; see `_Convolution` for the arguments."""
