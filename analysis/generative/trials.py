"""Do small generative models copy, cover and answer for their training points? Four experiments of many trainings.

E4: where copies turn into new samples. E5: what denoisers of disjoint halves of the data make of the same noise. E8:
what denoisers and GANs cover, and copy, over seeds. E11: which scores of training points foretell retraining.

    python -m analysis.generative.trials [--quick] [--data patches] [e4 e5 e8 e11]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import kernelscope as ks
from kernelscope.generative.denoising.denoiser import Denoiser
from kernelscope.generative.networks import NoiseMLP, critic, generator
from kernelscope.generative.trials.covering import CoveragePlan, CoverageTrial, coverage_trial
from kernelscope.generative.trials.disjoint import DisjointHalves, disjoint_halves
from kernelscope.generative.trials.memorisation import MemorisationTransition, memorisation_transition
from kernelscope.generative.trials.removal import SubsetTrial
from kernelscope.generative.trials.retraining import Halves, half_subsets


@dataclass(frozen=True)
class Settings:
    """The sizes of the experiments.

    Attributes:
        data: ``"digits"``, or ``"patches"`` for windows of 8 x 8 pixels.
        sizes, transition_seeds, transition_steps, transition_shorter: Those of E4, and its smaller budgets of steps.
        halves, half_seeds, half_steps: How many points each half has in E5, and its trainings.
        coverage: The search and the trainings of E8.
        removal: The halves of E11.
        asked: What E11 measures.
    """

    data: str = "digits"
    sizes: tuple[int, ...] = (8, 32, 128, 512, 1437)
    transition_seeds: tuple[int, ...] = (0, 1)
    transition_steps: int = 2400
    transition_shorter: tuple[int, ...] = (600,)
    halves: tuple[int, ...] = (32, 256, 718)
    half_seeds: tuple[int, ...] = (0, 1)
    half_steps: int = 1500
    coverage: CoveragePlan = CoveragePlan()
    removal: Halves = Halves()
    asked: tuple[str, ...] = ("loss", "output")

    @classmethod
    def quick(cls, data: str = "digits") -> Settings:
        """Sizes that show that everything runs, and nothing else."""
        return cls(data, sizes=(8, 128), transition_seeds=(0,), transition_steps=60, transition_shorter=(20,),
                   halves=(32,), half_seeds=(0,), half_steps=60,
                   coverage=CoveragePlan(steps=40, seeds=(5, 6), searched=(0,)),
                   removal=Halves(8, 2, 40, levels=2), asked=("loss",))



def points(data: str) -> tuple[Tensor, Tensor]:
    """Points for training and held-out ones, 1437 and 360 of 64 numbers between -1 and 1."""
    return tuple(ks.generative.points(data, split, count=count) for split, count in (("train", 1437), ("test", 360)))


def e4(settings: Settings) -> MemorisationTransition:
    """Where copies turn into new samples."""
    x, held_out = points(settings.data)
    spread = float(x.std())
    return memorisation_transition(lambda: Denoiser(NoiseMLP(64, width=256), spread), x, held_out, settings.sizes,
                                   seeds=settings.transition_seeds, steps=settings.transition_steps,
                                   shorter=settings.transition_shorter)


def e5(settings: Settings) -> DisjointHalves:
    """Whether denoisers of disjoint halves make the same samples of the same noise."""
    x, _ = points(settings.data)
    return disjoint_halves(lambda: Denoiser(NoiseMLP(64, width=256), float(x.std())), x, settings.halves,
                           seeds=settings.half_seeds, steps=settings.half_steps)


def e8(settings: Settings) -> CoverageTrial:
    """What denoisers and GANs cover and copy, over seeds, each at the setting that the same search chose."""
    x, held_out = points(settings.data)
    # 52,816 parameters beside the 52,289 of both networks of the game.
    return coverage_trial(lambda: Denoiser(NoiseMLP(64, width=168), float(x.std())), lambda: generator(16, 64, 128),
                          lambda: critic(64, 128), x, held_out, settings.coverage)


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
    parser.add_argument("--data", choices=("digits", "patches"), default="digits")
    given = parser.parse_args()
    settings = Settings.quick(given.data) if given.quick else replace(Settings(), data=given.data)
    for name in given.which:
        begun = time.process_time()
        found = {"e4": e4, "e5": e5, "e8": e8, "e11": e11}[name](settings)
        print(f"\n{name}, {given.data}: {time.process_time() - begun:.1f} CPU seconds")
        for one in found.values() if isinstance(found, dict) else [found]:
            print(one)
            print(one.to_frame().round(3).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
