"""The drawings of two runs compared: measures beside their nulls, spectra, and the samples that answers lean on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ..arguments import as_choice
from ..diagnostics.comparing.reading import AGAIN, CHANCE, COMMONEST, OTHERS, SHUFFLED, UNTRAINED, USUAL
from ..diagnostics.comparing.result import RunComparison
from ..diagnostics.comparing.wording import LIMIT
from ..errors import DataError
from . import drawing
from .style import in_lines, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: What may be shown.
SHOWN = ("measures", "spectra", "samples")

#: Measures that are drawn: those that lie between nought and one, where one is the same, or all.
SHARES = ("agreement", "right_a", "right_b", "overlap", "contribution_rank", "cka", "feature_cka", "coverage_a",
          "coverage_b")

#: The hollow mark of each null.
MARKS = {UNTRAINED: "o", CHANCE: "^", OTHERS: "v", AGAIN: "*", SHUFFLED: "d", COMMONEST: "s", USUAL: "D"}

#: How many samples are drawn as dots, of those with the largest contributions.
DOTS = 300


@drawing(RunComparison)
def draw_runs(result: RunComparison, ax: Axes, theme: Theme, *, show: str = "measures") -> None:
    """Draws measures with intervals and nulls, the spectra of both kernels, or how far samples count in each run.

    Args:
        result: The result.
        ax: Where to.
        theme: The colours.
        show: ``"measures"``, ``"spectra"`` or ``"samples"``.
    """
    as_choice(show, "show", SHOWN)
    {"measures": _measures, "spectra": _spectra, "samples": _samples}[show](result, ax, theme)


def shows(result: RunComparison) -> list[str]:
    """What can be shown of a comparison."""
    return [show for show in SHOWN if show != "samples" or result.contributions and len(result.pairs)]


def _measures(result: RunComparison, ax: Axes, theme: Theme) -> None:
    rows = [found for name in SHARES if not math.isnan((found := result.measure(name)).value)]
    figure = ax.get_figure(root=True)
    if figure is not None and len(figure.axes) == 1:
        figure.set_figheight(max(float(figure.get_figheight()), 1.6 + 0.34 * len(rows)))
    told: dict[str, None] = {}
    for place, row in enumerate(rows):
        ax.axhline(place, color=theme.rule, linewidth=0.6, zorder=0)
        for name, value in row.nulls.items():
            if name in MARKS and not math.isnan(value):
                told[name] = None
                ax.plot([value], [place], MARKS[name], markersize=8 if MARKS[name] == "*" else 5,
                        markerfacecolor="none", markeredgecolor=theme.muted, markeredgewidth=0.9, zorder=2)
        colour, mark = _look(row.name, theme)
        if not math.isnan(row.low):
            ax.plot([row.low, row.high], [place, place], color=colour, linewidth=1.8, zorder=3)
        ax.plot([row.value], [place], mark, color=colour, markersize=6, zorder=4)
    for name in told:
        ax.plot([], [], MARKS[name], markerfacecolor="none", markeredgecolor=theme.muted, markersize=5, label=name)
    ax.set_yticks(range(len(rows)), [plain(result.label(row.name), 32) for row in rows], color=theme.ink)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(min(-0.03, ax.get_xlim()[0]), 1.03)
    ax.set_xlabel("bars hold 95 % of other probes; hollow marks are nulls")
    if told:
        ax.legend(frameon=False, fontsize="small", labelcolor=theme.ink, ncols=3, loc="upper left",
                  bbox_to_anchor=(-0.35, -0.1 - 0.6 / max(len(rows), 1)))
    ax.set_title(in_lines(conclusion(result, "measures"), ", ", 62), parse_math=False)


def _look(name: str, theme: Theme) -> tuple[str, str]:
    """The colour and mark of a measure: of the first run, of the second, or of both."""
    return {"_a": (theme.up, "o"), "_b": (theme.down, "s")}.get(name[-2:], (theme.data, "D"))


def _spectra(result: RunComparison, ax: Axes, theme: Theme) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    for side, name, colour in zip("ab", result.columns, (theme.up, theme.down), strict=True):
        for when, dashes, word in ((" start", (0, (2, 1.5)), f"{plain(name, 20)}, untrained"),
                                   ("", "-", plain(name, 20))):
            values = result.spectra[f"{side}{when}"]
            shares = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
            kept = shares > 1e-8
            ax.plot((torch.arange(1, len(shares) + 1)[kept]).tolist(), shares[kept].tolist(), color=colour,
                    linestyle=dashes, linewidth=1.4 if not when else 1.0, label=word)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(f"number of the eigenvalue, of {len(result):,}")
    ax.set_ylabel("share of the trace")
    ax.grid(True, which="major", color=theme.rule, linewidth=0.6)
    ax.legend(frameon=False, fontsize="small", labelcolor=theme.ink)
    ax.set_title(in_lines(conclusion(result, "spectra"), ", ", 74), parse_math=False)


def _samples(result: RunComparison, ax: Axes, theme: Theme) -> None:
    if "samples" not in shows(result):
        raise DataError("Contributions were left out, or no sample is in both runs, so there are none to be drawn. Use "
                        'show="measures", or compare with contributions=True.')
    from matplotlib.ticker import FuncFormatter, NullLocator

    table = result.leaning()
    shared = table[table["rank in a"].notna() & table["rank in b"].notna()]
    best = shared[["rank in a", "rank in b"]].min(axis=1).rank(method="first")
    drawn = shared[best <= DOTS]
    tops = {side: table[f"rank in {side}"].rank(method="first") <= result.k for side in "ab"}
    groups = (("neither", ~tops["a"] & ~tops["b"], theme.muted, ".", 3.0),
              (f"only {plain(result.columns[0], 18)}", tops["a"] & ~tops["b"], theme.up, "o", 5.0),
              (f"only {plain(result.columns[1], 18)}", tops["b"] & ~tops["a"], theme.down, "s", 5.0),
              ("both", tops["a"] & tops["b"], theme.data, "D", 5.0))
    for word, mask, colour, mark, size in groups:
        rows = drawn[mask[drawn.index]]
        if len(rows):
            ax.plot(rows["rank in a"].tolist(), rows["rank in b"].tolist(), mark, color=colour, markersize=size,
                    linewidth=0, label=f"{word} ({len(rows)})")
    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.set_minor_locator(NullLocator())
    ax.invert_xaxis()
    ax.invert_yaxis()
    ax.set_xlabel(f"rank in {plain(result.columns[0], 24)}, the first at the right")
    ax.set_ylabel(f"rank in {plain(result.columns[1], 24)}")
    ax.legend(frameon=False, fontsize="small", labelcolor=theme.ink, title=f"among the {result.k} first of",
              loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.set_title(in_lines(conclusion(result, "samples"), "; ", 74), parse_math=False)


def conclusion(result: RunComparison, show: str) -> str:
    """What a drawing shows, in words."""
    if show == "spectra":
        a, b = (result.measure(f"rank_{side}").value for side in "ab")
        return (f"The kernel of {plain(result.columns[0], 20)} spreads over {a:.3g} directions, that of "
                f"{plain(result.columns[1], 20)} over {b:.3g}")
    if show == "samples":
        kappas = [result.measure(f"kappa_{side}").value for side in "ab"]
        beyond = any(kappa > LIMIT for kappa in kappas)
        both = len(result.shared())
        return (f"{both} of the {result.k} samples leaned on most are the same in both"
                + ("; contributions cancel, so ranks are read" if beyond else ""))
    told = result.claims()
    topics = [_TOPICS[claim.topic] for claim in told if claim.differs and claim.topic in _TOPICS]
    if not topics:
        return "Nothing is shown to differ"
    return f"They differ in {_listed(topics)}"


_TOPICS = {"data": "data", "answers": "answers", "right": "how often they are right", "loss": "loss",
           "samples": "samples they lean on", "kernels": "kernels", "spectra": "effective rank", "coverage": "coverage"}


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
