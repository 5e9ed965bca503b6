"""A small generative model, trained on images that need no download, and recorded."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from ..errors import DataError
from . import Answer

HELP = "train a small diffusion model or a GAN on images that need no download, and record it"
DETAILS = ("A diffusion run is one folder, a GAN's has two runs in it, of the generator and of the critic. Python "
           "opens both with kernelscope.generative.load(FOLDER). The same seed gives the same run.")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Takes a model, data, and where the run goes."""
    parser.epilog = DETAILS
    parser.add_argument("model", choices=("diffusion", "gan"), help="what is trained")
    parser.add_argument("--data", choices=("digits", "patches"), default="digits",
                        help="handwritten digits, or windows of two photographs, of 8 x 8 pixels (default: digits)")
    parser.add_argument("--count", type=int, metavar="N", help="how many images (default: all digits, 4096 windows)")
    parser.add_argument("-o", "--out", metavar="FOLDER", help="where the run goes (default: runs/MODEL-DATA)")
    parser.add_argument("--steps", type=int, default=1000, metavar="N", help="how many steps (default: 1000)")
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="images in a batch (default: 64)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="names the initial network and all draws")
    parser.add_argument("--network", choices=("mlp", "conv"), default="mlp",
                        help="fully connected or convolutional (default: mlp)")
    parser.add_argument("--width", type=int, metavar="N", help="the width of the network")
    parser.add_argument("--optimizer", choices=("adam", "sgd", "momentum"), default="adam", help="(default: adam)")
    parser.add_argument("--rate", type=float, metavar="RATE", help="the learning rate")
    parser.add_argument("--average", type=float, metavar="DECAY", help="keep averaged weights too, such as with 0.99")
    parser.add_argument("--loss", choices=("non-saturating", "wasserstein", "hinge"),
                        help="the game of a GAN (default: non-saturating)")
    parser.add_argument("--r1", type=float, metavar="WEIGHT", help="the penalty R1 of a GAN's critic (default: 0.1)")
    parser.add_argument("--critic-steps", type=int, metavar="N",
                        help="the critic's steps for one of the generator (default: 1)")
    parser.add_argument("--keep", default="all", metavar="WHAT",
                        help="which parameters to store: all, a number k for every k-th step, or a size such as 200MB")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that is there")


def run(options: argparse.Namespace) -> Answer:
    """Trains, records, and says what is there."""
    from ..decomposition.wording import counted
    from ..generative.reference import points
    from ..generative.training import train_diffusion, train_gan
    from . import telling

    game = {"--loss": options.loss, "--r1": options.r1, "--critic-steps": options.critic_steps}
    wrong = [flag for flag, value in game.items() if value is not None]
    if options.model == "diffusion" and wrong:
        raise DataError(f"{wrong[0]} is for a GAN, and a diffusion model is to be trained. Leave it out, or write "
                        "kernelscope train gan.")
    out = Path(options.out or Path("runs") / f"{options.model}-{options.data}")
    x = points(options.data, count=options.count)
    common: dict[str, Any] = {
        "network": options.network, "width": options.width, "steps": options.steps, "batch": options.batch,
        "rate": options.rate, "optimizer": options.optimizer, "average": options.average, "seed": options.seed,
        "out": out, "keep": int(options.keep) if options.keep.isdecimal() else options.keep,
        "overwrite": options.overwrite,
    }
    begun = time.perf_counter()
    if options.model == "diffusion":
        recorded = train_diffusion(x, **common)
        data, lines = recorded.info(), [telling.run_line(recorded)]
    else:
        made = train_gan(x, kind=options.loss or "non-saturating", r1=0.1 if options.r1 is None else options.r1,
                         critic_steps=options.critic_steps or 1, **common)
        data, lines = made.info(), [telling.run_line(made.generator), telling.run_line(made.critic)]
    seconds = time.perf_counter() - begun
    head = f"Trained on {counted(len(x), 'image')} in {seconds:.1f} s."
    ending = f'Next: kernelscope.generative.load("{telling.near(out)}")'
    return Answer("\n".join([head, *lines, ending]),
                  {"model": options.model, "data": options.data, "images": len(x), "run": str(out),
                   "seconds": round(seconds, 2), **data})
