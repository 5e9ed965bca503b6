"""How does a critic come to its judgement, and how much of what the generator did began with real images?

Two experiments on games of handwritten digits, one recorded run each:

- :func:`e9`: the critic's score as a running witness function, split over classes of real images, penalties and
  generated points; how often the own class is the top centred contributor. Nulls: the same for the kernel of the critic
  before training, the class of the nearest real image by pixels, chance.
- :func:`composite`: the generator's motion traced through the critics of the run to the real images; the share of the
  critic's first parameters, the cancellation, and what the length of a chord changes.
"""

import time
from dataclasses import dataclass

import torch

import kernelscope as ks
from kernelscope.generative import explain_gan, train_gan, witness


@dataclass(frozen=True)
class Settings:
    """How large the game is.

    Attributes:
        steps: Steps of each network.
        batch: Real images in a batch.
        width: Units in a layer of both networks.
        points: Held-out real images, and as many generated ones.
        queries: Generated points that are traced.
        seed: Where training begins.
    """

    steps: int = 1000
    batch: int = 32
    width: int = 64
    points: int = 100
    queries: int = 6
    seed: int = 0


def e9(settings: Settings, **changes: object) -> tuple[dict[str, float], "ks.Result"]:
    """The critic's score split over what it was shown; numbers, and the witness of real and generated points."""
    begun = time.process_time()
    train, test = ks.data.digits("train"), ks.data.digits("test")
    x, held = train.x * 2 - 1, test.x[:settings.points] * 2 - 1
    game = train_gan(x, steps=settings.steps, batch=settings.batch, width=settings.width, seed=settings.seed,
                     **{"dtype": torch.float64, **changes})
    trained = time.process_time()
    z = torch.randn(settings.points, 16, generator=torch.Generator().manual_seed(settings.seed + 1),
                    dtype=torch.float64)
    generated = game.generated(z)
    points = torch.cat([held.double(), generated])
    # Generated points have no class of their own; a kernel machine that never saw a critic tells it.
    judge = ks.fit(ks.kernels.Laplacian(bandwidth=10.0), x.double(), torch.eye(10, dtype=torch.float64)[train.y],
                   ridge=1e-6)
    own = torch.cat([test.y[:settings.points], judge(generated).argmax(1)])
    found = witness(game, points, labels=train.y.tolist(), own=own.tolist())
    n = settings.points
    nearest = train.y[torch.cdist(points, x.double()).argmin(1)]
    before = _untrained(game, points, x.double(), train.y)
    top = _own(found.classes(), own)
    numbers = {
        "kappa": found.kappa, "epsilon1": found.epsilon1, "epsilon2": found.epsilon2,
        "kappa_of_samples": float(found.cancellation.median()),
        "own_real": float(top[:n].mean()), "own_generated": float(top[n:].mean()),
        "nearest_real": float((nearest == own)[:n].double().mean()),
        "nearest_generated": float((nearest == own)[n:].double().mean()),
        "untrained_real": float(_own(before, own)[:n].mean()),
        "untrained_generated": float(_own(before, own)[n:].mean()),
        "chance": float(torch.bincount(train.y).max() / len(train.y)), "cancelled": float(found.info["cancelled"]),
        "seconds_training": trained - begun, "seconds": time.process_time() - begun,
    }
    return numbers, found


def _own(classes: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    return (classes.argmax(1) == own).double()


def _untrained(game: object, points: torch.Tensor, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Centred sums over classes of the kernel of the critic's score as it was before training."""
    critic = game.critic
    scores = critic.network.module(()).network.double()
    scores.load_state_dict({name.removeprefix("network."): p for name, p in critic.parameters(0).items()})
    kernel = ks.kernels.Tangent(scores)(points, x)
    apart = kernel - kernel.mean(1, keepdim=True)
    return torch.stack([apart[:, labels == c].sum(1) for c in range(10)], 1)


def composite(settings: Settings, how: str = "path", **changes: object) -> tuple[dict[str, float], "ks.Result"]:
    """Generated points traced to real images; numbers, and the explanation."""
    begun = time.process_time()
    train, test = ks.data.digits("train"), ks.data.digits("test")
    game = train_gan(train.x * 2 - 1, steps=settings.steps, batch=settings.batch, width=settings.width,
                     seed=settings.seed, **{"dtype": torch.float64, **changes})
    trained = time.process_time()
    z = torch.randn(settings.queries, 16, generator=torch.Generator().manual_seed(settings.seed + 1),
                    dtype=torch.float64)
    found = explain_gan(game, z, how=how, labels=train.y.tolist(), held=(test.x * 2 - 1).double())
    rest = found.concentration
    numbers = {
        "kappa": found.kappa, "epsilon1": found.epsilon1, "epsilon2": found.epsilon2, "chord": found.info["chord"],
        "moved": float(found.moved), "first_critic": found.share_of_first_critic,
        "real_against_fake": found.real_against_fake, "gini": float(rest.gini), "n_eff": float(rest.n_eff),
        "age": float(found.age.nanmean()), **found.modes, "dropped_images": float(len(found.dropped)),
        "seconds_training": trained - begun, "seconds": time.process_time() - begun,
    }
    return numbers, found
