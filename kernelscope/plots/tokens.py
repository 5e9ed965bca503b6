"""The drawing of contributions of tokens: the training texts that moved an answer most, each token in its colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments import as_count
from ..decomposition.token_result import TokenContributions
from ..text import with_minus
from . import drawing
from .style import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: A token is coloured from this part of the strongest one on.
FAINT = 0.04


@drawing(TokenContributions)
def draw_tokens(result: TokenContributions, ax: Axes, theme: Theme, *, query: int = 0, output: int = 0,
                k: int = 8) -> None:
    """Draws the k texts that moved an answer most, with what each token added as the strength of its colour.

    Args:
        result: The result.
        ax: Where to.
        theme: The colours.
        query: Which query.
        output: Which of its places.
        k: How many texts.
    """
    from matplotlib.patches import Rectangle

    texts = result.strongest(as_count(k, "k", least=1), query, output)
    rows = result.contributions[query, output][texts]
    scale = float(rows.abs().max()) or 1.0
    figure = ax.get_figure(root=True)
    if figure is not None and len(figure.axes) == 1:
        figure.set_figheight(1.1 + 0.34 * len(texts))
    for down, (i, row) in enumerate(zip(texts, rows.tolist(), strict=True)):
        for t, amount in enumerate(row):
            part = abs(amount) / scale
            if part > FAINT:
                colour = theme.up if amount > 0 else theme.down
                ax.add_patch(Rectangle((t - 0.5, down - 0.42), 1, 0.84, facecolor=colour, alpha=0.15 + 0.75 * part,
                                       edgecolor="none"))
            word = result.word(int(result.answers[i, t]))
            ax.text(t, down, plain(word if word.strip() else "␣", 8), ha="center", va="center", fontsize=8,
                    color=theme.ink, family="monospace", parse_math=False)
    ax.set_xlim(-0.6, rows.shape[1] - 0.4)
    ax.set_ylim(len(texts) - 0.4, -0.6)
    ax.set_yticks(range(len(texts)), [f"text {int(result.ledger.sample_ids[i])}" for i in texts])
    ax.set_xticks([])
    ax.set_xlabel("tokens that had to be said, in the colour of what each added; stronger is more")
    for side in ax.spines.values():
        side.set_visible(False)
    best = result.top(1, query, output).iloc[0]
    said = f"{result.question(query, output)}: {best.token!r} in text {best['sample']} did most"
    ax.set_title(plain(f"{said}, {with_minus(f'{best.contribution:+.2g}')}", 90), parse_math=False)
