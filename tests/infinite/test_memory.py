"""Kernels of images stay within the memory that they are given, as the system counts it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys, torch
from kernelscope.errors import OutOfBudget
from kernelscope.kernels.infinite import *
torch.set_num_threads(1)

def resident(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) / 1024

CASES = [
    (convolutional(5), 200, 24), (myrtle(5), 10, 24),
    (convolutional(2, "flatten", GELU()), 40, 12),
    (convolutional(1, "flatten", Elementwise(torch.tanh), W_std=1.0), 12, 24),
    (Serial(Conv(3), Residual(ReLU(), Conv(3)), ReLU(), GlobalAvgPool(), Dense()), 3, 24),
    (Serial(Conv(3), SelfAttention(), GlobalAvgPool(), Dense()), 3, 24),
]
for net, n, budget in CASES:
    paired = net.paired and n < 10
    x = torch.randn(n, 3, *((16, 16) if paired else (32, 32)), generator=torch.Generator().manual_seed(0))
    kernel = net.ntk
    kernel(x[:2, :, :8, :8].contiguous())
    kernel.memory = budget * 2**20
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = resident("VmRSS")
    kernel(x)
    print(resident("VmHWM") - before, budget, net, flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs the counts of Linux")
def test_peaks_stay_within_the_budget():
    # Large tensors go back to the system at once, so that the peak of one case is not hidden by what another has left.
    told = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], env=told, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert len(found) == 6
    # A few MiB go to code, and to what is too small for the count.
    too_much = [line for line in found if float(line[0]) > 1.1 * float(line[1]) + 4]
    assert not too_much, found
    assert all(float(peak) > 1 for peak, _, _ in found), found
