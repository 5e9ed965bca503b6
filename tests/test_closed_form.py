"""Kernels in closed form obey the laws, and are what double loops over their formulas say, in both precisions."""

import copy
import itertools
import weakref

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from sklearn.metrics import pairwise
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kernelscope import kernels
from kernelscope.errors import DataError, NonFiniteError, OutOfBudget
from kernelscope.kernels import (
    ArcCosine,
    Cosine,
    Dispersal,
    Gaussian,
    Laplacian,
    Matern,
    Polynomial,
    RationalQuadratic,
    ReLUNTK,
    Tangent,
    median_bandwidth,
    of_distance,
)
from tests import laws, operator_laws
from tests.closed_forms import KERNELS, MEASURED, NAMES, STATIONARY, all_of, loops
from tests.laws import assert_close
from tests.maps import M, N

#: The largest error of an entry, relative to the largest entry. Measured on the points of this file, at most: 4e-15 and
#: 2e-6 for kernels that are rough at x = z (Laplacian, Matern of 1/2, dispersal, arc-cosine of order 0), 3e-15 and 1e-6
#: for smooth ones and for products, 2e-15 and 3e-6 for deep networks.
FLOAT64, FLOAT32 = 2e-14, 8e-6


def spread(n, d, seed=0, scale=1.0, mean=0.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, d, generator=generator, dtype=torch.float64) + mean


@pytest.mark.parametrize("law", laws.KERNELS + operator_laws.OPERATORS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", KERNELS)
def test_law(name, law, dtype, device):
    k, points = KERNELS[name](dtype, device)
    law(k, points(N, dtype, device), points(M, dtype, device))


# -- against double loops --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 8, 64])
@pytest.mark.parametrize("name", NAMES)
def test_entries_are_those_of_the_formula(name, d):
    x, z = spread(20, d), spread(13, d, seed=1)
    k, true = all_of(d**0.5)[name]
    assert_close(k(x, z), loops(true, x, z), FLOAT64)
    single = x.float(), z.float()
    assert_close(k(*single), loops(true, *single), FLOAT32)


def test_scikit_learn_has_the_same_kernels():
    x, z = spread(9, 4), spread(7, 4, seed=1)
    for k, true in ((Gaussian(1.5), pairwise.rbf_kernel(x, z, gamma=1 / 4.5)),
                    (Polynomial(3, 2.0, 0.5), pairwise.polynomial_kernel(x, z, degree=3, gamma=4, coef0=2)),
                    (Cosine(), pairwise.cosine_similarity(x, z))):
        assert_close(k(x, z), torch.from_numpy(true), FLOAT64)
    # Its Laplacian kernel is of the sum of absolute differences, which is this one in one dimension.
    x, z = x[:, :1], z[:, :1]
    assert_close(Laplacian(1.5)(x, z), torch.from_numpy(pairwise.laplacian_kernel(x, z, gamma=1 / 1.5)), FLOAT64)


HARD = {
    "close, opposite, equal and nought": lambda x, z: (x, z, 1.0),
    "far from the origin": lambda x, z: (x + 100, z + 100, 1.0),
    "with a narrow bandwidth": lambda x, z: (x, z, 0.05),
    "two narrow clusters": lambda x, z: (0.01 * x + 5, torch.cat([0.01 * x[:9] + 5, 0.01 * z[:9] - 5]), 0.01),
}


def hard_points(d):
    x, z, noise = spread(14, d), spread(6, d, seed=1), spread(6, d, seed=2)
    close = x[:6] + 10.0 ** -torch.arange(1, 7)[:, None] * noise
    return x, torch.cat([close, x[6:8], -1.5 * x[8:10], z, torch.zeros(1, d)])


@pytest.mark.parametrize("where", HARD)
@pytest.mark.parametrize("d", [2, 20])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "cosine"])
def test_close_and_distant_points_cost_no_digits(name, d, where):
    x, z, b = HARD[where](*hard_points(d))
    k, true = all_of(b * d**0.5)[name]
    for dtype, limit in ((torch.float64, FLOAT64), (torch.float32, FLOAT32)):
        near, far = x.to(dtype), z.to(dtype)
        assert_close(k(near, far), loops(true, near, far), limit)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", STATIONARY)
