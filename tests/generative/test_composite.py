"""The generator's motion traced to the real points: exact, against loops over all pairs of steps."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from kernelscope.generative.games.explaining import explain_gan

from .random_games import latents, small_game

GAMES = ["non-saturating", "wasserstein", "hinge"]


def motion(game, z):
    return game.generated(z) - game.generated(z, game.generator.parameters(0))


@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("kind", GAMES)
@pytest.mark.parametrize(("r1", "critic_steps"), [(0.0, 1), pytest.param(0.3, 1, marks=pytest.mark.slow), (0.3, 3)])
def test_the_terms_add_up_to_the_motion(kind, rule, r1, critic_steps):
    game = small_game(kind, rule, r1=r1, critic_steps=critic_steps, steps=4)
    z = latents()
    found = explain_gan(game, z, how="path", output="all", chord=1)
    total = sum(found.terms().values())
    assert torch.allclose(found.total, motion(game, z), rtol=0, atol=1e-14)
    assert (total - motion(game, z)).abs().max() <= 1e-12
    assert (found.residual.abs() <= 1e-12 * found.magnitude).all()
    assert found.generator["field"].abs().max() <= 1e-12


@pytest.mark.parametrize("rule", ["adamw"])
def test_decay_has_a_channel_of_its_own(rule):
    game = small_game(rule=rule)
    found = explain_gan(game, latents(), how="path", chord=1)
    assert found.generator["decay"].abs().max() > 1e-5
    assert found.critic["decay"].abs().max() > 1e-9
    assert (found.residual.abs() <= 1e-12 * found.magnitude).all()


def test_a_linear_game_is_a_double_sum_over_the_steps_of_both():
    """G(z) = Az and D(x) = <w, x>: A moves by w z'^T at each step, and w by what was shown before it."""
    game = small_game("wasserstein", "sgd", r1=0.4, critic_steps=2, made=nn.Linear(2, 2, bias=False),
                      judge=nn.Linear(2, 1, bias=False))
    z, rate, batch, n = latents(), 0.05, 4, game.real
    real, penalty = (torch.zeros(3, 2, n, dtype=torch.float64) for _ in range(2))
    fake = torch.zeros(3, 2, dtype=torch.float64)
    first = torch.zeros(3, 2, dtype=torch.float64)
    for s in range(len(game.generator)):
        for micro in game.generator.step(s).batches:
            (drawn,), _ = game.generator.samples.read(micro)
            near = rate / batch * (z @ drawn.T).sum(1)
            first += near[:, None] * game.critic.parameters(0)["network.weight"]
            for j in range(int(game.seen[s])):
                w = game.critic.parameters(j)["network.weight"][0]
                for shown in game.critic.step(j).batches:
                    (x,), _ = game.critic.samples.read(shown)
                    for place, y in zip(shown.columns.tolist(), x, strict=True):
                        if place < n:
                            real[:, :, place] += near[:, None] * rate / batch * y
                        elif place < 2 * n:
                            penalty[:, :, place - n] -= near[:, None] * rate / batch * 0.4 * w
                        else:
                            fake -= near[:, None] * rate / batch * y
    for chord in (1, 5):
        # A linear game has no curvature that a chord could miss.
        found = explain_gan(game, z, how="path", output="all", chord=chord)
        assert torch.allclose(found.first_critic, first, rtol=1e-11, atol=1e-15)
        assert torch.allclose(found.real, real, rtol=1e-10, atol=1e-14)
        assert torch.allclose(found.penalty, penalty, rtol=1e-10, atol=1e-14)
        assert torch.allclose(found.fake.sum(-1), fake, rtol=1e-10, atol=1e-14)


def averaged(f, here, there):
    """The discrete gradient of f between two sets of parameters, from the definition."""
    middle = {name: ((here[name] + there[name]) / 2).requires_grad_() for name in here}
    p = dict(zip(middle, torch.autograd.grad(f(middle), list(middle.values()), allow_unused=True), strict=True))
    p = {name: torch.zeros_like(here[name]) if g is None else g for name, g in p.items()}
    moved = {name: (there[name] - here[name]).detach() for name in here}
    missed = f(there) - f(here) - sum((p[name] * moved[name]).sum() for name in p)
    square = sum(d.square().sum() for d in moved.values())
    return {name: (p[name] + missed * moved[name] / square).detach() for name in p}


