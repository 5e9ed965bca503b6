"""How the pages are built: ``python -m sphinx -W -b html docs build/docs``.

The reference is made from the docstrings of every public name, and each script of ``docs/gallery`` is run for its
picture. A warning fails the build.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any
from weakref import WeakSet

import matplotlib

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
matplotlib.use("agg")

import kernelscope  # noqa: E402
from kernelscope.plots import style  # noqa: E402

project = "KernelScope"
author = "The KernelScope authors"
copyright = author
version = release = kernelscope.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon",
              "sphinx.ext.mathjax", "sphinx.ext.viewcode", "sphinx_gallery.gen_gallery"]
suppress_warnings = ["config.cache"]  # the scraper below is a function
exclude_patterns = ["gallery", "measured", "_templates"]
templates_path = ["_templates"]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_mock_imports: list[str] = []
napoleon_google_docstring = True
napoleon_use_ivar = True

html_theme = "furo"
html_title = "KernelScope"


#: Figures whose pictures were written: what a script ended in stays known to its later blocks.
_kept: WeakSet[Any] = WeakSet()


def drawn(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Keeps the picture of a block that ends in axes: the figures of results are not known to pyplot."""
    from matplotlib.axes import Axes
    from sphinx_gallery.scrapers import figure_rst

    last = block_vars["example_globals"].get("___")
    if not isinstance(last, Axes) or last.figure in _kept:
        return ""
    _kept.add(last.figure)
    path = next(block_vars["image_path_iterator"])
    with style.context(style.LIGHT):
        last.figure.savefig(path, dpi=200, bbox_inches="tight", pad_inches=0.15)
    return figure_rst([path], gallery_conf["src_dir"], " ".join(last.get_title(loc="left").split()))


sphinx_gallery_conf = {
    "image_scrapers": (drawn,),
    "capture_repr": (),
    "examples_dirs": "gallery",
    "gallery_dirs": "gallery_of_questions",
    "filename_pattern": r"/[a-z]",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "remove_config_comments": True,
    "within_subsection_order": "FileNameSortKey",
    "subsection_order": [f"gallery/{name}" for name in (
        "why_this_prediction", "without_it", "learned", "inside", "two_runs", "only_checkpoints", "kernel_machines",
        "diffusion_and_gans")],
}

#: The pages of the reference: a heading, the module whose names are public, and a line about it.
ROOMS = (
    ("kernelscope", "The package", "What is asked of a recorded run, and what answers are."),
    ("kernelscope.kernels", "Kernels", "Functions of two points."),
    ("kernelscope.kernels.infinite", "Networks of infinite width", "Layers whose kernels are known in closed form."),
    ("kernelscope.features", "Feature maps", "Maps from points to vectors."),
    ("kernelscope.solvers", "Solvers", "From a kernel matrix and targets to coefficients."),
    ("kernelscope.nn", "Layers that are kernels", "Conversion, bundling and adapters."),
    ("kernelscope.generative", "Generative models", "Diffusion models and GANs."),
    ("kernelscope.integrations", "Integrations", "Other people's loops, trackers and kernels."),
    ("kernelscope.data", "Data", "Real data that needs no download."),
    ("kernelscope.errors", "Errors", "What can go wrong, by name."),
)


def _names(module: str) -> list[str]:
    found = importlib.import_module(module)
    names = getattr(found, "__all__", None) or [name for name, value in vars(found).items() if isinstance(value, type)]
    rooms = {room for room, _, _ in ROOMS} | {"kernelscope.sklearn"}
    return [name for name in names if f"{module}.{name}" not in rooms]


def _write(path: Path, text: str) -> None:
    """Leaves a file that says the same as it is, so that a second build is short."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def write_reference(folder: Path) -> None:
    """Writes a page for each room, from the names it has now."""
    folder.mkdir(exist_ok=True)
    pages = []
    for module, heading, line in ROOMS:
        rows = "\n".join(f"   {name}" for name in _names(module))
        text = (f"{heading}\n{'=' * len(heading)}\n\n{line}\n\n.. currentmodule:: {module}\n\n"
                f".. autosummary::\n   :toctree: names\n\n{rows}\n")
        _write(folder / f"{module}.rst", text)
        pages.append(module)
    listed = "\n".join(f"   {page}" for page in pages)
    _write(folder / "index.rst", "Reference\n=========\n\nEvery public name, from its docstring.\n\n"
                                 f".. toctree::\n   :maxdepth: 1\n\n{listed}\n")


#: The benchmarks: a heading, and the script whose results stand under it.
BENCHMARKS = {
    "recording": "Recording a loop", "decomposition": "Decomposing a run", "large_run": "Ten million parameters",
    "checkpoints": "Checkpoints, and thinned recordings",
    "attribution": "Foretelling what retraining does", "tangent": "Tangent kernels and gradient scores",
    "products": "Products with a kernel matrix", "solvers": "Solvers of kernel machines",
    "evolution": "A kernel along a run", "ensembles": "Many networks at once",
    "infinite": "Kernels of infinite width", "pcg": "Conjugate gradients", "snnk": "Layers of random features",
}


def write_benchmarks(folder: Path) -> None:
    """Writes the page of benchmarks, from the results that there are."""
    folder.mkdir(exist_ok=True)
    parts = []
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.md"),
                       key=lambda path: [*BENCHMARKS, path.stem].index(path.stem)):
        heading = BENCHMARKS.get(path.stem, path.stem.replace("_", " ").capitalize())
        parts.append(f"## {heading}\n\n`benchmarks/{path.stem}.py`\n\n"
                     f"{path.read_text(encoding='utf-8')}")
    _write(folder / "tables.md", "\n".join(parts))


def _plain_stars(app: object, what: str, name: str, found: object, options: object, lines: list[str]) -> None:
    """Keeps the star of a shape like (n, *) from opening an emphasis."""
    lines[:] = [re.sub(r"(?<=[ (\[])\*(?=[\w,)\]])(?![\w -]*\*)", r"\\*", line) for line in lines]


def setup(app: object) -> None:
    """Joins the build."""
    app.connect("autodoc-process-docstring", _plain_stars)  # type: ignore[attr-defined]


write_reference(Path(__file__).parent / "api")
write_benchmarks(Path(__file__).parent / "measured")
