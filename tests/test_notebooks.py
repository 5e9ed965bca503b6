"""Each notebook runs from its first cell to its last, asserts what it claims, and is kept twice in the same words."""

import ast
import os
import re
from pathlib import Path

import pytest

import kernelscope as ks

jupytext = pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
#: Notebooks that train for more than a quarter of a minute.
LONG = ("04_the_noise_of_training", "05_what_a_run_learned", "07_layers_as_kernels", "08_diffusion_and_gans",
        "09_a_small_gpt", "10_contribution_and_influence", "11_from_checkpoints")
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(notebook, kind=None):
    return [(cell.cell_type, cell.source) for cell in notebook.cells if kind in (None, cell.cell_type)]


def test_there_is_a_notebook():
    assert NOTEBOOKS
    assert [path.stem for path in NOTEBOOKS] == sorted(path.stem for path in (ROOT / "notebooks").glob("*.py"))


@each
def test_both_forms_hold_the_same_cells(path):
    script = jupytext.read(path.with_suffix(".py"), fmt="py:percent")
    assert cells(nbformat.read(path, as_version=4)) == cells(script)


@each
def test_no_output_is_kept(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@each
def test_only_public_names_are_used_and_every_claim_is_asserted(path):
    tree = ast.parse("\n".join(source for _, source in cells(nbformat.read(path, as_version=4), "code")))
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    used = {node.attr for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ks"}
    assert not [name for name in imported + modules if name.startswith("kernelscope.")]
    assert used <= set(ks.__all__)
    assert any(isinstance(node, ast.Assert) for node in ast.walk(tree))


@pytest.mark.parametrize("path", [pytest.param(path, marks=pytest.mark.slow if path.stem in LONG else ())
                                  for path in NOTEBOOKS], ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning",
                            "ignore::pytest.PytestUnraisableExceptionWarning")  # of the notebook machinery
def test_the_notebook_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3",
                                     resources={"metadata": {"path": str(tmp_path)}})
    # Also where the package is not installed; and a notebook with a warning is not finished.
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    client.execute(env={**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTHONWARNINGS": "default"})
    said = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    told = "".join(output.text for output in said if output.output_type == "stream" and output.name == "stderr")
    # Bars write over their own line; whatever else is there, is there for a reason.
    assert not re.sub(r"\r[^\r\n]*\n?", "", told)
    assert any("image/png" in output.get("data", {}) for output in said)
