"""Every doctest starts from the same seed and leaves the random state as it was."""

import pytest
import torch

# It has no examples, and to read it takes triton.
collect_ignore = ["kernels/fused/programs.py"]


@pytest.fixture(autouse=True)
def _same_seed_for_every_doctest(tmp_path, monkeypatch):
    # Examples may write files by their short names.
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
