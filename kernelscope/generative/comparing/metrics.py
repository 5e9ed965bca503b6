"""The rows of a comparison: their names, their order, and why a cell is empty."""

from __future__ import annotations

from typing import NamedTuple

from .sides import DIFFUSION, GAN

__all__ = ["METRICS", "Metric", "why_empty", "why_no_null"]


class Metric(NamedTuple):
    """A metric in words: the group it belongs to, and what its number is."""

    group: str
    label: str
    said: str


QUALITY, STABLE = "What they make", "Whether another seed makes the same"
NOISE, SPACE, KERNELS = "Where corrections are local", "How far pixels reach", "What their kernels see"
PATHS = "What their corrections are made of"

#: Rows in the order of the table.
METRICS = {
    "coverage": Metric(QUALITY, "coverage", "share of real points with a generated one in their ball"),
    "density": Metric(QUALITY, "density", "balls that hold a generated point, over 5"),
    "memorised": Metric(QUALITY, "memorised, training", "share three times nearer to one training point than to any "
                                                        "other"),
    "memorised_held_out": Metric(QUALITY, "memorised, held out", "the same beside points that nobody was trained on"),
    "stability": Metric(STABLE, "same latents", "mean cosine of what two seeds make of the same latents"),
    "matched_stability": Metric(STABLE, "nearest match", "mean cosine with the nearest that another seed makes"),
    "noise_locality": Metric(NOISE, "in noise", "noise-localisation index of the kernel: 0 as spread as the noise law, "
                                                "1 one noise level"),
    "time_locality": Metric(NOISE, "in training time", "the same index along training: 0 the same kernel all along"),
    "space_radius": Metric(SPACE, "radius in pixels", "mean distance over which pixels are joined"),
    "kernel_rank": Metric(KERNELS, "effective rank", "directions that the centred kernel spreads points over"),
    "class_alignment": Metric(KERNELS, "alignment with classes", "cosine with the kernel of classes, centred"),
    "pixel_alignment": Metric(KERNELS, "alignment with pixels", "cosine with the kernel of clean pixels, centred"),
    "real_alignment": Metric(KERNELS, "alignment with real or not", "cosine with the kernel of real against generated"),
    "cancellation": Metric(PATHS, "cancellation κ", "sum of sizes of all contributions over the size of their sum"),
    "class_cancellation": Metric(PATHS, "κ of classes", "the same, with real points added up by class"),
    "from_real": Metric(PATHS, "from real points", "what real points add, over the whole change"),
    "completeness": Metric(PATHS, "left over", "change that no term accounts for, over the sum of sizes"),
    "n_eff": Metric(PATHS, "effective number of points", "points that centred contributions are spread over, by "
                                                         "entropy"),
    "participation": Metric(PATHS, "participation ratio", "the same by squares"),
    "gini": Metric(PATHS, "Gini", "0 all points alike, 1 one point alone"),
}


def why_empty(metric: str, slot: str, kind: str, runs: int, paths: bool, labelled: bool, held_out: bool,
              pictures: bool) -> str:
    """Why one side has no number in a row."""
    group = METRICS[metric].group
    if group == PATHS and not paths:
        return "paths were left out"
    if group == STABLE and runs < 2:
        return "one run; two seeds are needed"
    if metric in ("class_alignment", "class_cancellation") and not labelled:
        return "no labels were given"
    if metric == "memorised_held_out" and not held_out:
        return "no points were held out"
    if group == SPACE and not pictures:
        return "points are no pictures"
    if kind == GAN and (metric == "noise_locality" or slot.startswith("σ")):
        return "a GAN has no noise levels; the nearest to it is locality in training time"
    if kind == DIFFUSION and (slot == "generator" or metric == "real_alignment"):
        return "a denoiser has no critic and no generator apart"
    return "not finite"


def why_no_null(metric: str) -> str:
    """Why a row has nothing beside it."""
    return {"completeness": "a rounding error: 0 is exact", "from_real": "1 where nothing else pulls"}.get(
        metric, "known only where the number is")
