"""A look at the first outputs: does the copy of the network, which a ledger reads, compute what the module computes?

A copy leaves hooks behind, since most of them watch or log. One that changes what a module returns is part of the
function all the same, and so is state that is neither a parameter nor a buffer.
"""

from __future__ import annotations

from typing import Any

import torch

from ..nested import leaves
from ..network import exact_arithmetic, hooked_modules, random_state
from .faults import warn
from .passes import Pass
from .precision import reduced
from .subject import Subject

#: A relative difference of the first outputs above which the copy is called another function.
DIFFERENT = 1e-2


def warn_of_other_outputs(subject: Subject, seen: Pass, outputs: Any) -> bool:
    """Computes the first outputs again on the copy, and warns if they differ; says whether they do."""
    model, device = subject.model, subject.device
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    with exact_arithmetic(), torch.no_grad(), random_state(seen.random, device), reduced(seen.autocast, device):
        copied = subject.network(parameters, dict(model.named_buffers()), seen.inputs, seen.training)
    worst = 0.0
    for a, b in zip(leaves(outputs), leaves(copied), strict=False):
        if a.is_floating_point() and a.shape == b.shape and a.numel():
            a, b = a.detach().double(), b.detach().double()
            worst = max(worst, float((a - b).norm() / a.norm().clamp_min(torch.finfo(a.dtype).tiny)))
    # In reduced precision another formula for the same thing moves the outputs of a deep network by some percent.
    if worst <= (10 * DIFFERENT if seen.autocast else DIFFERENT):
        return False
    hooked = [name or "the model itself" for name, module in hooked_modules(model)]
    cause = (f"forward hooks on {', '.join(hooked[:3])} change what they return" if hooked else
             "it draws random numbers of its own (as compiled dropout does, but for "
             "torch._inductor.config.fallback_random = True), or keeps state outside its parameters and buffers")
    warn(
        f"The network's outputs differ by {worst:.0%} from those of its copy, which will be explained: {cause}. "
        "Put such code into the module's forward (for spectral and weight norm: torch.nn.utils.parametrizations). What "
        "the copy does not do is booked as unattributed, and final outputs are those of the copy."
    )
    return True
