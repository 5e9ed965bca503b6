"""What could a network not have learned, and does it tell when it is asked about that?

The first half foretells which targets a network will miss, from spectra; the second holds coverage, the share of a
query's tangent feature inside the span of training, against other scores, on images far from the training digits and on
digits that were left out. The null stands beside them: the distance in pixels, which needs no network.

    python analysis/null_space_ood.py [--quick] [-o reports/null_space_ood.html]
"""

import argparse
from pathlib import Path

from learned.outside import far, near
from learned.unlearnable import unlearnable
from provenance import provenance

import kernelscope as ks


def lead(named: dict[str, object]) -> str:
    """What the page says, in two sentences with their numbers."""
    foretold, told = named["Foretold by the path kernel"], named["Two digits left out"]
    assert isinstance(foretold, ks.Predictions)
    assert isinstance(told, ks.Separation)
    groups = ", ".join(f"{values[0]:.2f} ({group})" for group, values in foretold.by_group.items())
    return (f"The order in which a network misses targets is foretold by the path kernel of its run, with rank "
            f"correlations of {groups}. Of images of digits that were left out of training, {told.said()}.")


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
    summed = lead(dict(item for item in items if not isinstance(item, str)))
    page = ks.Report("What a network could not learn, and what is outside of it", [summed, *items],
                     provenance=provenance(__file__))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    print(page.save(options.output))


if __name__ == "__main__":
    main()
