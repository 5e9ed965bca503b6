r"""Results in order, with prose, in one HTML file.

The file needs nothing but itself: no address is asked for anything, and a policy in its head forbids it. Words that
come from data are text and stay text. The same content gives the same bytes, so a page can be compared and committed.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import as_count, as_path, what_came
from ..decomposition.explanation import Explanation
from ..decomposition.influence.result import ESTIMATE
from ..decomposition.wording import ACCOUNTING, is_long, shortened
from ..errors import DataError
from ..result import Result
from ..storage import write_atomically
from ..text import shown
from .album import Album
from .comparison import comparisons
from .facts import words
from .glossaries import glossary, is_booked, is_influence
from .glossaries import heading as heading_of
from .sections import view_of

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"

#: The bytes all pictures of a page may take, and the bytes a page may have.
PICTURE_BYTES = 1_000_000
PAGE_BYTES = 10_000_000

#: Letters of a heading; a longer one is cut, and stands in full at the end of the page.
LONGEST_HEADING = 120


@dataclass(frozen=True)
class Report:
    """A page: a title, and results with prose between them.

    Attributes:
        title: The heading of the page.
        results: In order: a string is a paragraph; a result is a section; ``(heading, result)`` is a section with that
            heading. Paragraphs before the first result open the page, later ones open the section that follows them.
        provenance: More facts to print at the end, by name. Facts that change from day to day make the page change too.
        max_samples: How many training samples the page may show as pictures.

    Raises:
        DataError: If the title is no text or empty, or something in ``results`` is neither a result nor prose.

    Example:
        >>> page = Report("Nothing yet", [])
        >>> page.html() == Report("Nothing yet", []).html()
        True
    """

    title: str
    results: Sequence[Result | str | tuple[str, Result]] | Mapping[str, Result]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    max_samples: int = 200

    def __post_init__(self) -> None:
        if not isinstance(self.title, str) or not self.title.strip():
            came = "an empty one" if isinstance(self.title, str) else what_came(self.title)
            raise DataError(f"A page needs a title, as text; {came} came. Pass for example Report(\"Why this digit?\", "
                            "[why]).")
        if isinstance(self.results, Result | str) or not isinstance(self.results, Sequence | Mapping):
            raise DataError(
                "A report takes a list of results, (heading, result) pairs and strings, or a dictionary of results by "
                f"heading; {what_came(self.results)} came. Put it into a list: Report(title, [result])."
            )
        if not isinstance(self.provenance, Mapping):
            raise DataError(f"provenance must be a dictionary of facts by name; {what_came(self.provenance)} came. "
                            'Pass for example provenance={"seed": 0}, or leave it out.')
        as_count(self.max_samples, "max_samples")
        self._sections()

    def html(self) -> str:
        """The page as text.

        Raises:
            DataError: If the page is too large to open.
        """
        album = Album(self.max_samples, PICTURE_BYTES)
        lead, sections = self._sections()
        views: list[dict[str, Any]] = []
        told: set[str] = set()
        for number, (heading, prose, result) in enumerate(sections, start=1):
            template, view = view_of(result, album, f"section-{number}")
            kind = view.get("kind", "")
            views.append({"id": f"section-{number}", "title": heading, "prose": prose, "template": template,
                          "view": view, "guide": kind not in told,
                          "unnamed": len(sections) == 1 and heading == heading_of(result)})
            told.add(kind)
        explained = [(heading, result) for heading, _, result in sections if isinstance(result, Explanation)]
        compared = comparisons(explained, album)
        told_of = [result for _, _, result in sections]
        booked = is_booked(told_of)
        style, script = _source("style.css"), _source("script.js")
        notice = album.notice()
        page = _environment().get_template("page.html").render(
            title=self.title, lead=lead, sections=views, comparisons=compared, notices=[notice] if notice else [],
            glossary=glossary(told_of),
            accounting=ACCOUNTING if booked else "",
            estimate=ESTIMATE if is_influence(told_of) else "", longest=LONGEST_HEADING,
            cut_headings=[text for text in (self.title, *(heading for heading, _, _ in sections))
                          if len(text) > LONGEST_HEADING],
            provenance=[(name, words(value)) for name, value in self.provenance.items()],
            style=_trusted(style), script=_trusted(script), style_hash=_hash(style), script_hash=_hash(script),
            version=_version(),
        )
        size = len(page.encode())
        if size > PAGE_BYTES:
            raise DataError(
                f"The page would have {size / 1e6:.0f} MB, more than the {PAGE_BYTES / 1e6:.0f} MB a browser opens "
                "with ease. Put fewer results on it, or explain fewer queries."
            )
        return page

    def save(self, path: str | Path) -> Path:
        """Writes the page to ``path``, all of it or nothing, and returns the path.

        Raises:
            StoreError: If there is no such folder, or the file cannot be written there.
        """
        path = as_path(path, "The file of a page", 'save("report.html")')
        write_atomically(path, self.html().encode())
        return path

    def _sections(self) -> tuple[list[str], list[tuple[str, list[str], Result]]]:
        items: Sequence[Any] = list(self.results.items()) if isinstance(self.results, Mapping) else list(self.results)
        lead: list[str] = []
        sections: list[tuple[str, list[str], Result]] = []
        waiting: list[str] = lead
        for place, item in enumerate(items):
            match item:
                case str():
                    if waiting is not lead or not sections:
                        waiting.append(item)
                    else:
                        waiting = [item]
                case Result() | (str(), Result()):
                    heading, result = item if isinstance(item, tuple) else (heading_of(item), item)
                    sections.append((heading, [] if waiting is lead else waiting, result))
                    waiting = []
                case _:
                    raise DataError(
                        f"A report takes results, (heading, result) pairs and strings; item {place} is "
                        f"{what_came(item)}. Leave it out, or write what it says as a string."
                    )
        return lead, sections


def _source(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _trusted(text: str) -> Any:
    from markupsafe import Markup

    # The package's own style and script, and nothing that came from data.
    return Markup(text)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _version() -> str:
    from .. import __version__

    return __version__


def _clean(value: Any) -> Any:
    """Text without what no page may hold and what would turn its numbers round."""
    return shown(value, keep="\n\t") if isinstance(value, str) and not hasattr(value, "__html__") else value


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, finalize=_clean,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )
    made.filters["shortened"] = shortened
    made.tests["long"] = is_long
    return made