def test_equal_points_are_exactly_alike(name, dtype):
    x = spread(40, 8, mean=30.0).to(dtype)
    k, _ = all_of(0.3)[name]
    assert (k(x).diagonal() == 1).all()
    assert (k.diagonal(x) == 1).all()
    # Those of another set are so to a few units in the last place.
    assert (k(x, x.clone()).diagonal() - 1).abs().max() <= 32 * torch.finfo(dtype).eps
    assert k(x, x.clone()).max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_one_set_of_points_gives_a_symmetric_positive_matrix(name):
    x = torch.cat([spread(30, 3), spread(5, 3), torch.zeros(1, 3)])
    K = all_of(1.0)[name][0](x)
    assert torch.equal(K, K.T)
    values = torch.linalg.eigvalsh(K)
    assert values[0] > -1e-14 * len(x) * values[-1]


def test_vectors_of_length_nought_have_a_right_angle_to_all():
    x = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    assert torch.equal(Cosine()(x), torch.diag(torch.tensor([0.0, 1.0])))
    assert_close(ArcCosine(0)(x), torch.tensor([[0.5, 0.5], [0.5, 1.0]]))
    for k in (ArcCosine(0), ReLUNTK(2), ReLUNTK(2, 1.2, 0.3), Cosine()):
        assert_close(k(x, x.clone()), k(x))
        assert_close(k.diagonal(x), k(x).diagonal())


# -- infinite networks -----------------------------------------------------------------------------------------------

#: By neural-tangents 0.6.5 in float64, for W_std=1.5, b_std=0.05 and the points below.
ONE = [[0.013914965171755375, 0.10594989815067501, -0.07106690641123929],
       [0.21855865615280706, 0.7333420509354838, 0.1004264816287388],
       [0.11063644875004, 0.11798797106680664, 0.20094345431521354],
       [0.002636516132720604, 0.0827849649865762, -0.0846163801887109]]
THREE = [[0.6249285046129671, 0.8532483851293513, 0.480271859838167],
         [0.8687987484832462, 1.7098236127732211, 0.6848960847217993],
         [0.5931137213077072, 0.7024867869355834, 0.6623487057482063],
         [0.7079679417562446, 0.943837705553481, 0.548670171972943]]


def scattered(n, start):
    i = torch.arange(1, 5 * n + 1, dtype=torch.float64)
    return ((i * 0.7548776662466927 + start + (i * i * 0.5698402909980532) % 1) % 1 * 2 - 1).view(n, 5)


@pytest.mark.parametrize(("depth", "true"), [(1, ONE), (3, THREE)])
def test_the_infinite_width_kernel_is_that_of_neural_tangents(depth, true):
    found = ReLUNTK(depth, W_std=1.5, b_std=0.05)(scattered(4, 0.1), scattered(3, 0.37))
    assert_close(found, torch.tensor(true, dtype=torch.float64), 1e-14)


def test_wide_networks_have_the_infinite_width_kernel():
    x, depth, width, W, b = spread(4, 3), 2, 256, 1.3, 0.4
    true = ReLUNTK(depth, W, b)(x)
    found = []
    for _ in range(60):
        sizes = [3, *[width] * depth, 1]
        layers = [(torch.randn(o, i, dtype=torch.float64, requires_grad=True),
                   torch.randn(o, dtype=torch.float64, requires_grad=True)) for i, o in itertools.pairwise(sizes)]
        h = x
        for place, (w, c) in enumerate(layers):
            h = h @ w.T * (W / w.shape[1] ** 0.5) + b * c
            h = h.relu() if place < depth else h
        J = torch.stack([torch.cat([g.flatten() for g in torch.autograd.grad(
            y, [p for layer in layers for p in layer], retain_graph=True)]) for y in h[:, 0]])
        found.append(J @ J.T)
    draws = torch.stack(found)
    error = draws.std(0) / len(draws) ** 0.5
    # Of ten different entries, one in twenty thousand is further off; the bias of finite width is of order 1 / 256.
    assert ((draws.mean(0) - true).abs() < 4 * error + 4 / width * true.abs()).all()
    assert (error < 0.05 * true.abs().max()).all()


def test_scaled_points_and_depths_have_closed_forms():
    x = spread(5, 7)
    for depth in (1, 2, 9):
        k = ReLUNTK(depth)
        assert_close(k.diagonal(x), 2 * (depth + 1) / 7 * x.square().sum(1), 1e-14)
        assert_close(k(2 * x, 3 * x), 6 * k(x), 1e-14)


