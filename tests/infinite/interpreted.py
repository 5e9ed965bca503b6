"""Stages by the GPU's programs, run on a processor by Triton's interpreter; writes how far they are from torch.

The interpreter has to be asked for before triton is imported, so this runs as a process of its own.
"""

import json
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch  # noqa: E402

from kernelscope.kernels.infinite.fused import Affine, Stage, gpu, reference  # noqa: E402

LAYERS = (Affine(3, 1.5, 0.3, 0.1, 1.0), Affine(1, 2.0, 0.0, -1.0, 1.0))


def gaps(found, true):
    return [float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, true, strict=True)]


def all_gaps(kind):
    generator = torch.Generator().manual_seed(0)
    x, z = (torch.randn(2, 3, 2, 4, generator=generator, dtype=kind) for _ in range(2))
    z[0] = x[0]
    z[1, :, 0] = 0
    i, j, a = torch.tensor([0, 1]), torch.tensor([0, 1]), torch.rand(3, generator=generator, dtype=kind) + 1
    found = {}
    args = Stage(LAYERS, 2), x[..., :2], z[..., :2], i, j
    found["pooled"] = gaps(gpu.of_images(*args), reference.of_images(*args))
    if kind == torch.float32:
        return found
    args = Stage(LAYERS[:1], 1), x, z, i[1:], j[1:]
    found["images"] = gaps(gpu.of_images(*args), reference.of_images(*args))
    own = [reference.of_images(Stage(LAYERS, 1), t, t, i, i, False)[0] for t in (x, z)]
    q = [torch.einsum("nhwhw->nhw", k) for k in own]
    args = Stage(LAYERS[:1], 2), *reference.of_images(Stage(LAYERS, 1), x, z, i[1:], j[1:]), *q, i[1:], j[1:]
    found["covariances"] = gaps(gpu.of_covariances(*args), reference.of_covariances(*args))
    found["pixels"] = gaps(gpu.of_pixels(LAYERS, x, z[:1]), reference.of_pixels(LAYERS, x, z[:1]))
    lack = torch.rand(3, 3, generator=generator, dtype=kind)
    found["vectors"] = gaps(gpu.of_vectors(LAYERS, lack.clone(), a, a), reference.of_vectors(LAYERS, lack, a, a))
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps({"float64": all_gaps(torch.float64), "float32": all_gaps(torch.float32)}))
