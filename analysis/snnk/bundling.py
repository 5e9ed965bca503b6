"""Networks on digits, bundled in closed form: accuracy against the numbers that were solved for or trained.

Each split of the digits is a seed: networks, random features and test digits change with it.
"""

import torch

import kernelscope as ks

from .digits import accuracy, parameters, trained

SPLITS = (0, 1, 2, 3, 4)
ONE, TWO, TRAINED, LINEAR, BLOCKS = ("one tower", "two towers", "trained networks", "linear map",
                                     "blocks, own neurons")
RANDOM, SKIP = "blocks, random features", "blocks, with a linear skip"
WIDTH, TARGET = 128, 512


def of_split(split: int, quick: bool) -> tuple[dict[tuple[str, int], tuple[int, float]], dict[str, float]]:
    """For each method and size what it takes and its accuracy on test digits of a split, and further facts."""
    train, test = (ks.data.digits(side, seed=split) for side in ("train", "test"))
    given = {"test": (test.x, test.y), "seed": split}
    found: dict[tuple[str, int], tuple[int, float]] = {}
    for width in (8, WIDTH) if quick else (8, 16, 32, WIDTH):
        model = trained("relu", width, split)
        found[TRAINED, width] = parameters(model), accuracy(model, split)
    for m in (32, TARGET) if quick else (32, 128, TARGET, 2048):
        for name, sizes in ((ONE, m), (TWO, [m, m])):
            _, report = ks.nn.bundle(model, train.x, train.y, mode="full", features=sizes, **given)
            assert report.score_after is not None
            assert report.score_linear is not None
            found[name, m] = report.parameters_after, report.score_after
            found[LINEAR, 0] = (test.x.shape[1] + 1) * 10, report.score_linear
    # With three hidden layers there are two blocks, one after the other.
    deep = trained("relu", WIDTH, split, 3)
    facts = {"deep": accuracy(deep, split)}
    for name, tower, sizes in ((BLOCKS, "neurons", (8, 16, 32, 64)), (RANDOM, "rectified", (32, 128, 512))):
        for m in sizes[1:2] if quick else sizes:
            _, report = ks.nn.bundle(deep, train.x, train.y, mode="layerwise", features=m, tower=tower, skip=False,
                                     **given)
            assert report.score_after is not None
            found[name, m] = report.parameters_after, report.score_after
    # Each block for itself, with the linear map beside it that is the null.
    _, report = ks.nn.bundle(deep, train.x, train.y, mode="ffn", features=16, tower="neurons", **given)
    assert report.score_after is not None
    found[SKIP, 16] = report.parameters_after, report.score_after
    facts |= {"own": float(report.errors.mean()), "linear": float(report.linear.mean())}
    _, report = ks.nn.bundle(deep, train.x, train.y, mode="ffn", features=16, **given)
    return found, facts | {"random": float(report.errors.mean()), "deep parameters": parameters(deep)}


def place(found: ks.TradeOffs, method: str, near: float) -> int:
    """The point of a method whose cost is nearest to some number."""
    return min((k for k, name in enumerate(found.methods) if name == method),
               key=lambda k: abs(float(found.costs[k].log()) - torch.tensor(near).log().item()))


def gap(found: ks.TradeOffs, one: int, other: int) -> str:
    """By how much one point is above another, seed by seed."""
    mean, off = found.difference(one, other)
    return f"{mean:+.4f} ± {off:.4f}".replace("-", "−")


def told(found: ks.TradeOffs, point: int) -> str:
    """The measure of a point, and what it takes."""
    return (f"{float(found.means[point]):.4f} ± {float(found.standard_errors[point]):.4f} with "
            f"{int(found.costs[point]):,}")


def bundled(quick: bool = False) -> tuple[str, list[str | tuple[str, ks.TradeOffs]]]:
    """Accuracy against parameters for bundled networks, trained ones and a linear map; in short, and in full."""
    runs = [of_split(split, quick) for split in (SPLITS[:2] if quick else SPLITS)]
    points = [(name, each[0], [run[name, m][1] for run, _ in runs]) for (name, m), each in runs[0][0].items()]
    found = ks.trade_offs(points, cost="parameters", measure="test accuracy")
    mean = {key: sum(facts[key] for _, facts in runs) / len(runs) for key in runs[0][1]}
    full = place(found, ONE, 10 * (TARGET + 1))
    whole, linear = place(found, TRAINED, 26122), place(found, LINEAR, 650)
    smaller = place(found, TRAINED, float(found.costs[full]))
    two = place(found, TWO, float(found.costs[full]))
    blocks = max((k for k, name in enumerate(found.methods) if name == BLOCKS), key=lambda k: float(found.means[k]))
    mixed = max((k for k, name in enumerate(found.methods) if name == RANDOM), key=lambda k: float(found.means[k]))
    random = 64 * TARGET
    short = (f"On digits {TARGET} random features and one solve find {float(found.means[full]):.4f} with "
             f"{int(found.costs[full]):,} parameters, a trained network {float(found.means[whole]):.4f} with "
             f"{int(found.costs[whole]):,}, and a linear map {float(found.means[linear]):.4f} with "
             f"{int(found.costs[linear]):,}.")
    return short, [
        f"Digits on {len(runs)} splits into 1,437 and 360. A network bundled as a whole is {TARGET} fixed ReLU "
        "features of random directions and one matrix, solved for at once from the labels; no gradient step is taken. "
        f"Test accuracy and parameters: {told(found, full)} for one tower; {told(found, whole)} for the trained "
        f"network 64-{WIDTH}-{WIDTH}-10, a difference of {gap(found, full, whole)}; {told(found, linear)} for a linear "
        f"map, the null, a difference of {gap(found, full, linear)}; {told(found, smaller)} for the trained network of "
        f"about the same size, a difference of {gap(found, full, smaller)}. Trained networks are untuned, with one "
        f"recipe for all. The tower holds {random:,} random numbers besides, which its seed makes again: they cost "
        "multiplications, and no training and no storage.",
        f"A second tower behind the first changes that by {gap(found, two, full)}; with as many parameters "
        "it costs more multiplications.",
        f"Replacing blocks keeps the network: of one with three hidden layers ({mean['deep']:.4f} with "
        f"{mean['deep parameters']:,.0f} parameters) two blocks are replaced, the second on what the first now gives, "
        f"without a linear skip. The best with neurons of their own has {told(found, blocks)} parameters; the best "
        f"with random features {told(found, mixed)}. With 16 features and a linear skip, each block for itself, own "
        f"neurons are off by {mean['own']:.3f} of the spread of a block's outputs, random features by "
        f"{mean['random']:.3f}, and the null, a linear map alone, by {mean['linear']:.3f}.",
        ("Networks on digits, bundled and trained", found),
    ]
