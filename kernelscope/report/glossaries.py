"""What the words on a page mean, and what a result is called there."""

from __future__ import annotations

from collections.abc import Sequence

from ..decomposition.explanation import Explanation
from ..decomposition.influence.beside import ContributionAndInfluence
from ..decomposition.influence.result import Influence
from ..decomposition.result import Decomposition
from ..decomposition.stochastic.ensemble import Ensemble
from ..decomposition.stochastic.result import Expected
from ..decomposition.token_result import TokenContributions
from ..decomposition.wording import CANCELLATION_LIMIT
from ..diagnostics.agreement import Agreement
from ..diagnostics.comparing.result import RunComparison
from ..diagnostics.coverage.result import Coverage
from ..diagnostics.curves.result import LearningCurves
from ..diagnostics.eigenlearning import Eigenlearning
from ..diagnostics.evolution.between import KernelDistances
from ..diagnostics.evolution.result import KernelEvolution
from ..diagnostics.leaving_out.evaluation import Evaluation
from ..diagnostics.leaving_out.trial import SubsetTrial
from ..diagnostics.null_space.reservoir_result import Reservoir
from ..diagnostics.null_space.result import NullSpace
from ..diagnostics.predictions import Predictions
from ..diagnostics.scaling import Scaling
from ..diagnostics.scores import GradientScores
from ..diagnostics.separation import Separation
from ..diagnostics.spectra import Spectrum
from ..diagnostics.trade_offs import TradeOffs
from ..generative.comparing.bridging import Bridge
from ..generative.comparing.comparison import GenerativeComparison
from ..generative.denoising.fits import DenoiserFit
from ..generative.denoising.jacobians import JacobianGeometry
from ..generative.games.geometry import CriticGeometry
from ..generative.games.result import GANExplanation
from ..generative.games.spectra import GameSpectrum
from ..generative.games.witnessing import Witness
from ..generative.stages.localisation import NoiseLocalisation
from ..generative.stages.noise_kernels import NoiseKernel
from ..generative.stages.optimal_result import OptimalExplanation
from ..generative.stages.result import DiffusionExplanation
from ..generative.stages.sampler_result import SamplerExplanation
from ..generative.trials.covering import CoverageTrial
from ..generative.trials.disjoint import DisjointHalves
from ..generative.trials.memorisation import MemorisationTransition
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
    ("unattributed", "Changes of the parameters that the optimizer’s rule does not explain, or that happened between "
                     "those that were kept."),
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

