"""Feature maps and kernels of every kind that the laws are held against, each with points it takes."""

import torch
import torch.nn.functional as F

from kernelscope.features import (
    ArcCosineFeatures,
    FeatureMap,
    GradientFeatures,
    PositiveFeatures,
    Preconditioned,
    Projected,
    RandomFourier,
    UniversalRandomFeatures,
)
from kernelscope.kernels import FeatureKernel, Kernel, Tangent
from tests.networks import inputs, make, vectors

N, M = 6, 5


class Monomials(FeatureMap):
    """The simplest map: the coordinates, their squares and a constant."""

    size = 9

    def phi(self, x):
        points = self.points(x)
        (x,) = points.part(0, len(points)).args
        return torch.cat([x, x**2, torch.ones_like(x[:, :1])], 1)


class Waves(FeatureMap):
    """A map with two outputs."""

    size, columns = 4, 2

    def phi(self, x):
        points = self.points(x)
        (x,) = points.part(0, len(points)).args
        return torch.stack([x.sin(), (2 * x).cos()], 1)


class Laplacian(Kernel):
    """A kernel that is only its matrix."""

    def __call__(self, x, z=None):
        points, others = self.points(x), self.points(x if z is None else z)
        (left,), (right,) = points.part(0, len(points)).args, others.part(0, len(others)).args
        return torch.exp(-torch.cdist(left, right, p=1))


class Lopsided(Kernel):
    """A kernel that is not symmetric, and only its matrix."""

    symmetric = False

    def __call__(self, x, z=None):
        points, others = self.points(x), self.points(x if z is None else z)
        (left,), (right,) = points.part(0, len(points)).args, others.part(0, len(others)).args
        return left.sin() @ right.T


def perceptron_features(dtype, device, **options):
    return GradientFeatures(make("a perceptron"), dtype=dtype, device=device, **options)


def squared_error(outputs, targets, reduction="none"):
    return F.mse_loss(outputs, targets, reduction=reduction).mean(1)


def plain(n, dtype, device):
    return vectors(n).to(device, dtype)


def with_targets(n, dtype, device):
    return vectors(n).to(device, dtype), vectors(n + 50, 3)[:n].to(device, dtype)


#: From a dtype and a device to a map and the maker of its points.
FEATURES = {
    "one vector for each point": lambda *on: (Monomials(), plain),
    "two outputs": lambda *on: (Waves(), plain),
    "gradients of outputs": lambda *on: (perceptron_features(*on), plain),
    "gradients in little memory": lambda *on: (perceptron_features(*on, memory=20_000), plain),
    "gradients of one output": lambda *on: (perceptron_features(*on, output=1), plain),
    "gradients of a function of outputs": lambda *on: (
        perceptron_features(*on, output=lambda y: y[:, :2].square()), plain),
    "gradients of losses": lambda *on: (perceptron_features(*on, loss=squared_error), with_targets),
    "gradients by one layer": lambda *on: (perceptron_features(*on, parameters=["2"]), plain),
    "signs": lambda *on: (Projected(Monomials(), 5), plain),
    "sparse signs": lambda *on: (Projected(Waves(), 3, kind="sparse"), plain),
    "signs of gradients": lambda *on: (Projected(perceptron_features(*on, memory=20_000), 33, seed=1), plain),
    "sparse signs of gradients": lambda *on: (Projected(perceptron_features(*on), 10, kind="sparse"), plain),
    "side by side": lambda *on: (Monomials() + Projected(Monomials(), 4), plain),
    "gradients side by side": lambda *on: (
        perceptron_features(*on) + GradientFeatures(make("a module used twice"), dtype=on[0], device=on[1]), plain),
    "with a scale": lambda *on: (Preconditioned(Waves(), torch.tensor([1.0, -2.0, 0.0, 0.5])), plain),
    "gradients with a scale": lambda *on: (
        Preconditioned(perceptron_features(*on, memory=20_000), torch.linspace(0.1, 2, 51)), plain),
    "random waves": lambda *on: (RandomFourier(12, bandwidth=2.0), plain),
    "rectified directions": lambda *on: (ArcCosineFeatures(7), plain),
    "random exponentials": lambda *on: (PositiveFeatures(9, A=0.1, gaussian=True), plain),
    "random waves beside steps": lambda *on: (
        RandomFourier(6, kernel="cauchy", kind="independent") + ArcCosineFeatures(5, order=0), plain),
    "universal features of inputs": lambda *on: (UniversalRandomFeatures("tanh", 40, 4).inputs, plain),
    "universal features of weights": lambda *on: (
        UniversalRandomFeatures("cos", 6, 4, positive="parameters").parameters, plain),
    "a composition of everything": lambda *on: (
        Projected(Preconditioned(Waves() + Waves(), torch.linspace(-1, 1, 8)), 6), plain),
}


def tangent(dtype, device, **options):
    return Tangent(make("a perceptron"), dtype=dtype, device=device, **options)


#: From a dtype and a device to a kernel and the maker of its points.
KERNELS = {
    "a matrix": lambda *on: (Laplacian(), plain),
    "a matrix that is not symmetric": lambda *on: (Lopsided(), plain),
    "products of features": lambda *on: (FeatureKernel(Monomials()), plain),
    "products summed over outputs": lambda *on: (FeatureKernel(Waves()), plain),
    "products of pairs of outputs": lambda *on: (FeatureKernel(Waves(), outputs="full"), plain),
    "products of two maps": lambda *on: (
        FeatureKernel(Monomials(), Preconditioned(Monomials(), torch.arange(9.0))), plain),
    "products of two maps summed over outputs": lambda *on: (FeatureKernel(
        perceptron_features(*on), Preconditioned(perceptron_features(*on), torch.linspace(0, 1, 51))), plain),
    "products of two maps by pairs of outputs": lambda *on: (
        FeatureKernel(Waves(), Preconditioned(Waves(), torch.arange(4.0)), outputs="full"), plain),
    "products of projected gradients": lambda *on: (FeatureKernel(Projected(perceptron_features(*on), 20)), plain),
    "products of random waves": lambda *on: (FeatureKernel(RandomFourier(12, bandwidth=2.0)), plain),
    "products of inputs and weights": lambda *on: (UniversalRandomFeatures("tanh", 40, 4).kernel, plain),
    "tangent": lambda *on: (tangent(*on), plain),
    "tangent by pairs of outputs": lambda *on: (tangent(*on, outputs="full"), plain),
    "tangent in little memory": lambda *on: (tangent(*on, memory=20_000), plain),
    "tangent of losses": lambda *on: (tangent(*on, loss=squared_error), with_targets),
    "tangent by angles": lambda *on: (tangent(*on, cosine=True), plain),
    "tangent by angles of pairs": lambda *on: (tangent(*on, cosine=True, outputs="full"), plain),
    "tangent of two inputs": lambda *on: (
        Tangent(make("two inputs"), dtype=on[0], device=on[1]), lambda n, *_: inputs("two inputs", n)),
}


