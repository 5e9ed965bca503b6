"""What the draw of batches does to a trained network: its mean, its spread, and what one run tells of both.

The expected output over the noise of training is a kernel machine again, with terms of second order beside the path:
curvature and sampling noise (mathematics of the same kind as Guo, He, Morel, arXiv 2603.13872 and 2606.07495, derived
anew and no reproduction of them). Here it is held against the average over every sequence of batches there is, and
against 200 networks trained anew, on digits, on a curve and on two moons.

    python analysis/stochastic_domingos.py [--quick] [-o reports/stochastic_domingos.html]
"""

import argparse
import itertools
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from provenance import provenance
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import kernelscope as ks

SEED, SEEDS, BATCH, TIME = 0, 200, 16, 8.0
RATES = [0.025, 0.05, 0.1, 0.2, 0.4]


def network(*widths: int, scale: float = 1.0) -> nn.Module:
    """A tanh network in float64, the same at each call, its initial weights times a number."""
    torch.manual_seed(SEED)
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.Tanh())]
    made = nn.Sequential(*layers[:-1]).double()
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(scale)
    return made


def recorded(model: nn.Module, x: Tensor, y: Tensor, loss: Callable[..., Tensor], batches: Iterable[Tensor],
             make: Callable[..., torch.optim.Optimizer] = torch.optim.SGD, **options: float) -> ks.Run:
    """The plainest loop over these batches, recorded."""
    optimizer = make(model.parameters(), **options)
    with ks.record(model, (x, y), loss=loss, keep="all") as recording:
        for ids in batches:
            recording.batch(ids)
            optimizer.zero_grad()
            loss(model(x[ids]), y[ids]).backward()
            optimizer.step()
    return recording.run


