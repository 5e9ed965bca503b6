"""What a denoiser is regressed on changes no denoised point, and every number that compares noise levels."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call

import kernelscope as ks
from kernelscope.architecture import describe, rebuild
from kernelscope.errors import DataError
from kernelscope.generative.denoising.denoiser import Denoiser, along
from kernelscope.generative.denoising.parameterisations import (
    PARAMETERISATIONS,
    Parameterised,
    Reparameterised,
    kernel_factors,
)
from kernelscope.generative.denoising.reading import DiffusionRun
from kernelscope.generative.networks import NoiseMLP
from kernelscope.generative.training import train_diffusion

KINDS = list(PARAMETERISATIONS)


def core():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NoiseMLP(3, width=8).double()


def points(n=6):
    generator = torch.Generator().manual_seed(1)
    sigma = torch.logspace(-2, 1.5, n, dtype=torch.float64)
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return x, x + sigma[:, None] * torch.randn(n, 3, generator=generator, dtype=torch.float64), sigma


@pytest.mark.parametrize("kind", KINDS)
def test_the_target_of_each_is_what_its_name_says(kind):
    x, y, sigma = points()
    s = 0.7
    n = (y - x) / sigma[:, None]
    total = (sigma**2 + s**2).sqrt()[:, None]
    # The velocity is the derivative of cos(t) x + sin(t) s n by the angle t with tan(t) = sigma / s, by s.
    velocity = (s * n * s - sigma[:, None] * x) / total / s
    wanted = {"noise": n, "clean": x, "velocity": velocity, "edm": -velocity}[kind]
    torch.testing.assert_close(Parameterised(core(), s, kind).target(x, y, sigma), wanted, rtol=0, atol=1e-11)


def test_the_core_of_edm_is_that_of_the_denoiser():
    _, y, sigma = points()
    assert torch.equal(Parameterised(core(), 0.7, "edm").denoised(y, sigma), Denoiser(core(), 0.7).denoised(y, sigma))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", KINDS)
def test_denoised_points_agree_in_every_parameterisation_and_back_again(own, kind):
    _, y, sigma = points()
    one = Parameterised(core(), 0.7, own)
    other = Reparameterised(one, kind)
    a, b = other.coefficients(sigma)
    built = along(a, y) * y + along(b, y) * other(y, sigma)
    torch.testing.assert_close(built, one.denoised(y, sigma), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(Reparameterised(other, own)(y, sigma), one(y, sigma), rtol=1e-9, atol=1e-9)


def kernel(module, y, sigma):
    """The parameter kernel of every two outputs, from the Jacobian itself."""
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    jacobian = torch.func.jacrev(lambda p: functional_call(module, p, (y, sigma)))(parameters)
    J = torch.cat([part.flatten(2) for part in jacobian.values()], dim=2)
    return torch.einsum("apk,bpk->ab", J, J) / J.shape[1]


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_noise_levels_belong_to_their_parameterisation_but_for_cosines(kind):
    _, y, sigma = points()
    own = Denoiser(core(), 0.7)
    first, second = kernel(own, y, sigma), kernel(Reparameterised(own, kind), y, sigma)
    factors = kernel_factors(own, sigma)
    torch.testing.assert_close(second.diagonal(), factors[kind] * first.diagonal(), rtol=1e-9, atol=0)

    def cosines(K):
        return K / (K.diagonal()[:, None] * K.diagonal()).sqrt()

    torch.testing.assert_close(cosines(second).abs(), cosines(first).abs(), rtol=1e-9, atol=1e-9)
    shares = [K.diagonal() / K.diagonal().sum() for K in (first, second)]
    moved = float((shares[0] - shares[1]).abs().sum()) / 2
    print(f"kernel shares by noise level, edm {[round(v, 3) for v in shares[0].tolist()]}, "  # noqa: T201
          f"{kind} {[round(v, 3) for v in shares[1].tolist()]}")
    # The velocity is the same but for its sign; of the others most of the kernel is at other levels.
    assert moved < 1e-12 if kind in ("velocity", "edm") else moved > 0.3
    torch.testing.assert_close(factors["denoised"], own.coefficients(sigma)[1] ** 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_of_any_parameterisation_is_trained_recorded_and_opened_without_its_code(kind, tmp_path):
    x = points(20)[0]
    module = Parameterised(core(), 0.7, kind)
    run = train_diffusion(x, network=module, steps=4, batch=5, dtype=torch.float64, out=tmp_path / "run")
    _, y, sigma = points()
    read = DiffusionRun(run)
    torch.testing.assert_close(read.denoised(y, sigma), module.denoised(y, sigma).detach(), rtol=0, atol=1e-12)
    clean = read.clean
    seen = clean.isfinite().all(1)
    torch.testing.assert_close(clean[seen], x[seen], rtol=0, atol=1e-10)
    found = ks.decompose(run, (y, sigma))
    assert float(found.residual.abs().max()) <= 1e-10 * float(found.contributions.abs().sum(-1).max())
    assert rebuild(describe(module)).kind == kind
    torch.testing.assert_close(DiffusionRun(ks.load(tmp_path / "run")).denoised(y, sigma), read.denoised(y, sigma))


def test_what_is_no_denoiser_and_no_parameterisation_is_refused():
    with pytest.raises(DataError, match='kind must be "noise"'):
        Parameterised(core(), 1.0, "score")
    with pytest.raises(DataError, match="coefficients"):
        Reparameterised(nn.Identity(), "noise")


def test_factors_of_what_is_no_denoiser_are_refused():
    with pytest.raises(DataError, match="Wrap the network"):
        kernel_factors(torch.nn.Linear(1, 1), torch.tensor([1.0]))