INFLUENCE_GLOSSARY = (
    ("contribution", "What training on a sample added to an answer along one recorded run, exactly; all of them, and "
                     "the other channels, add up to the answer."),
    ("influence", "The derivative of an answer by the weight of a sample in training: how the answer would change, to "
                  "first order, had the sample counted more or less. It is no share, and does not add up to anything."),
    ("metagradient", "The influence through the whole recorded training, by automatic differentiation of every step."),
    ("Gauss-Newton", "The influence at the end of training alone, by one damped step of Gauss and Newton."),
    ("damping", "What is added to every curvature, so that directions in which training has learned little count "
                "little."),
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

TOKEN_GLOSSARY = (
    ("token", "A piece of text that the network takes and says as one: here a character or a word."),
    ("contribution of a token", "What was booked on having had to say this token, after those before it, along the "
                                "recorded run, exactly. It is no counterfactual: without the token others would have "
                                "moved the network otherwise."),
    ("log-probability", "The logarithm of the probability that the network gives the token, given those before it."),
    ("cancellation κ", "The sizes of all contributions, added up, over the size of their sum. Above 10 no percentage "
                       "of the sum is given."),
)

TRADE_OFF_GLOSSARY = (
    ("standard error", "How far a mean over seeds is off, as their spread tells: the standard deviation over the root "
                       "of their number. It is drawn as a bar."),
    ("level", "Within one standard error of the best mean."),
)

DENOISER_GLOSSARY = (
    ("denoiser", "A function that is given a noisy point and its noise level, and says where the clean point is."),
    ("noise level", "The standard deviation σ of the Gaussian noise in every number of a point."),
    ("Wiener", "The best linear denoiser: all it knows of the training points is their mean and covariance."),
    ("optimal", "The denoiser of least error over the training points, which are all it knows: it gives back mixtures "
                "of them, and at low noise one of them."),
    ("LS, ELS", "Local denoisers: each pixel is a mixture of training pixels, weighed by how alike the windows around "
                "them are. LS compares a window with those at the same place, ELS with those at other places too. The "
                "number is the width of the window."),
    ("r²", "1 minus the mean square between the denoiser and the closed form, over the variance of the denoiser: 1 "
           "where they are one. At low noise the noisy point itself is near, so it is given too."),
    ("skill", "The share of what the denoiser does to a noisy point that the closed form does too."),
    ("Jacobian", "How each number of the denoised point moves with each number of the noisy one."),
    ("degrees of freedom", "The trace of the Jacobian: how many directions of a noisy point a denoiser lets pass."),
    ("asymmetry", "What the Jacobian has off its symmetric part. That of a mean of clean points given the noisy one is "
                  "symmetric."),
    ("paired, independent", "The same points and noise at all noise levels, or others at each."),
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

GEOMETRY_GLOSSARY = (
    ("critic", "The network of a GAN that scores points: high for real ones, low for generated ones."),
    ("slope", "The gradient of the critic’s score by the point: the direction in which a generated point is moved."),
    ("effective rank of slopes", "Over how many directions the slopes at generated points spread, by the entropy of "
                                 "the eigenvalues of their second moment. The mean direction is the part that all of "
                                 "them share."),
    ("kernel of the critic, of the generator", "The products of gradients of a network’s outputs at two points: how "
                                               "much a small step for one would move the other."),
    ("guided kernel", "The generator’s kernel between two latents, along the slopes at what they make. Its mean is "
                      "the rate at which the generator’s loss falls."),
    ("witness function", "The critic that a fixed kernel gives: the mean kernel with real points minus that with "
                         "generated ones."),
    ("denoiser’s step", "What a diffusion model takes a point to, minus the point."),
    ("way back", "From a point with noise to the point it was made from."),
    ("real − generated", "The step of the optimal denoiser of real points minus that of generated ones: the slope of "
                         "the critic that has nothing left to learn, smoothed by noise."),
    ("untrained", "The same network as training began, at the same points: what its architecture alone has."),
)

GAME_GLOSSARY = (
    ("game", "Two networks that are trained at once, each with a loss that depends on the other."),
    ("eigenvalue of a game", "How fast the motion of both players decays or grows along a direction (real part) and "
                             "how fast it turns (imaginary part). A single loss has no imaginary parts."),
    ("chord", "The straight line from an earlier point of training to a later one, and beyond it."),
)

COMPARISON_GLOSSARY = (
    ("diffusion model", "A network that takes noise out of points. It makes a point from noise alone, going down noise "
                        "levels σ stage by stage."),
    ("GAN", "Two networks: a generator makes points in one step, and a critic gives a score that tells real points "
            "from generated ones; the generator follows the critic’s slope."),
    ("null", "The same number of something that was not trained so: what a claim has to be held against."),
    ("optimal denoiser", "The formula that would answer best on the training points alone. It gives back training "
                         "points, so it covers all and copies all."),
    ("Wiener denoiser", "The best denoiser for a Gaussian with the mean and covariance of the training points."),
    ("coverage", "The share of real points that have a generated one nearer than their fifth real neighbour."),
    ("copy", "A sample that is less than a third as far from one training point as from any other."),
    ("local in noise", "What the network learns at a noise level acts at that level, and less at others. The index is "
                       "1 for one level alone and 0 if it is spread as the noise of training was."),
    ("cancellation κ", "The sizes of all contributions, added up, over the size of their sum. Beyond 10 most of what "
                       "points add is taken back by others, and shares mean nothing."),
    ("effective number of points", "Over how many points contributions are spread, by entropy, once what all add alike "
                                   "is taken off."),
    ("bridge", "The critic’s slope and the denoiser’s step at the same point: whether both would correct it the same "
               "way, as a cosine."),
)

WITNESS_GLOSSARY = (
    ("witness", "The critic’s score as a running difference of what it was shown: real points pull it up where they "
                "are, generated points pull it down."),
    ("cancellation", "How many times over the contributions cancel: the sum of their sizes, over the size of their "
                     "sum. Where it is above 10 no percentage is told, and contributions are read beside their mean."),
    ("path, frozen", "Along the path: the motion since the first step, through every critic that the generator met. "
                     "Frozen: the motion that the last critic asks for. Both are contributions, and do not tell what "
                     "the generator would make without an image."),
    ("mass", "How much a real image’s contributions differ from the mean of all, over all generated points; it sums to "
             "one."),
    ("covered, dropped", "A real image is covered if a generated point is nearer than its fifth real neighbour. It is "
                         "dropped if none is, and it has next to no mass."),
    ("first critic", "What the critic’s parameters before training did, which no real image made."),
)

TRIAL_GLOSSARY = (
    ("copy, memorised", "A sample less than a third as far from its nearest training point as from the second "
                        "nearest."),
    ("coverage", "The share of held-out points with a sample nearer than their fifth neighbour among themselves."),
    ("density", "How many balls of held-out points hold a sample on average, over five; about 1 for real points."),
    ("search", "The settings that were tried for each of two models, as many for both, and judged by validation points "
               "that neither the training nor the comparison has."),
    ("paired difference", "The mean over seeds of one model less the other, with the 95 % interval of Student’s t. The "
                          "two are called apart where it leaves out 0."),
    ("halves", "Two networks trained on sets of points that share none, given the same noise."),
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

STAGE_GLOSSARY = (
    ("denoiser, noise level", "A network that is given a noisy point and the size σ of its noise, and says where the "
                              "clean point is."),
    ("stage", "One noise level on the way from noise to a sample. The sample is what the denoiser says at the last "
              "one."),
    ("training noise, bin", "The noise level at which training showed a point. Bins hold equal parts of all draws."),
    ("contribution", "What the draws of a training image, or of a bin of training noise, added to the denoised point "
                     "of a stage along this run: exact, and with a sign. It is not what leaving them out would do."),
    ("centred, ranks", "What a group added more than the mean one, and its place in that order. It is read where "
                       "contributions cancel."),
    ("cancellation κ", "The sizes of all contributions, added up, over the size of their sum. Above 10 no percentage "
                       "of the sum is given."),
    ("d1/d2, memorised, composed", "The distance to the nearest training image over that to the second. Below a third "
                                   "the sample is a copy, that is memorised; else it is composed."),
    ("n_eff", "Over how many images something is spread, by entropy. That of the optimal denoiser tells how many "
              "images are near at this noise."),
    ("optimal denoiser", "The formula that answers best on the training images alone: it mixes them, and gives one of "
                         "them back in the end."),
    ("kernel of noise levels", "How much a step for a point at one noise level moves the answer at another, as a "
                               "cosine: 1 moves both alike, 0 not at all."),
    ("index of noise-localisation", "1 where what is learned at a noise level comes from this level alone, 0 where it "
                                    "comes from all alike, below 0 where it comes from far away."),
    ("shuffled", "The same number with noise levels, or the bins of draws, in random order: what chance alone gives."),
    ("normalised", "Each draw counts alike, whatever the length of its gradient."),
)

RUNS_GLOSSARY = (
    ("probe", "A point that both runs are asked about."),
    ("null", "The same number of what was not trained so: what a claim has to be held against. Untrained: the same two "
             "networks as training began. Other probes: one run at a probe, held against the other at another."),
    ("contribution", "What one training sample added to an answer over all steps of a run: exact, and with a sign. It "
                     "is not what leaving the sample out would do."),
    ("to lean on", "The samples with the largest contributions in size."),
    ("overlap", "The share of the samples an answer leans on most that is the same in both runs."),
    ("same sample", "One whose input and target are the same numbers in both training sets, unless another way was "
                    "asked for. Copies within a set count once."),
    ("cancellation κ", "The sizes of all contributions, added up, over the size of their sum. Beyond 10 shares mean "
                       "nothing, and only ranks of contributions are read."),
    ("kernel", "For two probes the product of the gradients of the network’s outputs, summed over outputs, at the end "
               "of training: how much a step for one would move the other."),
    ("CKA, debiased", "How alike two kernels are whatever their scale: 1 is the same. Debiased, it does not count a "
                      "probe’s product with itself, which makes the plain number of few probes too large."),
    ("interval", "It holds 95 % of what other probes of the same kind would give; other runs may differ by more."),
    ("effective rank", "Over how many directions a kernel spreads the probes, by the entropy of its eigenvalues."),
    ("coverage", "The share of a probe’s tangent feature that is inside the span of those of training."),
)

EVALUATION_GLOSSARY = (
    ("LDS", "The rank correlation, over random subsets of the training samples, of the sum of a way’s scores over the "
            "subset with what a network trained on the subset answers; the mean over queries."),
    ("contribution", "What a sample added to an answer along the recorded run, an exact share. It makes no claim about "
                     "training without the sample."),
    ("influence", "What leaving a sample out of training would do to an answer, to first order."),
    ("metagradient", "The influence through all steps of training: the derivative of the final answer by the weight "
                     "of a sample in the loss."),
    ("Gauss-Newton", "The influence at the end of training, as if it had converged, by the damped Gauss-Newton "
                     "matrix."),
    ("gradient dot, TracInCP", "Products of gradients at the end of training, or at checkpoints."),
    ("same start", "Networks that began with the parameters that the run began with."),
    ("mean of seeds", "The mean answer of networks that began with parameters drawn anew, one for each seed."),
    ("ceiling of noise", "About the LDS of what knows the mean answer over all seeds: the root of what another set of "
                         "as many seeds would foretell these answers by (Spearman and Brown)."),
    ("setting", "What was chosen for a way, such as a damping: for each half of the queries what did best on the other "
                "half."),
)

#: The words of each kind of results, in the order of the page.
GLOSSARIES = (
    ((Explanation, Decomposition), GLOSSARY),
    ((GANExplanation, Witness), WITNESS_GLOSSARY),
    ((DiffusionExplanation, SamplerExplanation, OptimalExplanation, NoiseKernel, NoiseLocalisation), STAGE_GLOSSARY),
    ((GradientScores,), SCORE_GLOSSARY),
    ((Expected, Ensemble, Agreement), NOISE_GLOSSARY),
    ((KernelEvolution, KernelDistances, Spectrum), KERNEL_GLOSSARY),
    ((NullSpace, Reservoir, Eigenlearning, Predictions), NULL_GLOSSARY),
    ((Coverage, Separation), COVERAGE_GLOSSARY),
    ((Influence, ContributionAndInfluence), INFLUENCE_GLOSSARY),
    ((Scaling,), SCALING_GLOSSARY),
    ((LearningCurves,), CURVES_GLOSSARY),
    ((TokenContributions,), TOKEN_GLOSSARY),
    ((TradeOffs,), TRADE_OFF_GLOSSARY),
    ((DenoiserFit, JacobianGeometry), DENOISER_GLOSSARY),
    ((BundleReport,), BUNDLE_GLOSSARY),
    ((ConversionReport, ModeComparison), LAYER_GLOSSARY),
    ((Ridges, LeaveOneOut), RIDGE_GLOSSARY),
    ((GenerativeComparison,), COMPARISON_GLOSSARY),
    ((Bridge, CriticGeometry), GEOMETRY_GLOSSARY),
    ((GameSpectrum,), GAME_GLOSSARY),
    ((RunComparison,), RUNS_GLOSSARY),
    ((Evaluation,), EVALUATION_GLOSSARY),
    ((CoverageTrial, DisjointHalves, MemorisationTransition, SubsetTrial), TRIAL_GLOSSARY),
)

HEADINGS = {
    "Agreement": "Prediction and measurement",
    "Bridge": "Critic and denoiser at the same points",
    "BundleReport": "A network, bundled",
    "ConversionReport": "A layer as a sum of features",
    "Coverage": "Inside or outside of what was learned",
    "CriticGeometry": "What a critic can tell a generator",
    "CoverageTrial": "What a denoiser and a GAN cover",
    "Decomposition": "The ledger",
    "DenoiserFit": "Which closed form a denoiser is",
    "DiffusionExplanation": "Why a sample is what it is",
    "DisjointHalves": "What halves of the data agree on",
    "SamplerExplanation": "Why a sample is what it is, through its sampler",
    "Eigenlearning": "The error that is expected",
    "Ensemble": "The same training on other batches",
    "Evaluation": "What foretells leaving samples out",
    "Expected": "Where runs end on average",
    "Explanation": "Why it answers so",
    "GameSpectrum": "Whether the players go round each other",
    "GenerativeComparison": "Two generative models, side by side",
    "GANExplanation": "What moved the generator",
    "GradientScores": "Which samples pull the same way",
    "Influence": "What leaving samples out would do",
    "ContributionAndInfluence": "Contribution, and influence beside it",
    "JacobianGeometry": "What a denoiser lets pass",
    "KernelDistances": "The kernels of two runs",
    "KernelEvolution": "How the kernel moved",
    "LearningCurves": "How errors fall with samples",
    "LeaveOneOut": "What it says of samples it was not told of",
    "MemorisationTransition": "Where copies turn into new samples",
    "MemoryWeights": "What an optimizer remembers",
    "ModeComparison": "Ways to convert a layer",
    "NoiseKernel": "Which noise levels are learned together",
    "NoiseLocalisation": "Whether what is learned stays at its noise",
    "NullSpace": "What it could not learn",
    "OptimalExplanation": "What the optimal denoiser mixes",
    "Orders": "How fast errors fall",
    "PathKernel": "A kernel of the run",
    "Predictions": "Foretold and measured",
    "Reservoir": "Residuals that were left alone",
    "Ridges": "How smooth a function",
    "RunComparison": "Two runs, side by side",
    "Scaling": "More centers, more data",
    "Separation": "Which score knows what is unknown",
    "Spectrum": "The spectrum of a kernel",
    "SubsetTrial": "Which scores foretell retraining",
    "TokenContributions": "Which tokens of training said it",
    "TradeOffs": "What it costs to be good",
    "Witness": "The critic, a running witness",
}


def is_booked(results: Sequence[Result]) -> bool:
    """Whether a page is about contributions; one without results is taken for such a page."""
    return not results or any(isinstance(result, Explanation | Decomposition) for result in results)


def is_influence(results: Sequence[Result]) -> bool:
    """Whether there is influence on a page."""
    return any(isinstance(result, Influence | ContributionAndInfluence) for result in results)


def glossary(results: Sequence[Result]) -> tuple[tuple[str, str], ...]:
    """The words that a page with these results explains, each once."""
    found = dict(() if results else GLOSSARY)
    for kinds, words in GLOSSARIES:
        if any(isinstance(result, kinds) for result in results):
            found.update((word, text) for word, text in words if word not in found)
    return tuple(found.items())


def heading(result: Result) -> str:
    """What a result is called that was given no heading."""
    return HEADINGS.get(type(result).__name__, type(result).__name__)
