"""How few numbers fine-tune a transformer: adapters of random features beside the standard ones.

A small transformer learns to guess words of the language reference and of docstrings of modules, and is then frozen.
There are two new tasks on docstrings of packages, another domain: to tell from which package a passage comes, and to
guess the next word there. Every way to fine-tune starts from the same network, trains the same head beside its own
numbers where there is one, and sees the same passages in the same order.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor, nn

import kernelscope as ks

from . import text
from .encoder import Classifier, Encoder, NextWord, mean_loss, pretrained
from .rivals import Bottleneck, Shift, appended, frozen, low_rank

#: What networks are fine-tuned for.
TASKS = ("package", "next word")


@dataclass(frozen=True)
class Settings:
    """Sizes of the study.

    ``task`` is one of ``TASKS``; ``reduction`` is the width of the encoder over the hidden neurons of a standard
    adapter; ``features`` are the sizes of adapters of random features.
    """

    task: str = "package"
    d: int = 128
    layers: int = 2
    heads: int = 4
    hidden: int = 256
    length: int = 24
    words: int = 1000
    pretraining: int = 1200
    steps: int = 400
    batch: int = 32
    most: int = 400
    held_out: float = 0.3
    reduction: int = 16
    features: tuple[int, ...] = (2, 8, 32)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    rates: dict[str, float] = field(default_factory=dict)


QUICK = Settings(d=32, hidden=64, words=500, pretraining=20, steps=8, most=40, seeds=(0, 1), features=(2,))


@dataclass(frozen=True)
class Way:
    """A way to fine-tune: its name, what it makes of a model, and the rate at which it learns."""

    name: str
    place: Callable[[nn.Module, int], nn.Module]
    rate: float


@dataclass(frozen=True)
class Ground:
    """A pretrained encoder and the passages to fine-tune it with."""

    encoder: Encoder
    passages: text.Passages
    classes: tuple[str, ...]
    loss: float


def ground(settings: Settings) -> Ground:
    """Pretrains an encoder on one domain, and brings the passages of the other."""
    first = text.reference() + text.modules()
    words = text.Words(first, settings.words)
    rows = torch.tensor([row for said in first for row in words.passages(said, settings.length)])
    passages, classes = text.labelled(words, settings.length)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = Encoder(settings.words, settings.length, settings.d, settings.layers, settings.heads, settings.hidden)
    loss = pretrained(encoder, rows, settings.pretraining, 32, 3e-3, seed=0)
    return Ground(encoder, passages, tuple(classes), loss)


def ways(settings: Settings) -> list[Way]:
    """All ways that are compared. Adapters come after the hidden layer of each block, one each."""
    # Rates are the best, or within the noise of it, on the split of seed 100, of which nothing is reported.
    d, rate = settings.d, lambda name, usual: settings.rates.get(name, usual)
    after = [f"encoder.blocks.{i}.mlp" for i in range(settings.layers)]
    linear = [f"encoder.blocks.{i}.attention.{name}" for i in range(settings.layers) for name in ("query", "value")]
    usual = d // settings.reduction

    def snnk(m: int, form: str) -> Callable[[nn.Module, int], nn.Module]:
        train = ["head"] if settings.task == "package" else []
        return lambda model, seed: ks.nn.inject(model, after, m, train=train, seed=seed, form=form).model

    found = [Way("head", lambda model, seed: frozen(model, "head"), rate("head", 1e-2)),
             Way("constant", lambda model, seed: appended(model, after, Shift, d), rate("constant", 1e-2))]
    found += [Way(f"features m={m}", snnk(m, "added"), rate("features", 1e-2)) for m in settings.features]
    found += [Way(f"scaled features m={m}", snnk(m, "scaled"), rate("scaled features", 1e-2))
              for m in settings.features[:1]]
    found += [Way(f"bottleneck r={r}", lambda model, seed, r=r: appended(model, after, Bottleneck, d, r),
                  rate("bottleneck", 1e-2)) for r in sorted({1, usual})]
    found += [Way("low rank r=1", lambda model, seed: low_rank(model, linear, 1), rate("low rank", 1e-2)),
              Way("everything", lambda model, seed: frozen(model, "encoder", "head"), rate("everything", 3e-3))]
    return found


def fine_tuned(model: nn.Module, train: text.Passages, way: Way, settings: Settings, seed: int) -> nn.Module:
    """Trains what is not frozen, with Adam and a rate that rises and falls."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        return model
    optimizer = torch.optim.Adam(trained, lr=way.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, way.rate, total_steps=settings.steps, pct_start=0.1)
    draw = torch.Generator().manual_seed(seed)
    order: list[Tensor] = []
    for _ in range(settings.steps):
        if not order:
            order = list(torch.randperm(len(train.y), generator=draw).split(settings.batch))
        rows = order.pop()
        loss = mean_loss(model(train.x[rows]), train.y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


@torch.no_grad()
def scores(model: nn.Module, test: text.Passages) -> tuple[float, float]:
    """The share of packages or words that are found, and the loss in nats each."""
    found = torch.cat([model(x) for x in test.x.split(512)])
    asked = test.y >= 0
    return float((found.argmax(-1) == test.y)[asked].double().mean()), float(mean_loss(found, test.y))


def started(base: Ground, settings: Settings, train: text.Passages) -> nn.Module:
    """The network that all ways start from, with a head for the task."""
    encoder = copy.deepcopy(base.encoder)
    return Classifier(encoder, len(base.classes), train.x) if settings.task == "package" else NextWord(encoder)


def runs(base: Ground, settings: Settings, chosen: list[Way] | None = None) -> pd.DataFrame:
    """Every way with every seed: one row each, with the numbers trained beside the head."""
    rows = []
    for seed in settings.seeds:
        train, test = base.passages.split(seed, settings.held_out, settings.most)
        if settings.task == "next word":
            train, test = (text.Passages(*text.next_words(side.x), side.source) for side in (train, test))
        for way in ways(settings) if chosen is None else chosen:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                start = started(base, settings, train)
                model = way.place(start, seed)
            count = sum(p.numel() for p in model.parameters() if p.requires_grad)
            head = sum(p.numel() for name, p in start.named_parameters() if name.startswith("head."))
            begun = time.perf_counter()
            fine_tuned(model, train, way, settings, seed)
            seconds = time.perf_counter() - begun
            share, loss = scores(model, test)
            rows.append({"way": way.name, "seed": seed, "parameters": count - head, "accuracy": share, "loss": loss,
                         "seconds": seconds, "rate": way.rate})
    return pd.DataFrame(rows)


def summary(found: pd.DataFrame, standard: str) -> pd.DataFrame:
    """One row for each way: its mean accuracy with its standard error over seeds, and the same against a standard.

    Differences are taken seed by seed, as all ways saw the same passages.
    """
    table = found.pivot(index="seed", columns="way", values="accuracy")
    size = found.groupby("way", sort=False)["parameters"].first()
    rows = []
    for way in size.index:
        own, gap = table[way], table[way] - table[standard]
        rows.append({"way": way, "parameters": int(size[way]),
                     "times fewer": size[standard] / size[way] if size[way] else float("inf"),
                     "accuracy": own.mean(), "standard error": own.sem(), "difference": gap.mean(),
                     "its standard error": gap.sem(), "loss": found[found["way"] == way]["loss"].mean(),
                     "seconds": found[found["way"] == way]["seconds"].mean()})
    return pd.DataFrame(rows)


def standard(settings: Settings) -> str:
    """The name of the way that the others are measured against: the adapter of the usual width."""
    return f"bottleneck r={settings.d // settings.reduction}"
