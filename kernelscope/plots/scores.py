"""The drawing of gradient scores: the training samples that pull one test sample's way, and those that pull against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..decomposition.wording import signed
from ..diagnostics.scores import GradientScores
from ..errors import DataError
from . import drawing
from .bars import draw_bars
from .style import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme


@drawing(GradientScores)
def draw_scores(result: GradientScores, ax: Axes, theme: Theme, *, query: int = 0, k: int = 5,
                part: str | None = None) -> None:
    """Draws a bar for each of the k strongest proponents and opponents of one test sample, strongest at the ends."""
    bars = strongest(result, query, k, part)
    draw_bars(ax, theme, [value for _, value in bars], [described(result, sample) for sample, _ in bars])
    of = result.kind if part is None else f"{result.kind} by {part or 'the network itself'}"
    effect = "lowers the loss" if result.of == "losses" else "raises the same outputs"
    ax.set_xlabel(plain(f"{of}; to the right, a step on the sample {effect}", 90), parse_math=False)
    ax.set_title(plain(conclusion(result, query, bars), 90), parse_math=False)


def strongest(result: GradientScores, query: int, k: int, part: str | None) -> list[tuple[int, float]]:
    """The strongest proponents and opponents with their scores, from the largest score down."""
    if not isinstance(query, int) or not 0 <= query < len(result):
        raise DataError(f"There are {len(result)} test samples, so test sample {query!r} does not exist. Count from 0.")
    found = []
    for proponents in (True, False):
        indices, scores = (values[query].tolist() for values in result.top(k, proponents, part))
        found += [(i, s) for i, s in zip(indices, scores, strict=True) if (s > 0) == proponents and s != 0]
    return sorted(found, key=lambda bar: -bar[1])


def described(result: GradientScores, sample: int) -> str:
    """A training sample in words: its class, if it has one, and its place."""
    name = "" if result.labels is None else result.name(result.labels[sample])
    return f"{name} (sample {sample})" if name else f"sample {sample}"


def conclusion(result: GradientScores, query: int, bars: list[tuple[int, float]]) -> str:
    """What the drawing shows, in words."""
    name = "" if result.query_labels is None else result.name(result.query_labels[query])
    pulled = f"test sample {query}{f' ({name})' if name else ''}"
    if not bars:
        return f"No training sample pulls {pulled} either way"
    sample, value = max(bars, key=lambda bar: abs(bar[1]))
    way = "for" if value > 0 else "against"
    return f"{described(result, sample)} pulls hardest {way} {pulled}, {signed(value)}"
