"""What the words on a page mean, and what a result is called there."""

from __future__ import annotations

from collections.abc import Sequence

from ..decomposition.explanation import Explanation
from ..decomposition.result import Decomposition
from ..decomposition.stochastic.ensemble import Ensemble
from ..decomposition.stochastic.result import Expected
from ..decomposition.wording import CANCELLATION_LIMIT
from ..diagnostics.agreement import Agreement
from ..diagnostics.coverage.result import Coverage
from ..diagnostics.curves.result import LearningCurves
from ..diagnostics.eigenlearning import Eigenlearning
from ..diagnostics.evolution.between import KernelDistances
from ..diagnostics.evolution.result import KernelEvolution
from ..diagnostics.null_space.reservoir_result import Reservoir
from ..diagnostics.null_space.result import NullSpace
from ..diagnostics.predictions import Predictions
from ..diagnostics.scaling import Scaling
from ..diagnostics.scores import GradientScores
from ..diagnostics.separation import Separation
from ..diagnostics.spectra import Spectrum
from ..diagnostics.trade_offs import TradeOffs
from ..generative.memorisation import MemorisationTransition
from ..generative.removal import SubsetTrial
from ..machine.left_out import LeaveOneOut
from ..machine.ridges import Ridges
from ..nn.bundles.bundle_report import BundleReport
from ..nn.layers.comparing import ModeComparison
from ..nn.layers.report import ConversionReport
from ..result import Result

GLOSSARY = (
    ("contribution", "What one training sample added to the explained number over all steps of this run: exact, and "
                     "with a sign. Also called its share."),
    ("logit", "The network’s raw score for a class, before scores are turned into probabilities."),
    ("lead", "The predicted class’s logit minus the runner-up’s. Both classes are chosen at the end of training and "
             "kept."),
    ("step", "One update of the network’s parameters, computed from one batch of training samples."),
    ("group", "All training samples with the same label."),
    ("cancel", "Contributions of opposite sign that undo each other. When their sum is less than "
               f"{CANCELLATION_LIMIT} of the sum of their absolute values, no percentages are given."),
    ("weight decay", "What pulling all parameters towards zero did to the number."),
    ("momentum at the start", "What an optimizer carried over from before the recording did."),
    ("normalisation statistics", "What running means and variances inside the network did."),
    ("rounding in training", "What the computer’s rounding of the parameters did, step by step."),
    ("unattributed", "Changes of the parameters that the optimizer’s rule does not explain."),
    ("round-off", "What is left when all lines are added: the rounding of this ledger’s own arithmetic."),
    ("kernel", "How much a step on one sample moves the answer to another. Each contribution is a kernel times how "
               "wrong the network then was about the sample, added up over the steps."),
)

SCORE_GLOSSARY = (
    ("gradient score", "The product of two gradients, that of a training sample and that of a test sample; or their "
                       "cosine. It is taken at fixed parameters, and is neither a contribution to an answer nor the "
                       "effect of leaving a sample out."),
    ("proponent", "A training sample with a positive score for a test sample: its gradient points the same way."),
    ("opponent", "A training sample with a negative score for a test sample: its gradient points the other way."),
)

SCALING_GLOSSARY = (
    ("center", "A point a kernel machine is anchored at; the machine is as large as it has centers."),
    ("sample", "A point the machine is fitted to. Its number does not change the machine’s size."),
    ("test error", "The mean squared error on points that no machine has seen."),
    ("pass", "One reading of all samples."),
)

CURVES_GLOSSARY = (
    ("sample", "A member of the training set. Where it comes in several copies, they go together and count once."),
    ("error", "The mean squared error on test points, as a share of that of the best constant."),
    ("wrong", "The share of test points whose class is told wrong."),
    ("exponent", "The power of the number of samples by which an error falls: with an exponent of 0.5, four times the "
                 "samples halve it. Its interval holds 95 % of what the same fit gives with orders and test points "
                 "drawn again."),
    ("flattens, steepens", "The interval of the bend beside a straight line in logarithms leaves out nought, so that "
                           "the curve is no power law, and its exponent stands for the sizes measured alone."),
    ("floor", "The error that would be left with any number of samples, told where a curve flattens towards one."),
    ("null", "What needs no network: a kernel of distances alone, or the nearest training sample."),
)

NOISE_GLOSSARY = (
    ("expected output", "The mean of the output over runs that differ by the batches they drew, from the same start."),
    ("path, curvature, noise", "The three terms of the expected output beyond the initial one: what full gradients do "
                               "along the path, what the bend of the output adds, and what the draw of batches adds."),
    ("martingale", "What the draw of batches did to first order, step by step: its mean over runs is nought."),
    ("row", "The products of one output’s gradient with the gradients of all training samples. Its variance is the "
            "spread that the noise of one step would have if nothing was forgotten."),
    ("carried", "A push of the gradient followed through the later steps to the end of the run, which forgets part of "
                "it."),
    ("seed", "One draw of all batches of a run."),
)

