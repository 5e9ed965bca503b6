r"""The spectrum of a game: whether its two players go round each other.

Both players move at once along :math:`v(\theta, \phi) = (-\nabla_\theta L_G,\ -\nabla_\phi L_D)`. Near a point the game
moves as its Jacobian :math:`v'` says: along an eigenvector it decays where the real part of the eigenvalue is negative,
grows where it is positive, and turns where there is an imaginary part. A single loss has a symmetric Jacobian, so its
eigenvalues are real; turning is what two losses have and one has not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp, vmap

from ...arguments import as_choice, as_count, as_place, as_positive, as_seed, what_came
from ...errors import DataError
from ...network import Parameters, flatten, undisturbed, unflatten
from ...progress import counting
from ...result import Check, CheckRow, Result
from .adversary import KINDS
from .game import GANRun
from .geometry import latents_of, plain, real_of, states_at

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GameSpectrum", "dirac_jacobian", "game_spectrum", "update_matrix", "vector_field"]

#: Up to how many parameters the Jacobian is formed.
DENSE = 1500

#: Directions at a time where it is.
CHUNK = 64

#: An eigenvalue turns where its imaginary part is more than this share of the largest eigenvalue.
TURNS = 1e-6

#: The places along the chord, 0 its beginning and 1 the point that is looked at.
CHORD = (0.0, 1.5, 31)


@dataclass(frozen=True, eq=False, repr=False)
class GameSpectrum(Result):
    r"""Eigenvalues of the Jacobian of a game, and how its motion turns along a chord of its path.

    Attributes:
        eigenvalues: Real and imaginary parts, by modulus, descending, with shape (k, 2).
        residuals: :math:`|v'u - \lambda u| / |\lambda_1|` of each, with shape (k,); 0 where all are known.
        players: The share of the generator in each eigenvector, by squared length, with shape (k,).
        chord: The places along the chord, with shape (c,).
        angles: The cosine of the motion and the chord at each of them, with shape (c,).
        lengths: The length of the motion there, with shape (c,).
        null: The share of turning eigenvalues among those of the untrained game.
        info: Facts to print.

    References:
        "A Closer Look at the Optimization Landscapes of Generative Adversarial Networks" (Berard et al., 2020).
    """

    eigenvalues: Tensor
    residuals: Tensor
    players: Tensor
    chord: Tensor
    angles: Tensor
    lengths: Tensor
    null: float
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def turning(self) -> float:
        """The share of eigenvalues with an imaginary part."""
        return turning(self.eigenvalues)

    @property
    def ratio(self) -> float:
        r"""The largest :math:`|\mathrm{Im}| / |\mathrm{Re}|` of those of a tenth of the largest modulus or more."""
        real, imaginary = self.eigenvalues.abs().unbind(1)
        size = self.eigenvalues.norm(dim=1)
        kept = size >= 0.1 * size.max()
        real, imaginary = real[kept], imaginary[kept]
        if not bool((imaginary > TURNS * size.max()).any()):
            return 0.0
        return float((imaginary / real).max())

    @property
    def growth(self) -> float:
        """The largest real part: above nought the game is left along its eigenvector."""
        return float(self.eigenvalues[:, 0].max())

    @property
    def passes(self) -> bool:
        """Whether the motion turns against the chord beyond its end, as it does around a point that attracts."""
        before, after = self.angles[self.chord < 1], self.angles[self.chord > 1]
        return bool(before.mean() > 0) and bool(after.mean() < 0)

    def summary(self) -> str:
        """The answer in one sentence."""
        kind = "all" if self.info["dense"] else "the largest"
        return (f"GameSpectrum({kind} {len(self.eigenvalues)} eigenvalues of {self.info['parameters']}: "
                f"{100 * self.turning:.0f} % turn (untrained {100 * self.null:.0f} %), |Im|/|Re| up to "
                f"{self.ratio:.3g}, largest real part {self.growth:.3g})")

    def to_frame(self) -> pd.DataFrame:
        """One row for each eigenvalue."""
        import pandas as pd

        real, imaginary = self.eigenvalues.unbind(1)
        return pd.DataFrame({"real": real, "imaginary": imaginary, "modulus": self.eigenvalues.norm(dim=1),
                             "generator": self.players, "residual": self.residuals})

    def along_chord(self) -> pd.DataFrame:
        """One row for each place of the chord."""
        import pandas as pd

        return pd.DataFrame({"place": self.chord, "cosine": self.angles, "length": self.lengths})

    def check(self) -> Check:
        """Whether the eigenvalues were found, and whether the game is stable to first order."""
        worst = float(self.residuals.max())
        return Check((
            CheckRow("residual", "pass" if worst <= 1e-6 else "warn", worst, 1e-6,
                     f"The largest residual of an eigenvalue is {worst:.1e} of the largest eigenvalue."),
            CheckRow("growth", "pass" if self.growth <= 0 else "warn", self.growth, 0.0,
                     f"The largest real part is {self.growth:.3g}; above nought the game is not at rest here."),
        ))


def game_spectrum(run: GANRun, *, step: int | None = None, points: int = 256, latents: Tensor | None = None,
                  count: int = 30, since: int | None = None, which: str = "LM", seed: int = 0) -> GameSpectrum:
    r"""The eigenvalues of a game's Jacobian at a step, in double precision.

    .. math:: v(\theta, \phi) = (-\nabla_\theta L_G,\ -\nabla_\phi L_D), \qquad v' u = \lambda u

    Up to 1500 parameters of both players the Jacobian is formed, one product for each direction; beyond it the largest
    eigenvalues are found by products alone (implicitly restarted Arnoldi).

    Args:
        run: The recorded game.
        step: The step of the generator; the end if not given.
        points: How many real points and latents stand for their laws.
        latents: Latents in the place of drawn ones, with shape (m, *).
        count: How many eigenvalues, of a Jacobian that is not formed.
        since: The step of the generator at which the chord begins; nine tenths of the way if not given.
        which: The eigenvalues to find: ``"LM"`` of largest modulus, ``"LR"`` real part, ``"LI"`` imaginary part.
        seed: What the draw of points and latents begins with.

    Returns:
        The :class:`GameSpectrum`.

    Raises:
        DataError: If no game came, or there is no such step.

    References:
        | "Which Training Methods for GANs do actually Converge?" (Mescheder et al., 2018), section 2
        | "A Closer Look at the Optimization Landscapes of GANs" (Berard et al., 2020), section 4: the path angle

    Example:
        >>> from kernelscope.generative.training import train_gan
        >>> game = train_gan(torch.randn(40, 2), steps=3, width=4, latents=2, batch=8)
        >>> game_spectrum(game, points=16).eigenvalues.shape
        torch.Size([79, 2])
    """
    if not isinstance(run, GANRun):
        raise DataError(f"A game's spectrum is asked of a game; {what_came(run)} came. Pass what train_gan gave.")
    as_choice(which, "which", ("LM", "LR", "LI"))
    length = len(run.generator)
    end = length if step is None else as_place(step, "step", length + 1, "parameter vectors of the generator's run")
    begin = int(0.9 * end) if since is None else as_place(since, "since", length + 1, "parameter vectors")
    source = torch.Generator().manual_seed(as_seed(seed))
    points = as_count(points, "points", least=1)
    every = real_of(run)
    x = every[torch.randperm(len(every), generator=source)[:points]].double()
    z = latents_of(run, points, source) if latents is None else latents
    z = z.detach().double()
    motion = vector_field(run, x, z)
    here, start, first = (_joined(*states_at(run, k)) for k in (end, begin, 0))
    size = sum(shape.numel() for shape in run.generator.shapes)
    values, vectors, residuals = _eigenvalues(motion, here, as_count(count, "count", least=1), which)
    begun, _, _ = _eigenvalues(motion, first, count, which)
    players = vectors[:size].abs().square().sum(0) / vectors.abs().square().sum(0)
    places = torch.linspace(*CHORD[:2], CHORD[2], dtype=torch.float64)
    with undisturbed(here.device):
        moves = torch.stack([motion(start + place * (here - start)) for place in places])
    lengths = moves.norm(dim=1)
    along = moves @ (here - start)
    scale = lengths * (here - start).norm()
    angles = torch.where(scale > 0, along / torch.where(scale > 0, scale, 1.0), 0.0)
    return GameSpectrum(values, residuals, players, places, angles, lengths, turning(begun), {
        "parameters": len(here), "generator": size, "dense": len(here) <= DENSE, "step": end, "since": begin,
        "points": len(x), "which": which, "game": run.game.kind, "r1": run.game.r1, "seed": seed,
        "rate of loss": float(-moves[int((places - 1).abs().argmin())][:size].square().sum())})


def vector_field(run: GANRun, x: Tensor, z: Tensor) -> Callable[[Tensor], Tensor]:
    r"""The motion :math:`v(\theta, \phi) = (-\nabla_\theta L_G, -\nabla_\phi L_D)` of both players at once.

    Args:
        run: The game, for its networks and losses.
        x: Real points, with shape (n, *).
        z: Latents, with shape (m, *).

    Returns:
        From the parameters of the generator and the critic, one after the other with shape (P,), to their motion.
    """
    game, shapes = run.game, [run.generator.shapes, run.critic.shapes]
    size = sum(shape.numel() for shape in shapes[0])
    judged: Any = run.critic.network.module(())
    maker = run.generator.network.module(())
    names = run.generator.names, [plain(name) for name in run.critic.names]
    kept = [{name: value.to(z) for name, value in run.generator.network.parameters.items()},
            {plain(name): value.to(x) for name, value in run.critic.network.parameters.items()}]
    against, wins = KINDS[game.kind]

    def parts(omega: Tensor) -> list[Parameters]:
        return [dict(zip(names[i], unflatten(part, shapes[i]), strict=True))
                for i, part in enumerate((omega[:size], omega[size:]))]

    def score(state: Parameters, points: Tensor) -> Tensor:
        return functional_call(judged.network, {**kept[1], **state}, (points,)).reshape(len(points))

    def made(state: Parameters) -> Tensor:
        return functional_call(maker, {**kept[0], **state}, (z,))

    def of_generator(moving: Tensor, judging: Tensor) -> Tensor:
        state, other = parts(torch.cat([moving, judging]))
        return wins(score(other, made(state))).mean()

    def of_critic(judging: Tensor, moving: Tensor) -> Tensor:
        other, state = parts(torch.cat([moving, judging]))
        loss = against(-score(state, x)).mean() + against(score(state, made(other))).mean()
        if game.r1:
            slopes = vmap(grad(lambda point: score(state, point[None]).squeeze()))(x)
            loss = loss + game.r1 / 2 * slopes.flatten(1).square().sum(1).mean()
        return loss

    def motion(omega: Tensor) -> Tensor:
        moving, judging = omega[:size], omega[size:]
        return -torch.cat([grad(of_generator)(moving, judging), grad(of_critic)(judging, moving)])

    return motion


def _joined(moving: Parameters, judging: Parameters) -> Tensor:
    return flatten([*moving.values(), *judging.values()], torch.float64)


def _eigenvalues(motion: Callable[[Tensor], Tensor], at: Tensor, count: int,
                 which: str) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues with shape (k, 2), eigenvectors (P, k) and residuals (k,) of the Jacobian of a motion."""
    size = len(at)
    push = lambda direction: jvp(motion, (at,), (direction,))[1]
    # Arnoldi's method finds fewer than there are, so a small Jacobian is formed.
    with undisturbed(at.device):
        if size <= DENSE:
            with counting(size, "game's Jacobian", "directions") as done:
                columns = []
                for basis in torch.eye(size, dtype=at.dtype).split(CHUNK):
                    columns.append(vmap(push)(basis))
                    done(len(basis))
            values, vectors = torch.linalg.eig(torch.cat(columns).T)
            residuals = torch.zeros(size, dtype=torch.float64)
        else:
            values, vectors, residuals = _arnoldi(push, at, min(count, size - 2), which)
    order = values.abs().argsort(descending=True, stable=True)
    return torch.view_as_real(values[order]).clone(), vectors[:, order], residuals[order]