def drawn(n: int, steps: int, scheme: str = "replacement", size: int = BATCH, seed: int = SEED) -> list[Tensor]:
    """Batches with replacement, or epochs that go through all samples."""
    g = torch.Generator().manual_seed(seed)
    if scheme == "replacement":
        return [torch.randint(n, (size,), generator=g) for _ in range(steps)]
    epochs = (torch.randperm(n, generator=g).split(size) for _ in range(-(-steps * size // n)))
    return [batch for epoch in epochs for batch in epoch][:steps]


def every_sequence(quick: bool) -> ks.Orders:
    """By how much the mean over every sequence of batches is missed, as the learning rate falls."""
    g = torch.Generator().manual_seed(SEED)
    x, y, queries = (torch.randn(k, w, generator=g, dtype=torch.float64) for k, w in ((4, 2), (4, 1), (2, 2)))
    singles = [[torch.tensor([i]) for i in chosen] for chosen in itertools.product(range(4), repeat=2 if quick else 4)]
    orders = [[torch.tensor([i]) for i in chosen] for chosen in itertools.permutations(range(4))]
    cases: list[tuple[str, list[list[Tensor]], str, str, dict[str, float], str, float]] = [
        ("path, with replacement", singles, "replacement", "replacement", {}, "path", 2),
        ("all terms, with replacement", singles, "replacement", "replacement", {}, "noise", 3),
        ("all terms, heavy ball", singles, "replacement", "replacement", {"momentum": 0.6}, "noise", 3),
        ("all terms, reshuffled", orders, "reshuffling", "reshuffling", {}, "noise", 3),
        ("reshuffled, by the other formula", orders, "reshuffling", "replacement", {}, "noise", 2),
    ]
    rates = [0.005, 0.01, 0.02]
    errors: dict[str, list[float]] = {name: [] for name, *_ in cases}
    for rate, (name, sequences, _, formula, options, upto, _) in itertools.product(rates, cases):
        missed = torch.zeros(2, 1, dtype=torch.float64)
        for batches in sequences:
            run = recorded(network(2, 3, 1, scale=1.5), x, y, mse_loss, batches, lr=rate, **options)
            found = ks.expected(run, queries, sampling=formula, data=(x, y), carried=False, progress=False)
            missed += (found.final - found.upto(upto)) / len(sequences)
        errors[name].append(float(missed.norm()))
    return ks.orders(rates, errors, claimed={name: claimed for name, *_, claimed in cases})


def digits(rates: list[float], seeds: int, runs: int) -> dict[float, list[ks.Expected]]:
    """For each learning rate what some runs on digits foretell, the first beside an ensemble."""
    data = ks.data.digits("all")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(SEED))
    x, y, queries = data.x[order[:256]].double(), data.y[order[:256]], data.x[order[256:288]].double()
    found = {}
    for rate in rates:
        several = [recorded(network(64, 16, 10, scale=2.0), x, y, cross_entropy,
                            drawn(256, round(TIME / rate), seed=seed), lr=rate) for seed in range(runs)]
        found[rate] = [ks.expected(run, queries, data=(x, y), seeds=seeds if i == 0 else None, memory="2GB")
                       for i, run in enumerate(several)]
        print(rate, found[rate][0].ensemble, flush=True)
    return found


def moons(n: int) -> tuple[Tensor, Tensor]:
    """Two half circles that reach into each other, with noise."""
    g = torch.Generator().manual_seed(SEED)
    angle = math.pi * torch.rand(n, generator=g, dtype=torch.float64)
    second = torch.arange(n) % 2 == 1
    x = torch.stack([angle.cos(), angle.sin()], 1)
    x[second] = torch.tensor([1.0, 0.5], dtype=torch.float64) - x[second]
    return x + 0.15 * torch.randn(n, 2, generator=g, dtype=torch.float64), second.long()


def small_tasks(seeds: int) -> list[tuple[str, ks.Expected]]:
    """A curve and two moons, with replacement and with reshuffling."""
    g = torch.Generator().manual_seed(SEED)
    line = 2 * torch.rand(64, 1, generator=g, dtype=torch.float64) - 1
    curve = line, (4 * line).sin() + 0.3 * torch.randn(64, 1, generator=g, dtype=torch.float64)
    grid = torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None]
    points = moons(64)
    plane = torch.cartesian_prod(*[torch.linspace(-1, 2, 4, dtype=torch.float64)] * 2)
    found = []
    for task, (x, y), widths, loss, queries in (("A curve", curve, (1, 16, 1), mse_loss, grid),
                                                ("Two moons", points, (2, 16, 2), cross_entropy, plane)):
        for scheme, words in (("replacement", "with replacement"), ("reshuffling", "with reshuffling")):
            run = recorded(network(*widths, scale=2.0), x, y, loss, drawn(64, 200, scheme, 8), lr=0.02)
            found.append((f"{task}, {words}", ks.expected(run, queries, data=(x, y), seeds=seeds, output=0)))
    return found


def typical(values: Tensor) -> float:
    """The root of the mean square."""
    return float(values.square().mean().sqrt())


def optimizers(seeds: int) -> tuple[ks.MemoryWeights, ks.Expected, ks.Expected]:
    """What four optimizers remember, and what is foretold of Adam with two kinds of preconditioners."""
    data = ks.data.digits("train")
    x, y = data.x[:256].double(), data.y[:256]
    ways: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, float]]] = {
        "SGD": (torch.optim.SGD, {"lr": 0.1}),
        "momentum .9": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}),
        "Nesterov .9": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
        "Adam": (torch.optim.Adam, {"lr": 0.01}),
    }
    runs = {name: recorded(network(64, 16, 10), x, y, cross_entropy, drawn(256, 60), make, **options)
            for name, (make, options) in ways.items()}
    query = data.x[256:260].double()
    return (ks.memory_weights(runs), ks.expected(runs["Adam"], query, data=(x, y), seeds=seeds),
            ks.expected(runs["Adam"], query, data=(x, y), preconditioner="recorded"))


def path_kernels(runs: int) -> ks.PathKernel:
    """The path kernel of two moons as a mean over runs, with its standard error."""
    x, y = moons(40)
    order = y.argsort(stable=True)
    kernels = [ks.path_kernel(recorded(network(2, 16, 2), x, y, cross_entropy, drawn(40, 80, size=8, seed=seed),
                                       lr=0.1), x[order]) for seed in range(runs)]
    return ks.PathKernel.mean_of(kernels)


