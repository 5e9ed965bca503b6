"""Other frameworks: their training loops recorded, and kernels and matrices for those who work with other packages."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .huggingface import HFCallback
    from .lightning import LightningCallback
    from .linear_operators import as_gpytorch_kernel, as_linear_operator

__all__ = ["HFCallback", "LightningCallback", "as_gpytorch_kernel", "as_linear_operator"]

_HOMES = {
    "HFCallback": "huggingface",
    "LightningCallback": "lightning",
    "as_gpytorch_kernel": "linear_operators",
    "as_linear_operator": "linear_operators",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"kernelscope.integrations has no {name!r}. It has {', '.join(__all__)}.")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
