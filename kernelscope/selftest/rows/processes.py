"""F19: processes that work together, and one of them ends, hangs or brings something else."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..judging import Case, Cases
from ..row import TYPED, Done, NotTried, Silent

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

#: What befalls the second process, and the errors that the first one ends with.
FAULTS = {"killed": "ProcessLost", "ended": "ProcessLost", "hangs": "ProcessLost", "another ridge": "DataError",
          "other points": "DataError", "fewer points": "DataError", "fewer centers": "DataError", "nothing": ""}


def together(fault: str, error: str) -> Done | None:
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
        call = [sys.executable, "-c", SCRIPT]
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
    """Two processes, and what may befall the second one."""

    id, sentence, limit = "F19", "One of several processes dies, hangs, or brings other data.", 120.0

    def cases(self) -> Iterator[Case]:
        for fault, error in FAULTS.items():
            yield fault, partial(together, fault, error)


ROWS = (Processes,)
