r"""Other initial parameters: those that the modules of a network would draw for themselves.

Each module that holds parameters draws them by its ``reset_parameters``. Whether the run began with parameters drawn so
is looked at: their size must be that of what is drawn. A network that was fine-tuned, or drawn by a rule of the user's,
is not begun with parameters of another kind.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ...decomposition.stochastic.derivatives import Tree
from ...decomposition.stochastic.recipe import Recipe
from ...run.run import Run

__all__ = ["drawn_start", "why_not_drawn"]

#: By how many deviations the size of recorded parameters may differ from that of drawn ones.
FAR = 6.0


def drawn_start(run: Run, recipe: Recipe, seed: int) -> Tree:
    """The parameters that move, drawn anew by the modules that hold them.

    Args:
        run: The run.
        recipe: How it was trained.
        seed: The seed they are drawn with; the global random state stays as it is.
    """
    module = copy.deepcopy(run.network.module(())).cpu()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for child in module.modules():
            if _own(child):
                getattr(child, _resetting(child))()
    drawn = dict(module.named_parameters())
    return {name: drawn[name].detach().to(held) for name, held in recipe.start.items()}


def why_not_drawn(run: Run, recipe: Recipe) -> str:
    """Why initial parameters cannot be drawn anew, in a clause; empty where they can."""
    module = run.network.module(())
    for name, child in module.named_modules():
        if _own(child) and not _resetting(child):
            return (f"{name or 'the network itself'} ({type(child).__name__}) holds parameters and has no "
                    "reset_parameters")
    drawn = drawn_start(run, recipe, 0)
    for name, held in recipe.start.items():
        if not _alike(held, drawn[name]):
            size, usual = (float(t.double().square().mean().sqrt()) for t in (held, drawn[name]))
            return (f"the run did not begin with parameters as its modules draw them: {name} had the size {size:.3g} "
                    f"(root mean square), and drawn anew it has {usual:.3g}")
    return ""


def _own(child: nn.Module) -> bool:
    return any(p is not None for p in child._parameters.values())


def _resetting(child: nn.Module) -> str:
    """The method by which a module draws its parameters; attention has one of its own name."""
    names = ("reset_parameters", "_reset_parameters")
    return next((name for name in names if callable(getattr(child, name, None))), "")


def _alike(held: Tensor, drawn: Tensor) -> bool:
    held, drawn = held.double().cpu(), drawn.double().cpu()
    if bool((drawn == drawn.flatten()[:1]).all()) if drawn.numel() else True:
        # A constant, such as the 0 of a bias, is not drawn.
        return bool(torch.equal(held, drawn)) or drawn.numel() == 1
    one, other = held.square().mean(), drawn.square().mean()
    if not float(one) or not float(other):
        return False
    # The logarithm of a mean of n squares of normal draws has the variance 2 / n.
    return abs(float((one / other).log())) <= FAR * (4 / held.numel()) ** 0.5
