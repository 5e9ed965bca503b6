"""Networks of infinite width, followed on one matrix of all positions of all points.

Every layer that is linear in positions is a matrix M, and K becomes M K M^T: too simple to be wrong, and far too large
to be used on more than a few points.
"""

import math

import torch
from torch import Tensor

from kernelscope.kernels.infinite import Aggregate, AvgPool, GlobalAvgPool, GlobalSumPool, ReLU, SelfAttention


class Joint:
    """The covariances K and the tangent kernel T of all positions of all points, each point with as many positions."""

    def __init__(self, x, mask=None, pattern=None):
        self.count, self.positions = len(x), x.shape[2]
        self.there = torch.ones(len(x), self.positions).double() if mask is None else mask.double()
        self.pattern = pattern
        flat = (x.double() * self.there[:, None]).movedim(1, 2).flatten(0, 1)
        self.k, self.t = flat @ flat.T / x.shape[1], torch.zeros(len(flat), len(flat), dtype=torch.float64)

    def after(self, *layers):
        for layer in layers:
            getattr(self, type(layer).__name__.lower())(layer)
            self.masked()
        return self

    def of_points(self):
        assert self.positions == 1
        return self.k, self.t

    def masked(self):
        there = self.there.flatten()
        self.k, self.t = (torch.outer(there, there) * each for each in (self.k, self.t))

    def moved(self, matrices):
        """M K M^T, for a matrix of each point."""
        whole = torch.block_diag(*matrices)
        self.k, self.t = whole @ self.k @ whole.T, whole @ self.t @ whole.T

    def random(self, w, b):
        self.k = w**2 * self.k + b**2
        self.t = self.k + w**2 * self.t

    def dense(self, layer):
        self.random(layer.W_std, layer.b_std)

    def conv(self, layer):
        side, stride, n = layer.side, layer.stride, self.positions
        low = 0 if layer.padding == "valid" else max((math.ceil(n / stride) - 1) * stride + side - n, 0) // 2
        out = (n - side) // stride + 1 if layer.padding == "valid" else math.ceil(n / stride)
        k, t = 0.0, 0.0
        for s in range(side):
            shift = torch.zeros(out, n, dtype=torch.float64)
            for p in range(out):
                if 0 <= p * stride - low + s < n:
                    shift[p, p * stride - low + s] = 1
            whole = torch.block_diag(*[shift] * self.count)
            k, t = k + whole @ self.k @ whole.T / side, t + whole @ self.t @ whole.T / side
        self.k, self.t, self.positions = k, t, out
        self.random(layer.W_std, layer.b_std)
        if layer.padding == "valid":
            self.there = torch.stack([self.there[:, p * stride:p * stride + side].amin(1) for p in range(out)], 1)
        else:
            self.there = torch.stack([self.there[:, p * stride:(p + 1) * stride].amax(1) for p in range(out)], 1)

    def relu(self, layer):
        assert isinstance(layer, ReLU)
        root = self.k.diagonal().sqrt()
        size = torch.outer(root, root)
        cosine = torch.where(size > 0, self.k / torch.where(size > 0, size, 1.0), 0.0).clamp(-1, 1)
        cosine.fill_diagonal_(1)
        angle = cosine.acos()
        self.k = size * (angle.sin() + (math.pi - angle) * cosine) / (2 * math.pi)
        self.t = self.t * (math.pi - angle) / (2 * math.pi)

    def residual(self, layer):
        before = self.k, self.t, self.there, self.positions
        self.after(*layer.branch.layers)
        f, there = (self.k, self.t), self.there
        self.k, self.t, self.there, self.positions = before
        self.after(*layer.skip.layers)
        self.k, self.t, self.there = self.k + f[0], self.t + f[1], torch.maximum(self.there, there)

    def means(self, windows):
        """Means over windows, of what is there."""
        matrices = []
        for there in self.there:
            m = torch.zeros(len(windows), self.positions, dtype=torch.float64)
            for p, window in enumerate(windows):
                seen = [q for q in window if there[q]]
                for q in seen:
                    m[p, q] = 1 / len(seen)
            matrices.append(m)
        self.moved(matrices)
        self.there = torch.stack([self.there[:, list(window)].amax(1) for window in windows], 1)
        self.positions = len(windows)

    def avgpool(self, layer: AvgPool):
        self.means([range(p, p + layer.side) for p in range(0, self.positions, layer.side)])

    def globalavgpool(self, layer: GlobalAvgPool):
        self.means([range(self.positions)])

    def globalsumpool(self, layer: GlobalSumPool):
        self.moved([torch.ones(1, self.positions, dtype=torch.float64)] * self.count)
        self.there, self.positions = self.there.amax(1, keepdim=True), 1

    def flatten(self, layer):
        shape = self.count, self.positions, self.count, self.positions
        counts = self.there.sum(1).clamp(min=1)
        share = torch.outer(counts, counts).rsqrt()
        self.k, self.t = (share * each.reshape(shape).diagonal(dim1=1, dim2=3).sum(-1) for each in (self.k, self.t))
        self.there, self.positions = self.there.amax(1, keepdim=True), 1

    def aggregate(self, layer: Aggregate):
        self.moved([pattern.double().T for pattern in self.pattern])

    def selfattention(self, layer: SelfAttention):
        n, found = self.positions, []
        for i in range(self.count):
            own, weights = self.k[i * n:(i + 1) * n, i * n:(i + 1) * n], torch.zeros(n, n, dtype=torch.float64)
            for p in range(n):
                seen = [q for q in range(n) if self.there[i, q]]
                compared = [layer.QK_std * float(own[p, q]) for q in seen]
                if layer.zeta == "softmax":
                    powers = [math.exp(value) for value in compared]
                    compared = [power / sum(powers) for power in powers]
                elif layer.zeta == "relu":
                    compared = [max(value, 0.0) for value in compared]
                for q, value in zip(seen, compared, strict=True):
                    weights[p, q] = value
            found.append(weights)
        self.moved(found)
        w, b = layer.OV_std**2, layer.b_std**2
        self.k, self.t = w * self.k + b, w * self.t + 2 * w * self.k + b


def both_of(net, points: Tensor, mask=None, pattern=None):
    """Both kernels of a network, of all points with all."""
    return Joint(points, mask, pattern).after(*net.layers).of_points()
