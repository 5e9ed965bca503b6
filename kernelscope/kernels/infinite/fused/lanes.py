r"""Several numbers side by side, as one value of a compiled function; imported where one is run, since it needs numba.

A loop with many arrays is not vectorised by the compiler, which would have to prove that none of them overlap; so the
loops over slices say themselves what goes together: 64 bytes of numbers, 16 in single precision and 8 in double. Where
a processor has narrower vectors, the compiler takes several. Arrays are read through pointers, which are not counted
and not checked: who uses them holds the arrays, with room for a whole vector behind the last number.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

#: The bytes of a vector.
WIDE = 64

#: What the names of the compiler's functions call precisions, by their bits.
SUFFIX = {32: "f32", 64: "f64"}


class Lanes(types.Type):
    """The type of so many numbers side by side.

    Attributes:
        dtype: The type of each.
        count: How many.
    """

    def __init__(self, dtype: types.Float, count: int) -> None:
        self.dtype, self.count = dtype, count
        super().__init__(name=f"Lanes({dtype}, {count})")


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    """Lanes are a vector of the machine."""

    def __init__(self, manager: Any, kind: Lanes) -> None:
        super().__init__(manager, kind, ir.VectorType(manager.lookup(kind.dtype).get_value_type(), kind.count))


def _spread(builder: Any, value: Any, kind: Any, lanes: Any) -> Any:
    """One number in every lane; what is there already stays."""
    if kind == lanes:
        return value
    wide = ir.VectorType(value.type, lanes.count)
    one = builder.insert_element(ir.Constant(wide, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    none = ir.Constant(ir.VectorType(ir.IntType(32), lanes.count), None)
    return builder.shuffle_vector(one, ir.Constant(wide, ir.Undefined), none)


def _called(builder: Any, name: str, value: Any, *others: Any) -> Any:
    """A function of the machine, of vectors that are like the first."""
    kind = value.type
    named = f"llvm.{name}.v{kind.count}{SUFFIX[64 if isinstance(kind.element, ir.DoubleType) else 32]}"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * (1 + len(others))), named)
    return builder.call(function, (value, *others))


def _operation(symbol: Callable[..., Any], name: str) -> None:
    """An operation on lanes, or on lanes and one number."""
    @type_callable(symbol)
    def typed(context):
        def of(a, b):
            for one, other in ((a, b), (b, a)):
                if isinstance(one, Lanes) and other in (one, one.dtype):
                    return one
            return None
        return of

    def written(context, builder, signature, arguments):
        both = (_spread(builder, v, t, signature.return_type)
                for v, t in zip(arguments, signature.args, strict=True))
        return getattr(builder, name)(*both)

    for kinds in ((Lanes, Lanes), (Lanes, types.Float), (types.Float, Lanes)):
        lower_builtin(symbol, *kinds)(written)


for _symbol, _name in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _operation(_symbol, _name)


def _address(context, array):
    """Where the numbers of an array are, which lie in a row."""
    if array.layout != "C":
        return None

    def written(context, builder, signature, arguments):
        return context.make_array(signature.args[0])(context, builder, arguments[0]).data

    return types.CPointer(array.dtype)(array), written


def _moved(context, pointer, count):
    """A pointer to what is so many numbers further on."""
    def written(context, builder, signature, arguments):
        return builder.gep(arguments[0], [arguments[1]])

    return pointer(pointer, types.intp), written


def _vector(builder: Any, pointer: Any, place: Any, kind: Any) -> Any:
    """A pointer to the vector that begins at a place."""
    return builder.bitcast(builder.gep(pointer, [place]), kind.as_pointer())


def _lanes_of(context, pointer):
    """How many numbers are in a vector."""
    count = WIDE * 8 // pointer.dtype.bitwidth

    def written(context, builder, signature, arguments):
        return ir.Constant(ir.IntType(64), count)

    return types.intp(pointer), written


def _load(context, pointer, place):
    """The vector that begins at a place."""
    kind = Lanes(pointer.dtype, WIDE * 8 // pointer.dtype.bitwidth)

    def written(context, builder, signature, arguments):
        at, to = arguments
        return builder.load(_vector(builder, at, to, context.get_value_type(kind)), align=pointer.dtype.bitwidth // 8)

    return kind(pointer, types.intp), written


def _load_wide(context, pointer, place):
    """The numbers that begin at a place, as a vector in double precision."""
    kind = Lanes(types.float64, WIDE // 8)

    def written(context, builder, signature, arguments):
        at, to = arguments
        narrow = ir.VectorType(context.get_value_type(pointer.dtype), kind.count)
        found = builder.load(_vector(builder, at, to, narrow), align=pointer.dtype.bitwidth // 8)
        return found if pointer.dtype == types.float64 else builder.fpext(found, context.get_value_type(kind))

    return kind(pointer, types.intp), written


def _spread_like(context, pointer, number):
    """One number in every lane of a vector as the pointer's are."""
    kind = Lanes(pointer.dtype, WIDE * 8 // pointer.dtype.bitwidth)

    def written(context, builder, signature, arguments):
        return _spread(builder, arguments[1], pointer.dtype, kind)

    return kind(pointer, pointer.dtype), written


def _store(context, pointer, place, lanes):
    """Writes a vector to a place."""
    def written(context, builder, signature, arguments):
        at, to, value = arguments
        builder.store(value, _vector(builder, at, to, value.type), align=pointer.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(pointer, types.intp, lanes), written


def _root(context, lanes):
    """The square root of each lane."""
    def written(context, builder, signature, arguments):
        return _called(builder, "sqrt", *arguments)

    return lanes(lanes), written


def _where_above(context, a, b, yes, no):
    """What the third says where a > b, and what the fourth says elsewhere, also where one is not a number."""
    lanes = next(kind for kind in (a, b, yes, no) if isinstance(kind, Lanes))

    def written(context, builder, signature, arguments):
        a, b, yes, no = (_spread(builder, v, t, lanes) for v, t in zip(arguments, signature.args, strict=True))
        return builder.select(builder.fcmp_ordered(">", a, b), yes, no)

    return lanes(a, b, yes, no), written


def _polynomial(context, lanes, coefficients):
    """A polynomial of each lane, the highest power first."""
    def written(context, builder, signature, arguments):
        y, given = arguments
        numbers = [_spread(builder, v, lanes.dtype, lanes) for v in cgutils.unpack_tuple(builder, given)]
        total = numbers[0]
        for number in numbers[1:]:
            total = _called(builder, "fma", total, y, number)
        return total

    return lanes(lanes, coefficients), written


address: Any = intrinsic(_address)
moved: Any = intrinsic(_moved)
lanes_of: Any = intrinsic(_lanes_of)
load: Any = intrinsic(_load)
load_wide: Any = intrinsic(_load_wide)
spread: Any = intrinsic(_spread_like)
store: Any = intrinsic(_store)
root: Any = intrinsic(_root)
where_above: Any = intrinsic(_where_above)
polynomial: Any = intrinsic(_polynomial)
