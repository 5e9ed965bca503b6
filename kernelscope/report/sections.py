"""From a result to the template and the view that show it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from markupsafe import Markup

from .. import plots
from ..decomposition.explanation import Explanation
from ..decomposition.influence.beside import ContributionAndInfluence
from ..decomposition.influence.result import Influence
from ..decomposition.result import CHANNELS, Decomposition, percent
from ..decomposition.stochastic.ensemble import Ensemble
from ..decomposition.stochastic.kernel import PathKernel
from ..decomposition.stochastic.memory import MemoryWeights
from ..decomposition.stochastic.result import Expected
from ..decomposition.wording import beginning, counted, shortened
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
from ..diagnostics.orders import Orders
from ..diagnostics.predictions import Predictions
from ..diagnostics.scaling import Scaling
from ..diagnostics.scores import GradientScores
from ..diagnostics.separation import Separation
from ..diagnostics.spectra import Spectrum
from ..diagnostics.trade_offs import TradeOffs
from ..generative.comparing.bridging import Bridge
from ..generative.comparing.comparison import GenerativeComparison
from ..generative.denoising.fits import DenoiserFit
from ..generative.denoising.jacobians import MEASURES, JacobianGeometry
from ..generative.games.geometry import CriticGeometry
from ..generative.games.result import WORDS, GANExplanation
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
from .album import Album
from .balance import sheet
from .cells import cells, checks
from .compared import compared
from .facts import facts
from .games import game
from .generative import comparison as generative_comparison
from .influences import both, influence
from .learned import MOST_ROWS, covered, evolution, null_space, separated
from .reasons import LINE_NAMES, MOST_QUERIES, explanation, nothing
from .stages import stages

View = Callable[[Any, Album, str], dict[str, Any]]


def view_of(result: Result, album: Album, name: str) -> tuple[str, dict[str, Any]]:
    """The template that shows a result, and what it is given."""
    for kind in type(result).__mro__:
        if kind in SECTIONS:
            template, view = SECTIONS[kind]
            return template, view(result, album, name)
    raise TypeError(f"A report shows results; got {type(result).__name__}.")


def decomposition(ledger: Decomposition, album: Album, name: str) -> dict[str, Any]:
    """The view of a ledger: one drawing, one balance sheet for each output of each query."""
    q, c, n = ledger.contributions.shape
    sheets = []
    for query, output in [(i, j) for i in range(q) for j in range(c)][:MOST_QUERIES]:
        entries = [(beginning(ledger), "initial", float(ledger.initial[query, output]))]
        entries += [(LINE_NAMES.get(key, counted(n, "training sample")), "channel", float(values[query, output]))
                    for key, values in ((key, ledger.channels[key]) for key in CHANNELS)]
        empty = [key for key in CHANNELS if key in LINE_NAMES and not ledger.channels[key][query, output]]
        entries = [entry for entry in entries if entry[0] not in [LINE_NAMES[key] for key in empty]]
        entries += [("round-off", "residual", float(ledger.residual[query, output])),
                    ("after training", "final", float(ledger.final[query, output]))]
        title = f"Query {query}, {shortened(ledger.output_names[output])}"
        sheets.append((sheet(entries, float(ledger.magnitude[query, output]), title), nothing(empty)))
    drawn = q * c > 0
    return checks(ledger) | {
        "sentence": f"{counted(q, 'input')}, {counted(c, 'output')} of each, as sums over "
                    f"{counted(n, 'training sample')} and "
                    f"{counted(ledger.steps.shape[-1], 'chord' if ledger.on_chords else 'step')}"
                    f"{between(ledger)}; what is left over is "
                    f"{ledger.completeness():.1e} of the terms.".replace("e-", "e−"),
        "drawing": Markup(plots.svg(ledger)) if drawn else "",
        "caption": plots.title(ledger) if drawn else "",
        "sheets": sheets,
        "left_out": f"Showing {MOST_QUERIES} of {q * c} balance sheets." if q * c > MOST_QUERIES else "",
        "facts": facts(ledger),
    }


def between(ledger: Decomposition) -> str:
    """What a ledger over chords leaves open, within a sentence; empty of one over steps."""
    if not ledger.on_chords:
        return ""
    return (f" over {counted(ledger.moments[-1], 'step')}; {percent(ledger.unattributed_share())} of the terms in the "
            f"mean, or {percent(ledger.unattributed_of_change())} of the change, is unattributed")


def anything(result: Result, album: Album, name: str) -> dict[str, Any]:
    """The view of a result this room knows nothing about: its sentence, its drawing, its table, its checks."""
    table = result.to_frame()
    return checks(result) | {
        "sentence": result.summary(),
        "drawing": Markup(plots.svg(result)) if plots.drawing_of(result) else "",
        **cells(table.head(MOST_ROWS)),
        "left_out": f"Showing {MOST_ROWS} of {len(table):,} rows." if len(table) > MOST_ROWS else "",
    }


def scores(result: GradientScores, album: Album, name: str) -> dict[str, Any]:
    """The view of gradient scores: what a score is and what it is not, and one drawing and table a test sample."""
    count = len(result)
    return checks(result) | {
        "sentence": f"{result.extent()}. {result.meaning}",
        "cases": [_case(result, query) for query in range(min(count, MOST_QUERIES))],
        "left_out": f"Showing {MOST_QUERIES} of {count:,} test samples; {count - MOST_QUERIES:,} are not shown. They "
                    f"are a result of their own, scores[{MOST_QUERIES}:]." if count > MOST_QUERIES else "",
    }


def _case(result: GradientScores, query: int) -> dict[str, Any]:
    label = "" if result.query_labels is None else result.name(result.query_labels[query])
    row = result.scores[query]
    return {
        "headline": f"Test sample {query}{f', labelled {shortened(label)}' if label else ''}",
        "note": f"{counted(int((row > 0).sum()), 'proponent')}, {counted(int((row < 0).sum()), 'opponent')}",
        "drawing": Markup(plots.svg(result, query=query)),
        "caption": plots.title(result, query=query),
        **cells(result[[query]].to_frame().drop(columns="query")),
    }


def traced(result: GANExplanation, album: Album, name: str) -> dict[str, Any]:
    """The view of generated points traced to real images: the images behind some, the mass of all, the witness."""
    count = min(len(result), MOST_QUERIES)
    drawings = [(Markup(plots.svg(result, query=query)), plots.title(result, query=query)) for query in range(count)]
    table = result.to_frame()
    return checks(result) | {
        "sentence": f"{WORDS[result.how].capitalize()}: {result.said()}. Of real images {result.said_of_modes()}.",
        "drawings": [*drawings, (Markup(plots.svg(result, show="mass")), plots.title(result, show="mass")),
                     (Markup(plots.svg(result.witness)), plots.title(result.witness))],
        **cells(table.head(MOST_ROWS)),
        "left_out": f"Showing {MOST_ROWS} of {len(table):,} rows." if len(table) > MOST_ROWS else "",
    }


def scaling(result: Scaling, album: Album, name: str) -> dict[str, Any]:
    """The view of model size and data size varied apart: the error against each, and the time."""
    ways = [options for options in ({"against": "centers"}, {"against": "samples"},
                                    {"against": "centers", "show": "seconds"})
            if len(result.centers if options["against"] == "centers" else result.samples) > 1]
    table = result.to_frame()
    return checks(result) | {
        "sentence": f"{result.kernel}, ridge {result.ridge:g}, {counted(result.tests, 'test point')}: {result.said()}.",
        "drawings": [(Markup(plots.svg(result, **options)), plots.title(result, **options)) for options in ways],
        **cells(table),
        "left_out": "",
    }


def learning(result: LearningCurves, album: Album, name: str) -> dict[str, Any]:
    """The view of learning curves: a drawing of each measure, the law of each kernel, and the errors to open."""
    said = [f"{measure}: {text}" if len(result.errors) > 1 else text
            for measure in result.errors if (text := result.said(measure))]
    return checks(result) | {
        "sentence": f"{result.extent()}. {'. '.join(f'{text[0].upper()}{text[1:]}' for text in said)}.",
        "drawings": [(Markup(plots.svg(result, measure=measure)), plots.title(result, measure=measure))
                     for measure in result.errors],
        **cells(result.table()),
        "left_out": "",
    }


def agreement(result: Agreement, album: Album, name: str) -> dict[str, Any]:
    """The view of predicted against measured means and spreads: a drawing of each comparison."""
    return checks(result) | {
        "sentence": f"{result.said()[0].upper()}{result.said()[1:]}.",
        "drawings": [(Markup(plots.svg(result, show=show)), plots.title(result, show=show))
                     for show in ("covered", "variance", "guesses")],
        **cells(result.to_frame()),
        "left_out": "",
    }


def denoisers(result: DenoiserFit | JacobianGeometry, album: Album, name: str) -> dict[str, Any]:
    """The view of what a denoiser is at each noise level: a drawing of each measure, and the table to open."""
    shows = ("r2", "loss") if isinstance(result, DenoiserFit) else [
        measure for measure in MEASURES if bool(result.means[measure].isfinite().any())]
    said, table = result.summary().partition("(")[2].removesuffix(")"), result.to_frame()
    return checks(result) | {
        "sentence": f"{said[0].upper()}{said[1:]}.",
        "drawings": [(Markup(plots.svg(result, show=show)), plots.title(result, show=show)) for show in shows],
        **cells(table.head(MOST_ROWS)),
        "left_out": f"Showing {MOST_ROWS} of {len(table):,} rows." if len(table) > MOST_ROWS else "",
    }


def noise(result: Result, album: Album, name: str) -> dict[str, Any]:
    """The view of what training noise does, of kernels and of orders: a sentence, a drawing, and a table to open."""
    table = result.to_frame()
    # The sentence stands in the brackets of its class.
    said = result.summary().partition("(")[2].removesuffix(")")
    return checks(result) | {
        "sentence": f"{said[0].upper()}{said[1:]}.",
        "drawings": [(Markup(plots.svg(result)), plots.title(result))],
        **cells(table.head(MOST_ROWS)),
        "left_out": f"Showing {MOST_ROWS} of {len(table):,} rows." if len(table) > MOST_ROWS else "",
    }


def coverage_trial(result: Result, album: Album, name: str) -> dict[str, Any]:
    """The view of a comparison of coverage: over the time it takes, and over what was shown."""
    ways: list[dict[str, Any]] = [{"over": "CPU seconds"}, {"over": "presentations"}]
    return noise(result, album, name) | {
        "drawings": [(Markup(plots.svg(result, **way)), plots.title(result, **way)) for way in ways]}


SECTIONS: dict[type, tuple[str, View]] = {
    Explanation: ("explanation.html", explanation),
    Decomposition: ("decomposition.html", decomposition),
    GANExplanation: ("drawings.html", traced),
    GradientScores: ("scores.html", scores),
    Scaling: ("drawings.html", scaling),
    LearningCurves: ("drawings.html", learning),
    Agreement: ("drawings.html", agreement),
    KernelEvolution: ("drawings.html", evolution),
    NullSpace: ("drawings.html", null_space),
    Coverage: ("drawings.html", covered),
    Separation: ("drawings.html", separated),
    Influence: ("scores.html", influence),
    ContributionAndInfluence: ("influence.html", both),
    RunComparison: ("compared.html", compared),
    **dict.fromkeys((DenoiserFit, JacobianGeometry), ("drawings.html", denoisers)),
    GenerativeComparison: ("generative.html", generative_comparison),
    **dict.fromkeys((Bridge, CriticGeometry, GameSpectrum), ("drawings.html", game)),
    **dict.fromkeys((DiffusionExplanation, SamplerExplanation, OptimalExplanation, NoiseKernel, NoiseLocalisation),
                    ("drawings.html", stages)),
    CoverageTrial: ("drawings.html", coverage_trial),
    **dict.fromkeys((BundleReport, ConversionReport, DisjointHalves, Eigenlearning, Ensemble, Evaluation, Expected,
                     KernelDistances, LeaveOneOut, MemorisationTransition, MemoryWeights, ModeComparison, Orders,
                     PathKernel, Predictions, Reservoir, Ridges, Spectrum, SubsetTrial, TradeOffs, Witness),
                    ("drawings.html", noise)),
    Result: ("result.html", anything),
}
