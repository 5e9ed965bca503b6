"""Diffusion models and GANs through the same nouns, side by side, each claim with its null.

A denoiser and a GAN of the same size learn the handwritten digits and are recorded. Where in noise are a denoiser's
corrections local; why do contributions to a critic cancel; how do the two differ in memory, coverage and concentration;
is a critic a denoiser; and what foretells what leaving training images out does?

    python analysis/diffusion_vs_gan.py [--quick] [-o reports/diffusion_vs_gan.html]
"""

import argparse
import time
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from generative import bridging, closed, games, models, stages, trials
from generative.found import Found
from generative.parts import items, summary
from generative.timing import Clock, timed
from provenance import provenance

import kernelscope as ks

SEED = 0

#: Sizes at which everything runs and nothing is found.
QUICK = models.Settings(steps=40, seeds=(0, 1), channels=8, convolutional_steps=20)


def measured(quick: bool) -> Found:
    """All experiments: those of many trainings in a second process, all others here, on runs that are shared."""
    clock, settings = Clock(), QUICK if quick else models.Settings()
    sizes = trials.Settings.quick() if quick else trials.Settings()
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as beside:
        waiting = {name: beside.submit(timed, experiment, sizes) for name, experiment in (
            ("E8, coverage", trials.e8), ("E4", trials.e4), ("E5", trials.e5), ("E11", trials.e11))}
        asked = models.trained(settings, clock)
        run, game = asked.denoisers[0], asked.games[0]
        looked = closed.Settings(samples=16, points=16, jacobians=8, windows=(3,), equivariant=(3,)) if quick else (
            closed.Settings())
        denoisers = {"MLP": run, "convolutions": asked.convolutional}
        places = bridging.Settings(points=60, eigenvalues=4) if quick else bridging.Settings()
        points = games.Settings(points=12, queries=2) if quick else games.Settings()
        held, y = models.digits("test")[0], models.digits()[1]
        own = {
            "e1": clock("E1", closed.e1, looked), "e2": clock("E2", closed.e2, looked, denoisers),
            "e3": clock("E3", closed.e3, looked, denoisers), "e6": clock("E6", stages.e6, run),
            "e7": clock("E7", stages.e7, run), "digit": clock("one digit", stages.one_digit, run),
            "e9": clock("E9", games.e9, points, game), "traced": clock("E9, composite", games.composite, points, game),
            "geometry": clock("E8, geometry", bridging.e8_geometry, places, {"R1": game, "no R1": asked.free}),
            "e10": clock("E10", bridging.e10, places, run, game),
            "compared": clock("comparison over seeds", lambda: ks.generative.compare(
                asked.denoisers, asked.games, held_out=held, labels=y, paths=False)),
            "paths": clock("comparison along paths", lambda: ks.generative.compare(
                run, game, held_out=held, labels=y)),
        }
        many = {name: _told(clock, name, future) for name, future in waiting.items()}
    return Found(settings, asked, e4=many["E4"], e5=many["E5"], e8=many["E8, coverage"], e11=many["E11"],
                 seconds=clock.seconds, **own)


def _told(clock: Clock, name: str, waiting: Future) -> object:
    found, seconds = waiting.result()
    clock.note(name, seconds)
    return found


def main() -> None:
    """Makes all parts and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few small trainings, to see that it runs")
    parser.add_argument("-o", "--output", type=Path, default=Path("reports/diffusion_vs_gan.html"))
    options = parser.parse_args()
    # Small products, for which threads only wait for each other.
    torch.set_num_threads(1)
    begun = time.perf_counter()
    found = measured(options.quick)
    lead, parts = summary(found), items(found)
    for item in [*lead, *parts]:
        if isinstance(item, str):
            print(item, flush=True)
        else:
            print(item[0], item[1], item[1].to_frame().round(4).to_string(), sep="\n", flush=True)
    page = ks.Report("Diffusion and GANs side by side: where corrections act, what they rest on",
                     [*lead, *parts], provenance=provenance(
        __file__, seed=SEED, minutes=round((time.perf_counter() - begun) / 60, 1), processes=2))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    print(page.save(options.output))


if __name__ == "__main__":
    main()