KERNEL_GLOSSARY = (
    ("tangent kernel", "For two samples the product of the gradients of the network’s outputs, summed over outputs, at "
                       "the parameters of a time: how much a small step for one sample would move the answer to the "
                       "other."),
    ("alignment", "How alike the kernel is to that of the targets, as the cosine of both centred matrices; 1 is the "
                  "same but for scale."),
    ("CKA", "The cosine of two centred kernel matrices: how alike two kernels are whatever their scale."),
    ("kernel regression", "The smooth function that the kernel of one time makes of the training targets, with a ridge "
                          "relative to the mean of the kernel’s diagonal."),
    ("fitting the network’s outputs", "The network’s own change of outputs on training samples is fitted by the kernel "
                                     "of a time and told on the other points. What is missed is a share of the "
                                     "variance of its outputs there."),
    ("effective rank", "How many equal eigenvalues would be spread as these are: by the entropy of their shares of the "
                       "trace, or by participation, the squared trace over the sum of squares."),
    ("silent alignment", "The kernel turns while the loss has hardly fallen, and only grows while it falls."),
)

NULL_GLOSSARY = (
    ("mode", "A direction of the path kernel on some points, a pattern of outputs that training moves together. The "
             "larger its eigenvalue, the further a path of given energy can move it."),
    ("energy", "Of a target: its squared size. Of a path: the squared steps over the learning rates, added up."),
    ("reach", "How far the recorded path could have moved a mode, whatever the samples were: the root of its "
              "eigenvalue times the energy of the path. It holds for every optimizer, loss and network."),
    ("bound", "The mean squared error that is left because the target lies beyond the reach: a certificate, not an "
              "estimate."),
    ("filter", "The share of a mode that a kernel which does not change would have learned: an estimate."),
    ("eigenlearning", "A formula for the expected test error of kernel regression, from eigenvalues and the target."),
    ("reservoir", "Directions of the residual that training left as they were. No query is moved by them."),
    ("Spearman", "The correlation of ranks: 1 where a larger prediction always goes with a larger measurement."),
)

COVERAGE_GLOSSARY = (
    ("tangent feature", "The gradient of an answer by the network’s parameters: how a step would move it."),
    ("span of training", "All sums of the tangent features of training samples. What of a query’s feature is outside, "
                         "no step on these samples could have moved."),
    ("coverage", "The share of a query’s feature, by its squared length, that is inside the span of training. A ridge "
                 "keeps directions from counting that the samples hardly have."),
    ("by the others", "The coverage of a training sample when it is left out itself: what is usual."),
    ("known, unknown", "Points of the kinds that were trained on, and points of other kinds."),
    ("AUROC", "The chance that a known point has a larger score than an unknown one: 1 for a score that never errs, "
              "0.5 for one that says nothing."),
    ("null", "A score that needs no network: the distance to the nearest training sample in raw inputs."),
)

TRADE_OFF_GLOSSARY = (
    ("standard error", "How far a mean over seeds is off, as their spread tells: the standard deviation over the root "
                       "of their number. It is drawn as a bar."),
    ("level", "Within one standard error of the best mean."),
)

BUNDLE_GLOSSARY = (
    ("block", "A part of a network that is a function of one row: a linear layer, an activation, a linear layer."),
    ("features", "Fixed functions of what a block is given: of random directions, or some of its own neurons. Only the "
                 "matrix behind them is fitted, by ridge regression."),
    ("accumulated error", "How far a block’s output is from the original’s in the bundled network, with what the "
                          "blocks before it did to its input."),
    ("linear map", "The best linear function of the same inputs, fitted to the same rows. Features that are no better "
                   "are not worth having."),
)

LAYER_GLOSSARY = (
    ("feature", "A fixed function of a layer's inputs. The layer is a sum of features, with coefficients for each of "
                "its outputs."),
    ("relative error", "The size of an error, as the root of a sum of squares over inputs and outputs, as a share of "
                       "that of the outputs themselves. Inputs were held out from the fit."),
    ("floor", "What no layer of so many features can go below, whatever the features are. A layer with a linear map "
              "beside its features is bound by the lower of the two floors."),
    ("linear map, low rank, narrower", "Simpler layers in its place: a linear map by least squares; the layer itself "
                                       "with weights of small rank; so many of its neurons, and a linear map after "
                                       "them."),
    ("ridge, cur, analytic", "Features from random neurons, of which those are kept that explain most; from neurons of "
                             "the layer itself; and from formulas alone, which is refused where a linear map would do "
                             "better."),
)

