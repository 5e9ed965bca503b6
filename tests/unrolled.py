"""Training with explicit weights, which automatic differentiation goes straight through."""

import torch
from torch import nn
from torch.func import functional_call

from tests.recordings import batches


def weighted_training(model, x, y, optimizer, weights, *, loss, steps=8, size=3, norm=None, kind=2.0, value=None,
                      schedule=None, passes=1, own=None, plan=None, training=False):
    """The parameters after training in which sample i counts ``weights[i]``, as a differentiable function of them.

    Args:
        optimizer: ``params -> torch.optim.Optimizer`` with ``differentiable=True``.
        own: A step of its own, ``(parameters, gradients, k) -> parameters``, in place of an optimizer.
        schedule: ``k -> lr``.
        passes: How many batches are gathered for each step.
    """
    theta = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    names, made = list(theta), None
    model.train(training)
    plan = plan or batches(steps * passes, size, len(y))
    for k in range(steps):
        total = [torch.zeros_like(p) for p in theta.values()]
        for ids in plan[k * passes:(k + 1) * passes]:
            each = loss(functional_call(model, theta, (x[ids],)), y[ids], reduction="none")
            each = each.flatten(1).mean(1) if each.ndim > 1 else each
            mean = (weights[ids] * each).sum() / len(ids) / passes
            found = torch.autograd.grad(mean, list(theta.values()), create_graph=True)
            total = [t + g for t, g in zip(total, found, strict=True)]
        if norm is not None:
            whole = torch.linalg.vector_norm(torch.cat([g.reshape(-1) for g in total]), kind)
            total = [g * torch.clamp(norm / (whole + 1e-6), max=1.0) for g in total]
        if value is not None:
            total = [g.clamp(-value, value) for g in total]
        if own is not None:
            theta = own(theta, dict(zip(names, total, strict=True)), k)
            continue
        moved = [p.clone() for p in theta.values()]
        for p, g in zip(moved, total, strict=True):
            p.retain_grad()
            p.grad = g
        if made is None:
            made = optimizer(moved)
        else:
            held = [made.state[p] for p in made.param_groups[0]["params"]]
            made.state.clear()
            for p, state in zip(moved, held, strict=True):
                made.state[p] = {key: v.clone() if torch.is_tensor(v) else v for key, v in state.items()}
            made.param_groups[0]["params"] = moved
        if schedule is not None:
            made.param_groups[0]["lr"] = schedule(k)
        made.step()
        theta = dict(zip(names, moved, strict=True))
    return theta


def metagradient(model, x, y, z, optimizer, *, read=None, **options):
    """The derivatives of the outputs at z by the weights, with shape (q, c, n), and the outputs."""
    weights = torch.ones(len(y), dtype=x.dtype, requires_grad=True)
    theta = weighted_training(model, x, y, optimizer, weights, **options)
    model.eval()
    outputs = functional_call(model, theta, (z,)) if read is None else read(theta)
    rows = [torch.autograd.grad(value, weights, retain_graph=True)[0] for value in outputs.flatten()]
    return torch.stack(rows).view(*outputs.shape, len(y)), outputs.detach()


def tiny(features=3, hidden=4, outputs=2):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, outputs)).double()


def sgd(lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False, schedule=None):
    """The step of SGD; torch cuts the graph at the first momentum, so its own cannot be differentiated."""
    held = {}

    def step(theta, gradients, k):
        moved = {}
        for name, p in theta.items():
            d = (-1 if maximize else 1) * gradients[name] + weight_decay * p
            if momentum:
                b = held[name] = d if name not in held else momentum * held[name] + (1 - dampening) * d
                d = d + momentum * b if nesterov else b
            moved[name] = p - (lr if schedule is None else schedule(k)) * d
        return moved

    return step


def muon(lr, momentum, weight_decay, coefficients, steps, nesterov=True, follow=None):
    """The step of Muon in full precision, shifted by a constant to where ``follow(k)`` says it went."""
    held = {}
    a, b, c = coefficients

    def step(theta, gradients, k):
        moved = {}
        for name, p in theta.items():
            g = gradients[name]
            m = held[name] = momentum * held.get(name, torch.zeros_like(g)) + (1 - momentum) * g
            u = (1 - momentum) * g + momentum * m if nesterov else m
            x = u if u.shape[0] <= u.shape[1] else u.T
            x = x / x.norm()
            for _ in range(steps):
                s = x @ x.T
                x = a * x + (b * s + c * s @ s) @ x
            x = x if u.shape[0] <= u.shape[1] else x.T
            length = lr * max(1, u.shape[0] / u.shape[1]) ** 0.5
            there = p * (1 - lr * weight_decay) - length * x
            moved[name] = there if follow is None else there + (follow(k)[name] - there).detach()
        return moved

    return step


def adam(lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, decoupled=False):
    """The step of Adam; what torch differentiates raises its betas to powers in float32."""
    means, squares, largest = {}, {}, {}

    def step(theta, gradients, k):
        moved = {}
        for name, p in theta.items():
            g = gradients[name] if decoupled else gradients[name] + weight_decay * p
            p = p * (1 - lr * weight_decay) if decoupled else p
            m = means[name] = betas[0] * means.get(name, 0.0) + (1 - betas[0]) * g
            v = squares[name] = betas[1] * squares.get(name, 0.0) + (1 - betas[1]) * g * g
            if amsgrad:
                v = largest[name] = torch.maximum(largest.get(name, torch.zeros_like(v)), v)
            scale = (v / (1 - betas[1] ** (k + 1))).sqrt() + eps
            moved[name] = p - lr / (1 - betas[0] ** (k + 1)) * m / scale
        return moved

    return step