def _arnoldi(push: Callable[[Tensor], Tensor], at: Tensor, count: int, which: str) -> tuple[Tensor, Tensor, Tensor]:
    import numpy as np
    from scipy.sparse.linalg import LinearOperator, eigs

    with counting(20 * count, "game's eigenvalues", "products") as done:
        def product(vector: Any) -> Any:
            done(1)
            return push(torch.from_numpy(np.ascontiguousarray(vector)).to(at).reshape(-1)).detach().numpy()

        operator = LinearOperator((len(at), len(at)), matvec=product, dtype=np.float64)
        start = torch.randn(len(at), generator=torch.Generator().manual_seed(0), dtype=at.dtype).numpy()
        found, columns = eigs(operator, k=count, which=which, v0=start, tol=1e-9)
    values, vectors = torch.from_numpy(found), torch.from_numpy(columns)
    images = torch.complex(*(torch.stack([push(part[:, j].contiguous()) for j in range(count)], 1)
                             for part in (vectors.real, vectors.imag)))
    return values, vectors, (images - vectors * values).norm(dim=0) / values.abs().max()


def turning(eigenvalues: Tensor) -> float:
    """The share of eigenvalues with an imaginary part, of shape (k, 2).

    Example:
        >>> turning(torch.tensor([[0.0, 1.0], [0.0, -1.0], [-1.0, 0.0], [-2.0, 0.0]]))
        0.5
    """
    size = float(eigenvalues.norm(dim=1).max())
    return float((eigenvalues[:, 1].abs() > TURNS * size).double().mean()) if size else 0.0


