"""What do layers that are kernels save, and what do they cost?

Neurons as products of random features, and errors that were predicted before anything was drawn; trained layers
converted in every way; whole networks solved for at once; speed; adapters that fine-tune a transformer. Beside each
stands its null: a linear map, a layer of low rank, a smaller network, the head alone.

    python analysis/snnk_compression.py [--quick] [-o reports/snnk.html]
"""

import argparse
import time
from pathlib import Path

import torch
from provenance import provenance
from snnk.bundling import bundled
from snnk.conversion import conversions
from snnk.pointwise import pointwise
from snnk.speed import speed
from snnk.tuning import tuning

import kernelscope as ks

SEED = 0
LEAD = (
    "A scalable neural network kernel writes a layer f(Wx + b) as features of its inputs times features of its "
    "weights, so that the layer is linear in something fixed, and the matrix behind it can be solved for. This page "
    "measures what that saves, and what does as well without it. All errors and accuracies are at inputs that nothing "
    "was fitted to."
)


def main() -> None:
    """Makes all parts and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few small fits, to see that it runs")
    parser.add_argument("-o", "--output", type=Path, default=Path("reports/snnk.html"))
    options = parser.parse_args()
    # Small products, for which threads only wait for each other.
    torch.set_num_threads(1)
    begun = time.perf_counter()
    items: list = []
    shorts = [LEAD]
    for part in (pointwise, conversions, bundled, lambda quick: speed(), tuning):
        started = time.perf_counter()
        short, found = part(options.quick)
        shorts += [short] if short else []
        for item in found:
            items.append(item)
            if isinstance(item, str):
                print(item, flush=True)
            else:
                print(item[0], item[1], item[1].to_frame().round(4).to_string(), sep="\n", flush=True)
        print(f"{time.perf_counter() - started:.0f} s", flush=True)
    page = ks.Report("Layers that are kernels: what they save, and what does as well",
                     [" ".join(shorts), *items], provenance=provenance(
        __file__, seed=SEED, minutes=round((time.perf_counter() - begun) / 60, 1)))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    print(page.save(options.output))


if __name__ == "__main__":
    main()
