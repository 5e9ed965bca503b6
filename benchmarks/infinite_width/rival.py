"""The kernels of neural-tangents, measured in a process of its own, with the interpreter that has it.

    RIVAL_PYTHON rival.py CASE FOLDER DTYPE

reads ``x.npy`` and ``z.npy`` from the folder (images with channels last), writes both kernels there, and prints the
seconds of each run and the peak of its memory. Both kernels come from one call, compiled by jit; the first call, which
compiles, does not count.
"""

import json
import os
import resource
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import jax  # noqa: E402
import numpy as np  # noqa: E402

jax.config.update("jax_platforms", "cpu")
if sys.argv[3] == "float64":
    jax.config.update("jax_enable_x64", True)
from neural_tangents import stax  # noqa: E402

W = 2**0.5

#: How many times a kernel is computed after the first call, at most, and within how many seconds.
RUNS, SECONDS = 12, 40.0


def network(case):
    """The network of a case."""
    dense = lambda: stax.Dense(1, W_std=W, b_std=None)
    conv = lambda: stax.Conv(1, (3, 3), padding="SAME", W_std=W, b_std=None)
    pool = lambda: stax.AvgPool((2, 2), strides=(2, 2))
    name, number = case.split(":")
    layers = []
    if name == "fc":
        for _ in range(int(number)):
            layers += [dense(), stax.Relu()]
    elif name == "myrtle":
        for place, count in enumerate({5: (2, 1, 1), 7: (2, 2, 2), 10: (3, 3, 3)}[int(number)]):
            for _ in range(count):
                layers += [conv(), stax.Relu()]
            layers += [pool()] * (3 if place == 2 else 1)
        layers.append(stax.Flatten())
    else:
        for _ in range(int(number)):
            layers += [conv(), stax.Relu()]
        layers.append(stax.GlobalAvgPool() if name == "gap" else stax.Flatten())
    return stax.serial(*layers, dense())[2]


def main():
    """Measures one case."""
    case, folder, dtype = sys.argv[1:4]
    x, z = (np.load(os.path.join(folder, f"{name}.npy")).astype(dtype) for name in ("x", "z"))
    kernel = jax.jit(lambda x, z: network(case)(x, z, ("nngp", "ntk")))
    begun, walls, cores = time.perf_counter(), [], []
    found = [np.asarray(k) for k in kernel(x, z)]
    compiling = time.perf_counter() - begun
    while len(walls) < RUNS and (not walls or sum(walls) + walls[-1] < SECONDS):
        begun, core = time.perf_counter(), time.process_time()
        found = [np.asarray(k) for k in kernel(x, z)]
        walls.append(time.perf_counter() - begun)
        cores.append(time.process_time() - core)
    np.save(os.path.join(folder, "rival.npy"), np.stack(found).astype("float64"))
    print(json.dumps({"walls": walls, "cores": cores, "first": compiling,
                      "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


if __name__ == "__main__":
    main()