# -- derivatives -----------------------------------------------------------------------------------------------------


def finite_differences(f, x, step=1e-6):
    found = torch.zeros(*f(x).shape, x.numel(), dtype=torch.float64)
    for i in range(x.numel()):
        move = torch.zeros(x.numel(), dtype=torch.float64)
        move[i] = step
        found[..., i] = (f(x + move.view_as(x)) - f(x - move.view_as(x))) / (2 * step)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name):
    x, z, v = spread(3, 4).view(3, 2, 2), spread(5, 4, seed=1).view(5, 2, 2), spread(5, 2, seed=2)
    k, _ = all_of(1.5)[name]
    f = lambda x: k(x, z) @ v
    true = torch.stack([finite_differences(f, x)[i, :, 4 * i:4 * i + 4] for i in range(3)]).view(3, 2, 2, 2)
    assert_close(k.gradient(x, z, v), true, 1e-8)
    assert_close(k.gradient(x, z, v[:, 0]), true[:, 0], 1e-8)
    # Both sides, by automatic differentiation of the matrix.
    near, far = x.clone().requires_grad_(), z.clone().requires_grad_()
    weights = spread(3, 2, seed=3)
    (weights * (k(near, far) @ v)).sum().backward()
    assert_close(near.grad, (weights[:, :, None, None] * true).sum(1), 1e-8)
    assert_close(far.grad, k.gradient(z, x, weights).mul(v[:, :, None, None]).sum(1), 1e-8)
    assert_close(k(near, far), k(x, z), 1e-14)
    assert_close(k(near), k(x), 1e-14)


@pytest.mark.parametrize("name", MEASURED)
def test_derivatives_by_the_bandwidth_are_those_of_finite_differences(name):
    make = MEASURED[name][0]
    x, z, v = spread(6, 3), torch.cat([spread(4, 3, seed=1), spread(6, 3)[:1]]), spread(5, 2, seed=2)
    for others, u in ((z, v), (None, spread(6, 2, seed=2))):
        true = (make(1.2 + 1e-6)(x, others) - make(1.2 - 1e-6)(x, others)) @ u / 2e-6
        assert_close(make(1.2).bandwidth_gradient(x, others, u), true, 1e-8)
        b = torch.tensor(1.2, dtype=torch.float64, requires_grad=True)
        (make(b)(x, others) @ u).sum().backward()
        assert_close(b.grad, true.sum(), 1e-8)
    assert_close(make(torch.tensor(1.2, dtype=torch.float64)).matmul(x, z, v), make(1.2).matmul(x, z, v), 1e-14)


def test_products_can_be_differentiated_by_the_weights_and_used_with_a_bandwidth_that_is_learned():
    x, z = spread(7, 3), spread(6, 3, seed=1)
    k = Laplacian(torch.tensor(1.5, requires_grad=True))
    v = spread(6, 2, seed=2).requires_grad_()
    (k.matmul(x, z, v) * spread(7, 2, seed=3)).sum().backward()
    assert_close(v.grad, Laplacian(1.5)(z, x) @ spread(7, 2, seed=3))
    assert not k.matmul(x, z, v.detach()).requires_grad


def test_gradients_are_the_closed_forms():
    x, z = spread(4, 3), spread(6, 3, seed=1)
    gaps = x[:, None] - z
    r = gaps.norm(dim=2)[:, :, None]
    for k, slope in ((Gaussian(1.5), -gaps / 1.5**2), (Laplacian(1.5), -gaps / (1.5 * r)),
                     (Matern(1.5, 1.5), -3 * gaps / (1.5**2 + 1.5 * 3**0.5 * r))):
        v = spread(6, 2, seed=2)
        assert_close(k.gradient(x, z, v), torch.einsum("ij,ijd,jc->icd", k(x, z), slope, v), 1e-13)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_where_points_are_equal_opposite_or_nought(name, dtype):
    x = torch.cat([spread(4, 2), -spread(2, 2), spread(2, 2), torch.zeros(2, 2)]).to(dtype)
    k, _ = all_of(1.0)[name]
    near, far = x.clone().requires_grad_(), x.clone().requires_grad_()
    (k(near, far).sum() + k(near).sum()).backward()
    for found in (near.grad, far.grad, k.gradient(x, x, torch.ones(len(x)))):
        assert found.isfinite().all()


