"""Does the kernel of a network learn, and is the trained network the kernel machine that its last kernel says?

The tangent kernel of a network is followed through training: a convolutional network on digits, a network under the
squared loss that is made lazy by a large output scale or rich by a small one (Chizat et al., 2019), and linear
networks of two layers from small weights, where alignment should be silent (Atanasov, Bordelon and Pehlevan, 2022). The
kernel of each time is asked for the regression it would have given, beside the network itself (Fort et al., 2020; Long,
2021).

    python analysis/kernel_evolution.py [--quick] [-o reports/kernel_evolution.html]
"""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import torch
from provenance import provenance
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot

import kernelscope as ks

SEED = 0


def recorded(model: nn.Module, x: Tensor, y: Tensor, loss: Callable[..., Tensor], steps: int, batch: int | None = None,
             keep: int = 10, seed: int = SEED, **options: float) -> ks.Run:
    """The plainest loop of SGD, recorded."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], **options)
    g = torch.Generator().manual_seed(seed)
    with ks.record(model, (x, y), loss=loss, keep=keep) as recording:
        for _ in range(steps):
            ids = torch.arange(len(x)) if batch is None else torch.randperm(len(x), generator=g)[:batch]
            recording.batch(ids)
            optimizer.zero_grad()
            loss(model(x[ids]), y[ids]).backward()
            optimizer.step()
    return recording.run


def convolutional(seed: int) -> nn.Module:
    """A network of 9,802 parameters."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10))


