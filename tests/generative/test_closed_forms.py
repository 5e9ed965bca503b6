"""Denoisers in closed form against double loops, dense algebra and automatic derivatives."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
import kernelscope.plots  # noqa: F401
from kernelscope.errors import DataError, NonFiniteError
from kernelscope.generative.denoising.closed_forms import (
    EquivariantLocalDenoiser,
    LocalDenoiser,
    OptimalDenoiser,
    WienerDenoiser,
)
from kernelscope.generative.denoising.closed_forms.points import rows
from kernelscope.generative.denoising.fits import DenoiserFit, denoiser_fit
from kernelscope.generative.training import train_diffusion


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(n, side=4, channels=1, seed=0):
    return normal(n, channels * side**2, seed=seed)


def patches(side, window, p):
    """The pixels of the cropped window around p, with their places in the window."""
    half, (r, c) = window // 2, divmod(p, side)
    return {(i, j): (r + i) * side + c + j for i in range(-half, half + 1) for j in range(-half, half + 1)
            if 0 <= r + i < side and 0 <= c + j < side}


def mean_of(distances, values, sigma):
    largest = max(-d / (2 * sigma**2) for d in distances)
    weights = [math.exp(-d / (2 * sigma**2) - largest) for d in distances]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def oracle(x, y, sigma, side, window, channels, borders=None):
    """One pixel after another, one training patch after another; without borders the local denoiser."""
    out = torch.zeros_like(y)
    size = side**2
    for q in range(len(y)):
        for p in range(size):
            own = patches(side, window, p)
            distances, centres = [], [[] for _ in range(channels)]
            for i in range(len(x)):
                for other in range(size):
                    theirs = patches(side, window, other)
                    if borders is None and other != p or borders == "cropped" and set(theirs) != set(own):
                        continue
                    off = 0.0
                    for ch in range(channels):
                        for place in set(own) | set(theirs):
                            a = float(y[q, ch * size + own[place]]) if place in own else 0.0
                            b = float(x[i, ch * size + theirs[place]]) if place in theirs else 0.0
                            off += (a - b) ** 2
                    distances.append(off)
                    for ch in range(channels):
                        centres[ch].append(float(x[i, ch * size + other]))
            for ch in range(channels):
                out[q, ch * size + p] = mean_of(distances, centres[ch], float(sigma[q]))
    return out


def test_the_jacobian_of_a_linear_gaussian_denoiser_has_eigenvalues_of_shrinkage():
    x = normal(50, 6) @ normal(6, 6, seed=1)
    wiener, sigma = WienerDenoiser(x), torch.tensor([0.1, 1.0, 7.0], dtype=torch.float64)
    spread = torch.linalg.eigvalsh(torch.cov(x.T, correction=0))
    for J, s in zip(wiener.jacobian(x[:3], sigma), sigma, strict=True):
        torch.testing.assert_close(torch.linalg.eigvalsh(J), spread / (spread + s**2), rtol=0, atol=1e-12)
    torch.testing.assert_close(rows(wiener, x[:3], sigma), wiener.jacobian(x[:3], sigma), rtol=0, atol=1e-12)


def test_the_wiener_denoiser_is_its_formula_and_comes_from_moments_too():
    x, y = normal(30, 5), normal(4, 5, seed=1)
    sigma = torch.tensor([0.2, 0.5, 1.0, 3.0], dtype=torch.float64)
    mean, C = x.mean(0), torch.cov(x.T, correction=0)
    wanted = torch.stack([mean + C @ torch.linalg.solve(C + s**2 * torch.eye(5).double(), at - mean)
                          for at, s in zip(y, sigma, strict=True)])
    torch.testing.assert_close(WienerDenoiser(x)(y, sigma), wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(WienerDenoiser.from_moments(mean, C)(y, sigma), wanted, rtol=0, atol=1e-12)
    with pytest.raises(DataError, match="not symmetric|symmetric, and this"):
        WienerDenoiser.from_moments(mean, normal(5, 5))
    with pytest.raises(DataError, match="negative eigenvalue"):
        WienerDenoiser.from_moments(mean, C - torch.eye(5) * C.trace())


def test_the_optimal_denoiser_is_the_mean_of_its_double_loop_in_blocks_of_any_size():
    x, y, sigma = normal(23, 6), normal(5, 6, seed=1), torch.tensor([0.05, 0.3, 1.0, 2.0, 9.0], dtype=torch.float64)
    wanted = torch.stack([torch.stack([torch.tensor(mean_of(
        [float((at - z).square().sum()) for z in x], [float(z[j]) for z in x], float(s)), dtype=torch.float64)
        for j in range(6)]) for at, s in zip(y, sigma, strict=True)])
    for block in (1, 7, 23, 1000):
        torch.testing.assert_close(OptimalDenoiser(x, block)(y, sigma), wanted, rtol=0, atol=1e-12)
    weights = OptimalDenoiser(x).weights(y, sigma)
    torch.testing.assert_close(weights @ x, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(weights.sum(1), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-14)


def test_the_jacobian_of_the_optimal_denoiser_is_the_covariance_by_the_noise_squared():
    x, y, sigma = normal(23, 6), normal(4, 6, seed=1), torch.tensor([0.4, 0.7, 1.0, 3.0], dtype=torch.float64)
    optimal = OptimalDenoiser(x, block=5)
    J = optimal.jacobian(y, sigma)
    torch.testing.assert_close(rows(optimal, y, sigma), J, rtol=0, atol=1e-12)
    assert torch.equal(J, J.mT) or float((J - J.mT).abs().max()) <= 1e-14
    assert float(torch.linalg.eigvalsh(J).min()) >= -1e-14


def test_at_a_noise_of_a_ten_thousandth_the_weights_are_one_and_naught():
    x = normal(20, 8)
    sigma = torch.full((20,), 1e-4, dtype=torch.float64)
    naive = (-(x[:, None] + 0.01 - x).square().sum(2) / (2 * 1e-8)).exp()
    assert bool((naive / naive.sum(1, keepdim=True)).isnan().all())
    for dtype in (torch.float64, torch.float32):
        y = (x + 0.01).to(dtype)
        optimal = OptimalDenoiser(x)
        torch.testing.assert_close(optimal.weights(y, sigma), torch.eye(20, dtype=dtype), rtol=0, atol=1e-12)
        torch.testing.assert_close(optimal(y, sigma), x.to(dtype), rtol=0, atol=1e-12)
        assert optimal(y, sigma).dtype == dtype
        assert bool(LocalDenoiser(x[:, :4], 2, 3)(y[:, :4], sigma).isfinite().all())


@pytest.mark.parametrize(("side", "window", "channels"), [(4, 1, 1), (4, 3, 1), (3, 3, 2), (4, 7, 1), (3, 5, 1)])
def test_the_local_denoiser_is_its_double_loop(side, window, channels):
    x, y = images(7, side, channels), images(3, side, channels, seed=1)
    sigma = torch.tensor([0.2, 0.7, 2.0], dtype=torch.float64)
    local = LocalDenoiser(x, side, window, channels)
    torch.testing.assert_close(local(y, sigma), oracle(x, y, sigma, side, window, channels), rtol=0, atol=1e-12)


@pytest.mark.parametrize("borders", ["cropped", "padded"])
@pytest.mark.parametrize(("side", "window", "channels"), [(4, 1, 1), (4, 3, 1), (3, 3, 2), (3, 5, 1)])
def test_the_equivariant_local_denoiser_is_its_double_loop(side, window, channels, borders):
    x, y = images(5, side, channels), images(3, side, channels, seed=1)
    sigma = torch.tensor([0.2, 0.7, 2.0], dtype=torch.float64)
    local = EquivariantLocalDenoiser(x, side, window, channels, borders=borders)
    torch.testing.assert_close(local(y, sigma), oracle(x, y, sigma, side, window, channels, borders),
                               rtol=0, atol=1e-12)


def test_blocks_of_any_size_give_the_same_local_denoiser(monkeypatch):
    x, y, sigma = images(9), images(6, seed=1), torch.linspace(0.2, 2, 6, dtype=torch.float64)
    forms = [LocalDenoiser(x, 4, 3), EquivariantLocalDenoiser(x, 4, 3)]
    wanted = [form(y, sigma) for form in forms]
    for entries in (1, 50, 700):
        monkeypatch.setattr("kernelscope.generative.denoising.closed_forms.local.ENTRIES", entries)
        for form, value in zip(forms, wanted, strict=True):
            torch.testing.assert_close(form(y, sigma), value, rtol=0, atol=1e-13)


def test_a_window_that_holds_all_is_the_optimal_denoiser():
    x, y, sigma = images(9, 3), images(4, 3, seed=1), torch.linspace(0.2, 2, 4, dtype=torch.float64)
    torch.testing.assert_close(LocalDenoiser(x, 3, 5)(y, sigma), OptimalDenoiser(x)(y, sigma), rtol=0, atol=1e-12)
    torch.testing.assert_close(LocalDenoiser(x, 3, 5).jacobian(y, sigma), OptimalDenoiser(x).jacobian(y, sigma),
                               rtol=0, atol=1e-11)


def test_the_equivariant_denoiser_follows_a_turn_of_the_image_and_the_local_one_does_not():
    x, y, sigma = images(6), images(3, seed=1), torch.full((3,), 0.7, dtype=torch.float64)

    def turned(points):
        return points.view(-1, 4, 4).roll(1, dims=2).flatten(1)

    # A window of one pixel sees no border, so every pixel is like every other.
    form = EquivariantLocalDenoiser(x, 4, 1)
    torch.testing.assert_close(form(turned(y), sigma), turned(form(y, sigma)), rtol=0, atol=1e-13)
    local = LocalDenoiser(x, 4, 1)
    assert float((local(turned(y), sigma) - turned(local(y, sigma))).abs().max()) > 1e-2


@pytest.mark.parametrize("make", [OptimalDenoiser, WienerDenoiser, lambda x: LocalDenoiser(x, 4, 3),
                                  lambda x: EquivariantLocalDenoiser(x, 4, 3)])
def test_points_and_levels_that_do_not_go_together_are_refused_in_a_sentence(make):
    x = images(6)
    form, sigma = make(x), torch.ones(2, dtype=torch.float64)
    with pytest.raises(DataError, match="shape \\(q, 16\\)"):
        form(torch.zeros(2, 15), sigma)
    with pytest.raises(DataError, match="one noise level for each of the 2 points"):
        form(x[:2], torch.tensor(1.0))
    with pytest.raises(DataError, match="must be positive; 0 came"):
        form(x[:2], torch.tensor([1.0, 0.0]))
    with pytest.raises(NonFiniteError, match="must be finite"):
        form(x[:2] * torch.nan, sigma)
    with pytest.raises(NonFiniteError, match="Training point 3"):
        make(torch.where(torch.arange(6)[:, None] == 3, torch.nan, x))
    with pytest.raises(DataError, match="at least one point"):
        make(torch.zeros(0, 16))
    assert form(x[:0], sigma[:0]).shape == (0, 16)
    assert form(x[:2].view(2, 1, 4, 4), sigma).shape == (2, 1, 4, 4)
    assert form(x[:2].float(), sigma).dtype == torch.float32


def test_windows_are_odd_and_images_square():
    with pytest.raises(DataError, match="its width is odd"):
        LocalDenoiser(images(3), 4, 2)
    with pytest.raises(DataError, match="no images of 1 x 5 x 5"):
        LocalDenoiser(images(3), 5, 3)


class Linear(nn.Module):
    """A linear denoiser D = W y."""

    def __init__(self, d):
        super().__init__()
        self.W = nn.Parameter(torch.zeros(d, d, dtype=torch.float64))

    def forward(self, y, sigma):
        return y @ self.W.T

    def coefficients(self, sigma):
        return torch.zeros_like(sigma), torch.ones_like(sigma)

    def denoised(self, y, sigma):
        return self(y, sigma)


def squares(outputs, targets, reduction="none"):
    losses = (outputs - targets).square().sum(1)
    return losses if reduction == "none" else losses.mean()


def test_a_linear_denoiser_trained_by_gradient_descent_is_its_formula_and_its_sum_over_samples():
    d, steps, rate, level = 4, 30, 0.02, 0.6
    x = normal(8, d) + 0.5
    # Noise of mean 0 and covariance 1 at every point, so that moments over the samples are those of all noise.
    noise = math.sqrt(d) * torch.cat([torch.eye(d), -torch.eye(d)]).double()
    clean = x.repeat_interleave(2 * d, 0)
    y = clean + level * noise.repeat(len(x), 1)
    sigma = torch.full((len(y),), level, dtype=torch.float64)
    model = Linear(d)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    with ks.record(model, (y, clean), loss=squares) as recording:
        for _ in range(steps):
            recording.deliver((y, clean), list(range(len(y))))
            optimizer.zero_grad()
            squares(model(y, sigma), clean, "mean").backward()
            optimizer.step()
    A = x.T @ x / len(x)
    B = A + level**2 * torch.eye(d).double()
    identity = torch.eye(d).double()
    W = A @ torch.linalg.inv(B) @ (identity - torch.linalg.matrix_power(identity - 2 * rate * B, steps))
    torch.testing.assert_close(model.W.detach(), W, rtol=0, atol=1e-12)

    queries = normal(3, d, seed=2)
    found = ks.decompose(recording.run, (queries, sigma[:3]))
    wanted, at = torch.zeros(3, d, len(y), dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
    for _ in range(steps):
        for i in range(len(y)):
            moved = -rate / len(y) * 2 * torch.outer(at @ y[i] - clean[i], y[i])
            wanted[:, :, i] += queries @ moved.T
        at = at - 2 * rate * (at @ B - A)
    torch.testing.assert_close(found.contributions, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.contributions.sum(2), queries @ W.T, rtol=0, atol=1e-12)
    # The longer it is trained, the nearer it comes to the best linear denoiser, which knows no mean apart.
    best = WienerDenoiser.from_moments(torch.zeros(d).double(), A)
    off = [float((queries @ w.T - best(queries, sigma[:3])).norm()) for w in (torch.zeros_like(W), W)]
    assert off[1] < 0.5 * off[0]


@pytest.fixture(scope="module")
def small():
    x = ks.data.digits("train").x[:200].flatten(1) * 2 - 1
    return train_diffusion(x, steps=30, width=16), ks.data.digits("test").x[:12].flatten(1) * 2 - 1


def test_a_closed_form_is_found_to_be_itself_and_its_loss_is_its_own(tmp_path):
    x = images(40)
    forms = {"Wiener": WienerDenoiser(x), "optimal": OptimalDenoiser(x), "LS 3": LocalDenoiser(x, 4, 3),
             "ELS 3": EquivariantLocalDenoiser(x, 4, 3)}
    for name, form in forms.items():
        found = denoiser_fit(form, images(10, seed=1), [0.3, 1.0], train=x, windows=[3], equivariant=[3])
        row = found.names.index(name)
        torch.testing.assert_close(found.r2[row], torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close(found.loss[row], found.own_loss, rtol=1e-12, atol=0)
        assert [found.nearest(0), found.nearest(1)] == [name, name]
        assert float(found.skill[0].abs().max()) == 0
    assert "nearest to ELS 3 at 0.3 to 1 (r2 1.00" in repr(found)
    found.save(tmp_path / "fit")
    again = DenoiserFit.load(tmp_path / "fit")
    assert repr(again) == repr(found)
    assert again.to_frame().equals(found.to_frame())
    assert found.check().ok
    for show in ("r2", "loss"):
        assert found.plot(show=show).get_title(loc="left")


def test_r2_and_skill_are_those_of_a_loop_and_the_error_of_the_jackknife(small):
    run, x = small
    found = denoiser_fit(run, x, [0.5], windows=[], equivariant=[], draws="independent", seed=3)
    assert found.names == ["noisy point", "untrained", "Wiener", "optimal"]
    from kernelscope.generative.denoising.functions import noised
    from kernelscope.generative.denoising.reading import DiffusionRun

    read = DiffusionRun(run)
    (clean, y), = noised(x.double(), torch.tensor([0.5]), "independent", 3)
    sigma = torch.full((12,), 0.5, dtype=torch.float64)
    told = read.denoised(y, sigma)
    seen = read.clean[read.clean.isfinite().all(1)].double()
    given = WienerDenoiser(seen)(y, sigma)

    def share(keep):
        off = sum(float((told[i] - given[i]).square().sum()) for i in keep)
        return 1 - off / sum(float((told[i] - told.mean(0)).square().sum()) for i in keep)

    row = found.names.index("Wiener")
    assert float(found.r2[row, 0]) == pytest.approx(share(range(12)), abs=1e-12)
    without = torch.tensor([share([i for i in range(12) if i != j]) for j in range(12)], dtype=torch.float64)
    assert float(found.r2_error[row, 0]) == pytest.approx(math.sqrt(11 / 12 * float(
        (without - without.mean()).square().sum())), rel=1e-9)
    wanted = 1 - float((told - given).square().sum() / (told - y).square().sum())
    assert float(found.skill[row, 0]) == pytest.approx(wanted, abs=1e-12)
    assert float(found.own_loss[0]) == pytest.approx(float(F.mse_loss(told, clean)), abs=1e-12)


def test_a_function_without_training_points_is_refused():
    with pytest.raises(DataError, match="Pass train="):
        denoiser_fit(lambda y, sigma: y, images(3), [0.5])
    with pytest.raises(DataError, match="levels must be positive"):
        denoiser_fit(lambda y, sigma: y, images(3), [0.5, -1], train=images(3))
    with pytest.raises(DataError, match="A denoiser is a run"):
        denoiser_fit(nn.Identity(), images(3), [0.5], train=images(3))
