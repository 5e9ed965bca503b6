"""What a network could not learn: whether spectra foretell which targets it will miss.

A network is trained on many targets of rising difficulty: sinusoids of rising frequency, parities of more and more
bits, and functions of handwritten digits from smooth to noise. For each one the error on unseen points is measured, and
foretold in four ways: by the tangent kernel before training, by the path kernel of the run, by what a fixed kernel of
that size leaves, and by the certificate, below which no run along this path can go.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import kernelscope as ks

SEED, SEEDS = 0, 2
#: Words for what foretells.
BEFORE, EXPECTED = "expected before training", "expected by the path kernel"
LEFT, CERTIFIED = "left by a fixed path kernel", "certified bound"


class Task(NamedTuple):
    """A target on a pool of points, of mean 0 and variance 1 over it."""

    name: str
    values: Tensor


class Setting(NamedTuple):
    """A network, a pool of points, and how it is trained on a part of them."""

    group: str
    x: Tensor
    n: int
    widths: tuple[int, ...]
    rate: float
    steps: int
    scale: float = 1.0


class Outcome(NamedTuple):
    """What was foretold of a target, and what was measured."""

    task: Task
    found: ks.NullSpace
    foretold: dict[str, float]
    run: ks.Run
    queries: Tensor


def standard(values: Tensor) -> Tensor:
    """Values with the mean 0 and the variance 1."""
    return ((values - values.mean()) / values.std(correction=0)).reshape(-1, 1)


def network(widths: tuple[int, ...], seed: int, scale: float) -> nn.Module:
    """A tanh network in float64, the same at each call with one seed, its first layer times a number."""
    torch.manual_seed(seed)
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.Tanh())]
    made = nn.Sequential(*layers[:-1]).double()
    with torch.no_grad():
        for p in layers[0].parameters():
            p.mul_(scale)
    return made


def trained(setting: Setting, task: Task, seed: int) -> Outcome:
    """Trains on a part of the pool, and foretells the error on the rest."""
    order = torch.randperm(len(setting.x), generator=torch.Generator().manual_seed(seed))
    own, rest = order[:setting.n], order[setting.n:]
    model = network(setting.widths, seed, setting.scale)
    x, y = setting.x[own], task.values[own]
    pool = torch.cat([own, rest])
    kernel = ks.kernels.Tangent(model)(setting.x[pool])
    with torch.no_grad():
        start = model(setting.x[pool])
    optimizer = torch.optim.SGD(model.parameters(), lr=setting.rate, momentum=0.9)
    with ks.record(model, (x, y), loss=mse_loss, keep="all") as recording:
        for _ in range(setting.steps):
            optimizer.zero_grad()
            mse_loss(model(x), y).backward()
            optimizer.step()
    found = ks.null_space(recording.run, setting.x[rest], task.values[rest], times=21, progress=False)
    # Early stopping is a ridge of one over the time: the curvature 2 of the loss, and 10 rates a step by momentum.
    time = 2 * 10 * setting.rate * setting.steps
    before = ks.eigenlearning(kernel, task.values[pool] - start, setting.n, ridge=1 / time)
    assert found.predicted is not None
    return Outcome(task, found, {BEFORE: float(before.unseen), EXPECTED: found.predicted, LEFT: found.unlearnable,
                                 CERTIFIED: found.bound}, recording.run,
                   setting.x[rest])


def sinusoids(quick: bool) -> tuple[Setting, list[Task]]:
    """Sinusoids of rising frequency on the interval from 0 to 1, in two phases each."""
    x = torch.linspace(0, 1, 192, dtype=torch.float64)[:, None]
    waves = (torch.sin, torch.cos)
    tasks = [Task(f"{wave.__name__} {k}", standard(wave(2 * torch.pi * k * x)))
             for k in ((1, 2, 6) if quick else range(1, 13)) for wave in waves]
    # With usual initial weights all but the three lowest frequencies are missed alike, and there is nothing to rank.
    return Setting("frequencies", 2 * x - 1, 64, (1, 64, 64, 1), 0.02, 100 if quick else 400, scale=8.0), tasks


def parities(quick: bool) -> tuple[Setting, list[Task]]:
    """Products of the signs of some of 8 bits, and sums of such products."""
    x = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=8)), dtype=torch.float64)
    g = torch.Generator().manual_seed(SEED)
    tasks = []
    for k in (1, 2, 4) if quick else range(1, 7):
        for i in range(2 if quick else 4):
            bits = torch.randperm(8, generator=g)[:k]
            tasks.append(Task(f"{k} bits, {i}", standard(x[:, bits].prod(1))))
    return Setting("parities", x, 128, (8, 64, 1), 0.02, 100 if quick else 300), tasks


def digits(quick: bool) -> tuple[Setting, list[Task]]:
    """Functions of digits: classes, their parity, eigenfunctions of a kernel, and parity under more and more noise."""
    data = ks.data.digits("all")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(SEED))[:768]
    x, y = data.x[order].double(), data.y[order]
    g = torch.Generator().manual_seed(SEED)
    noise = standard(torch.randn(len(x), generator=g, dtype=torch.float64))
    parity = standard((y % 2).double())
    kinds = [Task(f"{c} or not", standard((y == c).double())) for c in ((0, 8) if quick else range(10))]
    kinds += [Task("even or odd", parity), Task("above 4 or not", standard((y > 4).double()))]
    vectors = torch.linalg.eigh(ks.kernels.Laplacian(bandwidth=2.0)(x))[1].flip(1)
    kinds += [Task(f"eigenfunction {j}", standard(vectors[:, j])) for j in ((2, 64) if quick else
                                                                           (1, 2, 4, 8, 16, 32, 64, 128, 256))]
    kinds += [Task(f"parity, {s:.0%} noise", standard((1 - s) ** 0.5 * parity + s**0.5 * noise))
              for s in ((0.5,) if quick else (0.1, 0.25, 0.5, 0.75, 1.0))]
    return Setting("digits", x, 512, (64, 32, 1), 0.02, 100 if quick else 400), kinds


def compared(outcomes: list[tuple[str, Outcome]], way: str) -> ks.Predictions:
    """What one way foretells against what was measured, all targets of all groups."""
    return ks.predictions([o.foretold[way] for _, o in outcomes], [o.found.error for _, o in outcomes],
                          names=[o.task.name for _, o in outcomes], groups=[group for group, _ in outcomes],
                          what=(way, "test error"))


def unlearnable(quick: bool) -> list[object]:
    """The half of the page that is about what could not be learned."""
    outcomes: list[tuple[str, Outcome]] = []
    makers: Iterable[Callable[[bool], tuple[Setting, list[Task]]]] = (sinusoids, parities, digits)
    for make in makers:
        setting, tasks = make(quick)
        outcomes += [(setting.group, trained(setting, task, seed)) for seed in range(1 if quick else SEEDS)
                     for task in tasks]
        print(setting.group, {way: f"{compared(outcomes, way).by_group[setting.group][0]:.3f}"
                              for way in (BEFORE, EXPECTED, LEFT, CERTIFIED)}, flush=True)
    ways = {way: compared(outcomes, way) for way in (BEFORE, EXPECTED, LEFT, CERTIFIED)}
    violated = sum(o.found.bound > o.found.error * (1 + 1e-9) for _, o in outcomes)
    failed = sum(not o.found.check().ok for _, o in outcomes)
    wave = next(o for _, o in outcomes if o.task.name == f"sin {6 if quick else 9}")
    digit = next(o for group, o in outcomes if group == "digits" and "even" in o.task.name)
    return [
        f"A tanh network is trained on {len(outcomes)} targets, each of mean 0 and variance 1 over its pool of points, "
        "by the same full-batch descent with momentum within a group. Measured is the mean squared error on the points "
        "of the pool that were not trained on; 1 is the error of answering 0. A prediction takes the values of the "
        "target on the whole pool: it tells which functions are hard for this network, not how an unknown one goes.",
        ("A wave of high frequency", wave.found),
        "The residuals of the same run: each direction is carried through the recorded steps, and those that are left "
        "as they were are the reservoir of this run.",
        ("The residuals of this wave", ks.reservoir(wave.run, wave.queries, progress=False)),
        "A function of digits, for comparison. Where the path reaches most of a target, the certificate says little, "
        "and what is left is told by eigenlearning, which counts the samples.",
        ("Even and odd digits", digit.found),
        "Eigenlearning with the tangent kernel before training, from the initial parameters, the time of training and "
        "the target: nothing of the run goes into it.",
        ("Foretold before training", ways[BEFORE]),
        "Eigenlearning with the path kernel of the run, which the training targets have shaped, and which therefore "
        "tells more of networks that change their kernel.",
        ("Foretold by the path kernel", ways[EXPECTED]),
        "The energy that a fixed kernel of this size leaves, as if all points were trained on. It knows which modes "
        "are slow, and not that samples are few, so it orders targets worse where samples are what is missing.",
        ("Left by a fixed kernel", ways[LEFT]),
        f"The certificate holds for any network and optimizer, and was violated by {violated} of {len(outcomes)} runs; "
        f"{failed} failed one of their checks. It counts what the path could not reach at all, and is far below the "
        "error where samples are few.",
        ("Certified", ways[CERTIFIED]),
    ]
