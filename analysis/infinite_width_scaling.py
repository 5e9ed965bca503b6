"""How fast does the error of infinite-width kernels fall with data, and do copies or averages of transforms help more?

Kernels of infinitely wide networks are fitted to more and more digits, and to windows of photographs whose color is
asked for; to digits with transformed copies beside them, and with kernels that are averaged over the transforms. Every
fit is exact kernel ridge regression, its ridge chosen by leaving samples out. The nulls need no network: the Laplacian
kernel and the nearest training sample.

    python analysis/infinite_width_scaling.py [--quick] [-o reports/infinite_width_scaling.html]
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

from provenance import provenance
from wide.cost import estimate
from wide.digits import SHIFTS, augmented, split, with_shifts
from wide.networks import both_kernels, nearest, nulls
from wide.words import by_copies, by_measure, by_way

import kernelscope as ks

SEED, WINDOW = 0, 9
THIN, WITH = ["fc3", "cnn3"], "with copies"
RIDGES, STRONG = [1e-8, 1e-6, 1e-4, 1e-2], [1e-4, 1e-3, 1e-2]
MEMORY = "16GB"


@dataclass(frozen=True)
class Sizes:
    """How much is fitted.

    Attributes:
        repeats: The number of orders.
        digits: The numbers of digits.
        copies: How many points a digit has with its copies.
        copied: The numbers of digits with copies.
        pooled: The same for the kernel of all pairs of pixels, which takes long.
        shifted: The numbers of digits with nine shifts of each.
        patches: The numbers of windows.
        tests: The numbers of digits and of windows for tests.
        exact: Up to how many points a factor is taken; more are solved by conjugate gradients.
    """

    repeats: int
    digits: tuple[int, ...]
    copies: int
    copied: tuple[int, ...]
    pooled: tuple[int, ...]
    shifted: tuple[int, ...]
    patches: tuple[int, ...]
    tests: tuple[int, int]
    exact: int


FULL = Sizes(3, (19, 38, 75, 150, 300, 600, 1200), 20, (19, 38, 75, 150), (19,), (19, 38, 75, 150),
             (250, 500, 1000, 2000, 4000), (597, 2000), 6000)
QUICK = Sizes(2, (5, 10, 20), 4, (5, 10), (5,), (5, 10), (50, 100, 200), (40, 100), 1000)


def main() -> None:
    """Makes all curves and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few small fits, to see that it runs")
    parser.add_argument("--estimate", action="store_true", help="say how long it will take, and stop")
    parser.add_argument("-o", "--output", type=Path, default=Path("reports/infinite_width_scaling.html"))
    options = parser.parse_args()
    sizes = QUICK if options.quick else FULL
    print(estimate(sizes), flush=True)
    if options.estimate:
        return
    begun = time.perf_counter()
    items = [*digits(sizes), *photographs(sizes)]
    first = items[1][1]
    lead = (
        "A network of infinite width is a kernel: NNGP before training, NTK for training by gradients. Here such "
        "kernels are fitted exactly, by kernel ridge regression, to more and more data. fc3 has three hidden layers, "
        "cnn3 three convolutions and no pooling, myrtle5 four convolutions and a pooling after most. An error is the "
        "mean squared error as a share of that of the best constant; a power law is a line in logarithms, and its "
        "exponent has the interval of orders and test points drawn again."
    )
    page = ks.Report("How errors of infinite-width kernels fall with data", [lead, *items], provenance=provenance(
        __file__, **{"seed": SEED, "test digits": first.tests,
                     "minutes": round((time.perf_counter() - begun) / 60, 1)}))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    print(page.save(options.output))