def test_a_curved_game_is_the_double_sum_of_its_definition():
    """Each pair of a generator's step and an earlier one of the critic by itself, under plain gradient descent."""
    game = small_game("non-saturating", "sgd", r1=0.3, critic_steps=2, steps=3, real=5)
    made, judge, rate, n = game.generator.network.module(()), game.critic.network.module(()), 0.05, game.real
    z, real = latents(1), torch.zeros(2, n, dtype=torch.float64)
    for c in range(2):
        for s in range(len(game.generator)):
            output = lambda p, c=c: functional_call(made, p, (z,))[0, c]
            here, there = game.generator.parameters(s), game.generator.parameters(s + 1)
            psi = {name: rate * p for name, p in averaged(output, here, there).items()}
            (drawn,), _ = game.generator.samples.read(game.generator.step(s).batches[0])
            x, u = torch.func.jvp(lambda p, drawn=drawn: functional_call(made, p, (drawn,)), (here,), (psi,))

            def pull(theta, x=x, u=u):
                points = x.detach().clone().requires_grad_()
                score = functional_call(judge, theta, (points,))[:, 0]
                loss = nn.functional.softplus(-score).sum()
                field = torch.autograd.grad(loss, points, create_graph=True)[0]
                return -(u * field).sum() / len(u)

            for j in range(int(game.seen[s])):
                theta = game.critic.parameters(j)
                p = averaged(pull, theta, game.critic.parameters(j + 1))
                shown = game.critic.step(j).batches[0]
                (rows,), targets = game.critic.samples.read(shown)
                leaves = {name: t.clone().requires_grad_() for name, t in theta.items()}
                losses = game.game.critic_loss(functional_call(judge, leaves, (rows,)), targets)
                for place, loss in zip(shown.columns.tolist(), losses, strict=True):
                    if place < n:
                        g = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True, allow_unused=True)
                        real[c, place] -= rate / len(rows) * sum(
                            (p[name] * (0 if part is None else part)).sum() for name, part in zip(p, g, strict=True))
    found = explain_gan(game, z, how="path", output="all", chord=1)
    assert torch.allclose(found.real[0], real, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("how", ["path", "frozen"])
@pytest.mark.parametrize("chord", [2, 7, *(pytest.param(m, marks=pytest.mark.slow) for m in (3, 100))])
def test_chords_of_any_length_are_complete(how, chord):
    game = small_game(r1=0.3, critic_steps=2, steps=7)
    found = explain_gan(game, latents(), how=how, chord=chord)
    exact = explain_gan(game, latents(), how=how, chord=1)
    assert (found.residual.abs() <= 1e-12 * found.magnitude).all()
    # What the first critic said, and what it all comes to, have nothing to do with chords.
    assert torch.allclose(found.first_critic, exact.first_critic, rtol=0, atol=1e-13)
    assert torch.allclose(found.total, exact.total, rtol=0, atol=1e-14)


def test_shorter_chords_come_nearer_to_single_steps():
    game = small_game(r1=0.3, steps=16)
    z = latents(1)
    exact = explain_gan(game, z, how="path", chord=1).real
    gaps = [float((explain_gan(game, z, how="path", chord=chord).real - exact).abs().sum()) for chord in (16, 6, 2)]
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2] > 0


def test_what_half_a_chord_changes_is_measured():
    game = small_game(r1=0.3, steps=12)
    z = latents()
    whole, half = (explain_gan(game, z, how="path", chord=chord) for chord in (6, 3))
    expected = (whole.real[0] - half.real[0]).abs().sum() / half.real[0].abs().sum()
    assert float(whole.moved) == pytest.approx(float(expected), rel=1e-9)


def test_a_frozen_critic_pulls_by_the_generators_kernel():
    """The motion it asks for is -E K^G v, by plain Jacobians, and its split ends at the first critic's."""
    game = small_game(r1=0.3)
    z = latents(2)
    found = explain_gan(game, z, output="all", draws=4)
    made, theta = game.generator.network.module(()), game.generator.parameters()
    jacobian = lambda points: torch.func.jacrev(lambda p: functional_call(made, p, (points,)))(theta)
    last = game.generator.step(len(game.generator) - 1).batches[0]
    (drawn,), _ = game.generator.samples.read(last)
    here, there = jacobian(z), jacobian(drawn)
    kernel = sum(torch.einsum("qcp,bdp->qcbd", here[name].flatten(2), there[name].flatten(2)) for name in theta)
    for critic, term in ((None, found.total), (game.critic.parameters(0), found.first_critic)):
        field = game.game.field(lambda x, critic=critic: game_score(game, x, critic), game.generated(drawn))
        assert torch.allclose(term, -torch.einsum("qcbd,bd->qc", kernel, field) / len(drawn), rtol=1e-10, atol=1e-14)


def game_score(game, x, parameters):
    held = game.critic.parameters() if parameters is None else parameters
    return functional_call(game.critic.network.module(()), held, (x,))[:, 0]


def test_the_motion_is_explained_along_itself():
    game = small_game(r1=0.3)
    z = latents()
    path, frozen = explain_gan(game, z, how="path"), explain_gan(game, z)
    assert torch.allclose(path.total[:, 0], motion(game, z).norm(dim=1), rtol=1e-12)
    every = explain_gan(game, z, output="all")
    assert torch.allclose(frozen.total[:, 0], every.total.norm(dim=1), rtol=1e-10)


def test_small_memory_gives_the_same_numbers():
    game = small_game(r1=0.3, steps=10)
    z = latents(5)
    much, little = (explain_gan(game, z, how="path", chord=3, memory=memory) for memory in (2**29, 2**13))
    assert torch.allclose(much.real, little.real, rtol=1e-9, atol=1e-14)