def pictures(split: str, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Digits as pictures, in float32."""
    data = ks.data.digits(split)
    return data.x[:count].float().view(-1, 1, 8, 8), data.y[:count]


def on_digits(quick: bool) -> tuple[ks.KernelEvolution, ks.Spectrum, ks.Spectrum, ks.KernelDistances]:
    """The convolutional network on all digits; its spectra at both ends; and another one from another start."""
    x, y = pictures("train", 300 if quick else None)
    steps = 100 if quick else 690
    models = [convolutional(seed) for seed in (SEED, SEED + 1)]
    before = ks.spectrum(ks.kernels.Tangent(models[0]), x, y, k=60)
    runs = [recorded(model, x, y, cross_entropy, steps, 64, seed=seed, lr=0.05, momentum=0.9)
            for seed, model in enumerate(models)]
    after = ks.spectrum(ks.kernels.Tangent(models[0]), x, y, k=60)
    found = ks.evolution(runs[0], *pictures("test"), times=8 if quick else 70)
    between = ks.kernel_distances(*runs, pictures("test")[0], times=4 if quick else 12)
    return found, before, after, between


class Scaled(nn.Module):
    """A network times a number, less what it says at first."""

    def __init__(self, model: nn.Module, scale: float):
        super().__init__()
        self.model, self.scale = model, scale
        self.start = copy.deepcopy(model).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (self.model(x) - self.start(x))


def lazy_and_rich(quick: bool) -> dict[str, ks.KernelEvolution]:
    """A network of two layers under the squared loss, for two scales of its outputs."""
    data, test = ks.data.digits("train"), ks.data.digits("test")
    n, steps = (200, 100) if quick else (600, 1500)
    x, y = data.x[:n].double(), one_hot(data.y[:n], 10).double()
    found = {}
    for name, scale in (("lazy", 10.0), ("rich", 0.3)):
        torch.manual_seed(SEED)
        model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)).double()
        # With the rate over the square of the scale both begin to learn equally fast.
        run = recorded(Scaled(model, scale), x, y, mse_loss, steps, lr=1.0 / scale**2, keep=25)
        found[name] = ks.evolution(run, test.x.double(), one_hot(test.y, 10).double(), times=10 if quick else 60)
    return found


def linear_layers(quick: bool) -> dict[str, ks.KernelEvolution]:
    """Two linear layers from small weights that tell even from odd digits, on pixels as they are and whitened."""
    data, test = ks.data.digits("train"), ks.data.digits("test")
    n = 200 if quick else 500
    mean = data.x.double().mean(0)
    x, xt = (d.x.double() - mean for d in (data, test))
    y, yt = (1 - 2 * (d.y % 2).double()[:, None] for d in (data, test))
    _, lengths, turn = torch.linalg.svd(x[:n], full_matrices=False)
    white = turn[:16].T / lengths[:16] * n**0.5
    found = {}
    for name, basis, rate in (("whitened", white, 0.05), ("pixels", torch.eye(64, dtype=torch.float64) / 16, 0.5)):
        torch.manual_seed(SEED)
        model = nn.Sequential(nn.Linear(len(basis.T), 16, bias=False), nn.Linear(16, 1, bias=False)).double()
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(0.01)
        run = recorded(model, x[:n] @ basis, y[:n], mse_loss, 300 if quick else 600, lr=rate, keep=20)
        found[name] = ks.evolution(run, xt @ basis, yt, times=20 if quick else 100)
    return found


def closer(found: ks.KernelEvolution) -> str:
    """How near the network the kernels of both ends are."""
    last, first = (float(found.regression["carried"][i]) for i in (-1, 0))
    scores = [float(found.regression["score"][i]) for i in (-1, 0)]
    ways = "closer to" if last < first else "farther from"
    return (f"The kernel of the trained network is {ways} it than the kernel at initialisation: {last:.2g} against "
            f"{first:.2g} of the variance of its outputs is missed, and regression scores {scores[0]:.3f} against "
            f"{scores[1]:.3f}, the network {float(found.series['score x'][-1]):.3f}.")


def main() -> None:
    """Follows all kernels and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few samples, to see that it works")
    parser.add_argument("-o", "--output", type=Path, default=Path("reports/kernel_evolution.html"))
    options = parser.parse_args()
    digits, before, after, between = on_digits(options.quick)
    for result in (digits, before, after, between):
        print(result, result.check(), sep="\n", flush=True)
    print(digits.silent_words(), digits.info["seconds_of"], flush=True)
    scales, linear = lazy_and_rich(options.quick), linear_layers(options.quick)
    for name, result in (scales | linear).items():
        print(name, result, result.silent_words(), result.formula, result.check(), sep="\n", flush=True)
    turns = {name: 1 - float(found.series["cka first"][-1]) for name, found in scales.items()}
    flows = {name: (found.formula["first x"], found.formula["last x"]) for name, found in scales.items()}
    page = ks.Report("Does the kernel of a network learn?", [
        "Where training moves the parameters little, a network is the kernel machine of its tangent kernel at "
        "initialisation. Real networks turn this kernel as they learn. Here the kernel is computed at many times of "
        "recorded runs, and is asked each time: how far it has turned, how well it is aligned with the targets, what a "
        "regression with it would score, and how near that is to the network. " + closer(digits),
        f"A convolutional network of 9,802 parameters, {digits.info['samples']:,} digits to train on and "
        f"{digits.info['points']} others, cross entropy, SGD with momentum. Two measures of nearness are told: how "
        "often regression on the targets gives the network’s own answers, right or wrong; and how far the network’s "
        "outputs are missed when its change on the training samples is carried over by the kernel. The second needs no "
        "targets, and does not depend on the scale of logits. (A regression may score better than the network: that "
        f"scores are near says little.) The ridge is {digits.ridge:g} of the mean of the "
        "diagonal, for all times, by leaving one out.",
        ("Digits, a convolutional network", digits),
        "The spectrum of its kernel before and after. The first eigenvector is nearly constant; what comes after tells "
        "the samples apart.",
        ("The spectrum at initialisation", before),
        ("The spectrum of the trained network", after),
        "The same network from other weights and on other batches, on the test digits: the kernels are of different "
        "networks, and are compared as functions of the same points.",
        ("Two networks on the same digits", between),
        "The squared loss, 64 tanh units, full-batch steps, outputs times 10 or times 0.3 with the learning rate "
        "divided by the square of this. Gradient flow with a fixed kernel has a closed form, so it can be said how far "
        "the network’s change is from that of the first kernel, and from that of the last one in a time that counts "
        f"how large the kernel was. With the large scale the kernel turned by {turns['lazy']:.2g}, and the first "
        f"kernel misses {flows['lazy'][0]:.1%} of the change on other points, the last {flows['lazy'][1]:.1%}; with "
        f"the small scale it turned by {turns['rich']:.2g}, and {flows['rich'][0]:.1%} and {flows['rich'][1]:.1%} are "
        "missed. Ten outputs share one kernel here, the mean over them, which is not exact either.",
        ("Lazy: outputs times 10", scales["lazy"]),
        ("Rich: outputs times 0.3", scales["rich"]),
        "Two linear layers from weights a hundredth of the usual, which tell even digits from odd ones. From small "
        "weights nothing seems to happen for long, and then the loss falls at once. With whitened inputs the theory "
        "says that the kernel finds its direction before that, in silence, and only grows while the loss falls. With "
        "pixels as they are it need not.",
        ("Linear layers, whitened digits", linear["whitened"]),
        ("Linear layers, pixels", linear["pixels"]),
    ], provenance=provenance(__file__, seed=SEED))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    print(page.save(options.output))


if __name__ == "__main__":
    main()
