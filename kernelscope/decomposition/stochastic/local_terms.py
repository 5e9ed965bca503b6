r"""The terms of the second-order formula along the paths of networks that are trained at once.

Along one path, with :math:`\phi_k` and :math:`H_k` the gradient and the Hessian of an output, :math:`g_k` the gradient
of all samples and :math:`\bar D_k` the step that the rule makes of :math:`g_k` and of its mean momentum,

.. math::
    \text{path} &= \sum_k \langle\phi_k, \bar D_k\rangle, \qquad
    \text{curvature} = \tfrac12\sum_k \bar D_k^T H_k \bar D_k, \\
    \text{noise} &= \sum_s \tfrac{v_s}{2}\operatorname{tr}(H_s W_s\Sigma_s W_s)
        - \kappa\sum_s\sum_{r<s}\operatorname{tr}(H_s W_s\Sigma_s W_r), \\
    \text{drift} &= -\kappa\sum_s\sum_{r<s}\Big\langle\phi_s, \tfrac{W_s}{n}\sum_i H_i W_{r\to s}(g_i - g)\Big\rangle .

The inner sums go over the earlier steps of an epoch; :math:`v` and :math:`\kappa` are those of
:class:`~kernelscope.decomposition.stochastic.sampling.Sampling`, the weights W those of
:mod:`~kernelscope.decomposition.stochastic.noise_weights`, and :math:`H_i` is the Hessian of a sample's loss. Averaged
over seeds the four sum to the expected change of the output, up to the third order in the learning rate.

Beside them are kept the *martingale* :math:`-\sum_s\langle\phi_s, W_s(\hat g_s - g_s)\rangle`, whose mean is exactly
zero where batches do not know of each other, and the *variance* :math:`\sum_s v_s\,\phi_s^T W_s\Sigma_s W_s\phi_s`,
which is that of the output in the first order.

Where :math:`\Sigma` is not computed from all samples, two batches drawn with replacement give it:
:math:`\xi = (\hat g_a - \hat g_b)/\sqrt2` has the covariance :math:`\Sigma/B`, so :math:`B\,\xi^T H \xi` has the mean
:math:`\operatorname{tr}(H\Sigma)`, and so on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from ...composed import Composed
from ...run.rules import Linear
from .derivatives import Outputs, Tree, along
from .noise_weights import NoiseWeights, Numbers, noise_weights
from .population import Population
from .recipe import Recipe
from .sampling import Sampling

#: Up to how many samples covariances are computed from all of them.
ALL = 32

#: How many pairs of batches are drawn at each step where they are not.
PROBES = 2


@dataclass(frozen=True, eq=False)
class Setting:
    """What the terms of all seeds have in common.

    Attributes:
        recipe: How the networks are trained.
        population: The samples.
        sampling: How batches are drawn.
        outputs: From the parameters of one network to its explained numbers, with shape (q, c).
        exact: Whether covariances are computed from all samples.
        block: How many samples go through the networks at once.
    """

    recipe: Recipe
    population: Population
    sampling: Sampling
    outputs: Outputs
    exact: bool
    block: int


class LocalTerms:
    """The terms of S networks, added up while they are trained; it watches :func:`train`.

    Attributes:
        sums: The terms so far, each with shape (S, q, c).
    """

    def __init__(self, setting: Setting, generator: torch.Generator):
        self.setting = setting
        self.sums: dict[str, Tensor] = {}
        self._generator = generator
        self._forms = setting.recipe.forms()
        starts = [setting.sampling.starts_epoch(s) for s in range(len(self._forms))]
        self._weights = noise_weights(self._forms, starts)
        self._momentum: dict[str, Tensor | None] = {}

    def __call__(self, k: int, theta: Tree, gradient: Tree) -> None:
        """Adds the terms of step k."""
        setting, weights = self.setting, self._weights[k]
        of_all = (setting.population.inputs, setting.population.targets)
        mean = setting.recipe.gradients.on_all(theta, *of_all, setting.block)
        whole = self._mean_step(self._forms[k], theta, mean)
        first, second = vmap(self._two)(theta, whole, whole)
        self._add("path", first)
        self._add("curvature", second / 2)
        if setting.sampling.pair == 0.0:
            fresh = {name: -weights.final[name] * (gradient[name] - mean[name]) for name in theta}
            self._add("martingale", vmap(lambda t, d: along(setting.outputs, t, d))(theta, fresh))
        noise = self._by_samples if setting.exact else self._by_probes
        for name, term in noise(k, theta, mean, weights).items():
            self._add(name, term)

    def _add(self, name: str, term: Tensor) -> None:
        self.sums[name] = term if name not in self.sums else self.sums[name] + term

    def _mean_step(self, forms: dict[str, Linear], theta: Tree, mean: Tree) -> Tree:
        steps: Tree = {}
        for name, t in theta.items():
            if name in forms:
                steps[name], self._momentum[name] = forms[name].displacement(t, mean[name], self._momentum.get(name))
            else:
                steps[name] = torch.zeros_like(t)
        return steps

    def _two(self, theta: Tree, u: Tree, v: Tree) -> tuple[Tensor, Tensor]:
        r"""The first derivative along v and the second along u and v, of one network."""
        return jvp(lambda t: along(self.setting.outputs, t, v), (theta,), (u,))[:2]

    def _by_samples(self, k: int, theta: Tree, mean: Tree, weights: NoiseWeights) -> dict[str, Tensor]:
        gradients, x, y = self.setting.recipe.gradients, self.setting.population.inputs, self.setting.population.targets
        rows = vmap(gradients.each, (0, None, None))(theta, x, y)
        apart = {name: g - mean[name][:, None] for name, g in rows.items()}

        def bent(theta: Tree, apart: Tree) -> Tree:
            # The mean over the samples of the Hessian of each times its own direction.
            one = lambda x, y, d: jvp(lambda t: grad(gradients.mean_loss)(t, tuple(i[None] for i in x), y[None]),
                                      (theta,), (d,))[1]
            with Composed():
                return {name: t.mean(0) for name, t in vmap(one)(x, y, apart).items()}

        return self._terms(k, theta, apart, 1.0, weights, lambda d: vmap(bent)(theta, d))

    def _by_probes(self, k: int, theta: Tree, mean: Tree, weights: NoiseWeights) -> dict[str, Tensor]:
        gradients, population = self.setting.recipe.gradients, self.setting.population
        seeds, size = len(next(iter(theta.values()))), self.setting.sampling.sizes[k]
        drawn = torch.randint(len(population), (2, PROBES, seeds, size), generator=self._generator)
        pairs = [[gradients(theta, *population.rows(drawn[side, j])) for j in range(PROBES)] for side in range(2)]
        apart = {name: torch.stack([(pairs[0][j][name] - pairs[1][j][name]) / 2**0.5 for j in range(PROBES)], 1)
                 for name in theta}
        x, y = population.rows(drawn.permute(2, 1, 0, 3))  # (seeds, probes, 2, size, *)

        def difference(theta: Tree, x: tuple[Tensor, ...], y: Tensor) -> Tree:
            a, b = (grad(gradients.mean_loss)(theta, tuple(t[i] for t in x), y[i]) for i in range(2))
            return {name: (a[name] - b[name]) / 2**0.5 for name in a}

        def bent(theta: Tree, x: tuple[Tensor, ...], y: Tensor, apart: Tree) -> Tree:
            one = lambda x, y, d: jvp(lambda t: difference(t, x, y), (theta,), (d,))[1]
            with Composed():
                return {name: t.mean(0) for name, t in vmap(one)(x, y, apart).items()}

        return self._terms(k, theta, apart, float(size), weights, lambda d: vmap(bent)(theta, x, y, d))

    def _terms(self, k: int, theta: Tree, apart: Tree, unit: float, weights: NoiseWeights,
               bent: Callable[[Tree], Tree]) -> dict[str, Tensor]:
        r"""Noise, variance and drift from directions whose mean square, times ``unit``, is :math:`\Sigma`."""
        own, pair = self.setting.sampling.own(k), self.setting.sampling.pair
        u = _scaled(weights.final, apart)
        v = {name: own / 2 * u[name] - pair * weights.earlier[name] * apart[name] for name in u}
        every = vmap(vmap(self._two, (None, 0, 0)))
        noise = every(theta, v, u)
        terms = {"noise": unit * noise[1].mean(1), "variance": own * unit * noise[0].square().mean(1)}
        if pair != 0.0:
            found = bent(_scaled(weights.entered, apart))
            drift = {name: -pair * unit * weights.final[name] * t for name, t in found.items()}
            terms["drift"] = vmap(lambda t, d: along(self.setting.outputs, t, d))(theta, drift)
        return terms


def _scaled(numbers: Numbers, tree: Tree) -> Tree:
    return {name: numbers[name] * t for name, t in tree.items()}
