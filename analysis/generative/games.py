"""How does a critic come to its judgement, and how much of what the generator did began with real images?

Two experiments on one recorded game of handwritten digits:

- :func:`e9`: the critic's score as a running witness function, split over classes of real images, penalties and
  generated points; how often the own class is the top centred contributor. Nulls: the same for the kernel of the critic
  before training, the class of the nearest real image by pixels, chance.
- :func:`composite`: the generator's motion traced through the critics of the run to the real images; the share of the
  critic's first parameters, the cancellation, and what the length of a chord changes.
"""

from dataclasses import dataclass

import torch

import kernelscope as ks
from kernelscope.generative import GANRun, explain_gan, witness

from .models import digits

__all__ = ["Settings", "composite", "e9"]


@dataclass(frozen=True)
class Settings:
    """How many points are asked about.

    Attributes:
        points: Held-out real images, and as many generated ones.
        queries: Generated points that are traced.
        seed: Of the latents.
    """

    points: int = 60
    queries: int = 2
    seed: int = 0


def e9(settings: Settings, game: GANRun) -> tuple[dict[str, float], "ks.generative.Witness"]:
    """The critic's score split over what it was shown; numbers, and the witness of real and generated points."""
    (x, y), (held, classes), n = digits(), digits("test"), settings.points
    generated = game.generated(_latents(game, n, settings.seed))
    points = torch.cat([held[:n], generated])
    # Generated points have no class of their own; a kernel machine that never saw a critic tells it.
    judge = ks.fit(ks.kernels.Laplacian(bandwidth=10.0), x, torch.eye(10, dtype=torch.float64)[y], ridge=1e-6,
                   progress=False)
    own = torch.cat([classes[:n], judge(generated).argmax(1)])
    found = witness(game, points, labels=y.tolist(), own=own.tolist())
    nearest = y[torch.cdist(points, x).argmin(1)]
    before = _untrained(game, points, x, y)
    top = _own(found.classes(), own)
    numbers = {
        "kappa": found.kappa, "epsilon1": found.epsilon1, "epsilon2": found.epsilon2,
        "kappa_of_samples": float(found.cancellation.median()),
        "own_real": float(top[:n].mean()), "own_generated": float(top[n:].mean()),
        "nearest_real": float((nearest == own)[:n].double().mean()),
        "nearest_generated": float((nearest == own)[n:].double().mean()),
        "untrained_real": float(_own(before, own)[:n].mean()),
        "untrained_generated": float(_own(before, own)[n:].mean()),
        "chance": float(torch.bincount(y).max() / len(y)), "cancelled": float(found.info["cancelled"]),
    }
    return numbers, found


def _own(classes: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    return (classes.argmax(1) == own).double()


def _untrained(game: GANRun, points: torch.Tensor, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Centred sums over classes of the kernel of the critic's score as it was before training."""
    critic = game.critic
    scores = critic.network.module(()).network.double()
    scores.load_state_dict({name.removeprefix("network."): p for name, p in critic.parameters(0).items()})
    kernel = ks.kernels.Tangent(scores)(points, x)
    apart = kernel - kernel.mean(1, keepdim=True)
    return torch.stack([apart[:, labels == c].sum(1) for c in range(10)], 1)


def composite(settings: Settings, game: GANRun, how: str = "path",
              ) -> tuple[dict[str, float], "ks.generative.GANExplanation"]:
    """Generated points traced to real images; numbers, and the explanation."""
    found = explain_gan(game, _latents(game, settings.queries, settings.seed), how=how, labels=digits()[1].tolist(),
                        held=digits("test")[0])
    rest = found.concentration
    return {
        "kappa": found.kappa, "epsilon1": found.epsilon1, "epsilon2": found.epsilon2, "chord": found.info["chord"],
        "moved": float(found.moved), "first_critic": found.share_of_first_critic,
        "real_against_fake": found.real_against_fake, "gini": float(rest.gini), "n_eff": float(rest.n_eff),
        "age": float(found.age.nanmean()), **found.modes, "dropped_images": float(len(found.dropped)),
    }, found


def _latents(game: GANRun, count: int, seed: int) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed + 1)
    return torch.randn(count, game.generator.samples.inputs[0].shape[1], generator=source, dtype=torch.float64)
