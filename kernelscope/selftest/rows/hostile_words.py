"""F17: words that would become code where a page takes them for its own."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

import kernelscope as ks

from ..judging import Case, Cases
from ..row import NotTried, Silent
from ..subjects import classes, points, seeded, spoken, texts, trained

#: What is written where a name is expected.
PAYLOADS = (
    "<script>alert('KS')</script>", '"><img src=x onerror=alert(1)>', "javascript:alert(1)", "'\" onload='x",
    "</style><script>KS</script>", "</script></title></details>", "a\u2028b\u2029c", "{{ 7 * 7 }}{% raw %}",
    "<!-- ]]> -->", "\x00\x1b[31m\u202ekcab", "%3Cscript%3E", "&lt;b&gt;&#60;b&#62;", "<svg/onload=alert(1)>",
    "<iframe srcdoc='<b>'>", "$\\mathrm{\\frac{1}{0}}$ \\href{javascript:x}", "<math><mtext></mtext>", "\ud800half",
    "url(https://example.org/a);}*{x:expression(1)}",
)


class Dom(HTMLParser):
    """What a browser would build of a page: elements, the names of their attributes, and where they lead."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.values: list[tuple[str, str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.values += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"/{tag}", ()))

    def handle_comment(self, data: str) -> None:
        self.elements.append(("!", (data[:20],)))


def harmless(word: str) -> str:
    """As many letters, and spaces where the others were: lines break at the same places."""
    return "".join(" " if letter == " " else "x" for letter in word)


def broken_out(page: str, template: str, whole: bool = True) -> str:
    """What a page has that its template does not, in words; nothing if all words stayed words."""
    found, plain = Dom(page), Dom(template)
    if found.elements != plain.elements:
        both = zip(found.elements, plain.elements, strict=False)
        extra = next((f"{a} where {b} should be" for a, b in both if a != b),
                     f"{len(found.elements)} elements, not {len(plain.elements)}")
        return f"the page was built otherwise: {extra}"
    for name, value in found.values:
        if name.startswith("on"):
            return f"an attribute {name}"
        if name in ("href", "src", "action", "xlink:href") and value.strip().lower().startswith(("javascript:", "vb")):
            return f"{name}={value[:40]}"
    policies = [value for name, value in found.values if name == "content" and "default-src" in value]
    if whole and (len(policies) != 1 or not policies[0].startswith("default-src 'none'") or "unsafe" in policies[0]):
        return f"the policy is {policies}"
    return ""


@cache
def _run(names: tuple[str, ...] | None = None) -> ks.Run:
    return trained(points(), classes(), class_names=None if names is None else list(names))


@cache
def _why() -> ks.Explanation:
    return ks.explain(_run(), points(1, seed=3))


def _page(*results: Any, **options: Any) -> str:
    return ks.Report("A page", list(results), **options).html()


def _bundle(name: str) -> Any:
    """A report about a network with a layer of this name; a dot parts names, so no layer can have one."""
    model = nn.Sequential()
    for part, layer in ((name.replace(".", "·"), nn.Linear(3, 4)), ("act", nn.ReLU()), ("last", nn.Linear(4, 3))):
        model.add_module(part, layer)
    return ks.nn.bundle(seeded(model).double(), points(24), features=4)[1]


