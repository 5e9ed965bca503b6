"""Model size and data size varied apart: what more centers bring, and what more data.

A kernel machine fitted in the textbook way has a center at every sample, so it cannot see more data without growing.
With centers of its own it can (Abedsoltan et al., 2023, Toward Large Kernel Models). Here the brightness of a window of
pixels of two photographs tells the color of its center; for each number of windows n and of centers p a machine is
fitted to the last digit of its objective, and its error measured on windows of other parts of the photographs.

    python analysis/large_kernel_models.py [--quick] [-o reports/large_kernel_models.html]
"""

import argparse
from pathlib import Path

from provenance import provenance

import kernelscope as ks

WINDOW, RIDGE, SEED = 7, 1e-6, 0
SAMPLES, CENTERS = [1_000, 3_000, 10_000, 30_000, 100_000, 400_000], [100, 300, 1_000, 3_000]


def main() -> None:
    """Fits all machines and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few small fits, to see that it runs")
    parser.add_argument("-o", "--output", type=Path, default=Path("reports/large_kernel_models.html"))
    options = parser.parse_args()
    samples, centers = (SAMPLES[:3], CENTERS[:2]) if options.quick else (SAMPLES, CENTERS)
    train = ks.data.patches("train", count=samples[-1], window=WINDOW, seed=SEED)
    test = ks.data.patches("test", count=2_000 if options.quick else 20_000, window=WINDOW, seed=SEED)
    results = []
    for kernel in (ks.kernels.Laplacian(), ks.kernels.Gaussian()):
        found = ks.scaling(kernel, train, test, centers=centers, samples=samples, ridge=RIDGE, seed=SEED, memory="4GB")
        print(found, found.to_frame().to_string(index=False), sep="\n", flush=True)
        results.append((type(kernel).__name__, found))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    lead = (
        "A kernel machine that has a center at every sample grows with its data. One with centers of its own does not: "
        "its size is chosen, and more data make the same machine better. The task is to color black and white "
        f"photographs: from the brightness of {WINDOW} × {WINDOW} pixels to the two chroma values of the one in the "
        "middle. An error of 1 is that of always answering the mean color of all pixels. Training and test windows "
        "share no pixel."
    )
    page = ks.Report("Large kernel models", [lead, *results], provenance=provenance(__file__, seed=SEED))
    print(page.save(options.output))


if __name__ == "__main__":
    main()
