"""A first look at a network and at its answers, before anything is computed from them.

What goes wrong within a network or a loss is said there in words of shapes and operations; here it is said in words of
what was handed in. Every form of input is looked at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DataError, KernelscopeError, ModelError, NonFiniteError
from ..layers import Batch, Function
from ..layers.batch import count, pick
from ..nested import leaves
from ..network import MADE_ALONE, cast, hooked_modules

#: How many samples are looked at.
FEW = 2

#: What torch, and a user's own code, raise for inputs that do not fit.
_MISFITS = (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, AssertionError)


def check_module(model: Any) -> None:
    """Refuses modules of which no copy computes the same, and warns of hooks, which a copy leaves behind.

    Raises:
        ModelError: If the module cannot be read through a copy.
    """
    if not isinstance(model, nn.Module):
        return  # A network says what it is made from.
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError("A scripted module has no parameters that can be exchanged. Pass the module it was made from.")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ModelError(f"A {type(model).__name__} spreads a module over devices. Pass the module, model.module.")
    blank = next((name for name, p in model.named_parameters() if nn.parameter.is_lazy(p)), None)
    if blank is not None:
        raise ModelError(f"The parameter {blank!r} has no shape yet. Call the module once, so that it is made.")
    counting = next((name for name, m in model.named_modules() if getattr(m, "scale_grad_by_freq", False)), None)
    if counting is not None:
        raise ModelError(
            f"The table {counting or 'itself'!r} has scale_grad_by_freq=True, which divides by how often a row comes "
            "in a batch, so a sample has no gradient of its own. Set it to False on a copy of the module."
        )
    hooked = []
    for name, module in hooked_modules(model):
        kinds = [type(hook) for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())]
        if any(kind.__module__.startswith("torch.nn.utils") for kind in kinds):
            raise ModelError(
                f"A hook of torch.nn.utils makes a weight of {name or 'the module'!r} anew at every call, and hooks "
                "are not part of a copy. Use torch.nn.utils.parametrizations instead."
            )
        hooked.append(name or "the module itself")
    if hooked:
        warnings.warn(
            f"Forward hooks on {', '.join(hooked[:3])} are not part of the copy that is differentiated. If they change "
            "what the network gives, the features are those of the network without them; put such code into forward.",
            stacklevel=4,
        )


def check_place(dtype: Any, device: Any, parameters: Iterable[Tensor]) -> tuple[torch.dtype, torch.device]:
    """The precision and the device to compute in; by default the finest and the first of the parameters.

    Raises:
        DataError: If there is no such precision or device.
        ModelError: If the parameters are no real numbers, or have no values.
    """
    own = list(parameters)
    odd = next((p for p in own if not p.is_floating_point()), None)
    if odd is not None:
        raise ModelError(f"Parameters must be real numbers, and one is {odd.dtype}. Select others with parameters=.")
    if dtype is None:
        dtype = max((p.dtype for p in own), key=lambda kind: torch.finfo(kind).bits)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise DataError(f"dtype must be a floating-point type of torch; {dtype!r} came. Pass torch.float64.")
    try:
        place = own[0].device if device is None else torch.device(device)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise DataError(f"There is no device {str(device)!r} here: {str(error).splitlines()[0]}. Pass one of this "
                        "machine, as device=\"cpu\".") from error
    if place.type == "meta":
        raise ModelError("The parameters have shapes and no values (device meta). Load the network's weights first.")
    return dtype, place


def look(function: Function, batch: Batch) -> Tensor:
    """What is differentiated, for a few samples, with shape (few, c).

    Raises:
        ModelError: If the network cannot be called with them, or does not give a row for each of them.
        NonFiniteError: If what it gives is NaN.
    """
    # Copies, because a network may write to what it is given; and more than one, as some modules ask for.
    args, kwargs, side = pick(batch, torch.arange(FEW) % count(batch))
    given = [t._version for t in leaves((args, kwargs))]
    try:
        outputs = function.outputs(Batch(args, kwargs, side))
    except _MISFITS as error:
        made = _made_alone(function, Batch(args, kwargs, side), error)
        if made is not None:
            raise ModelError(made) from error
        flat = all(t.ndim == 1 for t in leaves(args))
        single = " A single point needs an axis before its own: x[None]." if flat else ""
        if len(args) > 1 and len({t.shape for t in leaves(args)}) == 1:
            single = (f" If these {len(args)} tensors are points, and not inputs side by side, put them together: "
                      "torch.stack(x), or torch.cat(x) for batches.")
        raise ModelError(
            f"The network cannot be called with {_described(args, kwargs)}: {_first_line(error)}. Points are its "
            "inputs alone: a tuple for several by position, a dictionary for named ones; targets are for a loss."
            f"{single}"
        ) from error
    if [t._version for t in leaves((args, kwargs))] != given:
        function.network.spare_inputs()
    try:
        explained = function.values(outputs, side)
    except KernelscopeError:
        raise
    except _MISFITS as error:
        beside = "" if side is None else f" and targets of {_shapes(side)}"
        raise ModelError(
            f"What is differentiated cannot be computed from outputs of {_shapes(outputs)}{beside}: "
            f"{_first_line(error)}. Look at loss= and output=."
        ) from error
    if len(explained) != FEW:
        raise ModelError(
            f"The network must give one row for each sample, and gave {_shapes(outputs)} for {FEW} samples. Keep the "
            "samples along the first axis, or pass output=, a function that brings them there."
        )
    if not explained.is_floating_point():
        raise ModelError(f"Only real numbers are differentiated; {explained.dtype} came. Look at loss= and output=.")
    # Masked logits are minus infinity, which has a gradient: none.
    if bool(explained.isnan().any()):
        bad = next((name for name, p in function.parameters.items() if not bool(p.isfinite().all())), None)
        why = f"its parameter {bad!r} is NaN or infinite" if bad else "what it gives is NaN"
        raise NonFiniteError(f"The network cannot be differentiated: {why}. Look at its training, and at loss=.")
    return explained


def _made_alone(function: Function, batch: Batch, error: BaseException) -> str | None:
    """What is to be said where the network can be computed in the precision of its parameters and in no other."""
    first = next(iter(function.parameters.values()))
    own = next(iter(function.network.parameters.values())).dtype
    if first.dtype == own:
        return None
    parameters, buffers, args, kwargs = (cast(value, own, first.device) for value in (
        function.parameters, function.buffers, batch.args, batch.kwargs))
    try:
        replace(function, parameters=parameters, buffers=buffers).outputs(Batch(args, kwargs, batch.side))
    except _MISFITS:
        return None
    asked, kept = (str(kind).removeprefix("torch.") for kind in (first.dtype, own))
    made = MADE_ALONE.format(own=kept, asked=asked, problem=_first_line(error))
    return (f"The network cannot be computed in {asked}: it {made}. Pass dtype=torch.{kept}, or make such tensors with "
            "dtype=x.dtype.")


def check_finite(tensors: Iterable[Tensor], what: str, first: int | None = None) -> None:
    """Whether gradients are finite; ``first`` is the number of the point that the first row belongs to.

    Raises:
        NonFiniteError: If one is NaN or infinite.
    """
    real = [t for t in tensors if t.is_floating_point() and t.numel()]
    # A sum is finite if its terms are, and cheaper to look at than each of them.
    if not real or bool(torch.stack([t.sum().to(torch.float64) for t in real]).isfinite().all()):
        return
    for t in real:
        bad = ~t.isfinite()
        if bool(bad.any()):
            point = "" if first is None else f" of point {first + int(bad.view(len(t), -1).any(1).nonzero()[0])}"
            raise NonFiniteError(
                f"{what}{point} is NaN or infinite, though the inputs are finite. Look for roots, logarithms or "
                "divisions at nought, or compute in float64 (dtype=torch.float64)."
            )


def _described(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    named = [f"{name}: {_shapes(value)}" for name, value in kwargs.items()]
    return f"inputs of {', '.join([*map(_shapes, args), *named])}"


def _shapes(value: Any) -> str:
    found = [f"shape {tuple(t.shape)} ({str(t.dtype).removeprefix('torch.')})" for t in leaves(value)]
    return ", ".join(found) or f"type {type(value).__name__}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