def dirac_jacobian(kind: str = "non-saturating", r1: float = 0.0) -> Tensor:
    r"""The Jacobian of the Dirac-GAN at rest: :math:`G = \theta`, :math:`D(x) = \phi x`, all data at 0.

    .. math:: \begin{pmatrix} 0 & a \\ -a & -\gamma \end{pmatrix}, \qquad
              \lambda = -\tfrac\gamma2 \pm \sqrt{\tfrac{\gamma^2}{4} - a^2}

    with a = 1/2 for the non-saturating loss and 1 for that of Wasserstein and for the hinge loss.

    Args:
        kind: The loss, as of :class:`Adversary`.
        r1: The weight :math:`\gamma` of the penalty R1.

    References:
        Mescheder et al. (2018), lemma 2.3 and appendix D.

    Example:
        >>> torch.linalg.eigvals(dirac_jacobian("wasserstein")).imag.abs()
        tensor([1., 1.], dtype=torch.float64)
    """
    a = 0.5 if as_choice(kind, "kind", tuple(KINDS)) == "non-saturating" else 1.0
    return torch.tensor([[0.0, a], [-a, -float(r1)]], dtype=torch.float64)


def update_matrix(jacobian: Tensor, rate: float, first: int, order: str = "simultaneous") -> Tensor:
    r"""What a step of gradient descent of both players does near a point of rest, :math:`\omega \to M\omega`.

    Both at once it is :math:`I + hJ`; one after the other the second player sees what the first has done.

    Args:
        jacobian: That of the game, J, with shape (P, P).
        rate: The learning rate h of both.
        first: The number of parameters of the first player.
        order: ``"simultaneous"`` or ``"alternating"``.

    References:
        Mescheder et al. (2018), lemmas 2.4 and 2.5.

    Example:
        >>> J = dirac_jacobian("wasserstein")
        >>> [float(torch.linalg.eigvals(update_matrix(J, 0.5, 1, order)).abs().max()) > 1 + 1e-12
        ...  for order in ("simultaneous", "alternating")]
        [True, False]
    """
    as_choice(order, "order", ("simultaneous", "alternating"))
    rate = as_positive(rate, "rate", "0.1")
    one = torch.eye(len(jacobian), dtype=jacobian.dtype)
    if order == "simultaneous":
        return one + rate * jacobian
    mine = (torch.arange(len(jacobian)) < first)[:, None]
    return (one + rate * torch.where(mine, 0.0, jacobian)) @ (one + rate * torch.where(mine, jacobian, 0.0))
