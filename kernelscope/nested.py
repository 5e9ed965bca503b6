"""Tensors within nested lists, tuples, dictionaries and data classes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor


def mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Nested lists, tuples, dictionaries and data classes with another tensor in the place of each."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, list | tuple):
        items = [mapped(function, item) for item in value]
        # A named tuple takes its fields one by one.
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        # A copy, because a dictionary of a class of its own may be asked by attribute as well.
        table = copy.copy(value)
        for key, item in value.items():
            table[key] = mapped(function, item)
        return table
    if is_dataclass(value) and not isinstance(value, type):
        changed = copy.copy(value)
        for part in fields(value):
            object.__setattr__(changed, part.name, mapped(function, getattr(value, part.name)))
        return changed
    return value


def leaves(value: Any) -> list[Tensor]:
    """The tensors in nested lists, tuples, mappings and data classes."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    elif is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, part.name) for part in fields(value)]
    return [t for item in value for t in leaves(item)] if isinstance(value, list | tuple) else []
