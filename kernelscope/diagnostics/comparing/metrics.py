"""The measures of a comparison: their names, what each is, and in which order they are told."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["METRICS", "SIDES", "Metric"]

SIDES = ("a", "b")

ANSWERS, RIGHT, SAMPLES = "What they answer", "Whether it is right", "Which samples they lean on"
KERNELS, COVERED = "What their kernels see", "Whether probes are inside what was learned"


class Metric(NamedTuple):
    """A measure in words: the group it belongs to, what it is called, and what its number is."""

    group: str
    label: str
    said: str


def _each(name: str, group: str, label: str, said: str) -> dict[str, Metric]:
    return {f"{name}_{side}": Metric(group, f"{label}, {side}", said) for side in SIDES}


#: Measures by their names, in the order of the table.
METRICS: dict[str, Metric] = {
    "agreement": Metric(ANSWERS, "agreement", "share of probes that both answer with the same class"),
    "outputs_apart": Metric(ANSWERS, "outputs apart", "root mean square difference of outputs over their spread; of "
                                                      "logits without what a softmax does not see"),
    **_each("right", RIGHT, "right", "share of probes answered with the true class"),
    "right_change": Metric(RIGHT, "right, change", "share that b answers right, minus that of a"),
    **_each("loss", RIGHT, "loss", "mean loss of the probes"),
    "loss_change": Metric(RIGHT, "loss, change", "mean loss of b minus that of a"),
    "samples_apart": Metric(SAMPLES, "samples apart", "distinct training samples that only one of the two drew"),
    "overlap": Metric(SAMPLES, "top-k overlap", "share of the k samples with the largest contributions that is the "
                                                "same in both, mean over probes"),
    "pooled_overlap": Metric(SAMPLES, "top-k overlap, pooled", "the same for contributions in size, added up over all "
                                                               "probes"),
    "contribution_rank": Metric(SAMPLES, "contributions in rank", "rank correlation of all shared samples' "
                                                                  "contributions, mean over probes"),
    **_each("kappa", SAMPLES, "cancellation κ", "sizes of contributions, added up, over the size of their sum; median "
                                                "over probes"),
    "cka": Metric(KERNELS, "CKA", "how alike the empirical NTKs of the probes are, debiased: an estimate for all "
                                  "points like them"),
    "cka_plain": Metric(KERNELS, "CKA, plain", "the usual CKA of these probes, too large as an estimate for others"),
    "feature_cka": Metric(KERNELS, "CKA of features", "the debiased CKA of what goes into the last layers"),
    **_each("drift", KERNELS, "drift of the kernel", "1 minus the debiased CKA of the kernels at start and end"),
    **_each("rank", KERNELS, "effective rank", "directions that the kernel spreads probes over, by entropy"),
    "rank_ratio": Metric(KERNELS, "effective rank, ratio", "that of b over that of a"),
    **_each("coverage", COVERED, "coverage", "share of a probe's tangent feature inside the span of training, mean"),
    "coverage_change": Metric(COVERED, "coverage, change", "mean coverage in b minus that in a"),
}
