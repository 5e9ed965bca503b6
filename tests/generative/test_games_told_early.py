"""What cannot be explained later is said when it is recorded, with what to do."""

import shutil
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from kernelscope.errors import DataError, RecordingError, StoreCorrupt, StoreExists
from kernelscope.generative import explain_gan, record_gan, train_diffusion, train_gan
from tests.generative.loops import BATCH, LATENTS, OPTIMIZERS, SIZE, game, latents, loader_of, play, players, points


@pytest.fixture(autouse=True)
def nothing_is_said():
    """A recording that fits its loop warns of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def lazily(told, taken, first):
    """A loop that takes R1 from some step on, times ``taken``; what was said."""
    made, critic = players()
    moving, judging = (OPTIMIZERS["sgd"](network.parameters()) for network in (made, critic))
    loader = loader_of(points())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with record_gan(made, critic, loader, r1=1.0, lazy=told):
            for k, (x,) in enumerate(loader):
                x = x.requires_grad_()
                judging.zero_grad()
                scores = critic(x)
                loss = F.softplus(-scores).mean() + F.softplus(critic(made(latents()).detach())).mean()
                if k >= first:
                    slope, = torch.autograd.grad(scores.sum(), x, create_graph=True)
                    loss = loss + taken / 2 * slope.square().sum(1).mean()
                loss.backward()
                judging.step()
                moving.zero_grad()
                F.softplus(-critic(made(latents()))).mean().backward()
                moving.step()
    return [str(w.message) for w in said]


@pytest.mark.parametrize("first", [0, 2])
def test_the_weight_of_a_penalty_is_compared_where_it_is_taken_first(first):
    assert lazily(40, 40, first) == []
    said, = lazily(1, 40, first)
    assert said.startswith(("At the first step with a penalty" if first else "At the first step") + " the gradient")
    assert "lazy=..." in said


class Conditioned(nn.Module):
    def __init__(self, made):
        super().__init__()
        self.made = made

    def forward(self, z):
        return torch.cat([self.made(z), torch.ones(len(z), 1, dtype=z.dtype)], 1)


def conditioned(made, critic, shown):
    moving, judging = (OPTIMIZERS["sgd"](network.parameters()) for network in (made, critic))
    x = torch.cat([points(), torch.ones(len(points()), 1, dtype=torch.float64)], 1)
    loader = loader_of(x)
    with record_gan(made, critic, loader) as recording:
        for (real,) in loader:
            judging.zero_grad()
            (F.softplus(-critic(real)).mean() + F.softplus(critic(shown(made(latents()).detach()))).mean()).backward()
            judging.step()
            moving.zero_grad()
            F.softplus(-critic(shown(made(latents())))).mean().backward()
            moving.step()
    return recording.run


def test_a_condition_that_is_appended_on_the_way_is_refused_and_one_of_the_generator_is_not():
    made, _ = players()
    critic = nn.Sequential(nn.Linear(SIZE + 1, 8), nn.SiLU(), nn.Linear(8, 1)).double()
    with pytest.raises(RecordingError, match=r"points of 5 numbers.*the generator gives 4.*Let the generator give"):
        conditioned(made, critic, lambda x: torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1))
    assert len(conditioned(Conditioned(made), critic, lambda x: x).critic) == 3


class Spread(nn.Module):
    """A critic that is shown how much its batch differs."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(SIZE + 1, 1).double()

    def forward(self, x):
        return self.linear(torch.cat([x, x.std(0).mean().expand(len(x), 1)], 1))


def recorded(made, critic):
    loader = loader_of(points())
    moving, judging = (OPTIMIZERS["sgd"](network.parameters()) for network in (made, critic))
    with record_gan(made, critic, loader) as recording:
        play(loader, made, critic, moving, judging)
    return recording.run


def test_a_critic_that_looks_at_its_batch_is_refused_at_once():
    with pytest.raises(RecordingError, match="minibatch standard deviation"):
        recorded(players()[0], Spread())


def spectral():
    torch.manual_seed(0)
    normed = nn.utils.parametrizations.spectral_norm
    return nn.Sequential(normed(nn.Linear(SIZE, 8)), nn.SiLU(), normed(nn.Linear(8, 1))).double()


def test_spectral_normalisation_is_told_at_once_and_what_is_advised_works():
    with pytest.warns(UserWarning, match=r"changes as it runs.*R1.*critic.eval\(\)"):
        run = recorded(players()[0], spectral())
    # The vectors turn at each pass and one state of them is kept for a step, so a little has no sample.
    ledger = ks.decompose(run.critic, points()[:1])
    assert float((ledger.channels["unattributed"].abs() / ledger.contributions.abs().sum(-1)).max()) < 1e-2
    with pytest.raises(DataError, match=r"changed in training.*critic.eval\(\)"):
        explain_gan(run, latents(1))
    run = recorded(players()[0], spectral().eval())
    assert {row.status for row in explain_gan(run, latents(1)).check().rows if row.name == "unattributed"} == {"pass"}


# -- folders -----------------------------------------------------------------------------------------------------------


def test_a_denoiser_is_not_recorded_into_the_folder_of_a_game(tmp_path):
    game("sgd", options={"out": tmp_path / "gan"})
    for overwrite in (False, True):
        with pytest.raises(StoreExists, match="recorded game"):
            train_diffusion(points(), width=4, steps=2, batch=4, out=tmp_path / "gan", overwrite=overwrite)
    assert len(ks.generative.load(tmp_path / "gan").critic) == 6


def test_runs_of_two_games_of_one_shape_are_no_game(tmp_path):
    for name in ("a", "b"):
        game("sgd", options={"out": tmp_path / name})
    a, b = (ks.generative.load(tmp_path / name) for name in ("a", "b"))
    # What was recorded twice alike has one fingerprint.
    assert a.fingerprint() == b.fingerprint()
    shutil.rmtree(tmp_path / "a" / "critic")
    shutil.copytree(tmp_path / "b" / "critic", tmp_path / "a" / "critic")
    with pytest.raises(StoreCorrupt, match="not those of one game: game is"):
        ks.generative.load(tmp_path / "a")


def test_what_cannot_be_taken_up_is_not_offered_to_be(tmp_path):
    def of_game():
        return train_gan(points(), latents=LATENTS, width=4, steps=2, batch=4, out=tmp_path / "gan")

    def of_denoiser():
        return train_diffusion(points(), width=4, steps=2, batch=4, out=tmp_path / "run")

    for train in (of_game, of_denoiser):
        train()
        with pytest.raises(StoreExists, match="or pass overwrite=True") as error:
            train()
        assert "resume" not in str(error.value)


def test_a_network_that_never_moved_is_named():
    def loop(moves):
        made, critic = players()
        moving, judging = (OPTIMIZERS["sgd"](network.parameters()) for network in (made, critic))
        loader = loader_of(points())
        with record_gan(made, critic, loader):
            for (x,) in loader:
                judging.zero_grad()
                moving.zero_grad()
                if moves == "critic":
                    (F.softplus(-critic(x)).mean() + F.softplus(critic(made(latents()).detach())).mean()).backward()
                    judging.step()
                else:
                    F.softplus(-critic(made(latents(BATCH)))).mean().backward()
                    moving.step()

    for moves, still in (("critic", "generator"), ("generator", "critic")):
        with pytest.raises(RecordingError, match=f"none of them moved the recorded {still}.*Create the {still}"):
            loop(moves)