RIDGE_GLOSSARY = (
    ("ridge", "The price of large weights of features: the larger it is, the smoother the function, and the farther "
              "from its samples."),
    ("degrees of freedom", "The effective number of weights: how many of them the ridge leaves free."),
    ("residual", "The mean squared error on the samples themselves."),
    ("GCV", "Generalised cross-validation: the residual, corrected for the share of degrees of freedom that it used "
            "up. An estimate of the error on points of the same kind that were not fitted."),
    ("leverage", "How much of the value at a sample is its own target, from 0 to 1."),
    ("without the sample", "The value at a sample of the machine that is fitted to all others: exact, by a formula and "
                           "not by another fit."),
)

TRIAL_GLOSSARY = (
    ("copy, memorised", "A sample less than a third as far from its nearest training point as from the second "
                        "nearest."),
    ("coverage", "The share of held-out points with a sample nearer than their fifth neighbour among themselves."),
    ("LDS", "The rank correlation, over subsets of the training points, of the sum of a score over the subset with "
            "what a network trained on it answers."),
    ("ceiling of noise", "About the LDS of what knows the mean answers: the root of the reliability of the measured "
                         "ones, from two halves of the seeds by the formula of Spearman and Brown."),
    ("contribution", "What a training point added to an answer along one recorded run, exactly."),
    ("influence", "What an answer would gain from more weight on a training point, by gradients of the end. It is no "
                  "contribution, nor is a contribution an influence."),
    ("Gauss-Newton", "The influence through the kernel of the trained network, sampled with random signs."),
    ("influence of the Wiener denoiser", "How the best linear denoiser, which knows a mean and a covariance and no "
                                         "network, answers to more weight on a training point."),
)

#: The words of each kind of results, in the order of the page.
GLOSSARIES = (
    ((Explanation, Decomposition), GLOSSARY),
    ((GradientScores,), SCORE_GLOSSARY),
    ((Expected, Ensemble, Agreement), NOISE_GLOSSARY),
    ((KernelEvolution, KernelDistances, Spectrum), KERNEL_GLOSSARY),
    ((NullSpace, Reservoir, Eigenlearning, Predictions), NULL_GLOSSARY),
    ((Coverage, Separation), COVERAGE_GLOSSARY),
    ((Scaling,), SCALING_GLOSSARY),
    ((LearningCurves,), CURVES_GLOSSARY),
    ((TradeOffs,), TRADE_OFF_GLOSSARY),
    ((BundleReport,), BUNDLE_GLOSSARY),
    ((ConversionReport, ModeComparison), LAYER_GLOSSARY),
    ((Ridges, LeaveOneOut), RIDGE_GLOSSARY),
    ((MemorisationTransition, SubsetTrial), TRIAL_GLOSSARY),
)

HEADINGS = {
    "Agreement": "Prediction and measurement",
    "BundleReport": "A network, bundled",
    "ConversionReport": "A layer as a sum of features",
    "Coverage": "Inside or outside of what was learned",
    "Decomposition": "The ledger",
    "Eigenlearning": "The error that is expected",
    "Ensemble": "The same training on other batches",
    "Expected": "Where runs end on average",
    "Explanation": "Why it answers so",
    "GradientScores": "Which samples pull the same way",
    "KernelDistances": "The kernels of two runs",
    "KernelEvolution": "How the kernel moved",
    "LearningCurves": "How errors fall with samples",
    "LeaveOneOut": "What it says of samples it was not told of",
    "MemorisationTransition": "Where copies turn into new samples",
    "MemoryWeights": "What an optimizer remembers",
    "ModeComparison": "Ways to convert a layer",
    "NullSpace": "What it could not learn",
    "Orders": "How fast errors fall",
    "PathKernel": "A kernel of the run",
    "Predictions": "Foretold and measured",
    "Reservoir": "Residuals that were left alone",
    "Ridges": "How smooth a function",
    "Scaling": "More centers, more data",
    "Separation": "Which score knows what is unknown",
    "Spectrum": "The spectrum of a kernel",
    "SubsetTrial": "Which scores foretell retraining",
    "TradeOffs": "What it costs to be good",
}


def is_booked(results: Sequence[Result]) -> bool:
    """Whether a page is about contributions; one without results is taken for such a page."""
    return not results or any(isinstance(result, Explanation | Decomposition) for result in results)


def glossary(results: Sequence[Result]) -> tuple[tuple[str, str], ...]:
    """The words that a page with these results explains."""
    found: tuple[tuple[str, str], ...] = () if results else GLOSSARY
    for kinds, words in GLOSSARIES:
        if any(isinstance(result, kinds) for result in results):
            found += words
    return found


def heading(result: Result) -> str:
    """What a result is called that was given no heading."""
    return HEADINGS.get(type(result).__name__, type(result).__name__)
