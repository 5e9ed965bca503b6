"""Where a run came from: versions, device, and fingerprints of the code."""

from __future__ import annotations

import hashlib
import inspect
import platform
from typing import Any

import torch
from torch import nn

from .. import __version__


def provenance(model: nn.Module) -> dict[str, Any]:
    """What is needed to tell later whether the same code made the same run."""
    kinds = sorted({type(module) for module in model.modules()}, key=lambda kind: (kind.__module__, kind.__qualname__))
    digest = hashlib.sha256(repr(model).encode(errors="backslashreplace"))
    for kind in kinds:
        if not kind.__module__.startswith("torch."):
            digest.update(_source(kind).encode())
    return {
        "environment": {
            "kernelscope": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": str(next(model.parameters()).device),
            "threads": torch.get_num_threads(),
        },
        "fingerprint": {"code": digest.hexdigest(), "model": type(model).__qualname__},
    }


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # classes typed into a prompt have no source
        return kind.__qualname__