def _figure(result: Any) -> str:
    """The drawing of a result, as text."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "x"}):
        figure = Figure()
        result.plot(ax=figure.add_subplot())
        out = StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _predictions(word: str) -> ks.Predictions:
    values = [float(i) for i in range(6)]
    return ks.predictions(values, [v + (-1) ** int(v) / 2 for v in values], names=[word, *"abcde"],
                          groups=[word, *"xxxxx"], what=(word, "measured"))


def _trade_offs(word: str) -> ks.TradeOffs:
    return ks.trade_offs([(word, 1.0, 0.5), ("b", 2.0, 0.7)], cost=word, measure=word, lines={word: 0.6})


def _named(word: str) -> Any:
    why = _why()
    ledger = replace(why.decomposition, output_names=[word], info={**why.decomposition.info, "run": word})
    return replace(why, decomposition=ledger)


@cache
def _influence() -> ks.Influence:
    return ks.influence(_run(), points(1, seed=3), progress=False)


@cache
def _evaluation() -> ks.Evaluation:
    return ks.evaluate(_run(), points(2, seed=3), classes(2), subsets=8, seeds=2, progress=False)


@cache
def _comparison() -> ks.RunComparison:
    return ks.compare(_run(), trained(points(), classes(), steps=3), points(4, seed=3), k=3, draws=10, progress=False)


def _asked(word: str) -> ks.Influence:
    found = _influence()
    return replace(found, output_names=[word], influences=found.influences[:, :1], values=found.values[:, :1],
                   info={**found.info, "run": word})


def _judged(word: str) -> ks.Evaluation:
    """An evaluation one of whose scores has this name, as a user gives one."""
    found, first = _evaluation(), _evaluation().own.names[0]
    named = lambda trial: replace(trial, names=[word if name == first else name for name in trial.names])
    return replace(found, own=named(found.own), anew=None if found.anew is None else named(found.anew),
                   settings={word if name == first else name: word for name in found.settings},
                   seconds={word if name == first else name: s for name, s in found.seconds.items()},
                   left_out={word: word})


def _called(word: str) -> ks.RunComparison:
    """A comparison of runs, probes and samples with this name."""
    found = _comparison()
    return replace(found, names=[word, f"{word}b"], ids=[f"{word}{i}" for i in range(4)],
                   labels={side: [word] * 12 for side in found.labels})


class _Writer:
    """A tracker that is told everything and keeps it."""

    def __init__(self, folder: str) -> None:
        self.log_dir, self.told = folder, list[str]()

    def add_scalar(self, *told: Any) -> None:
        self.told.append(repr(told))

    add_text = add_scalar

    def flush(self) -> None:
        """Nothing to do."""


def _tracked(word: str) -> str:
    """The page beside what a tracker was told."""
    if find_spec("tensorboard") is None:
        raise NotTried("tensorboard is not installed")
    with tempfile.TemporaryDirectory() as folder:
        ks.integrations.log_run(_run((word, f"{word}b", f"{word}c")), points(2, seed=3), to=_Writer(folder), times=2)
        return next(Path(folder).glob("*.html")).read_text()


def _spoken(word: str) -> ks.TokenContributions:
    x, _ = texts()
    return ks.token_contributions(spoken(), x[:1], vocabulary=[f"{word}{i}" for i in range(5)], progress=False)


#: Where a word may stand, and the page that has it there; pages that end in "cell" are parts of one.
SLOTS: dict[str, Callable[[str], str]] = {
    "title": lambda w: ks.Report(w, [_why()]).html(),
    "paragraph": lambda w: _page(w, _why(), w),
    "heading": lambda w: _page((w, _why())),
    "fact": lambda w: _page(_why(), provenance={w: w}),
    "output and file name": lambda w: _page(_named(w), _named(w).decomposition),
    "class name": lambda w: _page(ks.explain(_run((w, "b", "c")), points(1, seed=3))),
    "label of a sample": lambda w: _page(ks.explain(_run(), points(1, seed=3), labels=[w] * 12)),
    "layer name": lambda w: _page(_bundle(w)),
    "name of an error": lambda w: _page(ks.orders([0.1, 0.2, 0.4], {w: [1.0, 2.0, 4.0], "b": [1.0, 4.0, 16.0]})),
    "names of predictions": lambda w: _page(_predictions(w)),
    "names of a trade-off": lambda w: _page(_trade_offs(w)),
    "name of a query's output": lambda w: _page(_asked(w)),
    "name of a score": lambda w: _page(_judged(w)),
    "names of runs and probes": lambda w: _page(_called(w)),
    "word of a vocabulary": lambda w: _page(_spoken(w)),
    "page beside a tracker": _tracked,
    "cell of an influence": lambda w: _asked(w)._repr_html_(),
    "cell of an evaluation": lambda w: _judged(w)._repr_html_(),
    "cell of a comparison": lambda w: _called(w)._repr_html_(),
    "cell of tokens": lambda w: _spoken(w)._repr_html_(),
    "cell of an explanation": lambda w: ks.explain(_run((w, w + "b", w + "c")), points(1, seed=3))._repr_html_(),
    "cell of a ledger": lambda w: _named(w).decomposition._repr_html_(),
    "drawing of a trade-off": lambda w: _figure(_trade_offs(w)),
    "drawing of predictions": lambda w: _figure(_predictions(w)),
}


#: Places on pages with several drawings, of which neighbours share the words.
LONG = ("output and file name", "class name", "label of a sample", "layer name", "names of predictions",
        "names of a trade-off", "name of a query's output", "name of a score", "names of runs and probes",
        "word of a vocabulary", "page beside a tracker", "paragraph", "fact", "name of an error")


def stays_words(make: Callable[[str], str], word: str, whole: bool) -> None:
    """A page with a hostile word is built as one with a harmless word.

    Raises:
        Silent: If it is not.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = broken_out(make(word), make(harmless(word)), whole)
    if said:
        raise Silent(said)


class HostileWords(Cases):
    """Eighteen words in twenty-four places; where pages are long to draw every third word."""

    id, sentence = "F17", "Labels, names, titles and notes hold code of pages."

    def prepare(self, folder: Path) -> None:
        """Trains the run that is explained."""
        torch.set_num_threads(1)
        _why()

    def cases(self) -> Iterator[Case]:
        for place, (slot, make) in enumerate(SLOTS.items()):
            whole = not slot.startswith(("cell", "drawing"))
            for word in PAYLOADS[place % 3 :: 3] if slot in LONG else PAYLOADS:
                yield f"{slot}: {word!a}", lambda make=make, word=word, whole=whole: stays_words(  # type: ignore[misc]
                    make, word, whole)


ROWS = (HostileWords,)
