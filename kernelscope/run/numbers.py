r"""The numbers of a parameter group: learning rate, momenta, decay, switches.

They are recorded as plain data. A number that the optimizer holds as a tensor is recorded as what it is exactly, beside
the type of the tensor: torch computes with it in that type, so that :math:`\gamma/(1-\beta^k)` of a learning rate in
float32 is a float32, whatever the parameters are. Read back as the same tensor it is rounded in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

#: The types of tensors that are read back, by name.
TYPES = {str(dtype).removeprefix("torch."): dtype
         for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}

#: Where the types stand beside the numbers of a group.
BESIDE = "tensors"

Types = dict[str, str | list[str | None]]


def hyperparameters(group: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers and switches of a parameter group as plain data, with the types of those held as tensors.

    Example:
        >>> hyperparameters({"params": [], "lr": torch.tensor(0.25), "betas": (0.5, torch.tensor(0.75))})
        {'lr': 0.25, 'betas': [0.5, 0.75], 'tensors': {'lr': 'float32', 'betas': [None, 'float32']}}
    """
    plain: dict[str, Any] = {}
    types: Types = {}
    for key, value in group.items():
        if key in ("params", "param_names", BESIDE):
            continue
        items = list(value) if isinstance(value, list | tuple) else [value]
        found = [_type(item) for item in items]
        items = [item.item() if isinstance(item, Tensor) else item for item in items]
        whole = isinstance(value, list | tuple)
        if whole or isinstance(items[0], bool | int | float | str | None):
            plain[key] = items if whole else items[0]
            if any(found):
                types[key] = found if whole else found[0] or ""
    return {**plain, BESIDE: types} if types else plain


def _type(value: Any) -> str | None:
    name = str(value.dtype).removeprefix("torch.") if isinstance(value, Tensor) else None
    return name if name in TYPES else None


def as_held(group: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recorded numbers as the optimizer computes with them: tensors are tensors again.

    Example:
        >>> as_held({"lr": 0.25, "tensors": {"lr": "float32"}})["lr"].dtype
        torch.float32
    """
    types: Types = group.get(BESIDE) or {}
    # A fused step takes them out of their tensors and computes in double precision.
    if not types or group.get("fused"):
        return group
    return {**group, **{key: _tensors(group[key], kinds) for key, kinds in types.items()}}


def _tensors(value: Any, kinds: Any) -> Any:
    if isinstance(kinds, list):
        return tuple(_tensors(item, kind) for item, kind in zip(value, kinds, strict=True))
    return value if kinds is None else torch.tensor(value, dtype=TYPES[kinds])


def are_types(types: Any, group: Mapping[str, Any]) -> bool:
    """Whether this is what :func:`hyperparameters` says about the tensors of a group."""
    if not isinstance(types, dict):
        return False
    for key, kinds in types.items():
        value, whole = group.get(key), isinstance(kinds, list)
        if whole and not (isinstance(value, list | tuple) and len(value) == len(kinds)):
            return False
        pairs = zip(value, kinds, strict=True) if whole and isinstance(value, list | tuple) else [(value, kinds)]
        if not all((kind is None and whole) or (isinstance(kind, str) and kind in TYPES and type(item) in (int, float))
                   for item, kind in pairs):
            return False
    return True


def rounding(group: Mapping[str, Any]) -> float:
    """How far arithmetic with such numbers may move a step, relative.

    With ``capturable`` and ``differentiable`` torch counts steps in float32 and computes with the count as it is.
    """
    kinds = [kind for kinds in (group.get(BESIDE) or {}).values() for kind in (kinds if isinstance(kinds, list) else
                                                                                 [kinds]) if kind is not None]
    if group.get("capturable") or group.get("differentiable"):
        kinds.append("float32")
    return max((16 * torch.finfo(TYPES[kind]).eps for kind in kinds), default=0.0)