@pytest.mark.parametrize("name", STATIONARY)
def test_a_point_does_not_move_its_own_value(name):
    x = spread(1, 3)
    k, _ = all_of(1.0)[name]
    assert (k.gradient(x, x, torch.ones(1)) == 0).all()


# -- within a budget -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Gaussian", "Matern of 3/2", "cosine", "deep ReLU NTK with biases"])
def test_products_in_any_memory_are_the_same(name):
    x, z = spread(150, 5), spread(130, 5, seed=1)
    k, _ = all_of(2.0)[name]
    v, w = spread(130, 3, seed=2), spread(150, 3, seed=3)
    true, own, gradient = k(x, z) @ v, k(x) @ w, k.gradient(x, z, v)
    shapes = set()
    for memory in (1_000_000, 300_000, 150_000, 130_000):
        little = copy.copy(k)
        little.memory = memory
        shapes.add(tuple(next(iter(little.blocks(x, z)))[2].shape))
        assert_close(little.matmul(x, z, v), true, 1e-13)
        assert_close(little.matmul(x, None, w), own, 1e-13)
        assert_close(little(x), k(x), 1e-13)
        assert_close(little.diagonal(x), k.diagonal(x), 1e-13)
        assert_close(little.gradient(x, z, v), gradient, 1e-12)
    assert len(shapes) > 1


