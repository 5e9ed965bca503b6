r"""The hooks by which a recording hears a module, and of which copies of the module carry nothing.

A module takes its hooks along wherever it is copied or pickled: into a checkpoint, the best model so far, another
process. A recording hears the one module it was given. What goes along instead is a bound method of the standard
library that takes anything and does nothing, so that a checkpoint is read where this package is not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from torch.utils.hooks import RemovableHandle

from .wrappers import untraced


class Hook:
    """A hook on one module; copied or unpickled it does nothing.

    Args:
        listen: What is called as the hook.

    Example:
        >>> import copy
        >>> heard = []
        >>> hook = Hook(heard.append)
        >>> hook("this module"), copy.deepcopy(hook)("its copy"), heard
        (None, None, ['this module'])
    """

    def __init__(self, listen: Callable[..., None]):
        self._listen = listen

    def __call__(self, *args: Any) -> None:
        """Listens, and changes nothing."""
        self._listen(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")


def attach(register: Callable[..., RemovableHandle], listen: Callable[..., None]) -> RemovableHandle:
    """Registers a hook that is given keyword arguments too, with ``register`` of a module."""
    # torch's compiler looks into the call of an object, and reads the mark that says not to where the class has it.
    kind = type(Hook.__name__, (Hook,), {"__call__": untraced(Hook.__call__)})
    handle = register(kind(listen), with_kwargs=True)
    # torch counts hooks from 0 in every process. In another one a hook of the user's would get this number, and with it
    # the note that it takes keyword arguments; negative numbers are nobody's.
    given, own = handle.id, -1 - handle.id
    for table in (handle.hooks_dict_ref(), *(reference() for reference in handle.extra_dict_ref)):
        if table is not None and given in table:
            table[own] = table.pop(given)
    handle.id = own
    return handle