def main() -> None:
    """Makes all comparisons and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few runs, to see that it works")
    parser.add_argument("-o", "--output", type=Path, default=Path("reports/stochastic_domingos.html"))
    options = parser.parse_args()
    seeds, rates = (20, RATES[-2:]) if options.quick else (SEEDS, RATES)
    sequences = every_sequence(options.quick)
    print(sequences.to_frame().to_string(index=False), flush=True)
    found = digits(rates, seeds, 2 if options.quick else 6)
    agreement = ks.agreement(found)
    print(agreement.to_frame().T.to_string(), flush=True)
    small = small_tasks(seeds)
    memory, adam, given = optimizers(seeds)
    kernel = path_kernels(2 if options.quick else 8)
    for _, result in [*small, ("", adam), ("", memory), ("", kernel)]:
        print(result, result.check(), sep="\n", flush=True)
    example = found[rates[len(rates) // 2]][0]
    lead = (
        "A run of stochastic gradient descent ends where its batches led it. Over all the batches it might have drawn "
        "its output has a mean, which is a kernel machine: what the gradients of all samples do along the path, what "
        "the bend of the output adds, and what the noise adds. These terms are read off a recorded run, with no "
        "training. The mathematics is of the same kind as that of the stochastic Domingos theorems (Guo, He, Morel, "
        "arXiv 2603.13872 and 2606.07495); it was derived anew, and this is no reproduction of their experiments."
    )
    page = ks.Report("What the draw of batches does", [
        lead,
        "Four samples can be drawn in so few ways that every sequence of batches can be trained. The mean over all of "
        "them, without any noise of its own, is missed by the square of the learning rate with the path alone, and by "
        "its cube with all terms. Reshuffling needs a formula of its own.",
        ("Every sequence of batches", sequences),
        f"The digits: 256 samples, a tanh network 64-16-10 with initial weights twice as large as usual (they bend "
        f"more), batches of {BATCH} drawn with replacement, learning rate times steps = {TIME:g}, {len(example)} "
        f"queries with 10 outputs. For each learning rate {seeds} networks are trained anew, and the terms are taken "
        "along the path of each. An interval is that of measured minus predicted mean, seed by seed; dashed lines take "
        "off what has the mean nought, which makes intervals several tens of times narrower and shows terms of third "
        "order.",
        ("Digits over learning rates", agreement),
        (f"One run on digits at learning rate {rates[len(rates) // 2]:g}", example),
        (f"{seeds} runs on digits at the same learning rate", example.ensemble),
        *itertools.chain.from_iterable((
            [] if i else ["Sixteen hidden units, 64 samples, batches of 8, 200 steps. With reshuffling each epoch "
                          "goes through all samples, and most of the noise of an epoch cancels; the formula then needs "
                          "the learning rate times the steps of an epoch to be small, and not the learning rate alone."
                          ]) + [
            (name, result), (f"{name}: {seeds} seeds", result.ensemble)] for i, (name, result) in enumerate(small)),
        "The weight that the gradient of each step has in the final parameters: with momentum the last steps have not "
        "yet brought in all of theirs. Adam’s are a number for each parameter, told by their geometric mean.",
        ("Four memories", memory),
        "Adam divides by sizes of gradients that depend on the batches too, and what goes along with that is in no "
        "term. With the mean square that batches would have had the standard deviation of runs is foretold as "
        f"{typical(adam.std):.2g}, and {typical(adam.ensemble.std):.2g} is measured. With the recorded one "
        f"{typical(given.std):.2g} is foretold: pixels that no drawn batch had ink in are divided by next to nothing, "
        "and samples that have ink there push without bound. Nobody would train so: the first such sample would raise "
        "the divisor.",
        ("Adam by mean squares of gradients", adam),
        "The path kernel adds up the tangent kernel along a run, and is symmetric and positive; its mean over runs has "
        "a standard error for each entry. Points are sorted by class.",
        ("The expected path kernel of two moons", kernel),
    ], provenance=provenance(__file__, seed=SEED))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    print(page.save(options.output))


if __name__ == "__main__":
    main()