class Live(TorchDispatchMode):
    """Counts the bytes of the storages that are alive."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        known = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.untyped_storage()._cdata not in known:
                self.now += t.untyped_storage().nbytes()
                known.add(t.untyped_storage()._cdata)
                weakref.finalize(t.untyped_storage(), self.freed, t.untyped_storage().nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def freed(self, count):
        self.now -= count


@pytest.mark.parametrize("clusters", [0, 9])
@pytest.mark.parametrize("memory", [700_000, 3_000_000])
@pytest.mark.parametrize("name", ["Gaussian", "Laplacian", "Matern of 5/2", "dispersal", "polynomial", "cosine",
                                  "arc-cosine of order 0", "deep ReLU NTK with biases"])
def test_a_product_stays_within_its_memory(name, memory, clusters):
    x, z, v = spread(400, 20).float(), spread(350, 20, seed=1).float(), torch.ones(350, 1)
    z[:100] = x[:100]
    if clusters:
        centers = 9 * spread(clusters, 20, seed=3).float().repeat(100, 1)
        x, z = (0.01 * points + centers[:len(points)] for points in (x, z))
    k = copy.copy(all_of(5.0)[name][0])
    k.memory = memory
    for others, u in ((z, v), (None, torch.ones(400, 1))):
        with Live() as live:
            k.matmul(x, others, u)
        assert memory / 20 < live.peak < memory + 2 * 4 * 400


def test_a_budget_without_room_is_refused_before_anything_is_computed():
    with pytest.raises(OutOfBudget, match=r"points of 50 numbers needs at least .* memory allows 1 KB.*memory='"):
        Gaussian(1.0, memory="1KB").matmul(spread(30, 50), None, torch.ones(30))


def test_each_entry_of_a_symmetric_matrix_is_computed_once(monkeypatch):
    entries, make = [], of_distance.squared_distances

    def counted(*args):
        found = make(*args)
        entries.append(found.numel())
        return found

    monkeypatch.setattr(of_distance, "squared_distances", counted)
    k = Gaussian(1.0, memory=100_000)
    k.matmul(spread(320, 2), None, torch.ones(320))
    assert len(entries) > 3
    assert sum(entries) < 0.65 * 320**2


# -- points and numbers ----------------------------------------------------------------------------------------------


def test_points_of_any_shape_and_kind_are_vectors():
    x = spread(6, 12).float()
    k = Laplacian(2.0)
    true = k(x)
    for points in (x.view(6, 3, 4), x.numpy(), {"pixels": x}, torch.utils.data.TensorDataset(x, torch.arange(6)),
                   torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=4)):
        assert_close(k(points), true)
    assert k(x.double(), x).dtype == torch.float64
    for other in (torch.uint8, torch.float16, torch.bfloat16, torch.bool):
        some = (x > 0).to(other)
        assert torch.equal(k(some), k(some.float()))
    flat = torch.arange(3.0)
    assert_close(k(flat), k(flat[:, None]))


def test_half_of_a_sum_may_read_targets():
    model, x, y = torch.nn.Linear(3, 1).double(), spread(4, 3), spread(4, 1, seed=1)
    loss = Tangent(model, loss=lambda outputs, targets, reduction="none": (outputs - targets).square().sum(1))
    assert_close((Gaussian(1.0) + loss)((x, y)), Gaussian(1.0)(x) + loss((x, y)))


@pytest.mark.parametrize("name", MEASURED)
def test_a_bandwidth_is_taken_from_points_once(name):
    x, z = spread(30, 4), spread(5, 4, seed=1)
    k = MEASURED[name][0]("median")
    assert "bandwidth=None" in repr(k)
    for call in (lambda: k(z), lambda: k.matmul(x, z, torch.ones(5)), lambda: k.gradient(x, z, torch.ones(5)),
                 lambda: list(k.blocks(x)), lambda: k.diagonal(x), lambda: k.bandwidth_gradient(x, z, torch.ones(5))):
        with pytest.raises(DataError, match=r"has no bandwidth yet.*fitted\(x\), or pass a number"):
            call()
    fitted = k.fitted(x)
    assert fitted.bandwidth == median_bandwidth(x)
    assert fitted.fitted(z) is fitted
    true = MEASURED[name][0](median_bandwidth(x))(z)
    assert_close(fitted(z), true)
    assert_close((2 * k * k.T + k).fitted(x)(z), 2 * true.square() + true)
    assert k.bandwidth is None


def test_the_median_is_that_of_all_pairs_of_a_sample():
    x = spread(41, 3)
    assert abs(median_bandwidth(x) - np.median(pdist(x))) < 1e-12
    assert median_bandwidth(x.view(41, 3, 1)) == median_bandwidth(x)
    large = spread(3000, 3)
    assert median_bandwidth(large) == median_bandwidth(large)
    assert abs(median_bandwidth(large) / np.median(pdist(large)) - 1) < 0.03
    copies = torch.cat([torch.zeros(20, 1), torch.ones(1, 1)])
    assert median_bandwidth(copies) == 1
    for same in (torch.ones(5, 2), torch.ones(1, 2)):
        with pytest.raises(DataError, match="all at one place"):
            median_bandwidth(same)


@pytest.mark.parametrize("make", [Gaussian, Laplacian, lambda b: Matern(1.5, b), lambda b: Polynomial(2, 1.0, b)])
@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), "mean", True, [1.0], torch.tensor(-1.0),
                                 torch.ones(2), 1j])
def test_what_is_no_bandwidth_is_refused(make, bad):
    with pytest.raises(DataError, match="bandwidth must be a positive number.*came. Pass"):
        make(bad)


@pytest.mark.parametrize("make", [
    lambda: Matern(2.0), lambda: Matern("1.5"), lambda: RationalQuadratic(0), lambda: Dispersal(2.1),
    lambda: Polynomial(0), lambda: Polynomial(1.5), lambda: Polynomial(2, -1.0), lambda: ArcCosine(3),
    lambda: ArcCosine(True), lambda: ReLUNTK(0), lambda: ReLUNTK(1, W_std=-1), lambda: ReLUNTK(1, b_std=float("nan"))])
def test_numbers_that_make_no_kernel_are_refused(make):
    with pytest.raises(DataError, match=r"must be .* came"):
        make()


def test_points_that_are_no_vectors_are_refused():
    k, x = Gaussian(1.0), spread(4, 3)
    for points, match in (((x, x), "takes one tensor for each point, and 2 entries"),
                          (x.to(torch.complex64), "real numbers"), (torch.zeros(3, 0), "real numbers")):
        with pytest.raises(DataError, match=match):
            k(points)
    with pytest.raises(DataError, match=r"those of x have shape \(3,\), those of z \(2,\)"):
        k(x, x[:, :2])
    for value in (torch.nan, torch.inf, -torch.inf):
        bad = x.clone()
        bad[2, 1] = value
        for call in (lambda bad=bad: k(bad), lambda bad=bad: k(x, bad), lambda bad=bad: k(bad.requires_grad_())):
            with pytest.raises(NonFiniteError, match="Point 2 holds"):
                call()


def test_kernels_tell_what_they_are():
    told = [repr(k) for k, _ in all_of(1.5).values()]
    assert told[:2] == ["Gaussian(bandwidth=1.5)", "Laplacian(bandwidth=1.5)"]
    assert len(set(told)) == len(told)
    assert all(repr(eval(text, vars(kernels))) == text for text in told)
