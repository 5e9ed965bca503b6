"""Trainings in a process of their own, killed in the middle and gone on with in another one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

import kernelscope as ks

ROOT = Path(ks.__file__).parents[1]


def start(script, folder, *words):
    """Runs a script with words in a folder; returns what it left as its exit code."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
                   "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, str(script), str(folder), *words], env=environment, cwd=folder, text=True,
                          capture_output=True, timeout=240, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-4000:]
    return done.returncode


def killed_and_resumed(script, folder):
    """Runs a script once to its end, and once killed and resumed."""
    for name in ("whole", "parts"):
        (folder / name).mkdir()
    assert start(script, folder / "whole", "begin") == 0
    assert start(script, folder / "parts", "kill") == -signal.SIGKILL
    return folder / "whole" / "run", folder / "parts" / "run"


def final(folder):
    """The parameters that the loop ended with, by name."""
    return torch.load(folder / "final.pt", weights_only=True)


def assert_final(run, state):
    """The last row of a run are the parameters that the loop ended with, bit for bit."""
    last = run.parameters(len(run))
    for name, p in last.items():
        assert torch.equal(p, state[name.removeprefix("model.")]), name


def assert_closed(d, rounding):
    """A decomposition of a run in float32 closes to round-off, and nothing is left unattributed."""
    check = {row.name: row for row in d.check().rows}
    # The residual is a sum of some thousand terms in float64; rounding is that of training in float32.
    assert check["completeness"].value < 1e-13
    assert check["unattributed"].value == 0
    assert check["rounding"].value < rounding
