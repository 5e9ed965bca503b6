import math

import pytest
import torch

import kernelscope as ks
from kernelscope.errors import DataError
from kernelscope.nn.towers import Fourier, Rectified, drawn
from tests.nn.small import points


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def test_products_of_rectified_features_are_the_arc_cosine_kernel_on_average():
    x = points(6, 4)
    mean = sum((f := drawn("rectified", 512, 4, draw(seed))(x)) @ f.T for seed in range(60)) / 60
    true = ks.kernels.ArcCosine(order=1)(x)
    assert float((mean - true).norm() / true.norm()) < 0.02


def test_products_of_fourier_features_are_the_gaussian_kernel_on_average():
    x = points(6, 4)
    mean = sum((f := drawn("fourier", 512, 4, draw(seed), bandwidth=2.0)(x)) @ f.T for seed in range(60)) / 60
    true = ks.kernels.Gaussian(bandwidth=2.0)(x)
    assert float((mean - true).norm() / true.norm()) < 0.01


def test_the_error_falls_with_the_root_of_the_number_of_features():
    x, sizes = points(8, 4), [64, 128, 256, 512, 1024, 2048, 4096]
    true = ks.kernels.ArcCosine(order=1)(x)
    errors = []
    for m in sizes:
        gaps = [float(((f := drawn("rectified", m, 4, draw(s), rows="independent")(x)) @ f.T - true).square().mean())
                for s in range(40)]
        errors.append(math.log(sum(gaps) / len(gaps)) / 2)
    logs = torch.tensor([math.log(m) for m in sizes])
    slope = float(((logs - logs.mean()) * torch.tensor(errors)).sum() / (logs - logs.mean()).square().sum())
    assert -0.56 < slope < -0.44


def test_rectified_features_without_a_shift_are_homogeneous():
    x, tower = points(5, 3), drawn("rectified", 16, 3, draw())
    assert torch.allclose(tower(2.5 * x), 2.5 * tower(x), rtol=1e-14)


def test_features_follow_their_formula_entry_by_entry():
    x, g, shift = points(3, 2), points(4, 2, seed=1), points(4, 1, seed=2)[:, 0]
    one, two = Rectified(g, shift)(x), Fourier(g)(x)
    for i in range(3):
        for j in range(4):
            z = sum(float(g[j, k] * x[i, k]) for k in range(2))
            assert float(one[i, j]) == pytest.approx(math.sqrt(2 / 4) * max(0.0, z + float(shift[j])), abs=1e-14)
            assert float(two[i, j]) == pytest.approx(math.cos(z) / 2, abs=1e-14)
            assert float(two[i, 4 + j]) == pytest.approx(math.sin(z) / 2, abs=1e-14)


@pytest.mark.parametrize("kind", ["rectified", "fourier"])
def test_a_tower_is_kept_with_its_directions_and_moves_with_its_module(kind):
    tower, other = (drawn(kind, 8, 3, draw(seed), shift=1.0) for seed in (0, 1))
    x = points(4, 3)
    assert not torch.equal(tower(x), other(x))
    other.load_state_dict(tower.state_dict())
    assert torch.equal(tower(x), other(x))
    assert tower.to(torch.float32)(x.float()).dtype == torch.float32
    assert not list(tower.parameters())


def test_rows_of_any_leading_shape_give_the_same_features():
    x, tower = points(6, 3), drawn("rectified", 8, 3, draw(), shift=1.0)
    assert torch.allclose(tower(x.view(2, 3, 3)).view(6, 8), tower(x), rtol=1e-14)


def test_towers_draw_with_their_own_generator():
    before = torch.get_rng_state()
    drawn("rectified", 8, 3, draw(), shift=1.0)(points(4, 3))
    assert torch.equal(before, torch.get_rng_state())


def test_fourier_features_are_pairs():
    with pytest.raises(DataError, match="even; 7 were asked for. Pass features=8"):
        drawn("fourier", 7, 3, draw())
