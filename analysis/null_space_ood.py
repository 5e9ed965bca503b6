"""What could a network not have learned, and does it tell when it is asked about that?

The first half foretells which targets a network will miss, from spectra; the second holds coverage, the share of a
query's tangent feature inside the span of training, against other scores, on images far from the training digits and on
digits that were left out. The null stands beside them: the distance in pixels, which needs no network.

    python analysis/null_space_ood.py [--quick] [-o reports/null_space_ood.html]
"""

import argparse
import platform
import subprocess
from pathlib import Path

import torch
from learned.outside import far, near
from learned.unlearnable import unlearnable

import kernelscope as ks


def commit() -> str:
    """The state of the project that made the page."""
    found = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=Path(__file__).parent, capture_output=True,
                           text=True, check=False)
    return found.stdout.strip() or "unknown"


def main() -> None:
    """Makes both halves and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer targets, runs and steps, to see that it runs")
    parser.add_argument("-o", "--output", type=Path, default=Path("reports/null_space_ood.html"))
    options = parser.parse_args()
    items = [*unlearnable(options.quick), *near(options.quick), *far(options.quick)]
    for item in items:
        if not isinstance(item, str):
            result = item[1]
            table = result.to_frame().round(4).to_string(max_rows=20)
            print(item[0], result, table, result.check(), sep="\n", flush=True)
    page = ks.Report("What a network could not learn, and what is outside of it", items, provenance={
        "study": "analysis/null_space_ood.py", "commit": commit(), "torch": torch.__version__,
        "machine": f"{(t := torch.get_num_threads())} thread{'s' * (t > 1)}, {platform.machine()}",
    })
    options.output.parent.mkdir(parents=True, exist_ok=True)
    print(page.save(options.output))


if __name__ == "__main__":
    main()
