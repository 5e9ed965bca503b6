import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kernelscope.errors import DataError, ModelError
from kernelscope.generative.denoising.denoiser import Denoiser
from kernelscope.generative.denoising.noise import NoiseLaw
from kernelscope.generative.games.adversary import Adversary, Judged
from kernelscope.generative.networks import NoiseConv, NoiseMLP, critic, generator
from kernelscope.generative.trials.many import draws, train_many, train_many_games

CORES = {"mlp": lambda: NoiseMLP(16, width=6), "conv": lambda: NoiseConv(4, width=3)}


def points(n=20, d=16):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def subsets():
    # Of different sizes, which share points.
    return [torch.arange(12), torch.arange(5, 20), torch.tensor([3])]


def by_hand(make, x, subset, seed, steps, batch, rate, law=None):
    """One denoiser in an ordinary loop with an ordinary optimizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make().to(x.dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for draw in draws(x, subset, seed, steps=steps, batch=batch, law=law):
        optimizer.zero_grad()
        F.mse_loss(model(draw.y, draw.sigma), model.target(x[draw.places], draw.y, draw.sigma)).backward()
        optimizer.step()
    return dict(model.named_parameters())


@pytest.mark.parametrize("core", CORES)
def test_members_are_the_networks_of_an_ordinary_loop(core):
    x = points()
    many = train_many(lambda: Denoiser(CORES[core](), 0.8), x, subsets(), [0, 1, 7], steps=25, batch=6, rate=1e-2)
    for i, (subset, seed) in enumerate(zip(subsets(), [0, 1, 7], strict=True)):
        alone = by_hand(lambda: Denoiser(CORES[core](), 0.8), x, subset, seed, 25, 6, 1e-2)
        for name, value in many.member(i).items():
            # Sums in other orders; Adam divides by gradients' own size, and so does not shrink what differs.
            torch.testing.assert_close(value, alone[name].detach(), rtol=1e-9, atol=1e-10)


def test_a_member_is_the_same_alone_and_in_company():
    x, make = points(), lambda: Denoiser(CORES["mlp"](), 0.8)
    together = train_many(make, x, subsets(), [0, 1, 7], steps=30, batch=6, course="cosine")
    alone = train_many(make, x, subsets()[1:2], [1], steps=30, batch=6, course="cosine")
    for name, value in together.member(1).items():
        torch.testing.assert_close(value, alone.parameters[name][0], rtol=1e-9, atol=1e-10)


def test_training_twice_gives_the_same_bits_and_leaves_the_users_random_numbers():
    x, make = points().float(), lambda: Denoiser(CORES["mlp"](), 0.8)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, two = (train_many(make, x, subsets(), [0, 1, 2], steps=10, batch=4) for _ in range(2))
    assert all(torch.equal(value, two.parameters[name]) for name, value in one.parameters.items())
    assert torch.equal(before, torch.get_rng_state())


def test_members_draw_only_their_own_points_at_the_law_of_noise():
    x, law = points(), NoiseLaw(0.5, 0.1)
    drawn = list(draws(x, torch.tensor([2, 9]), 4, steps=40, batch=8, law=law))
    assert {int(i) for draw in drawn for i in draw.places} == {2, 9}
    logs = torch.cat([draw.sigma for draw in drawn]).log()
    assert abs(float(logs.mean()) - 0.5) < 4 * 0.1 / len(logs) ** 0.5
    # The noise has variance one at its level.
    z = torch.cat([(draw.y - x[draw.places]) / draw.sigma[:, None] for draw in drawn])
    assert abs(float(z.var()) - 1) < 4 * (2 / z.numel()) ** 0.5


def test_kept_steps_are_those_of_a_shorter_training():
    x, make = points(), lambda: Denoiser(CORES["mlp"](), 0.8)
    many = train_many(make, x, subsets(), [0, 1, 2], steps=20, batch=4, keep=[0, 16])
    shorter = train_many(make, x, subsets(), [0, 1, 2], steps=16, batch=4)
    for name, value in many.at(16).parameters.items():
        torch.testing.assert_close(value, shorter.parameters[name], rtol=1e-12, atol=1e-13)
    assert not torch.equal(many.at(0).parameters["core.outer.weight"], many.parameters["core.outer.weight"])
    with pytest.raises(DataError, match="were not kept"):
        many.at(3)


def test_denoised_points_are_those_of_each_member():
    x = points(5)
    many = train_many(lambda: Denoiser(CORES["mlp"](), 0.8), x, [torch.arange(5)] * 3, [0, 1, 2], steps=2, batch=4)
    sigma, own = torch.linspace(0.1, 2, 5, dtype=x.dtype), torch.stack([x, x + 1, x - 1])
    for i in range(3):
        model = Denoiser(CORES["mlp"](), 0.8).double()
        model.load_state_dict(many.member(i), strict=False)
        with torch.no_grad():
            torch.testing.assert_close(many(x, sigma)[i], model(x, sigma))
            torch.testing.assert_close(many.denoised(x, sigma)[i], model.denoised(x, sigma))
            torch.testing.assert_close(many.denoised(own, sigma)[i], model.denoised(own[i], sigma))


def test_samples_are_those_of_each_member():
    from kernelscope.generative.denoising.noise import schedule
    from kernelscope.generative.denoising.sampling import sample

    x, z, levels = points(5), points(4), schedule(5)
    many = train_many(lambda: Denoiser(CORES["mlp"](), 0.8), x, [torch.arange(5)] * 2, [0, 1], steps=3, batch=4)
    model = Denoiser(CORES["mlp"](), 0.8).double()
    model.load_state_dict(many.member(1), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(many.sample(z, levels)[1], sample(model.denoised, z, levels).final)


@pytest.mark.parametrize("game", [Adversary("non-saturating", 0.3), Adversary("hinge"), Adversary("wasserstein", 1.0)])
def test_games_are_those_of_an_ordinary_loop(game):
    x, steps, batch, seeds = points(10, 3), 12, 5, [4, 6]
    games = train_many_games(lambda: generator(2, 3, 4), lambda: critic(3, 4), x, [torch.arange(10), torch.arange(4)],
                             seeds, game=game, latents=2, steps=steps, batch=batch, rate=1e-2)
    for i, (subset, seed) in enumerate(zip([torch.arange(10), torch.arange(4)], seeds, strict=True)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = generator(2, 3, 4).double()
            torch.manual_seed(seed)
            judged = Judged(critic(3, 4)).double()
        ours = [torch.optim.Adam(module.parameters(), lr=1e-2, betas=(0.5, 0.9)) for module in (made, judged)]
        source = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            real = x[subset[torch.randint(len(subset), (batch,), generator=source)]]
            z = torch.randn(2, batch, 2, generator=source).double()
            ours[1].zero_grad()
            scores = judged(torch.cat([real, made(z[0]).detach()]))
            what = torch.cat([torch.zeros(batch), torch.ones(batch)]).double()
            loss = game.critic_loss(scores, torch.stack([what, torch.ones_like(what)], 1)).sum() / batch
            (loss + game.r1 / 2 * scores[:batch, 1].mean()).backward()
            ours[1].step()
            ours[0].zero_grad()
            game.generator_loss(judged.score(made(z[1]))).mean().backward()
            ours[0].step()
        for networks, module in ((games.generators, made), (games.critics, judged.network)):
            for name, value in networks.member(i).items():
                torch.testing.assert_close(value, dict(module.named_parameters())[name].detach(), rtol=1e-8, atol=1e-9)


def test_what_cannot_be_trained_together_is_refused():
    x, make = points(), lambda: Denoiser(CORES["mlp"](), 0.8)
    with pytest.raises(DataError, match="one seed for each subset"):
        train_many(make, x, subsets(), [0])
    with pytest.raises(DataError, match="Subset 0 must be places from 0 to 19"):
        train_many(make, x, [torch.tensor([20])], [0])
    with pytest.raises(DataError, match="Subset 1"):
        train_many(make, x, [torch.tensor([2]), torch.tensor([], dtype=torch.long)], [0, 1])
    with pytest.raises(ModelError, match="denoiser must give"):
        train_many(lambda: nn.Linear(16, 16), x, subsets()[:1], [0])
    widths = iter([4, 5])
    with pytest.raises(ModelError, match="one architecture"):
        train_many(lambda: Denoiser(NoiseMLP(16, width=next(widths)), 0.8), x, subsets()[:2], [0, 1])
    with pytest.raises(ModelError, match="batch statistics"):
        train_many(lambda: Denoiser(nn.BatchNorm1d(16), 0.8), x, subsets()[:1], [0])


def test_members_of_several_rates_courses_and_penalties_are_those_of_their_own_trainings():
    x, every, seeds = points(10, 3), [torch.arange(10)] * 3, [4, 6, 9]
    plans = [(1e-2, "cosine", 0.3), (2e-3, "constant", 0.0), (1e-2, "cosine", 0.3)]
    rates, courses, penalties = map(list, zip(*plans, strict=True))
    many = train_many(lambda: Denoiser(NoiseMLP(3, width=4), 0.8), x, every, seeds, steps=20, batch=5, rate=rates,
                      course=courses)
    games = train_many_games(lambda: generator(2, 3, 4), lambda: critic(3, 4), x, every, seeds, latents=2, steps=20,
                             batch=5, rate=rates, course=courses,
                             game=[Adversary("non-saturating", r1) for r1 in penalties])
    for i, (rate, course, r1) in enumerate(plans):
        alone = train_many(lambda: Denoiser(NoiseMLP(3, width=4), 0.8), x, every[:1], seeds[i:i + 1], steps=20,
                           batch=5, rate=rate, course=course)
        game = train_many_games(lambda: generator(2, 3, 4), lambda: critic(3, 4), x, every[:1], seeds[i:i + 1],
                                latents=2, steps=20, batch=5, rate=rate, course=course,
                                game=Adversary("non-saturating", r1))
        for together, own in ((many, alone), (games.generators, game.generators), (games.critics, game.critics)):
            for name, value in together.member(i).items():
                torch.testing.assert_close(value, own.parameters[name][0], rtol=1e-8, atol=1e-9)
    with pytest.raises(DataError, match="rate must be one for all members or one for each of 3; 2 came"):
        train_many(lambda: Denoiser(NoiseMLP(3, width=4), 0.8), x, every, seeds, steps=1, rate=[1e-3, 1e-2])
    with pytest.raises(DataError, match="differ in r1 alone; hinge, wasserstein came"):
        train_many_games(lambda: generator(2, 3, 4), lambda: critic(3, 4), x, every[:2], seeds[:2], latents=2, steps=1,
                         game=[Adversary("hinge"), Adversary("wasserstein")])
