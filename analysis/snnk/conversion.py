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
          "ridge": ("ridge", False), "own neurons": ("cur", False), "low rank": ("low rank", False),
          "narrower": ("narrower", False), "linear map": ("linear map", False)}


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
    """All modes and baselines with a linear skip, for each number of features, and without one for one of them."""
    rest = {"held_out": layer.held, "seed": 0}
    return {True: ks.nn.compare_modes(layer.linear, layer.activation, layer.seen, counts, **rest),
            False: ks.nn.compare_modes(layer.linear, layer.activation, layer.seen, [M], ["ridge", "cur"], skip=False,
                                       **rest)}


def error(found: dict[bool, ks.nn.ModeComparison], way: str, skip: bool) -> float:
    """The relative error of a mode, a baseline or a floor with M features."""
    one = found[skip]
    place = one.features.index(M)
    return float(one.errors[one.modes.index(way), place] if way in one.modes else one.baselines[way][place])


def multiplications(layer: Layer, name: str) -> float:
    """What a way takes for an input with M features, beside the layer itself."""
    d, width = layer.linear.in_features, layer.linear.out_features
    products = 0 if name == "linear map" else M * (d + width)
    products += d * width if name == "linear map" or RIVALS[name][1] else 0
    return products / (d * width)


def side_by_side(found: list[tuple[Layer, dict[bool, ks.nn.ModeComparison]]]) -> ks.TradeOffs:
    """Errors of all layers with M features, by what each way takes: a layer counts as a seed does elsewhere."""
    # The geometric mean of costs, as layers have many sizes.
    points = [(name, math.exp(sum(math.log(multiplications(layer, name)) for layer, _ in found) / len(found)),
               [error(each, *RIVALS[name]) for _, each in found]) for name in RIVALS]
    return ks.trade_offs(points, cost="times the multiplications of the layer", measure="relative error",
                         higher=False, lines={"mean floor": sum(error(each, "floor", True) for _, each in found)
                                              / len(found)})


def span(values: list[float]) -> str:
    """The least and the largest of some numbers."""
    return f"{min(values):.2f} to {max(values):.2f}"


def by_layer(found: list[tuple[Layer, dict[bool, ks.nn.ModeComparison]]]) -> str:
    """One line of numbers for each layer."""
    rows = []
    for layer, each in found:
        told = ", ".join(f"{word} {error(each, way, skip):.3f}" for word, way, skip in (
            ("ridge", "ridge", True), ("own neurons", "cur", True), ("without skip", "ridge", False),
            ("and", "cur", False), ("linear", "linear map", True), ("low rank", "low rank", True),
            ("floor", "floor", True)))
        rows.append(f"{layer.name}: {told}")
    return f"Each layer with {M} features. {'. '.join(rows)}."


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


def low_rank(found: list[tuple[Layer, dict[bool, ks.nn.ModeComparison]]]) -> str:
    """When a layer of low rank with its own activation beats every sum of features."""
    said = []
    for first, which in ((True, "first"), (False, "second")):
        some = [each for layer, each in found if layer.first == first]
        gains = [min(error(one, "ridge", True), error(one, "cur", True)) / error(one, "low rank", True)
                 for one in some]
        said.append(f"of {which} layers it wins {sum(gain > 1 for gain in gains)} of {len(gains)} (the best sum of "
                    f"features has {span(gains)} times its error)")
    return (f"The other null is the layer itself with weights of rank {M}, chosen for the inputs: it keeps the "
            f"activation, and takes {M} (d + l) multiplications and no skip. {'; '.join(said).capitalize()}. Where "
            "inputs lie near few directions, as outputs of a hidden layer do, low rank is what to take.")


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
    return (f"{text} More features hardly help: for {layer.name} the forecast error is {told} features. {end}. So "
            "random features that know nothing of the inputs do not carry a trained layer; features that are chosen "
            "from the layer's own rows, and fitted, do.")


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


def conversions(quick: bool = False) -> list[str | tuple[str, ks.TradeOffs | ks.nn.ModeComparison]]:
    """Every layer in every way, and what did not hold."""
    names = ("tanh", "relu") if quick else tuple(ACTIVATIONS)
    counts = [16, M] if quick else [8, 16, M, 64]
    found = [(layer, converted(layer, counts)) for layer in layers(names, (128,) if quick else (128, 256))]
    shown = [(layer, each) for layer, each in found if layer.linear.out_features == 128 and (
        layer.first or layer.activation == names[0])]
    return [
        f"Layers of networks 64-128-128-10 and 64-256-256-10, trained on digits, each as {M} features and one matrix: "
        "neurons that are mixtures of the layer's own rows (ridge) or rows of its own (cur), with the matrix by ridge "
        f"regression and cross-validation. {ratios(found)}" if not quick else ratios(found),
        low_rank(found),
        by_layer(found),
        (f"All layers with {M} features", side_by_side(found)),
        universal(found[0][0], found, quick), arc_cosine(found),
        *((f"{layer.name}, {'first' if layer.first else 'second'} layer", each[True]) for layer, each in shown),
    ]
