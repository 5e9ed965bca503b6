r"""How every drawing looks: the Okabe-Ito colours, on light or on dark, in files that are the same byte for byte.

A theme gives each role a colour. The roles *for* and *against* differ in hue and in lightness, and a drawing marks the
sign by direction and number too. The theme ``page`` draws in stand-in colours, which :func:`themed` turns into the
variables of a page, so that one drawing serves its light and its dark side.
"""

from __future__ import annotations

import hashlib
import io
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..text import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Theme:
    """A colour for each role."""

    ink: str
    muted: str
    rule: str
    paper: str
    up: str
    down: str
    data: str


LIGHT = Theme(
    ink="#1b1d22", muted="#5c6068", rule="#d5d7dc", paper="#ffffff",
    up="#0072b2", down="#b8480a", data="#00795b",
)
DARK = Theme(
    ink="#ececf0", muted="#a5a9b2", rule="#3b3f48", paper="#15171b",
    up="#56b4e9", down="#e69f00", data="#2bb98f",
)
#: Stand-ins that no drawing would use on its own account.
PAGE = Theme(
    ink="#010101", muted="#020202", rule="#030303", paper="#040404",
    up="#050505", down="#060606", data="#070707",
)
THEMES = {"light": LIGHT, "dark": DARK, "page": PAGE}

#: The font size of a page's drawings, in points of the drawing.
SIZE = 9


def settings(theme: Theme) -> Any:
    """Matplotlib's settings for a theme, to be used in a context and nowhere else."""
    return {
        "svg.fonttype": "none", "svg.hashsalt": "kernelscope", "font.family": "sans-serif", "font.size": SIZE,
        "text.color": theme.ink, "axes.labelcolor": theme.muted, "axes.edgecolor": theme.rule,
        "xtick.color": theme.muted, "ytick.color": theme.muted, "xtick.major.size": 0, "ytick.major.size": 0,
        "axes.facecolor": "none", "figure.facecolor": theme.paper, "axes.spines.top": False, "axes.spines.right": False,
        "axes.titlesize": SIZE + 1, "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.titlepad": 10,
        "lines.solid_capstyle": "round", "lines.solid_joinstyle": "round", "figure.dpi": 100,
    }


def context(theme: Theme) -> AbstractContextManager[None]:
    """Matplotlib with this theme's settings, for as long as the context lasts."""
    import matplotlib

    return matplotlib.rc_context(settings(theme))


def figure(width: float = 6.4, height: float = 3.2) -> Figure:
    """A figure that nobody has to close: it is not registered with pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def theme_of(ax: Axes) -> Theme:
    """The theme that can be read on these axes: dark on a dark ground, light on any other."""
    from matplotlib.colors import to_rgba

    drawn = ax.get_figure(root=True)
    for colour in (ax.get_facecolor(), drawn.get_facecolor() if drawn else "none"):
        red, green, blue, alpha = to_rgba(colour)
        if alpha > 0.5:
            return DARK if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.4 else LIGHT
    return LIGHT


def save_svg(ax: Axes, theme: Theme) -> str:
    """The figure of these axes as SVG text, without a date, the same for the same drawing."""
    file = io.StringIO()
    with context(theme):
        drawn = cast("Figure", ax.get_figure(root=True))
        drawn.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, transparent=theme is PAGE)
    return file.getvalue()


def themed(svg: str) -> str:
    """A drawing in stand-in colours made ready for a page.

    Colours become the page's variables. Styles become attributes, since a page that allows no inline style would ignore
    them; the file's head and its fonts go, since the page has its own.
    """
    svg = svg[svg.index("<svg"):]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sstyle="([^"]*)"', lambda found: _attributes(found[1]), svg)
    # A hundredth of a point is seen by nobody, and a map of many cells has a number for each corner.
    svg = re.sub(r'\sd="([^"]*)"', lambda found: f' d="{_short(found[1])}"', svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = _own_names(svg)
    for role in ("ink", "muted", "rule", "paper", "up", "down", "data"):
        svg = svg.replace(getattr(PAGE, role), f"var(--{role})")
    return svg.strip()


def _short(path: str) -> str:
    """The numbers of a path with two decimals."""
    return re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), " ".join(path.split()))


def _own_names(svg: str) -> str:
    """Drops the names nobody refers to and makes the others this drawing's own, so that two drawings share a page."""
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    mark = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'\sid="([^"]*)"', lambda found: f' id="{mark}-{found[1]}"' if found[1] in used else "", svg)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{mark}-", svg)


def plain(text: str, longest: int = 40) -> str:
    """A label as it can be drawn: no letters that no SVG may hold or that turn others round, not longer than a line."""
    text = shown(text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def as_they_are(ax: Axes) -> None:
    """Draws the words of the axes and of the legend as they came: two dollars make no formula of a name."""
    legend = ax.get_legend()
    for text in (ax.xaxis.label, ax.yaxis.label, *(legend.get_texts() if legend is not None else ())):
        text.set_parse_math(False)


def in_lines(title: str, at: str, most: int) -> str:
    """A title in one line, or broken into two at a mark where it is too long for one.

    Example:
        >>> [in_lines("Why 3: because", ": ", most).splitlines() for most in (20, 10)]
        [['Why 3: because'], ['Why 3:', 'because']]
    """
    title = plain(title, 160)
    return title if len(title) <= most else title.replace(at, f"{at.rstrip()}\n", 1)


def _attributes(style: str) -> str:
    found: dict[str, str] = {}
    for declaration in style.split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font":
            size = re.search(r"([\d.]+)px", value)
            found |= {"font-size": size[1]} if size else {}
            found |= {"font-weight": "700"} if "bold" in value or value.startswith("700") else {}
        elif name and not name.startswith("font-fam"):
            found[name] = value.replace('"', "'")
    return "".join(f' {name}="{value}"' for name, value in found.items())
