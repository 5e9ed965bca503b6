"""A recording asks for one thread, and for no pool of threads of torch's beside that of the loop."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TASKS = Path("/proc/self/task")

LOOP = """
import os, sys
import torch
from torch import nn
import torch.nn.functional as F
import kernelscope as ks

def threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(2)
keep, out = sys.argv[1:]
x, y = torch.randn(512, 400), torch.randn(512, 300)
model = nn.Sequential(nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 300))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

def step():
    optimizer.zero_grad()
    F.mse_loss(model(x), y).backward()
    optimizer.step()

step()
before = threads()
with ks.record(model, (x, y), loss=F.mse_loss, keep=keep if keep == "all" else int(keep), commit_every=0,
               out=out or None) as recording:
    for _ in range(12):
        step()
        recording._tape.writer and recording._tape.writer.drain()
    print(threads() - before, torch.get_num_threads())
"""


@pytest.mark.skipif(not TASKS.exists(), reason="threads are counted where the system lists them")
@pytest.mark.parametrize("keep", ["all", "3"])
@pytest.mark.parametrize("disk", [False, True])
def test_the_writer_is_the_only_thread_beside_those_of_the_loop(tmp_path, keep, disk):
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", LOOP, keep, str(tmp_path / "run") if disk else ""], text=True,
                           capture_output=True, env=environment, timeout=120, check=False)
    assert found.stdout.split() == ["1", "2"], found.stderr