def digits(sizes: Sizes) -> list:
    """Digits as they are, with copies, and with kernels averaged over shifts."""
    (x, y), test = split(SEED, sizes.tests[0])
    rest = {"repeats": sizes.repeats, "seed": SEED, "exact": sizes.exact, "memory": MEMORY}
    plain = ks.learning_curves(both_kernels([*THIN, "myrtle5"]) | nulls(), (x, y), test, samples=sizes.digits,
                               ridge=RIDGES, **rest)
    told(plain)
    many, labels = augmented(x, sizes.copies, SEED), y.repeat_interleave(sizes.copies)
    # Of all copies in single precision, so that the matrix of 24,000 points fits into memory.
    wide = lambda names, counts, more=None: ks.learning_curves(
        both_kernels(names) | (more or {}), (many.float(), labels), (test[0].float(), test[1]), samples=counts,
        ridge=STRONG, copies=sizes.copies, **rest)
    thin = [name for name in plain.names if not name.startswith("myrtle5")]
    beside = ks.LearningCurves.beside({
        "": plain[thin], WITH: wide(THIN, sizes.copied, nulls())})
    told(beside)
    pooled = ks.LearningCurves.beside({"": plain[["myrtle5 NNGP", "myrtle5 NTK"]],
                                       WITH: wide(["myrtle5"], sizes.pooled)})
    told(pooled)
    kernels = {name: kernel for name, kernel in both_kernels(THIN).items() if name.endswith("NNGP")}
    kernels["Laplacian"] = ks.kernels.Laplacian().fitted(x)
    averaged = {name: ks.kernels.OrbitAverage(kernel, SHIFTS) for name, kernel in kernels.items()}
    few = rest | {"samples": sizes.shifted, "ridge": RIDGES}
    ways = ks.LearningCurves.beside({
        "": plain[[*kernels, "nearest"]],
        "9 shifts": ks.learning_curves(kernels | {"nearest": nearest}, (with_shifts(x), y.repeat_interleave(9)), test,
                                       copies=9, **few),
        "average": ks.learning_curves(averaged, (x, y), test, **few)})
    told(ways)
    return [
        f"{sizes.tests[0]} digits are for tests. {by_measure(plain)}",
        ("Digits as they are", plain),
        f"Each digit comes with {sizes.copies - 1} copies, turned by up to 20 degrees and shifted by up to one pixel, "
        f"which go to training together: n counts digits. {by_copies(beside, WITH)}",
        (f"Digits with {sizes.copies - 1} copies of each", beside),
        f"The kernel of all pairs of pixels takes long, and is fitted to fewer. {by_copies(pooled, WITH)}",
        ("The same with poolings", pooled),
        "The nine shifts by at most one pixel, once as nine points for each digit, once as a kernel that is averaged "
        f"over them for both of its points, on the digits alone. {by_way(ways, '9 shifts', 'average')}",
        ("Copies against averages", ways),
    ]


def photographs(sizes: Sizes) -> list:
    """The color of the middle of a window of a black and white photograph."""
    train = ks.data.patches("train", count=sizes.patches[-1], window=WINDOW, seed=SEED)
    test = ks.data.patches("test", count=sizes.tests[1], window=WINDOW, seed=SEED)
    as_images = lambda data: (data.x.unflatten(1, (1, WINDOW, WINDOW)), data.y)
    kernels = both_kernels(THIN)
    found = ks.learning_curves(kernels | nulls() | {"Gaussian": ks.kernels.Gaussian()}, as_images(train),
                               as_images(test), samples=sizes.patches, ridge=[1e-4, 1e-2, 1e-1],
                               repeats=sizes.repeats, seed=SEED, exact=sizes.exact, memory=MEMORY)
    told(found)
    return [
        f"From {WINDOW} × {WINDOW} grey pixels of a photograph to the two chroma values of the one in the middle; test "
        "windows share no pixel with training. Windows overlap each other, so that intervals are rather too narrow. "
        f"{by_measure(found)}",
        ("The color of photographs", found),
    ]


def told(found: ks.LearningCurves) -> None:
    """Prints curves while others are made."""
    print(found, found.table().to_string(index=False), found.check(), sep="\n", flush=True)


if __name__ == "__main__":
    main()
