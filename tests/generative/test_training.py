"""The reference training: what a seed names, what the words mean, what the command says."""

import json
import time

import pytest
import torch
from torch import nn

import kernelscope as ks
from kernelscope.cli import main
from kernelscope.errors import DataError, KernelscopeError
from kernelscope.generative import DiffusionRun, load, points, train_diffusion, train_gan
from kernelscope.generative.networks import NoiseMLP, critic, generator

X = torch.randn(20, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SMALL = {"width": 4, "steps": 4, "batch": 5, "dtype": torch.float64}


def ends(run):
    return torch.cat([p.flatten() for p in run.parameters().values()])


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_a_seed_names_a_run_and_leaves_the_users_random_state(network):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    a, b, other = (train_diffusion(X, network=network, seed=seed, **SMALL) for seed in (1, 1, 2))
    c, d = (train_gan(X, network=network, seed=1, **SMALL) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(ends(a), ends(b))
    assert not torch.equal(ends(a), ends(other))
    assert torch.equal(ends(c.critic), ends(d.critic))
    assert torch.equal(ends(c.generator), ends(d.generator))


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "momentum"])
@pytest.mark.parametrize("kind", ["non-saturating", "wasserstein", "hinge"])
@pytest.mark.parametrize("r1", [0.0, 0.1])
def test_ledgers_of_trained_games_close(kind, r1, optimizer):
    run = train_gan(X, kind=kind, r1=r1, optimizer=optimizer, critic_steps=2, **SMALL)
    assert run.seen.tolist() == [2, 4, 6, 8]
    for part, x in ((run.critic, X[:2]), (run.generator, torch.randn(2, 16, dtype=torch.float64))):
        ledger = ks.decompose(part, x)
        terms = ledger.contributions.abs().sum(-1).clamp_min(1.0)
        assert float((ledger.residual.abs() / terms).max()) <= 1e-12
        assert float(ledger.channels["unattributed"].abs().max()) == 0


def test_words_are_the_optimizers_they_name():
    assert train_diffusion(X, optimizer="sgd", **SMALL)[0].groups[0]["momentum"] == 0
    assert train_diffusion(X, optimizer="momentum", **SMALL)[0].groups[0]["momentum"] == 0.9
    assert train_diffusion(X, optimizer="adam", **SMALL)[0].optimizer == "Adam"
    assert train_diffusion(X, rate=0.125, **SMALL)[0].groups[0]["lr"] == 0.125


def test_networks_of_ones_own_and_averages():
    run = train_diffusion(X, network=NoiseMLP(16, width=3).double(), average=0.5, steps=4, batch=5,
                          dtype=torch.float64)
    read = DiffusionRun(run)
    # The average of four steps, in its own words: the first one copies.
    rows = run.trajectory(1, 4)
    expected = rows[0]
    for row in rows[1:]:
        expected = 0.5 * expected + 0.5 * row
    torch.testing.assert_close(torch.cat([p.flatten() for p in read.averaged.values()]), expected, rtol=0, atol=1e-15)
    made = train_gan(X, network=(generator(2, 16, 3).double(), critic(16, 3).double()), latents=2, average=0.9,
                     steps=3, batch=5, dtype=torch.float64)
    assert made.generator.has_average


def test_reals_penalties_and_fakes_have_their_places():
    run = train_gan(X, r1=0.1, **SMALL)
    assert run.critic.size == 20 + 20 + 5
    batch, = run.critic.step(0).batches
    assert bool((batch.columns[:5] < 20).all())
    assert torch.equal(batch.columns[5:10], batch.columns[:5] + 20)
    assert batch.columns[10:].tolist() == [40, 41, 42, 43, 44]
    assert train_gan(X, r1=0.0, **SMALL).critic.size == 25


@pytest.mark.parametrize("make", [
    lambda: train_diffusion(X, network="transformer"),
    lambda: train_diffusion(X[:, :15], network="conv", steps=1),
    lambda: train_diffusion([1.0], steps=1),
    lambda: train_diffusion(X, steps=0),
    lambda: train_diffusion(X, average=1.0, steps=1),
    lambda: train_gan(X, kind="least squares", steps=1),
    lambda: train_gan(X, optimizer="lion", steps=1),
    lambda: points("faces"),
    lambda: points("digits", count=0),
])
def test_arguments_of_another_kind_are_refused(make):
    with pytest.raises(KernelscopeError):
        make()


