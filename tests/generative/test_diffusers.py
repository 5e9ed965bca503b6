"""Networks of diffusers, whose noise preserves variance, are denoisers of added noise."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import kernelscope as ks
from kernelscope.errors import DataError
from kernelscope.generative.denoising.diffusers import DiffusersDenoiser, from_diffusers
from kernelscope.generative.denoising.sampling import sample

diffusers = pytest.importorskip("diffusers")


def unet(attention=False):
    down, up = ("AttnDownBlock2D", "AttnUpBlock2D") if attention else ("DownBlock2D", "UpBlock2D")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return diffusers.UNet2DModel(
            sample_size=4, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(4, 4),
            norm_num_groups=2, down_block_types=("DownBlock2D", down), up_block_types=(up, "UpBlock2D"),
            attention_head_dim=2, add_attention=attention).double()


def scheduler(prediction="epsilon"):
    return diffusers.DDPMScheduler(num_train_timesteps=50, beta_end=0.3, prediction_type=prediction)


def points(n, seed=0):
    return torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_denoised_points_are_those_of_the_formula_at_every_timestep(prediction):
    network, plan = unet(), scheduler(prediction)
    denoiser = from_diffusers(network, plan)
    x, n, t = points(5), points(5, 1), torch.tensor([0, 7, 20, 33, 49])
    noised = plan.add_noise(x, n, t)
    alpha = plan.alphas_cumprod.double()[t].view(-1, 1, 1, 1)
    sigma = denoiser.levels.double()[t]
    y = noised / alpha.sqrt()
    # The scheduler's table is of single precision.
    torch.testing.assert_close(y, x + sigma.view(-1, 1, 1, 1) * n, rtol=1e-5, atol=1e-5)
    assert denoiser.timestep(sigma).tolist() == t.tolist()
    with torch.no_grad():
        # The network sees what the scheduler's own loop would show it, to the table's precision.
        said = network(y / (1 + sigma**2).sqrt().view(-1, 1, 1, 1), t).sample
        clean = {"epsilon": (noised - (1 - alpha).sqrt() * said) / alpha.sqrt(), "sample": said,
                 "v_prediction": alpha.sqrt() * noised - (1 - alpha).sqrt() * said}[prediction]
        torch.testing.assert_close(denoiser.denoised(y, sigma), clean, rtol=1e-5, atol=1e-5)
        # Vectors are folded into images.
        torch.testing.assert_close(denoiser.denoised(y.flatten(1), sigma), denoiser.denoised(y, sigma).flatten(1))


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_targets_are_those_that_the_scheduler_trains_on(prediction):
    plan = scheduler(prediction)
    denoiser = from_diffusers(unet(), plan)
    x, n, t = points(3), points(3, 1), torch.tensor([1, 20, 48])
    sigma = denoiser.levels.double()[t]
    y = x + sigma.view(-1, 1, 1, 1) * n
    wanted = {"epsilon": n, "sample": x, "v_prediction": plan.get_velocity(x, n, t)}[prediction]
    torch.testing.assert_close(denoiser.target(x, y, sigma), wanted, rtol=1e-5, atol=1e-5)


def test_interpolated_timesteps_meet_those_of_training_and_go_evenly_between():
    denoiser = from_diffusers(unet(), scheduler(), timesteps="interpolated")
    levels = denoiser.levels.double()
    torch.testing.assert_close(denoiser.timestep(levels), torch.arange(50.0, dtype=torch.float64))
    torch.testing.assert_close(denoiser.timestep((levels[3:4] * levels[4:5]).sqrt()),
                               torch.tensor([3.5], dtype=torch.float64))
    assert denoiser.denoised(points(2), torch.full((2,), 0.5, dtype=torch.float64)).shape == (2, 1, 4, 4)


def test_a_scheduler_without_signal_at_its_end_leaves_the_last_timestep_out():
    plan = diffusers.DDPMScheduler(num_train_timesteps=50, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    levels = from_diffusers(unet(), plan).levels
    assert bool(levels.isfinite().all())
    assert bool((levels.diff() > 0).all())


def test_what_is_no_network_and_no_scheduler_is_refused():
    with pytest.raises(DataError, match="pipeline.unet"):
        from_diffusers(lambda x, t: x, scheduler())
    with pytest.raises(DataError, match="preserve variance"):
        from_diffusers(unet(), None)
    with pytest.raises(DataError, match="trained at noise levels"):
        from_diffusers(unet(), scheduler())(points(1), torch.tensor([1e4], dtype=torch.float64))


def test_a_network_of_diffusers_is_sampled_from():
    denoiser = from_diffusers(unet(), scheduler("sample"))
    down = sample(denoiser.denoised, points(2), denoiser.levels.double().flip(0)[::7])
    assert bool(down.final.isfinite().all())


@pytest.mark.parametrize("attention", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_recorded_network_of_diffusers_is_decomposed_to_the_last_digit(attention):
    denoiser: DiffusersDenoiser = from_diffusers(unet(attention), scheduler()).double()
    x = points(6)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    with ks.generative.record_diffusion(denoiser, x) as recording:
        for _ in range(2):
            ids = torch.randperm(6, generator=generator)[:4]
            sigma = denoiser.levels.double()[torch.randint(0, 50, (4,), generator=generator)]
            y = x[ids] + sigma.view(-1, 1, 1, 1) * torch.randn(x[ids].shape, generator=generator, dtype=x.dtype)
            recording.batch(ids)
            optimizer.zero_grad()
            F.mse_loss(denoiser(y, sigma), denoiser.target(x[ids], y, sigma)).backward()
            optimizer.step()
    queries = (points(2, 5), torch.tensor([0.1, 2.0], dtype=torch.float64))
    found = ks.decompose(recording.run, queries, output=lambda o: o.flatten(1)[:, :2])
    terms = found.contributions.abs().sum(-1)
    assert float((found.residual.abs() / terms).max()) <= 1e-10
    assert float(found.channels["unattributed"].abs().max()) == 0
    assert float((found.final - found.initial).abs().max()) > 1e-6
    reading = ks.generative.DiffusionRun(recording.run)
    torch.testing.assert_close(reading.denoised(*queries), denoiser.denoised(*queries).detach(), rtol=0, atol=1e-12)
