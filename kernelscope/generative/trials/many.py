r"""Many networks of one architecture, trained together.

A question about training asks for many trainings: subsets left out, seeds, sizes. Small networks spend their time in
calls and not in products, so M of them with stacked parameters cost far less than M times one:

.. math:: L(\theta_1, \dots, \theta_M) = \sum_m L_m(\theta_m), \qquad
          \frac{\partial L}{\partial \theta_m} = \nabla L_m(\theta_m),

and one backward pass gives the gradient of each. Every member has its own subset of the points and its own seed, which
its initial weights, its batches and its noise come from; whatever is trained beside it, it becomes the same network.
Nothing is recorded: what is to be decomposed is trained alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ...arguments import as_choice, as_count, as_function, as_positive, as_seed, what_came
from ...errors import DataError, ModelError
from ...network import Network, Parameters, undisturbed
from ...progress import counting
from ..denoising.denoiser import Denoiser, along
from ..denoising.noise import NoiseLaw
from ..games.adversary import FAKE, REAL, Adversary
from ..training import COURSES

__all__ = ["Draw", "ManyDenoisers", "ManyGames", "ManyNetworks", "draws", "train_many", "train_many_games"]

#: How many steps are drawn at once from a member's generator.
AHEAD = 16


@dataclass(frozen=True, eq=False)
class Draw:
    """What one step of a member is trained on.

    Attributes:
        places: The places of the points, with shape (batch,).
        y: Noisy points, with shape (batch, *).
        sigma: Their noise levels, with shape (batch,).
    """

    places: Tensor
    y: Tensor
    sigma: Tensor


def draws(x: Tensor, subset: Tensor, seed: int, *, steps: int, batch: int, law: NoiseLaw | None = None,
          ) -> Iterator[Draw]:
    """The batches of one member, the same ones alone and together.

    Args:
        x: The points, with shape (n, *).
        subset: The places it may draw, with shape (m,).
        seed: Its seed.
        steps: How many batches.
        batch: How many points in each.
        law: The law of its noise levels.

    Example:
        >>> x, subset = torch.randn(4, 2), torch.tensor([1, 3])
        >>> found = [draw.places.tolist() for draw in draws(x, subset, 0, steps=2, batch=2)]
        >>> set(sum(found, [])) <= {1, 3}
        True
    """
    law, source = law or NoiseLaw(), torch.Generator().manual_seed(seed)
    for start in range(0, steps, AHEAD):
        count = min(AHEAD, steps - start)
        places = subset[torch.randint(len(subset), (count, batch), generator=source)]
        sigma = law.draw(count * batch, source).to(x).view(count, batch)
        noise = torch.randn(count, batch, *x.shape[1:], generator=source).to(x)
        y = x[places] + along(sigma.flatten(), noise.flatten(0, 1)).view(count, batch, *[1] * (x.ndim - 1)) * noise
        for k in range(count):
            yield Draw(places[k], y[k], sigma[k])


@dataclass(frozen=True, eq=False)
class ManyNetworks:
    """Networks of one architecture.

    Attributes:
        network: The architecture.
        parameters: The parameters by name, each with shape (M, *).
        kept: The parameters after some of the steps.
    """

    network: nn.Module
    parameters: Parameters
    kept: dict[int, Parameters] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.parameters.values())))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} networks with {self.size} parameters each)"

    @property
    def size(self) -> int:
        """The number of parameters of one of them."""
        return sum(value[0].numel() for value in self.parameters.values())

    def at(self, step: int) -> Self:
        """The networks as they were after ``step`` steps.

        Raises:
            DataError: If they were not kept then.
        """
        if step not in self.kept:
            raise DataError(f"The networks after step {step} were not kept. Kept are those after {list(self.kept)}; "
                            f"train with keep=[{step}].")
        return replace(self, parameters=self.kept[step], kept={})

    def member(self, i: int) -> Parameters:
        """The parameters of one of them."""
        return {name: value[i] for name, value in self.parameters.items()}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """What each of them gives, with shape (M, q, *).

        Args:
            inputs: The inputs, the same ones for all.
        """
        with torch.no_grad():
            return vmap(lambda held: functional_call(self.network, held, inputs))(self.parameters)


@dataclass(frozen=True, eq=False, repr=False)
class ManyDenoisers(ManyNetworks):
    """Denoisers that :func:`train_many` trained together; called as (y, sigma) they give what their cores do."""

    def denoised(self, y: Tensor, sigma: Tensor) -> Tensor:
        """The denoised points of each of them, with shape (M, q, *).

        Args:
            y: Noisy points, with shape (q, *), the same for all, or (M, q, *).
            sigma: Noise levels, with shape (q,).
        """
        assert isinstance(self.network, Denoiser)
        a, b = self.network.coefficients(sigma)
        own = y.ndim > 2 and len(y) == len(self) and y.shape[1] == len(sigma)
        with torch.no_grad():
            out = vmap(lambda held, at: functional_call(self.network, held, (at, sigma)),
                       in_dims=(0, 0 if own else None))(self.parameters, y)
        shape = (-1, *[1] * (out.ndim - 2))
        return a.view(shape) * y + b.view(shape) * out

    def sample(self, z: Tensor, levels: Tensor) -> Tensor:
        """What each of them makes of the same noise by Heun's steps, with shape (M, q, *).

        Args:
            z: Standard normal numbers, with shape (q, *).
            levels: Noise levels, descending, with shape (N,).
        """
        from ..denoising.sampling import sample

        count = len(self)

        def denoise(y: Tensor, sigma: Tensor) -> Tensor:
            return self.denoised(y.view(count, len(z), *z.shape[1:]), sigma[:len(z)]).flatten(0, 1)

        return sample(denoise, z.repeat(count, *[1] * (z.ndim - 1)), levels).final.view(count, *z.shape)


@dataclass(frozen=True, eq=False)
class ManyGames:
    """Generators and critics that :func:`train_many_games` trained together.

    Attributes:
        generators: The generators.
        critics: The critics.
    """

    generators: ManyNetworks
    critics: ManyNetworks

    def at(self, step: int) -> ManyGames:
        """The games after ``step`` steps."""
        return ManyGames(self.generators.at(step), self.critics.at(step))


def train_many(
    denoiser: Callable[[], nn.Module],
    x: Tensor,
    subsets: Sequence[Tensor],
    seeds: Sequence[int],
    *,
    steps: int = 1000,
    batch: int = 64,
    rate: float | Sequence[float] = 2e-3,
    course: str | Sequence[str] = "constant",
    law: NoiseLaw | None = None,
    keep: Sequence[int] = (),
) -> ManyDenoisers:
    r"""Trains one denoiser on each subset of the points, all together, by Adam.

    Args:
        denoiser: Gives a new :class:`Denoiser`; it is called once for each member, under the member's seed.
        x: The points, with shape (n, *).
        subsets: For each member the places of the points it sees: M tensors of whole numbers.
        seeds: A seed for each member.
        steps: How many steps.
        batch: How many points each member sees in a step.
        rate: The learning rate, or one for each member.
        course: ``"constant"``, or ``"cosine"`` for a rate that falls to nought, or one for each member.
        law: The law of noise levels.
        keep: After which steps parameters are kept, beside the last.

    Returns:
        The :class:`ManyDenoisers`. A member is the network it would be alone, up to the order of sums in products.

    Raises:
        DataError: If subsets and seeds are not as many, or a subset has none of the points.
        ModelError: If ``denoiser`` gives no module, networks that differ, or one with batch statistics.

    Example:
        >>> from kernelscope.generative.networks import NoiseMLP
        >>> x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
        >>> halves = [torch.arange(4), torch.arange(4, 8)]
        >>> many = train_many(lambda: Denoiser(NoiseMLP(2, width=4), 1.0), x, halves, [0, 1], steps=5, batch=4)
        >>> many, many.denoised(x, torch.ones(8)).shape
        (ManyDenoisers(2 networks with 106 parameters each), torch.Size([2, 8, 2]))
    """
    places = _subsets(x, subsets, seeds)
    steps, batch = as_count(steps, "steps", 1), as_count(batch, "batch", 1)
    law = law or NoiseLaw()
    stack = _Stack(denoiser, "denoiser", seeds, x, rate, course, steps, (0.9, 0.999), keep)
    skeleton = stack.network
    if not isinstance(skeleton, Denoiser):
        raise ModelError(f"denoiser must give a kernelscope.generative.Denoiser; {what_came(skeleton)} came. Wrap the "
                         "core: lambda: Denoiser(NoiseMLP(64), spread=0.75).")
    sources = [draws(x, subset, seed, steps=steps, batch=batch, law=law)
               for subset, seed in zip(places, seeds, strict=True)]
    with counting(steps, "train", "step") as done:
        for k in range(steps):
            drawn = [next(source) for source in sources]
            y, sigma = torch.stack([draw.y for draw in drawn]), torch.stack([draw.sigma for draw in drawn])
            clean = x[torch.stack([draw.places for draw in drawn])]
            goal = skeleton.target(clean.flatten(0, 1), y.flatten(0, 1), sigma.flatten()).view_as(y)
            # The mean over a member's own numbers, summed over the members.
            stack.step(k, (stack(y, sigma) - goal).square().flatten(1).mean(1).sum())
            done(1)
    return ManyDenoisers(skeleton, stack.held, stack.kept)


def train_many_games(
    generator: Callable[[], nn.Module],
    critic: Callable[[], nn.Module],
    x: Tensor,
    subsets: Sequence[Tensor],
    seeds: Sequence[int],
    *,
    game: Adversary | Sequence[Adversary] | None = None,
    latents: int = 16,
    steps: int = 1000,
    batch: int = 64,
    rate: float | Sequence[float] = 1e-3,
    course: str | Sequence[str] = "constant",
    keep: Sequence[int] = (),
) -> ManyGames:
    """Plays one game on each subset of the points, all together: a step of the critics, a step of the generators.

    Args:
        generator: Gives a new generator, called with latents of shape (n, latents).
        critic: Gives a new critic, which gives scores of shape (n, 1).
        x: The points, with shape (n, *).
        subsets: For each member the places of the points it sees.
        seeds: A seed for each member.
        game: The losses, or those of each member, which differ in the weight of R1 alone.
        latents: The number of a latent's entries.
        steps: How many rounds.
        batch: How many points each member sees in a round.
        rate: The learning rate of Adam, with momenta 0.5 and 0.9, or one for each member.
        course: ``"constant"``, or ``"cosine"`` for a rate that falls to nought, or one for each member.
        keep: After which rounds parameters are kept, beside the last.

    Returns:
        The :class:`ManyGames`.

    Raises:
        DataError: If subsets and seeds are not as many, a subset has none of the points, or games are of two kinds.
        ModelError: If a network is none, or has batch statistics.

    Example:
        >>> from kernelscope.generative.networks import critic, generator
        >>> x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
        >>> games = train_many_games(lambda: generator(3, 2, 4), lambda: critic(2, 4), x, [torch.arange(8)] * 2, [0, 1],
        ...                          latents=3, steps=3, batch=4)
        >>> games.generators(torch.zeros(5, 3)).shape
        torch.Size([2, 5, 2])
    """
    places = _subsets(x, subsets, seeds)
    games = _each(game or Adversary(r1=0.1), "game", len(seeds))
    if len({one.kind for one in games}) > 1:
        raise DataError("Games that are played together differ in r1 alone; "
                        f"{', '.join(sorted({one.kind for one in games}))} came. Give each kind a call of its own.")
    first, penalties = games[0], torch.tensor([one.r1 for one in games]).to(x)
    steps, batch = as_count(steps, "steps", 1), as_count(batch, "batch", 1)
    makers = _Stack(generator, "generator", seeds, x, rate, course, steps, (0.5, 0.9), keep)
    judges = _Stack(critic, "critic", seeds, x, rate, course, steps, (0.5, 0.9), keep)
    sources = [torch.Generator().manual_seed(seed) for seed in seeds]
    what = torch.cat([torch.full((batch,), REAL), torch.full((batch,), FAKE)]).repeat(len(seeds)).to(x)
    rows = torch.stack([what, torch.ones_like(what)], 1)
    with counting(steps, "train", "round") as done:
        for k in range(steps):
            drawn = [(subset[torch.randint(len(subset), (batch,), generator=source)],
                      torch.randn(2, batch, latents, generator=source).to(x))
                     for subset, source in zip(places, sources, strict=True)]
            real, z = x[torch.stack([ids for ids, _ in drawn])], torch.stack([noise for _, noise in drawn], 1)
            with torch.no_grad():
                fake = makers(z[0])
            points = torch.cat([real.requires_grad_(bool(penalties.any())), fake], 1)
            scores = judges(points)[..., 0]
            pairs = torch.stack([scores.flatten(), torch.zeros_like(scores.flatten())], 1)
            loss = first.critic_loss(pairs, rows).sum() / batch
            if penalties.any():
                slope, = torch.autograd.grad(scores[:, :batch].sum(), real, create_graph=True)
                loss = loss + (penalties / 2 * slope.square().flatten(1).sum(1)).sum() / batch
            judges.step(k, loss)
            makers.step(k, first.generator_loss(judges(makers(z[1]))[..., 0]).sum() / batch)
            done(1)
    return ManyGames(ManyNetworks(makers.network, makers.held, makers.kept),
                     ManyNetworks(judges.network, judges.held, judges.kept))


class _Stack:
    """The stacked parameters of networks while they are trained, and their optimizer, which works entry by entry."""

    def __init__(self, make: Callable[[], nn.Module], name: str, seeds: Sequence[int], x: Tensor,
                 rate: float | Sequence[float], course: str | Sequence[str], steps: int,
                 betas: tuple[float, float], keep: Sequence[int]):
        make = as_function(make, name, "nothing, and gives a module")
        plans = [(as_positive(r, "rate", "2e-3"), as_choice(c, "course", tuple(COURSES)))
                 for r, c in zip(_each(rate, "rate", len(seeds)), _each(course, "course", len(seeds)), strict=True)]
        self._steps = steps
        made = []
        for seed in seeds:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(as_seed(seed))
                made.append(Network(make()))
        first = made[0]
        if first.batch_norms_without_statistics() or any("running_" in key for key in first.buffers):
            raise ModelError("Networks with batch statistics are no functions of a point, and cannot be trained "
                             "together. Use GroupNorm or LayerNorm in their place.")
        shapes = {key: value.shape for key, value in first.parameters.items()}
        if any({key: value.shape for key, value in one.parameters.items()} != shapes for one in made):
            raise ModelError(f"{name} must give networks of one architecture each time; parameters of other shapes "
                             "came. Give each width a call of its own.")
        self.network = first.module(()).to(x.dtype)
        self._leaves = {key: torch.stack([one.parameters[key] for one in made]).to(x).requires_grad_()
                        for key in first.parameters}
        # Members of one plan are stepped together, in place, through views of their rows.
        self._groups = {plan: [i for i in range(len(seeds)) if plans[i] == plan] for plan in dict.fromkeys(plans)}
        self._views = {plan: self._rows([leaf.detach() for leaf in self._leaves.values()], plan)
                       for plan in self._groups}
        self._optimizer = torch.optim.Adam([{"params": views, "lr": plan[0]} for plan, views in self._views.items()],
                                           betas=betas, fused=True)
        self._keep, self.kept = {as_count(step, "keep") for step in keep}, {}
        if 0 in self._keep:
            self.kept[0] = self.held

    def __call__(self, *inputs: Tensor) -> Tensor:
        with undisturbed(inputs[0].device), torch.enable_grad():
            return vmap(lambda held, *given: functional_call(self.network, held, given))(self._leaves, *inputs)

    def step(self, k: int, loss: Tensor) -> None:
        """One step of all of them down their summed loss; only these parameters get gradients."""
        # The fused step reads entries in their order in memory, whatever the strides of a gradient say.
        gradients = [gradient.contiguous() for gradient in torch.autograd.grad(loss, list(self._leaves.values()))]
        for (plan, views), group in zip(self._views.items(), self._optimizer.param_groups, strict=True):
            for view, row in zip(views, self._rows(gradients, plan), strict=True):
                view.grad = row
            group["lr"] = plan[0] * COURSES[plan[1]](k / self._steps)
        self._optimizer.step()
        if k + 1 in self._keep:
            self.kept[k + 1] = self.held

    def _rows(self, stacked: list[Tensor], plan: tuple[float, str]) -> list[Tensor]:
        """The rows of the members of a plan; the whole where all share one."""
        if len(self._groups) == 1:
            return stacked
        return [tensor[i] for tensor in stacked for i in self._groups[plan]]

    @property
    def held(self) -> Parameters:
        """The parameters as they are now, copied."""
        return {key: leaf.detach().clone() for key, leaf in self._leaves.items()}


def _each(given: Any, name: str, count: int) -> list[Any]:
    """One thing for each member, from one for all or from a list of them."""
    if not isinstance(given, list | tuple):
        return [given] * count
    if len(given) != count:
        raise DataError(f"{name} must be one for all members or one for each of {count}; {len(given)} came. Repeat "
                        "those of members that share one.")
    return list(given)


def _subsets(x: Tensor, subsets: Sequence[Tensor], seeds: Sequence[int]) -> list[Tensor]:
    """The places of each member's points."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
        raise DataError(f"x must be a tensor of points with shape (n, *); {what_came(x)} came. Pass for example "
                        'ks.data.digits("train").x * 2 - 1.')
    if not len(seeds) or len(subsets) != len(seeds):
        raise DataError(f"There must be one seed for each subset, and at least one; {len(subsets)} subsets and "
                        f"{len(seeds)} seeds came. Repeat a subset to train it with several seeds.")
    places = [torch.as_tensor(subset).long() for subset in subsets]
    for i, subset in enumerate(places):
        if subset.ndim != 1 or not len(subset) or int(subset.min()) < 0 or int(subset.max()) >= len(x):
            raise DataError(f"Subset {i} must be places from 0 to {len(x) - 1}, at least one of them; "
                            f"{what_came(subsets[i])} came. Pass for example torch.randperm({len(x)})[:{len(x) // 2}].")
    return places
