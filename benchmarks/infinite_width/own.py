"""Our kernels, measured in a process of their own, in the way the rival's are.

    python own.py CASE FOLDER DTYPE

reads ``x.npy`` and ``z.npy`` from the folder (images with channels last), writes both kernels there, and prints the
seconds of each run and the peak of its memory. The first call, which compiles, does not count.
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch

from kernelscope.kernels.infinite import Conv, Dense, Flatten, GlobalAvgPool, ReLU, Serial
from kernelscope.kernels.infinite.named import myrtle

W = 2**0.5

#: How many times a kernel is computed after the first call, at most, and within how many seconds.
RUNS, SECONDS = 12, 40.0


def network(case: str) -> Serial:
    """The network of a case."""
    name, number = case.split(":")
    if name == "fc":
        return Serial(*[layer for _ in range(int(number)) for layer in (Dense(W), ReLU())], Dense(W))
    if name == "myrtle":
        return myrtle(int(number))
    end = GlobalAvgPool() if name == "gap" else Flatten()
    return Serial(*[layer for _ in range(int(number)) for layer in (Conv(3, W), ReLU())], end, Dense(W))


def main() -> None:
    """Measures one case."""
    case, folder, dtype = sys.argv[1], Path(sys.argv[2]), getattr(torch, sys.argv[3])
    x, z = (torch.from_numpy(np.load(folder / f"{name}.npy")).to(dtype) for name in ("x", "z"))
    if x.ndim == 4:
        x, z = (t.permute(0, 3, 1, 2).contiguous() for t in (x, z))
    net, walls, cores = network(case), [], []
    begun = time.perf_counter()
    found = net.both(x, z)
    first = time.perf_counter() - begun
    while len(walls) < RUNS and (not walls or sum(walls) + walls[-1] < SECONDS):
        begun, core = time.perf_counter(), time.process_time()
        found = net.both(x, z)
        walls.append(time.perf_counter() - begun)
        cores.append(time.process_time() - core)
    np.save(folder / "own.npy", torch.stack(list(found)).double().numpy())
    print(json.dumps({"walls": walls, "cores": cores, "first": first,
                      "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


if __name__ == "__main__":
    main()
