r"""The geometry of a game: what a critic's slope and the kernels of both networks are like at some points.

A generated point moves along the critic's slope :math:`\nabla_x D`. So what a generator can be told is in the second
moment of slopes :math:`\Gamma = E_{g}[\nabla D\,\nabla D^T]`; what a critic can tell apart is in the kernel of its
score, :math:`K^D(x, x') = \langle\nabla_\phi D(x), \nabla_\phi D(x')\rangle`; and how far a word to one latent moves
another is in :math:`K^G(z, z') = \partial_\theta G(z)\,\partial_\theta G(z')^T`. Both meet in the guided kernel,

.. math:: k^{GD}(z, z') = \nabla\ell(D(G(z)))^T\, K^G(z, z')\, \nabla\ell(D(G(z'))), \qquad
          E_{z, z'}\, k^{GD}(z, z') = -\frac{d}{dt} E_z\, \ell(D(G(z))),

the rate at which gradient flow of the generator lowers its loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import jacfwd, vmap

from ...arguments import as_count, as_place, as_seed, as_whole, what_came
from ...decomposition.wording import counted
from ...errors import DataError
from ...kernels.base import Kernel
from ...kernels.stationary import Gaussian
from ...kernels.tangent import Tangent
from ...measures import alignment, centred, entropy_rank, participation
from ...network import Parameters, undisturbed
from ...progress import counting
from ...result import Check, CheckRow, Result
from ..alike import points_like
from .adversary import field_loss
from .game import GANRun
from .kernel_critics import kernel_critic, slope

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CriticGeometry", "critic_geometry", "guided_kernel", "kernel_of_critic", "kernel_of_generator"]

#: What is measured, each with what it is in words.
MEASURES = {
    "slope rank": "effective rank of the second moment of slopes",
    "slope participation": "participation ratio of the second moment of slopes",
    "mean direction": "share of the mean direction in the slopes",
    "slope at real": "median slope at real points",
    "slope at generated": "median slope at generated points",
    "slope between": "median slope between real and generated points",
    "critic kernel rank": "effective rank of the critic's kernel",
    "critic alignment": "alignment of the critic's kernel with real and generated",
    "gap": "mean score of real minus generated points",
    "witness": "cosine of the slope and the witness function's",
    "generator kernel rank": "effective rank of the generator's kernel",
    "latent rank": "effective rank of the generator's Jacobian by its latent",
    "guided kernel rank": "effective rank of the guided kernel",
    "guided mean": "rate at which gradient flow lowers the generator's loss",
}

#: The quantiles of slopes that are kept.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

#: How often real and generated points are shuffled for the null of the witness function.
SHUFFLES = 19

#: How often points are drawn again, with repeats, for the interval of a difference from the untrained networks.
RESAMPLES = 50

#: The least difference from the untrained networks that is told, however sure: what can be read in the sentence.
LEAST = {"slope rank": 0.1, "critic alignment": 0.001}

#: Where slopes are taken.
PLACES = ("real", "generated", "between")


@dataclass(frozen=True, eq=False, repr=False)
class CriticGeometry(Result):
    r"""A game looked at at several of its steps.

    Attributes:
        steps: The generator's steps, ascending, the last one the end.
        course: What is measured, by name, at each of the steps, with the points that were generated then; shape (t,).
        untrained: The same of both networks as training began, at the points of the end. This is the null.
        held_out: The same with real points that the critic was not trained on; empty if none came.
        spectrum: The eigenvalues of :math:`\Gamma` as shares of its trace, descending, at each step, with shape (t, d).
        untrained_spectrum: Those of the untrained critic at the points of the end, with shape (d,).
        slopes: The quantiles of :math:`|\nabla D|` at each step, by place, with shape (t, 5).
        chance: The standard deviation of the mean cosine with a random direction, :math:`1 / \sqrt{d m}`.
        shuffled: The mean cosine of the slope with that of witnesses of 19 shuffles of both sets, the null of
            ``"witness"``: what is beyond all of them is so by chance in 5 of 100 cases.
        info: Facts to print.
    """

    steps: list[int]
    course: dict[str, Tensor]
    untrained: dict[str, float]
    held_out: dict[str, float]
    spectrum: Tensor
    untrained_spectrum: Tensor
    slopes: dict[str, Tensor]
    chance: float
    shuffled: Tensor
    info: dict[str, Any] = field(default_factory=dict)

    def value(self, name: str) -> float:
        """A measure at the end.

        Raises:
            DataError: If there is no such measure.
        """
        if name not in self.course:
            raise DataError(f"There is no measure {name!r}. There are {', '.join(self.course)}.")
        return float(self.course[name][-1])

    def told(self, name: str) -> bool:
        """Whether a measure differs from that of the untrained networks, by a bootstrap over points.

        Args:
            name: ``"slope rank"`` or ``"critic alignment"``.
        """
        low, high = self.info["apart"][name]
        least = LEAST[name]
        return bool(low > least or high < -least)

    def summary(self) -> str:
        """The answer in one sentence."""
        rank, at_first = self.value("slope rank"), self.untrained["slope rank"]
        share, first_share = self.value("mean direction"), self.untrained["mean direction"]
        return (f"CriticGeometry({self.info['generated']} generated and {self.info['real']} real points at "
                f"{counted(len(self.steps), 'step')}: the critic's slopes span {rank:.1f} of {self.spectrum.shape[1]} "
                f"directions ({at_first:.1f} before training) and {100 * share:.1f} % of them is one shared direction "
                f"({100 * first_share:.1f} %); its kernel is aligned {self.value('critic alignment'):.3f} with real "
                f"and generated ({self.untrained['critic alignment']:.3f}))")

    def to_frame(self) -> pd.DataFrame:
        """One row for each measure: at the end, of held-out points, untrained."""
        import pandas as pd

        return pd.DataFrame([
            {"measure": name, "meaning": MEASURES[name], "trained": self.value(name),
             "held out": self.held_out.get(name, float("nan")), "untrained": self.untrained[name]}
            for name in self.course])

    def over_time(self) -> pd.DataFrame:
        """One row for each step, a column for each measure."""
        import pandas as pd

        return pd.DataFrame({"step": self.steps} | {name: values.tolist() for name, values in self.course.items()})

    def check(self) -> Check:
        """Whether the guided kernel is one, and whether what is told differs from what untrained networks have."""
        least = self.info["least guided"]
        rows = [CheckRow("guided kernel", "pass" if least >= -1e-5 else "fail", least, -1e-5,
                         f"The smallest eigenvalue of the guided kernel is {least:.1e} of the largest.")]
        found, null = self.value("critic alignment"), self.untrained["critic alignment"]
        above = self.told("critic alignment") and found > null
        rows.append(CheckRow("critic alignment", "pass" if above else "warn", found, null,
                             f"The critic's kernel is aligned {found:.3f} with real and generated, {null:.3f} before "
                             "training" + ("." if above else ": it is not shown to be aligned more.")))
        found = self.value("witness")
        limit = float(self.shuffled.abs().max())
        rows.append(CheckRow("witness", "pass" if abs(found) > limit else "warn", found, limit,
                             f"The slope and the witness function's have cosine {found:.3f}; those of shuffled sets "
                             f"have {limit:.3f} at most."))
        return Check(tuple(rows))


def critic_geometry(run: GANRun, *, points: int = 512, generated: Tensor | None = None,
                    held_out: Tensor | None = None, steps: Any = None, witness: Kernel | None = None,
                    seed: int = 0) -> CriticGeometry:
    r"""What the slopes and kernels of a game's networks are like, along training.

    Effective ranks are by entropy, of centred kernel matrices. Nulls are the networks as training began, at the same
    points.

    Args:
        run: The recorded game.
        points: How many real points, and how many latents.
        generated: Points to look at at the end in the place of those of the generator, with shape (m, *).
        held_out: Real points that the critic was not trained on, with shape (h, *).
        steps: The steps of the generator to look at: how many, evenly from the start to the end, or the steps
            themselves; 5 if not given.
        witness: The kernel of the witness function that slopes are compared with; Gaussian with the median distance as
            its bandwidth if not given.
        seed: What the draw of points and latents begins with.

    Returns:
        The :class:`CriticGeometry`.

    Raises:
        DataError: If no game came, or points of another shape.

    References:
        | "Spectral Normalization for GANs" (Miyato et al., 2018), section 2, on slopes as what moves a generator
        | "A Neural Tangent Kernel Perspective of GANs" (Franceschi et al., 2022), section 3

    Example:
        >>> from kernelscope.generative.training import train_gan
        >>> game = train_gan(torch.randn(40, 4), steps=3, width=8, latents=2, batch=8)
        >>> critic_geometry(game, points=16, steps=2).steps
        [0, 3]
    """
    if not isinstance(run, GANRun):
        raise DataError(f"The geometry is one of a game; {what_came(run)} came. Pass what train_gan gave.")
    points, source = as_count(points, "points", least=4), torch.Generator().manual_seed(as_seed(seed))
    times = times_of(run, steps)
    every = real_of(run)
    x = every[torch.randperm(len(every), generator=source)[:points]]
    z = latents_of(run, points, source)
    fresh = None if held_out is None else points_like(held_out, x, "held_out", least=4)
    fixed = None if generated is None else points_like(generated, x, "generated", least=4)
    mix = torch.rand(max(len(x), len(z)), generator=source).to(x)
    look = Looking(run, x, z, mix, Gaussian() if witness is None else witness)
    found = []
    with counting(len(times) + 2, "geometry", "steps") as done:
        for k in times:
            last = k == len(run.generator)
            held = states_at(run, k)
            found.append(look.at(*held, fixed if last and fixed is not None else run.generated(z, held[0])))
            done(1)
        end = found[-1]
        null = look.at(*states_at(run, 0), end.points)
        done(1)
        other = {} if fresh is None else Looking(run, fresh, z, mix, look.kernel).at(
            *states_at(run, len(run.generator)), end.points).numbers
        done(1)
    both = torch.cat([x, end.points])
    shuffled = []
    for _ in range(SHUFFLES):
        mixed = both[torch.randperm(len(both), generator=source)]
        wrong = slope(kernel_critic(look.kernel, mixed[:len(x)], mixed[len(x):]), end.points)
        shuffled.append(cosines(end.field, wrong).mean())
    d = x[0].numel()
    differing = {"slope rank": apart(lambda i: _rank(end.field[i]) - _rank(null.field[i]), len(end.field), source),
             "critic alignment": apart(lambda i: _aligned(end, i) - _aligned(null, i), len(end.sign), source)}
    return CriticGeometry(
        times, {name: torch.tensor([one.numbers[name] for one in found], dtype=torch.float64) for name in MEASURES},
        null.numbers, other, torch.stack([one.spectrum for one in found]), null.spectrum,
        {place: torch.stack([one.slopes[place] for one in found]) for place in PLACES},
        1 / (d * len(end.points)) ** 0.5, torch.stack(shuffled),
        {"real": len(x), "generated": len(end.points), "held out": 0 if fresh is None else len(fresh),
         "witness": repr(look.kernel.fitted(both.flatten(1))), "least guided": end.least,
         "game": run.game.kind, "r1": run.game.r1, "seed": seed,
         "apart": differing})


def apart(difference: Callable[[Tensor], float], count: int, source: torch.Generator) -> list[float]:
    """The 95 % interval of a difference of two networks at the same points, by points drawn again."""
    drawn = torch.tensor([difference(torch.randint(count, (count,), generator=source)) for _ in range(RESAMPLES)],
                         dtype=torch.float64)
    middle, off = difference(torch.arange(count)), 1.96 * float(drawn.std())
    return [middle - off, middle + off]


def _rank(v: Tensor) -> float:
    """The effective rank of the second moment of slopes, from its smaller side."""
    return entropy_rank(torch.linalg.eigvalsh(v.T @ v if v.shape[1] <= len(v) else v @ v.T).clamp(min=0))


def _aligned(seen: Seen, rows: Tensor) -> float:
    return alignment(seen.gram[rows][:, rows], seen.sign[rows])


@dataclass(frozen=True)
class Seen:
    """What is found at one step."""

    numbers: dict[str, float]
    spectrum: Tensor
    slopes: dict[str, Tensor]
    points: Tensor
    field: Tensor
    least: float
    gram: Tensor
    sign: Tensor


@dataclass(frozen=True)
class Looking:
    """Points to look at a game at."""

    run: GANRun
    x: Tensor
    z: Tensor
    mix: Tensor
    kernel: Kernel

    def at(self, moving: Parameters, judging: Parameters, generated: Tensor) -> Seen:
        """What is found with some parameters of the generator and of the critic, at points that were generated."""
        run, x = self.run, self.x
        between = interpolated(x, generated, self.mix)
        fields = {place: run.slope(at, judging).flatten(1).double()
                  for place, at in zip(PLACES, (x, generated, between), strict=True)}
        g = fields["generated"]
        moment = torch.linalg.eigvalsh(g.T @ g / len(g)).flip(0).clamp(min=0)
        slopes = {place: torch.quantile(v.norm(dim=1), torch.tensor(QUANTILES).to(v)) for place, v in fields.items()}
        both = torch.cat([x, generated])
        sign = torch.cat([torch.ones(len(x)), -torch.ones(len(generated))])[:, None]
        tells = kernel_of_critic(run, judging)(both).double()
        moves = kernel_of_generator(run, moving)(self.z).double()
        guided = guided_kernel(run, self.z, moving, judging)
        scores = run.score(both, judging).double()
        witness = slope(kernel_critic(self.kernel, x, generated), generated).flatten(1)
        values = torch.linalg.eigvalsh(guided)
        total = float(moment.sum())
        numbers = {
            "slope rank": entropy_rank(moment), "slope participation": participation(moment),
            "mean direction": float(g.mean(0).square().sum()) / total if total else 0.0,
            **{name: float(slopes[place][2]) for name, place in
               zip(("slope at real", "slope at generated", "slope between"), PLACES, strict=True)},
            "critic kernel rank": rank_of(tells), "critic alignment": alignment(tells, sign),
            "gap": float(scores[:len(x)].mean() - scores[len(x):].mean()),
            "witness": float(cosines(g, witness).mean()),
            "generator kernel rank": rank_of(moves), "latent rank": latent_rank(run, self.z, moving),
            "guided kernel rank": rank_of(guided), "guided mean": float(guided.mean()),
        }
        largest = float(values[-1])
        return Seen(numbers, moment / total if total else moment, slopes, generated, g,
                    float(values[0]) / largest if largest else 0.0, tells, sign)


def kernel_of_critic(run: GANRun, parameters: Parameters | None = None) -> Tangent:
    r"""The empirical NTK of the critic's score, at the end of its run or at other parameters, in double precision.

    Args:
        run: The game.
        parameters: Those of the critic's run.
    """
    held = run.critic.parameters() if parameters is None else parameters
    judged: Any = run.critic.network.module(())
    return _tangent(judged.network, {plain(name): value for name, value in held.items()},
                    [plain(name) for name in run.critic.names], output=0)


def kernel_of_generator(run: GANRun, parameters: Parameters | None = None, outputs: str = "trace") -> Tangent:
    r"""The empirical NTK of the generator, :math:`\mathrm{tr}\,K^G(z, z')` or :math:`K^G(z, z')`.

    Args:
        run: The game.
        parameters: Those of the generator's run; at its end without them.
        outputs: ``"trace"`` or ``"full"``.
    """
    held = run.generator.parameters() if parameters is None else parameters
    return _tangent(run.generator.network.module(()), held, list(run.generator.names), outputs=outputs)


def guided_kernel(run: GANRun, z: Tensor, moving: Parameters | None = None,
                  judging: Parameters | None = None) -> Tensor:
    r"""The generator's kernel through the critic, :math:`v(z)^T K^G(z, z')\, v(z')`, with shape (m, m).

    Here :math:`v(z) = \nabla_x \ell(D(x))` at :math:`x = G(z)`; so it is the kernel of the gradients of
    :math:`\langle G(z), v\rangle`.

    Args:
        run: The game.
        z: Latents, with shape (m, *).
        moving: Parameters of the generator's run; at its end without them.
        judging: Parameters of the critic's run; at its end without them.
    """
    held = run.generator.parameters() if moving is None else moving
    v = run.game.field(lambda x: _scores(run, x, judging), run.generated(z, held))
    return _tangent(run.generator.network.module(()), held, list(run.generator.names), loss=field_loss)(
        (z.double(), v.double())).double()


def _scores(run: GANRun, x: Tensor, judging: Parameters | None) -> Tensor:
    with torch.enable_grad():
        judged: Any = run.critic.network.module(())
        held = run.critic.parameters() if judging is None else judging
        state = {plain(name): value.to(x) for name, value in {**run.critic.network.parameters, **held}.items()}
        return torch.func.functional_call(judged.network, state, (x,)).reshape(len(x))


def _tangent(module: nn.Module, held: Parameters, names: list[str], **options: Any) -> Tangent:
    kernel = Tangent(module, parameters=names, dtype=torch.float64, **options)
    network = kernel.features.network
    return kernel.at({**network.parameters, **network.buffers, **held})


def plain(name: str) -> str:
    """The name of a parameter within the score network of a :class:`Judged`.

    Example:
        >>> plain("network.0.weight")
        '0.weight'
    """
    return name.removeprefix("network.")


def rank_of(kernel: Tensor) -> float:
    """The effective rank of a kernel matrix, centred."""
    return entropy_rank(torch.linalg.eigvalsh(centred(kernel)))


def latent_rank(run: GANRun, z: Tensor, parameters: Parameters) -> float:
    r"""The effective rank of :math:`\partial G / \partial z`, by its squared singular values, mean over latents."""
    module = run.generator.network.module(())
    state = {**run.generator.network.parameters, **run.generator.network.buffers, **parameters}
    of_one = lambda one: torch.func.functional_call(module, state, (one[None],))[0].flatten()
    with undisturbed(z.device):
        jacobians = vmap(jacfwd(of_one))(z).flatten(2)
    return sum(entropy_rank(s.square()) for s in torch.linalg.svdvals(jacobians.double())) / len(z)


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """The cosine of each pair of rows, 0 where one of them is nought, with shape (n,).

    Example:
        >>> cosines(torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, -2.0]]))
        tensor([ 1., -1.], dtype=torch.float64)
    """
    a, b = one.flatten(1).double(), other.flatten(1).double()
    sizes = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(sizes > 0, (a * b).sum(1) / torch.where(sizes > 0, sizes, 1.0), 0.0)


def interpolated(x: Tensor, generated: Tensor, mix: Tensor) -> Tensor:
    """Points on the lines from real points to generated ones."""
    count = min(len(x), len(generated), len(mix))
    share = mix[:count].to(x).view(-1, *[1] * (x.ndim - 1))
    return share * x[:count] + (1 - share) * generated[:count]


def times_of(run: GANRun, steps: Any, usual: int = 5) -> list[int]:
    """The steps of a generator to look at, ascending, with the end.

    Raises:
        DataError: If there are no such steps.
    """
    length = len(run.generator)
    if steps is None or as_whole(steps) is not None:
        count = min(usual if steps is None else as_count(steps, "steps", least=2), length + 1)
        return sorted({round(i * length / (count - 1)) for i in range(count)})
    try:
        given = [as_place(k, "steps", length + 1, "parameter vectors of the generator's run") for k in steps]
    except TypeError as error:
        raise DataError(f"steps must be a number of steps or a list of them; {what_came(steps)} came. Pass steps=5."
                        ) from error
    return sorted({*given, length})


def states_at(run: GANRun, k: int) -> tuple[Parameters, Parameters]:
    """The parameters of the generator at the start of its step k, and of the critic as that step saw it."""
    seen = len(run.critic) if k == len(run.generator) else int(run.seen[k])
    # As training began the critic had not moved either; a slice of the generator alone begins later.
    begins = k == 0 and (run.generator.start == 0 or run.critic.start > 0)
    return run.generator.parameters(k), run.critic.parameters(0 if begins else seen)


def real_of(run: GANRun) -> Tensor:
    """The real points that training drew, with shape (n, *)."""
    samples = run.critic.samples
    return samples.batch(samples.seen[:run.real].nonzero().flatten())[0][0]


def latents_of(run: GANRun, count: int, source: torch.Generator) -> Tensor:
    """Standard normal latents like those that the generator was given."""
    like = next(_drawn(run))
    return torch.randn(count, *like.shape[1:], generator=source, dtype=like.dtype)


def _drawn(run: GANRun) -> Iterator[Tensor]:
    step = run.generator[0]
    for batch in step.batches:
        yield run.generator.samples.read(batch)[0][0]
