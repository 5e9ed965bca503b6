"""The pages of the guide: every block of Python on them runs, one after the other."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch

GUIDE = sorted((Path(__file__).parents[1] / "docs" / "guide").glob("*.md"))
#: Pages whose blocks train for more than a few seconds.
LONG = ("generative_models", "infinite_width", "layers_as_kernels", "noise_of_training", "what_a_run_learned")
#: The packages that a page needs beside this one.
NEEDED = {"other_loops": ("transformers", "accelerate", "lightning", "tensorboard")}


def test_there_is_a_guide():
    assert len(GUIDE) >= 14


@pytest.mark.parametrize("page", [pytest.param(page, marks=pytest.mark.slow if page.stem in LONG else ())
                                  for page in GUIDE], ids=lambda page: page.stem)
@pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::DeprecationWarning", "ignore::FutureWarning",
                            "ignore:Detected call of `lr_scheduler.step:UserWarning")  # of those packages
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    for package in NEEDED.get(page.stem, ()):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 2
    # Names stand in a module, as in a script or a notebook.
    module = types.ModuleType("a_page_of_the_guide")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks:
        exec(compile(block, page.name, "exec"), vars(module))
