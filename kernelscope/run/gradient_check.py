"""A look at the first gradient: is it that of the loss the recording was given?"""

from __future__ import annotations

import torch

from ..losses import Loss
from ..network import exact_arithmetic, gradients_of, random_state
from .faults import warn
from .gradient import Tolerance, used_gradient
from .loss_check import SWAPPED, received
from .precision import reduced
from .samples import Samples
from .step import Step
from .subject import Subject

#: A relative difference of the first gradients above which the losses are called different.
DIFFERENT = 0.05


def warn_of_another_loss(subject: Subject, loss: Loss, samples: Samples, step: Step, advice: str | None = None,
                         when: str = "the first step") -> None:
    """Recomputes the first gradient on the copy of the network and warns if the loop used another one.

    Args:
        subject: What is recorded.
        loss: The loss that the recording was given.
        samples: The table of samples.
        step: The first step.
        advice: What to do, in sentences; if not given, how to pass another loss.
        when: Which step it is, in words.
    """
    network, parameters, device = subject.network, subject.parameters, subject.device
    moving = [name for group in step.groups for name in group["names"] if name not in step.without]
    if not moving:
        return
    leaves = {name: parameters[name].detach().clone().requires_grad_() for name in moving}
    means, swapped = [], False
    with exact_arithmetic(), torch.enable_grad():
        for batch in step.batches:
            inputs, targets = samples.read(batch)
            swapped = swapped or received(inputs, targets)
            with random_state(batch.random, device), reduced(batch.autocast, device):
                outputs = network(leaves, network.buffers, tuple(x.to(device) for x in inputs), batch.training)
                value = loss.mean(outputs, targets.to(device))
            gradients = gradients_of(value, leaves)
            means.append([torch.zeros_like(p) if g is None else g for g, p in
                          zip(gradients, leaves.values(), strict=True)])
    dtype = next(iter(leaves.values())).dtype
    which = [subject.names.index(name) for name in moving]
    used = used_gradient(step, means, which, Tolerance.of(dtype, any(b.autocast for b in step.batches)))
    held = [parameters[name].grad for name in moving]
    actual = [g.to_dense() if g is not None and g.is_sparse else g for g in held]
    size = sum(float((a.double() ** 2).sum()) for a in actual if a is not None) ** 0.5
    gap = sum(float(((a - u).double() ** 2).sum()) for a, u in zip(actual, used.gradient, strict=True)
              if a is not None) ** 0.5
    if size > 0 and gap > DIFFERENT * size:
        advice = advice or (
            f"{f'{SWAPPED} Else pass' if swapped else 'Pass'} record(..., loss=...) the loss that is minimised, with "
            "its weights and penalties; weight decay of the optimizer and clipping are understood already."
        )
        warn(
            f"At {when} the gradient differs by {gap / size:.0%} from that of the recorded loss, so much of "
            f"this run will be booked as unattributed. {advice}"
        )