@pytest.mark.parametrize("name", ["digits", "patches"])
def test_points_are_small_images_between_minus_one_and_one(name):
    if name == "patches":
        pytest.importorskip("sklearn")
    train, test = points(name, count=300), points(name, "test", count=300)
    for x in (train, test):
        assert x.shape == (300, 64)
        assert -1 <= float(x.min()) < -0.5 < 0.5 < float(x.max()) <= 1
    assert torch.equal(points(name, count=300), train)


def test_windows_are_those_of_the_photographs():
    pytest.importorskip("sklearn")
    x, patches = points("patches", count=4), ks.data.patches("train", count=4, window=9)
    for i in range(4):
        for row in range(8):
            for column in range(8):
                assert x[i, 8 * row + column] == patches.x[i, 9 * row + column] * 2 - 1


def test_the_command_trains_and_says_what_is_there(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["--steps", "3", "--batch", "4", "--width", "4", "--count", "30", "--json"]
    assert main(["train", "diffusion", "-o", "runs/d", "--keep", "2", "--average", "0.9", *few]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["model"], told["images"], told["steps"], told["keep"]) == ("diffusion", 30, 3, 2)
    assert main(["train", "gan", "-o", "runs/g", "--loss", "hinge", "--r1", "0", "--critic-steps", "2", "--network",
                 "conv", "--optimizer", "sgd", *few]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["r1"], told["critic"]["steps"], told["generator"]["steps"]) == ("hinge", 0.0, 6, 3)
    assert len(load("runs/d")) == 3
    assert load("runs/g").seen.tolist() == [2, 4, 6]
    assert main(["train", "gan", *few[:-1]]) == 0
    words = capsys.readouterr().out
    assert "Trained on 30 images" in words
    assert 'kernelscope.generative.load("runs/gan-digits")' in words
    # What is there is not replaced, and what is for a game is not for a denoiser.
    assert main(["train", "diffusion", "-o", "runs/d", *few[:-1]]) == 2
    assert main(["train", "diffusion", "--r1", "1", *few[:-1]]) == 2
    assert "for a GAN" in capsys.readouterr().err


def test_names_of_the_room_are_found_and_others_are_not():
    for name in ks.generative.__all__:
        assert getattr(ks.generative, name) is not None
    with pytest.raises(AttributeError, match="record_gan"):
        ks.generative.record_vae  # noqa: B018


def test_a_denoiser_learns_more_of_the_digits_than_their_mean_and_spread():
    x = points("digits")
    run = train_diffusion(x, steps=400, keep=200)
    test = points("digits", "test")
    n = torch.randn(test.shape, generator=torch.Generator().manual_seed(1))
    sigma = torch.full((len(test),), 0.3)
    y = test + 0.3 * n
    error = float((DiffusionRun(run).denoised(y, sigma) - test).square().mean())
    # The best that can be done with the mean and the variance of each pixel alone.
    mean, variance = x.mean(0), x.var(0)
    shrunk = mean + variance / (variance + 0.09) * (y - mean)
    assert error < float((shrunk - test).square().mean())


def test_a_denoiser_that_is_none_of_the_packages_is_wrapped():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 16, dtype=torch.float64)

        def forward(self, y, c):
            return self.layer(y) * c[:, None]

    run = train_diffusion(X, network=Own(), steps=2, batch=4, dtype=torch.float64)
    assert DiffusionRun(run).denoised(X[:2], torch.ones(2, dtype=torch.float64)).shape == (2, 16)
    with pytest.raises(DataError):
        DiffusionRun(train_gan(X, **SMALL).critic)


def test_a_run_says_what_it_cost_and_its_fingerprint_does_not_depend_on_it(tmp_path):
    begun = time.perf_counter()
    a = train_diffusion(X, out=tmp_path / "run", **SMALL)
    took = time.perf_counter() - begun
    b = train_diffusion(X, out=tmp_path / "again", **SMALL)
    cost = ks.load(tmp_path / "run").meta["cost"]
    assert cost == a.info()["cost"]
    assert 0 < cost["seconds"] <= took
    assert 0 < cost["cpu_seconds"]
    assert a.fingerprint() == b.fingerprint()
    game = train_gan(X, **SMALL)
    assert game.generator.meta["cost"]["cpu_seconds"] > 0
