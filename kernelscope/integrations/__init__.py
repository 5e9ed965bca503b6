"""Other packages: loops of their frameworks recorded, trackers told, kernels and matrices handed over."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .huggingface import HFCallback
    from .lightning import LightningCallback
    from .linear_operators import as_gpytorch_kernel, as_linear_operator
    from .scalars import run_scalars
    from .tracking import log_run

__all__ = ["HFCallback", "LightningCallback", "as_gpytorch_kernel", "as_linear_operator", "log_run",
           "run_scalars"]

_HOMES = {
    "HFCallback": "huggingface",
    "LightningCallback": "lightning",
    "as_gpytorch_kernel": "linear_operators",
    "as_linear_operator": "linear_operators",
    "log_run": "tracking",
    "run_scalars": "scalars",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"kernelscope.integrations has no {name!r}. It has {', '.join(__all__)}.")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
