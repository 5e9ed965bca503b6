"""Do small generative models copy, cover and answer for their training points? Four experiments of many trainings.

E4: where copies turn into new samples. E5: what denoisers of disjoint halves of the data make of the same noise. E8:
what denoisers and GANs cover, and copy, over seeds. E11: which scores of training points foretell retraining.

    python -m analysis.generative.trials [--quick] [--data photographs] [e4 e5 e8 e11]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor

import kernelscope as ks
from kernelscope.generative.denoising.closed_forms import OptimalDenoiser, WienerDenoiser
from kernelscope.generative.denoising.denoiser import Denoiser
from kernelscope.generative.denoising.noise import schedule
from kernelscope.generative.denoising.sampling import sample
from kernelscope.generative.games.adversary import Adversary
from kernelscope.generative.measures import coverage_density, intervals, memorised
from kernelscope.generative.networks import NoiseConv, NoiseMLP, critic, generator
from kernelscope.generative.trials.many import train_many, train_many_games
from kernelscope.generative.trials.memorisation import MemorisationTransition, memorisation_transition
from kernelscope.generative.trials.removal import SubsetTrial
from kernelscope.generative.trials.retraining import Halves, half_subsets


@dataclass(frozen=True)
class Settings:
    """The sizes of the experiments.

    Attributes:
        data: ``"digits"``, or ``"photographs"`` for windows of 8 x 8 pixels.
        sizes, transition_seeds, transition_steps: Those of E4.
        halves, half_seeds, half_steps: How many points each half has in E5, and its trainings.
        seeds, steps: The seeds and steps of E8, of 64 points each.
        conv: Whether E8 has a convolutional denoiser too, a fifth as large and nine times as slow.
        removal: The halves of E11.
        asked: What E11 measures.
    """

    data: str = "digits"
    sizes: tuple[int, ...] = (8, 32, 128, 512, 1437)
    transition_seeds: tuple[int, ...] = (0, 1)
    transition_steps: int = 2000
    halves: tuple[int, ...] = (32, 256, 718)
    half_seeds: tuple[int, ...] = (0, 1)
    half_steps: int = 1500
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    steps: int = 3000
    conv: bool = False
    removal: Halves = Halves()
    asked: tuple[str, ...] = ("loss", "output")

    @classmethod
    def quick(cls, data: str = "digits") -> Settings:
        """Sizes that show that everything runs, and nothing else."""
        return cls(data, sizes=(8, 128), transition_seeds=(0,), transition_steps=60, halves=(32,), half_seeds=(0,),
                   half_steps=60, seeds=(0, 1), steps=40, removal=Halves(8, 2, 40, levels=2), asked=("loss",))


@dataclass(frozen=True)
class Table:
    """A table, and what it says."""

    rows: pd.DataFrame
    sentence: str


def points(data: str) -> tuple[Tensor, Tensor]:
    """Points for training and held-out ones, 1437 and 360 of 64 numbers between -1 and 1."""
    if data == "digits":
        return tuple(ks.data.digits(split).x * 2 - 1 for split in ("train", "test"))
    return tuple(ks.data.patches(split, count=count, window=9).x.view(-1, 9, 9)[:, :8, :8].flatten(1) * 2 - 1
                 for split, count in (("train", 1437), ("test", 360)))


def e4(settings: Settings) -> MemorisationTransition:
    """Where copies turn into new samples."""
    x, held_out = points(settings.data)
    spread = float(x.std())
    return memorisation_transition(lambda: Denoiser(NoiseMLP(64, width=256), spread), x, held_out, settings.sizes,
                                   seeds=settings.transition_seeds, steps=settings.transition_steps)


def e5(settings: Settings) -> Table:
    """Whether denoisers of disjoint halves make the same samples of the same noise."""
    x, held_out = points(settings.data)
    spread, mean = float(x.std()), x.mean(0)
    orders = [torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)) for seed in settings.half_seeds]
    subsets, seeds = [], []
    for order, seed in zip(orders, settings.half_seeds, strict=True):
        for n in settings.halves:
            subsets += [order[:n], order[n:2 * n]]
            seeds += [2 * seed, 2 * seed + 1]
    many = train_many(lambda: Denoiser(NoiseMLP(64, width=256), spread), x, subsets, seeds, steps=settings.half_steps,
                      rate=5e-3, course="cosine")
    z = torch.randn(120, 64, generator=torch.Generator().manual_seed(7))
    levels = schedule(18).to(x)
    made = many.sample(z, levels)

    def alike(one: Tensor, other: Tensor) -> float:
        return float(torch.cosine_similarity(one - mean, other - mean).mean())

    rows = []
    for k in range(0, len(subsets), 2):
        a, b = made[k], made[k + 1]
        train = x[subsets[k]]
        closed = {name: [sample(kind(x[subset]), z, levels).final for subset in subsets[k:k + 2]]
                  for name, kind in (("Wiener", WienerDenoiser), ("optimal", OptimalDenoiser))}
        rows.append({"n": len(subsets[k]), "halves": alike(a, b),
                     "nearest training point": alike(a, train[torch.cdist(a, train).argmin(1)]),
                     "halves, other noise": alike(a, b.roll(1, 0)),
                     **{f"halves, {name}": alike(*pair) for name, pair in closed.items()}})
    table = pd.DataFrame(rows).groupby("n", as_index=False).mean()
    crossed = [int(n) for n, own, near in zip(table["n"], table["halves"], table["nearest training point"],
                                              strict=True) if own > near]
    last = table.iloc[-1]
    said = (f"from n = {min(crossed)} on two halves agree more with each other than with their nearest training points"
            if crossed else "at no n do two halves agree more with each other than with their nearest training points")
    return Table(table, f"{said}: cosine {last['halves']:.3f} and {last['nearest training point']:.3f} at n = "
                        f"{int(last['n'])}, where other noise gives {last['halves, other noise']:.3f}, Wiener "
                        f"denoisers {last['halves, Wiener']:.3f} and optimal ones {last['halves, optimal']:.3f}")


def e8(settings: Settings) -> Table:
    """What denoisers and GANs cover and copy, over seeds, with as many presentations each."""
    x, held_out = points(settings.data)
    spread, seeds, steps = float(x.std()), list(settings.seeds), settings.steps
    every = [torch.arange(len(x))] * len(seeds)
    z = torch.randn(len(held_out), 64, generator=torch.Generator().manual_seed(11))
    levels = schedule(18).to(x)
    keep = sorted({max(steps * part // 8, 1) for part in (1, 2, 4)})
    rows: list[dict] = []

    def add(model: str, step: int, samples: Tensor, parameters: int, seconds: float) -> None:
        found = [(coverage_density(own, held_out), memorised(own, x).share) for own in samples]
        cover = intervals([one.coverage for one, _ in found])
        dense = intervals([one.density for one, _ in found])
        rows.append({"model": model, "step": step, "coverage": cover.mean, "low": cover.low, "high": cover.high,
                     "density": dense.mean, "memorised": intervals([share for _, share in found]).mean,
                     "parameters": parameters, "presentations": 64 * step, "CPU seconds of a seed": seconds})

    # 52,816 parameters beside the 52,289 of both networks of the game.
    cores: dict[str, Callable[[], torch.nn.Module]] = {"diffusion, MLP": lambda: NoiseMLP(64, width=168)}
    if settings.conv:
        cores["diffusion, convolutions"] = lambda: NoiseConv(8, width=24)
    for name, core in cores.items():
        begun = time.process_time()
        many = train_many(lambda core=core: Denoiser(core(), spread), x, every, seeds, steps=steps,
                          rate=5e-3, course="cosine", keep=[0, *keep])
        seconds = (time.process_time() - begun) / len(seeds)
        for step in (0, *keep, steps):
            at = many if step == steps else many.at(step)
            add(name, step, at.sample(z, levels), many.size, seconds * step / steps)
    for name, game in (("GAN, non-saturating + R1", Adversary("non-saturating", 0.1)),
                       ("GAN, hinge + R1", Adversary("hinge", 0.1)), ("GAN, no R1", Adversary("non-saturating"))):
        begun = time.process_time()
        games = train_many_games(lambda: generator(16, 64, 128), lambda: critic(64, 128), x, every, seeds, game=game,
                                 steps=steps, keep=[0, *keep])
        seconds = (time.process_time() - begun) / len(seeds)
        for step in (0, *keep, steps):
            at = games if step == steps else games.at(step)
            add(name, step, at.generators(z[:, :16]), games.generators.size + games.critics.size,
                seconds * step / steps)
    for name, denoise in (("Wiener denoiser", WienerDenoiser(x)), ("optimal denoiser", OptimalDenoiser(x))):
        add(name, 0, sample(denoise, z, levels).final[None], 0, 0.0)
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))[:len(held_out)]
    real = coverage_density(x[chosen], held_out)
    rows.append({"model": "real points", "step": 0, "coverage": real.coverage, "density": real.density,
                 "memorised": memorised(held_out, x).share, "parameters": 0, "presentations": 0,
                 "CPU seconds of a seed": 0.0})
    table = pd.DataFrame(rows)
    return Table(table, _compared(table, steps))


def _compared(table: pd.DataFrame, steps: int) -> str:
    ends = table[table["step"] == steps].set_index("model")
    one = ends.loc["diffusion, MLP"]
    name = ends[ends.index.str.startswith("GAN")]["coverage"].idxmax()
    other = ends.loc[name]
    apart = one["low"] > other["high"] or other["low"] > one["high"]
    real = table[table["model"] == "real points"].iloc[0]
    text = (f"after {64 * steps:,} presentations the denoiser covers {one['coverage']:.3f} and {name} "
            f"{other['coverage']:.3f} of the held-out points, {'apart' if apart else 'not apart'} by their intervals, "
            f"where real points cover {real['coverage']:.3f}; they copy {one['memorised']:.3f} and "
            f"{other['memorised']:.3f}")
    pairs = [(row, mate) for _, row in table[table["model"] == "diffusion, MLP"].iterrows()
             for _, mate in table[table["model"] == name].iterrows()
             if row["step"] and mate["step"] and abs(row["coverage"] - mate["coverage"]) <= 0.05]
    if not pairs:
        return f"{text}; no two checkpoints have coverages within 0.05"
    row, mate = max(pairs, key=lambda pair: min(pair[0]["coverage"], pair[1]["coverage"]))
    return (f"{text}; at matched coverage ({row['coverage']:.3f} after {int(row['step'])} steps, "
            f"{mate['coverage']:.3f} after {int(mate['step'])}) densities are {row['density']:.3f} and "
            f"{mate['density']:.3f}, copies {row['memorised']:.3f} and {mate['memorised']:.3f}")


def e11(settings: Settings) -> dict[str, SubsetTrial]:
    """Which scores of training points foretell what leaving points out does."""
    x, held_out = points(settings.data)
    spread, source = float(x.std()), torch.Generator().manual_seed(0)
    chosen = x[torch.randperm(len(x), generator=source)[:256]]
    order = torch.randperm(len(held_out), generator=source)
    return half_subsets(lambda: Denoiser(NoiseMLP(64, width=64), spread), chosen, held_out[order[:24]],
                        held_out[order[24:48]], asked=settings.asked, halves=settings.removal)


def main() -> None:
    """Runs the experiments that are named, and prints what they say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", nargs="*", default=["e4", "e5", "e8", "e11"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data", choices=("digits", "photographs"), default="digits")
    given = parser.parse_args()
    settings = Settings.quick(given.data) if given.quick else replace(Settings(), data=given.data)
    for name in given.which:
        begun = time.process_time()
        found = {"e4": e4, "e5": e5, "e8": e8, "e11": e11}[name](settings)
        print(f"\n{name}, {given.data}: {time.process_time() - begun:.1f} CPU seconds")
        for one in found.values() if isinstance(found, dict) else [found]:
            print(one.sentence if isinstance(one, Table) else one)
            frame = one.rows if isinstance(one, Table) else one.to_frame()
            print(frame.round(3).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
