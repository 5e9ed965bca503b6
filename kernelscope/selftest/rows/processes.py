"""F19: processes that work together, and one of them ends, hangs or brings something else."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ...run.opening import load
from ..judging import Case, Cases
from ..row import TYPED, Done, Lost, NotTried, Silent
from ..traps import forks

#: One of two processes, which is told what befalls the second one.
SCRIPT = """
import os, signal, sys, time
from datetime import timedelta
import torch, torch.distributed as dist
import kernelscope as ks
from kernelscope.solvers import ConjugateGradient
from kernelscope.machine.watching import Telling

torch.set_num_threads(1)
rank, fault, store = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2, timeout=timedelta(seconds=6))
x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
y, ridge, count = x[:, 0].sin(), 1e-6, 40
if rank == 1 and fault == "another ridge":
    ridge = 1e-3
if rank == 1 and fault == "other points":
    x = x + 1
if rank == 1 and fault == "fewer points":
    x, y = x[:150], y[:150]
if rank == 1 and fault == "fewer centers":
    count = 30
heard = Telling.heard
def struck(watch, state):
    if rank == 1 and state.passes >= 3:
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "ended":
            os._exit(7)
        if fault == "hangs":
            time.sleep(60)
    return heard(watch, state)
Telling.heard = struck
try:
    machine = ks.fit(ks.kernels.Laplacian(1.0), x, y, centers=count, ridge=ridge, distributed=True, progress=False,
                     solver=ConjugateGradient("two-level", rank=3, tolerance=1e-14))
    print("ANSWERED", flush=True)
except ks.errors.KernelscopeError as error:
    print("SAID", type(error).__name__, error, flush=True)
os._exit(0)
"""

#: A loop that is recorded, and whose loader's processes read the samples; one of them ends at the sample of number 21.
LOOP = """
import os, signal, sys, time
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
import kernelscope as ks

torch.set_num_threads(1)
fault, place = sys.argv[1:]
class Points(Dataset):
    def __len__(self):
        return 40
    def __getitem__(self, i):
        if i == 21 and fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if i == 21 and fault == "ended":
            os._exit(3)
        if i == 21 and fault == "raises":
            raise OSError("a file is gone")
        if i == 21 and fault == "hangs":
            time.sleep(60)
        x = torch.full((3,), i / 40.0)
        return x, x.sum(0, keepdim=True)
if __name__ == "__main__":
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(Points(), batch_size=4, num_workers=2, timeout=3, prefetch_factor=1,
                        multiprocessing_context="fork")
    try:
        with ks.record(model, loader, loss=F.mse_loss, out=place, commit_every=0) as recording:
            for x, y in loader:
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                optimizer.step()
                print("STEP", recording.acknowledged, flush=True)
        print("ENDED", flush=True)
    except (RuntimeError, OSError, ks.errors.KernelscopeError) as error:
        # A signal may have cut a line in two.
        print("\\nSAID", type(error).__name__, " ".join(str(error).split())[:300], flush=True)
    os._exit(0)
"""

#: What befalls a process of the loader.
LOADERS = ("killed", "ended", "raises", "hangs", "nothing")


def loading(fault: str, loop: str = LOOP) -> Done | None:
    """A process of a loader ends; the loop hears of it, and every acknowledged step is there.

    Raises:
        Silent: If the loop ends as if all had been read.
        Lost: If an acknowledged step is gone.
        AssertionError: If the loop does not end with a word.
    """
    forks()
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory() as folder:
        script, place = Path(folder) / "loop.py", Path(folder) / "run"
        script.write_text(loop)
        done = subprocess.run([sys.executable, str(script), fault, str(place)], capture_output=True, text=True,
                              env=quiet, timeout=90, check=False)
        lines = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip()]
        words = [line[0] for line in lines]
        said = max([0, *(int(line[1]) for line in lines if line[0] == "STEP" and len(line) == 2)])
        if not {"SAID", "ENDED"} & set(words):
            raise AssertionError(f"the loop did not end with a word, code {done.returncode}: "
                                 f"{done.stdout[-200:]} {done.stderr[-300:]}")
        found = len(load(place))
    if found < said:
        raise Lost(f"{said} steps were acknowledged, and {found} are there", said - found)
    if fault == "nothing":
        if "ENDED" not in words or found != 10:
            raise AssertionError(f"of ten steps that nothing befalls {found} are there: {done.stdout[-300:]}")
        return None
    if "ENDED" in words:
        raise Silent(f"the loop ended as if nothing were missing, though a process of its loader {fault}")
    return TYPED


#: What befalls the second process, and the errors that the first one ends with.
FAULTS = {"killed": "ProcessLost", "ended": "ProcessLost", "hangs": "ProcessLost", "another ridge": "DataError",
          "other points": "DataError", "fewer points": "DataError", "fewer centers": "DataError", "nothing": ""}


def together(fault: str, error: str, script: str = SCRIPT) -> Done | None:
    """Two processes fit together; the first one says what became of the second.

    Raises:
        Silent: If it has an answer all the same.
        AssertionError: If it ends with another error, or does not end.
        NotTried: If processes cannot speak to each other here.
    """
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_gloo_available():
        raise NotTried("this build of torch has no gloo")
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "GLOO_SOCKET_IFNAME": "lo"}
    with tempfile.TemporaryDirectory() as folder:
        call = [sys.executable, "-c", script]
        both = [subprocess.Popen([*call, str(rank), fault, str(Path(folder) / "store")], stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True, env=quiet) for rank in range(2)]
        try:
            said, trouble = both[0].communicate(timeout=90)
        finally:
            for process in both:
                process.kill()
                process.communicate()
    if not error:
        if "ANSWERED" not in said:
            raise AssertionError(f"two processes that nothing befalls have no answer: {said or trouble[-300:]}")
        return None
    if "ANSWERED" in said:
        raise Silent(f"an answer came though the second process {fault}")
    if f"SAID {error}" not in said:
        raise AssertionError(f"{error} was to be said: {said or trouble[-300:]}")
    return TYPED


class Processes(Cases):
    """Two processes, and what may befall the second one; and the processes of a loader."""

    id, sentence, limit = "F19", "One of several processes dies, hangs, or brings other data; a loader's dies.", 120.0

    def cases(self) -> Iterator[Case]:
        for fault, error in FAULTS.items():
            yield fault, partial(together, fault, error)
        for fault in LOADERS:
            yield f"a process of a loader: {fault}", partial(loading, fault)


ROWS = (Processes,)
