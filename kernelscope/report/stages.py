"""The sections of samples split over stages, and of what is local in noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from markupsafe import Markup

from .. import plots
from ..decomposition.wording import counted
from ..generative.stages.localisation import NoiseLocalisation
from ..generative.stages.noise_kernels import NoiseKernel
from ..generative.stages.optimal_result import OptimalExplanation
from ..generative.stages.result import LIMIT, DiffusionExplanation
from ..generative.stages.sampler_result import SamplerExplanation
from ..result import Result
from .album import Album
from .cells import cells, checks
from .learned import MOST_ROWS
from .reasons import MOST_QUERIES


def stages(result: Result, album: Album, name: str) -> dict[str, Any]:
    """The view of a sample's stages or of noise levels: what was found, its drawings, and its numbers to open."""
    table = result.to_frame()
    say, options = SHOWN[type(result)]
    return checks(result) | {
        "sentence": say(result),
        "drawings": [(Markup(plots.svg(result, **one)), plots.title(result, **one)) for one in options(result)],
        **cells(table.head(MOST_ROWS)),
        "left_out": f"Showing {MOST_ROWS} of {len(table):,} rows." if len(table) > MOST_ROWS else "",
    }


def _of_samples(result: DiffusionExplanation) -> str:
    q, levels, directions, bins, images = result.tensor.shape
    parts = [f"{counted(q, 'sample')}, split over {levels} stages of sampling, {bins} bins of training noise and "
             f"{images:,} training images, along {result.info['directions']}: {result.form}."]
    for query in range(min(q, MOST_QUERIES)):
        told = f"{result.names[query]} is {result.verdict(query)}; {result.said_of_noise(query)}"
        parts.append(f"{told[0].upper()}{told[1:]}.")
    kappa = float(result.cancellation("image and bin").max())
    parts.append(f"At some stage the terms are {kappa:.3g} times as large as their sum" + (
        ", so images are ranked and no percentage is given." if kappa > LIMIT else "."))
    return " ".join([*parts, *result.info.get("notes", [])])


def _of_optimal(result: OptimalExplanation) -> str:
    q, levels, images = result.weights.shape
    eff = result.concentration().n_eff.median(0).values
    low, high = result.middle()
    return (f"The optimal denoiser can only give training images back. Of {images:,} images it mixes "
            f"{float(eff[0]):.0f} at the first of {levels} stages and {float(eff[-1]):.2g} at the last, the median "
            f"over {counted(q, 'sample')}; half of all change happens between noise {high:.2g} and {low:.2g}.")


def _of_kernel(result: NoiseKernel) -> str:
    s, within, across = result.split()
    mean, null = float(result.index @ result.weights), result.index_untrained
    beside = [] if null is None else [f"the untrained network’s is {float(null @ result.weights):.2f}"]
    if result.shuffled is not None:
        beside.append(f"with levels shuffled it is {float(result.shuffled[0] @ result.weights):.2f}")
    return (f"A step at one noise level moves answers at others as far as their kernels are alike: with a cosine of "
            f"{within:.2f} on the same side of noise {float(result.levels[s]):.2g}, and of {across:.2f} across it. The "
            f"index of noise-localisation is {mean:.2f}"
            f"{'; ' + ' and '.join(beside) if beside else ''}.").replace("-0.", "−0.")


def _of_localisation(result: NoiseLocalisation) -> str:
    said = result.said()
    return (f"What was learned at {len(result)} noise levels, over the noise that its gradients were drawn at, is "
            f"{said}. {float(result.near.mean()):.0%} comes from within one bin of the own noise, where an even spread "
            f"has {float(result.near_uniform.mean()):.0%}; terms are up to {float(result.cancellation.max()):.3g} "
            "times as large as their sum.").replace("-0.", "−0.")


def _once(result: Result) -> list[dict[str, Any]]:
    return [{}]


def _each_sample(result: DiffusionExplanation) -> list[dict[str, Any]]:
    return [{"query": query} for query in range(min(len(result), MOST_QUERIES))]


def _both_countings(result: NoiseLocalisation) -> list[dict[str, Any]]:
    return [{}] if result.normalised is None else [{}, {"normalised": True}]


#: What is said of each, and what is drawn.
SHOWN: dict[type, tuple[Callable[[Any], str], Callable[[Any], list[dict[str, Any]]]]] = {
    DiffusionExplanation: (_of_samples, _each_sample),
    SamplerExplanation: (_of_samples, _each_sample),
    OptimalExplanation: (_of_optimal, _once),
    NoiseKernel: (_of_kernel, _once),
    NoiseLocalisation: (_of_localisation, _both_countings),
}
