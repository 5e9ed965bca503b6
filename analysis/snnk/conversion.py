"""Layers of networks trained on digits, converted in every way, beside a linear map, low rank and the floor.

Inputs that are fitted are those of training digits, and errors are measured at test digits.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import kernelscope as ks

from .digits import ACTIVATIONS, trained

#: The number of features at which layers stand side by side.
M = 32
#: What is compared there: its name, its mode or baseline, and whether it comes with a linear skip.
RIVALS = {"ridge with linear skip": ("ridge", True), "own neurons with linear skip": ("cur", True),
          "ridge": ("ridge", False), "own neurons": ("cur", False), "low rank": ("low rank", False)}


@dataclass(frozen=True)
class Layer:
    """A hidden layer of a trained network: its name, itself, its inputs at training digits and at test digits."""

    name: str
    linear: nn.Linear
    activation: str
    seen: Tensor
    held: Tensor
    first: bool


def layers(activations: tuple[str, ...], widths: tuple[int, ...]) -> list[Layer]:
    """Both hidden layers of each network."""
    found = []
    train, test = ks.data.digits("train").x, ks.data.digits("test").x
    for activation in activations:
        for width in widths:
            model = trained(activation, width)
            for place, (seen, held) in enumerate([(train, test), (model[:2](train), model[:2](test))]):
                linear = model[2 * place]
                name = f"{activation} {linear.in_features} → {linear.out_features}"
                found.append(Layer(name, linear, activation, seen, held, place == 0))
    return found


def converted(layer: Layer, counts: list[int]) -> dict[bool, ks.nn.ModeComparison]:
    """All modes and baselines with a linear skip, and those that have a skip without it."""
    rest = {"held_out": layer.held, "seed": 0}
    return {True: ks.nn.compare_modes(layer.linear, layer.activation, layer.seen, counts, **rest),
            False: ks.nn.compare_modes(layer.linear, layer.activation, layer.seen, counts, ["ridge", "cur"],
                                       skip=False, **rest)}


def error(found: dict[bool, ks.nn.ModeComparison], way: str, skip: bool, count: int = M) -> float:
    """The relative error of a mode, a baseline or a floor."""
    one = found[skip]
    place = one.features.index(count)
    return float(one.errors[one.modes.index(way), place] if way in one.modes else one.baselines[way][place])


def multiplications(layer: Layer, name: str, count: int) -> float:
    """What a way takes for an input with so many features, beside the layer itself."""
    d, width = layer.linear.in_features, layer.linear.out_features
    return count * (d + width) / (d * width) + RIVALS[name][1]


def side_by_side(found: list[tuple[Layer, dict[bool, ks.nn.ModeComparison]]]) -> ks.TradeOffs:
    """Errors as shares of that of a linear map, by what each way takes: a layer counts as a seed does elsewhere."""
    points = []
    for name, (way, skip) in RIVALS.items():
        for count in found[0][1][skip].features:
            # The geometric mean of costs, as layers have several sizes.
            logs = [math.log(multiplications(layer, name, count)) for layer, _ in found]
            points.append((name, math.exp(sum(logs) / len(logs)), [
                error(each, way, skip, count) / error(each, "linear map", skip, count) for _, each in found]))
    return ks.trade_offs(points, cost="times its multiplications", measure="error / linear map's", higher=False,
                         lines={"linear map": 1.0})


def span(values: list[float]) -> str:
    """The least and the largest of some numbers."""
    return f"{min(values):.2f} to {max(values):.2f}"


def by_layer(found: list[tuple[Layer, dict[bool, ks.nn.ModeComparison]]]) -> list[str]:
    """The numbers of each layer, a paragraph for each activation."""
    paragraphs: dict[str, list[str]] = {}
    for layer, each in found:
        ridge, own = ([f"{error(each, way, skip):.3f}" for skip in (True, False)] for way in ("ridge", "cur"))
        told = ", ".join(f"{name} {error(each, name, True):.3f}" for name in ("linear map", "low rank", "floor"))
        paragraphs.setdefault(layer.activation, []).append(
            f"{layer.linear.in_features} → {layer.linear.out_features}: ridge {ridge[0]} ({ridge[1]} without a skip), "
            f"own neurons {own[0]} ({own[1]}), {told}")
    return [f"Relative errors with {M} features, {name}. {'; '.join(rows)}." for name, rows in paragraphs.items()]


def ratios(found: list[tuple[Layer, dict[bool, ks.nn.ModeComparison]]]) -> str:
    """How near the ways come to the floor, to a linear map and to low rank, over all layers."""
    each = [one for _, one in found]
    of = lambda way, skip, null: [error(one, way, skip) / error(one, null, True) for one in each]
    beaten = sum(max(error(one, "ridge", True), error(one, "cur", True)) < error(one, "linear map", True)
                 for one in each)
    alone = sum(max(error(one, "ridge", False), error(one, "cur", False)) < error(one, "linear map", True)
                for one in each)
    return (f"With {M} features and a linear skip, the error of ridge is {span(of('ridge', True, 'floor'))} times the "
            f"floor of {M} features over the {len(each)} layers, and that of own neurons "
            f"{span(of('cur', True, 'floor'))} times. That floor is of features alone, and a linear skip takes as many "
            f"multiplications as the layer itself: without one they are {span(of('ridge', False, 'floor'))} and "
            f"{span(of('cur', False, 'floor'))} times the floor. The null is a linear map. Both ways beat it in "
            f"{beaten} of {len(each)} layers with a skip, with {span(of('ridge', True, 'linear map'))} and "
            f"{span(of('cur', True, 'linear map'))} times its error, and in {alone} without.")


def directions(x: Tensor) -> int:
    """How many principal directions hold 99 % of what inputs vary by."""
    held = torch.linalg.svdvals((x - x.mean(0)).double()).square().cumsum(0)
    return int((held < 0.99 * held[-1]).sum()) + 1


def low_rank(found: list[tuple[Layer, dict[bool, ks.nn.ModeComparison]]]) -> str:
    """When a layer of low rank with its own activation beats every sum of features."""
    said = []
    for first, which in ((True, "first"), (False, "second")):
        some = [each for layer, each in found if layer.first == first]
        wide = [directions(layer.seen) for layer, _ in found if layer.first == first]
        gains = [min(error(one, "ridge", True), error(one, "cur", True)) / error(one, "low rank", True)
                 for one in some]
        many = str(wide[0]) if len(set(wide)) == 1 else f"{min(wide)} to {max(wide)}"
        said.append(f"of {which} layers, whose inputs vary to 99 % along {many} directions, it wins "
                    f"{sum(gain > 1 for gain in gains)} of {len(gains)} (the best sum of features has {span(gains)} "
                    "times its error)")
    return (f"The other null is the layer itself with weights of rank {M}, chosen for the inputs: it keeps the "
            f"activation, and takes {M} (d + l) multiplications and no skip. {'; '.join(said).capitalize()}.")


def universal(layer: Layer, found: list[tuple[Layer, dict[bool, ks.nn.ModeComparison]]], quick: bool) -> str:
    """Whether random features that are right on average carry a trained layer: what is forecast, nothing drawn."""
    counts = [128, 1024] if quick else [128, 1024, 8192, 65536]
    plans = {m: ks.features.plan_layer(layer.activation, m, layer.seen, layer.linear.weight, layer.linear.bias)
             for m in counts}
    told = ", ".join(f"{plan.predicted_error:.3g} with {m:,}" for m, plan in plans.items())
    linear = found[0][1][True].baselines["linear map"][0]
    beats = next((m for m, plan in plans.items() if plan.predicted_error < float(linear)), None)
    end = (f"None of these is below the {float(linear):.3g} of a linear map" if beats is None
           else f"The first below the {float(linear):.3g} of a linear map has {beats:,} features")
    refused = [layer for layer, each in found if "analytic" in each[True].refused]
    why = next(iter(each[True].refused["analytic"] for _, each in found if "analytic" in each[True].refused), None)
    one = found[0][1][True]
    text = (f"Analytic conversion draws features that are right on average for any input, and fits nothing. With "
            f"{one.features[-1]} features it was refused for {len(refused)} of {len(found)} layers, since a linear map "
            "is better than its forecast.")
    text += f" The first refusal reads: “{why}”" if why else ""
    return (f"{text} For {layer.name} the forecast error is {told} features. {end}. So "
            f"random features that are not fitted do not carry it{'' if beats is None else ' with fewer'}; "
            f"{M} features chosen from the layer's own rows, and fitted, are off by "
            f"{error(found[0][1], 'ridge', True):.3g}.")


def arc_cosine(found: list[tuple[Layer, dict[bool, ks.nn.ModeComparison]]]) -> str:
    """How far the kernel of ReLU features is from a layer of ReLU neurons, with the best factor."""
    layer, each = next((layer, each) for layer, each in found if layer.activation == "relu" and layer.first)
    with torch.no_grad():
        x = torch.cat([layer.held, torch.ones(len(layer.held), 1)], 1).double()
        w = torch.cat([layer.linear.weight, layer.linear.bias[:, None]], 1).double()
        true, kernel = torch.relu(x @ w.T), ks.kernels.ArcCosine(order=1)(x, w)
        best = kernel * (kernel * true).sum() / kernel.square().sum()
        off = float((best - true).norm() / true.norm())
    return (f"A layer of ReLU features is not a ReLU layer: the mean of max(0, g·x) max(0, g·w) is the arc-cosine "
            f"kernel, a function of two lengths and an angle. For {layer.name} it is, with the best common factor and "
            f"infinitely many features, {off:.3f} of the layer's outputs away from them; a linear map is "
            f"{error(each, 'linear map', True):.3f} away.")


def conversions(quick: bool = False) -> tuple[str, list[str | tuple[str, ks.TradeOffs | ks.nn.ModeComparison]]]:
    """Every layer in every way, and what did not hold; in short, and in full."""
    names = ("tanh", "relu") if quick else tuple(ACTIVATIONS)
    # As many as a layer has inputs would make low rank exact.
    counts = [16, M] if quick else [16, M, 48]
    found = [(layer, converted(layer, counts)) for layer in layers(names, (128,) if quick else (128, 256))]
    shown = [(layer, each) for layer, each in found if layer.linear.out_features == 128 and (
        layer.first or layer.activation == names[0])]
    gains = [max(error(each, way, True) for way in ("ridge", "cur")) / error(each, "linear map", True)
             for _, each in found]
    wins = sum(min(error(each, way, True) for way in ("ridge", "cur")) > error(each, "low rank", True)
               for _, each in found)
    refused = sum("analytic" in each[True].refused for _, each in found)
    short = (f"Trained layers as {M} fitted features and a linear skip have {span(gains)} times the error of a linear "
             f"map, yet weights of rank {M} are nearer in {wins} of {len(found)} layers and cheaper in all; features "
             f"that are not fitted are refused for {refused} of {len(found)}.")
    return short, [
        "Both hidden layers of networks with two, trained on digits, as features and one matrix: neurons that are "
        "mixtures of two of the layer's own rows (ridge) or its own neurons (cur), and the matrix by ridge regression "
        f"and cross-validation. {ratios(found)}",
        low_rank(found), *by_layer(found), ("All layers, converted", side_by_side(found)),
        universal(found[0][0], found, quick), arc_cosine(found),
        *((f"{layer.name}, {'first' if layer.first else 'second'} layer", each[True]) for layer, each in shown),
    ]
