"""Ensembles of re-trained seeds, against plain loops and against the average over every sequence of batches."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from kernelscope.decomposition.stochastic.ensemble import _setting, side_of
from kernelscope.decomposition.stochastic.local_terms import LocalTerms, Setting
from kernelscope.decomposition.stochastic.noise_weights import noise_weights
from kernelscope.decomposition.stochastic.population import population_of
from kernelscope.decomposition.stochastic.recipe import recipe_of
from kernelscope.decomposition.stochastic.sampling import Sampling
from kernelscope.decomposition.stochastic.stacked import train
from kernelscope.errors import DataError, ModelError, NonFiniteError, RuleError
from kernelscope.network import undisturbed
from tests.enumeration import Small, reshuffled, with_replacement
from tests.recordings import network, points, queries

CPU = torch.device("cpu")
ETAS = (0.02, 0.01)


def recorded(model, x, y, optimizer, batches, loss=F.mse_loss, scheduler=None, clip=None, passes=1, **options):
    """The plainest loop, recorded."""
    with ks.record(model, (x, y), loss=loss, **options) as recording:
        for ids in batches:
            optimizer.zero_grad()
            for part in torch.as_tensor(ids).chunk(passes):
                recording.batch(part)
                (loss(model(x[part]), y[part]).mean() * len(part) / len(ids)).backward()
            if clip is not None:
                clip(model)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
    return recording.run


def drawn(steps=8, size=3, n=8, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(n, (size,), generator=generator) for _ in range(steps)]


def simple(optimizer=torch.optim.SGD, steps=8, model=None, loss=F.mse_loss, **options):
    x, y = points()
    torch.manual_seed(1)
    model = network() if model is None else model
    made = optimizer(model.parameters(), **({"lr": 0.05} | options))
    return recorded(model, x, y, made, drawn(steps), loss)


def stack_of(run, batches, dtype=torch.float64):
    with undisturbed(CPU):
        population = population_of(run, None, dtype, CPU)
        return train(recipe_of(run, population, dtype, CPU), population, batches)


# -- every seed is the plain loop -------------------------------------------------------------------------------------

RULES = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "heavy ball": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "dampening": 0.1}),
    "nesterov": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01}),
    "maximize": (torch.optim.SGD, {"lr": 0.01, "weight_decay": 0.1, "maximize": True}),
    "adam": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.01, "amsgrad": True}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.5, "centered": True}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.05}),
    "nadam": (torch.optim.NAdam, {"lr": 0.01}),
}


@pytest.mark.parametrize("schedule", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_every_seed_is_the_plain_loop_on_its_batches(name, schedule):
    (kind, options), (x, y), steps = RULES[name], points(), 12
    torch.manual_seed(1)
    model = network()
    start = {key: value.clone() for key, value in model.state_dict().items()}

    def tools():
        model.load_state_dict(start)
        optimizer = kind([{"params": model[0].parameters()},
                          {"params": model[2].parameters(), "lr": 0.5 * options["lr"]}], **options)
        return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5) if schedule else None

    optimizer, scheduler = tools()
    run = recorded(model, x, y, optimizer, drawn(steps), scheduler=scheduler)
    batches = [torch.randint(8, (5, 3), generator=torch.Generator().manual_seed(k)) for k in range(steps)]
    found = stack_of(run, batches)
    for s in range(5):
        optimizer, scheduler = tools()
        for ids in batches:
            optimizer.zero_grad()
            F.mse_loss(model(x[ids[s]]), y[ids[s]]).backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
        for key, value in model.named_parameters():
            assert torch.allclose(found[key][s], value, rtol=0, atol=1e-12), (name, key)


def test_classes_and_batches_of_two_sizes_are_trained_as_by_the_plain_loop():
    x, y = points()[0], torch.arange(8) % 2
    model = network()
    start = {key: value.clone() for key, value in model.state_dict().items()}
    sizes = [3, 3, 2] * 6
    run = recorded(model, x, y, torch.optim.SGD(model.parameters(), lr=0.2),
                   [torch.randperm(8)[:size] for size in sizes], nn.CrossEntropyLoss())
    batches = [torch.randint(8, (4, size)) for size in sizes]
    found = stack_of(run, batches)
    for s in range(4):
        model.load_state_dict(start)
        for ids in batches:
            model.zero_grad()
            F.cross_entropy(model(x[ids[s]]), y[ids[s]]).backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.2 * p.grad
        for key, value in model.named_parameters():
            assert torch.allclose(found[key][s], value, rtol=0, atol=1e-12)


# -- the average over all sequences -----------------------------------------------------------------------------------

def enumerated(eta, sequences, sampling, mu=0.0, linear=False, nesterov=False):
    """The measured change, and the terms, averaged over all sequences of batches."""
    small = Small(linear=linear)
    model = small.net
    model.load_state_dict(small.theta)
    loss = lambda f, y: small.loss(f[:, 0], y)
    optimizer = torch.optim.SGD(model.parameters(), lr=eta, momentum=mu, nesterov=nesterov)
    run = recorded(model, small.x, small.y, optimizer, [list(batch) for batch in sequences[0]], loss)
    batches = list(torch.tensor(sequences).unbind(1))
    with undisturbed(CPU):
        population = population_of(run, (small.x, small.y), torch.float64, CPU)
        recipe = recipe_of(run, population, torch.float64, CPU)
        side, buffers = side_of(run, (small.queries,), None, None, torch.float64, CPU)
        setting = _setting(recipe, population, sampling, side, buffers, 2**29)
        assert setting.exact
        watch = LocalTerms(setting, torch.Generator())
        theta = train(recipe, population, batches, watch)
        change = torch.func.vmap(setting.outputs)(theta) - setting.outputs(recipe.start)
    return change.mean(0), {name: term.mean(0) for name, term in watch.sums.items()}, change


def slopes(sequences, sampling, etas=ETAS, **options):
    """The orders in the learning rate of what the path leaves over, and of what all terms leave over."""
    first, second = [], []
    for eta in etas:
        change, terms, _ = enumerated(eta, sequences, sampling, **options)
        path = change - terms["path"]
        first.append(float(path.norm()))
        second.append(float((path - sum(terms.get(name, 0.0) for name in ("curvature", "noise", "drift"))).norm()))
    return tuple(math.log(e[0] / e[1]) / math.log(etas[0] / etas[1]) for e in (first, second))


def epochs_of(size, steps, scheme, n=4):
    return Sampling(scheme, n, (size,) * steps, tuple(k * size // n for k in range(steps)))


@pytest.mark.parametrize(("size", "steps", "options"), [
    (1, 4, {}), (2, 2, {}), (2, 3, {}), (1, 4, {"mu": 0.6}),
    (2, 3, {"mu": 0.6, "nesterov": True, "etas": (0.01, 0.005)})])
def test_with_replacement_the_terms_are_off_by_the_third_power(size, steps, options):
    sequences = list(with_replacement(4, size, steps))
    first, second = slopes(sequences, epochs_of(size, steps, "replacement"), **options)
    assert first == pytest.approx(2, abs=0.1)
    assert second == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize(("size", "epochs", "mu"), [(1, 1, 0.0), (2, 1, 0.0), (2, 2, 0.0), (1, 1, 0.6), (2, 2, 0.6)])
def test_with_reshuffling_the_terms_are_off_by_the_third_power(size, epochs, mu):
    sequences = list(reshuffled(4, size, epochs))
    _, second = slopes(sequences, epochs_of(size, 4 // size * epochs, "reshuffling"), mu=mu)
    assert second == pytest.approx(3, abs=0.2)


def test_batches_without_repeats_that_know_nothing_of_each_other_are_off_by_the_third_power():
    pairs = list(itertools.permutations(range(4), 2))
    sequences = list(itertools.product(pairs, repeat=3))
    first, second = slopes(sequences, epochs_of(2, 3, "independent"))
    assert first == pytest.approx(2, abs=0.1)
    assert second == pytest.approx(3, abs=0.2)


def test_with_reshuffling_the_terms_of_replacement_are_off_by_the_second_power():
    sequences = list(reshuffled(4, 1, 1))
    assert slopes(sequences, epochs_of(1, 4, "independent"))[1] == pytest.approx(2, abs=0.2)


def test_an_epoch_of_equal_batches_drifts_down_the_trace_of_the_covariance():
    # What the sums leave over an epoch is -(eta^2 m / 4) <phi, grad tr Sigma_B>, and the traces cancel.
    errors = []
    for eta in ETAS:
        _, terms, _ = enumerated(eta, list(reshuffled(4, 1, 1)), epochs_of(1, 4, "reshuffling"))
        small = Small()

        def trace(theta, small=small):
            g = torch.cat([t.reshape(4, -1) for t in small.gradients(theta).values()], 1)
            return (g - g.mean(0)).square().sum() / 4

        with undisturbed(CPU):
            slope = torch.func.grad(trace)(small.theta)
            drift = -eta**2 * 4 / 4 * torch.func.jvp(small.outputs, (small.theta,), (slope,))[1]
        errors.append(float((terms["noise"] + terms["drift"] - drift[:, None]).norm()))
        assert errors[-1] < 0.2 * float(drift.norm())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(3, abs=0.3)


def test_a_linear_model_has_no_noise_term_and_its_mean_is_that_of_full_batches():
    sequences = list(with_replacement(4, 1, 3))
    change, terms, _ = enumerated(0.1, sequences, epochs_of(1, 3, "replacement"), linear=True)
    assert float(terms["noise"].abs().max()) <= 1e-15
    full, _, _ = enumerated(0.1, [[(0, 1, 2, 3)] * 3], epochs_of(4, 3, "replacement"), linear=True)
    assert torch.allclose(change, full, rtol=0, atol=1e-14)


def test_the_terms_of_a_step_are_those_of_the_dense_hessian():
    eta, small = 0.1, Small()
    _, terms, _ = enumerated(eta, [[(0, 1)]], epochs_of(2, 1, "replacement"))
    names, shapes = list(small.theta), [t.shape for t in small.theta.values()]

    def outputs(v):
        parts = v.split([s.numel() for s in shapes])
        return small.outputs({n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)})

    with undisturbed(CPU):
        flat = torch.cat([t.reshape(-1) for t in small.theta.values()])
        phi, hessian = torch.func.jacrev(outputs)(flat), torch.func.hessian(outputs)(flat)
        rows = torch.cat([t.reshape(4, -1) for t in small.gradients(small.theta).values()], 1)
    g, centered = rows.mean(0), rows - rows.mean(0)
    sigma = centered.T @ centered / 4
    for name, truth in {
        "path": -eta * phi @ g,
        "curvature": eta**2 / 2 * torch.einsum("qab,a,b->q", hessian, g, g),
        "noise": eta**2 / 4 * torch.einsum("qab,ba->q", hessian, sigma),
        "variance": eta**2 / 2 * torch.einsum("qa,ab,qb->q", phi, sigma, phi),
        "martingale": -eta * phi @ (rows[:2].mean(0) - g),
    }.items():
        assert torch.allclose(terms[name][:, 0], truth, rtol=1e-11, atol=1e-14), name


def test_the_martingale_has_mean_zero_and_narrows_what_is_left():
    sequences = list(with_replacement(4, 1, 4))
    change, terms, each = enumerated(0.02, sequences, epochs_of(1, 4, "replacement"), mu=0.6)
    assert float(terms["martingale"].abs().max()) <= 1e-15
    assert float((each.var(0) / terms["variance"] - 1).abs().max()) < 0.2


def test_the_variance_is_that_of_the_outputs_in_the_first_order():
    errors = []
    for eta in (0.02, 0.01, 0.005):
        _, terms, each = enumerated(eta, list(with_replacement(4, 2, 3)), epochs_of(2, 3, "replacement"))
        errors.append(float((each.var(0, correction=0) / terms["variance"] - 1).abs().max()))
    assert errors[0] > 1.7 * errors[1] > 1.7**2 * errors[2]


def test_probes_have_the_mean_of_the_exact_terms():
    x, y = points(n=12)
    model = network()
    run = recorded(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5),
                   [torch.randperm(12)[:4] for _ in range(3)])
    for scheme in ("replacement", "reshuffling"):
        sampling = Sampling(scheme, 12, (4, 4, 4), (0, 0, 0))
        found = {}
        with undisturbed(CPU):
            population = population_of(run, (x, y), torch.float64, CPU)
            recipe = recipe_of(run, population, torch.float64, CPU)
            side, buffers = side_of(run, (queries(),), None, None, torch.float64, CPU)
            setting = _setting(recipe, population, sampling, side, buffers, 2**29)
            batches = [rows[:1].expand(3000, 4) for rows in sampling.draw(1, torch.Generator().manual_seed(0))]
            for exact in (True, False):
                with_all = Setting(recipe, population, sampling, setting.outputs, exact, 12)
                watch = LocalTerms(with_all, torch.Generator().manual_seed(1))
                train(recipe, population, [b[:1] for b in batches] if exact else batches, watch)
                found[exact] = watch.sums
        assert set(found[True]) == set(found[False])
        for name in ("noise", "variance", *(["drift"] if scheme == "reshuffling" else [])):
            measured = found[False][name]
            error = measured.std(0) / 3000**0.5
            assert bool(((measured.mean(0) - found[True][name][0]).abs() < 4 * error).all()), name
        for name in ("path", "curvature"):
            assert torch.allclose(found[False][name][0], found[True][name][0], rtol=1e-10, atol=1e-14)


def test_a_quadratic_valley_has_the_variance_of_the_ornstein_uhlenbeck_process():
    # Losses a/2 theta^2 - z theta: E theta^2 has a recursion, and a limit that is met at the first order in the rate.
    a, spread, start, horizon, seeds = 1.0, 3.0, 2.0, 1.0, 20000
    z = spread * torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    scale = spread**2 / 2

    class Valley(nn.Module):
        def __init__(self):
            super().__init__()
            self.theta = nn.Parameter(torch.tensor([start], dtype=torch.float64))

        def forward(self, x):
            return self.theta.expand(len(x), 1)

    gaps = []
    for steps in (20, 40, 80):
        eta = horizon / steps
        model = Valley()
        run = recorded(model, z[:, None], z, torch.optim.SGD(model.parameters(), lr=eta), drawn(steps, 2, 4),
                       lambda f, y: a / 2 * f[:, 0].square() - y * f[:, 0])
        found = ks.ensemble(run, torch.zeros(1, 1), output=lambda f: f.square(), seeds=seeds if steps == 20 else 2,
                            sampling="replacement", data=(z[:, None], z))
        square = start**2
        for _ in range(steps):
            square = (1 - eta * a) ** 2 * square + eta**2 * scale
        if steps == 20:
            low, high = found.interval(0.999)
            assert float(low) < square < float(high)
        s2 = eta * scale
        limit = math.exp(-2 * a * horizon) * start**2 + s2 * (1 - math.exp(-2 * a * horizon)) / (2 * a)
        gaps.append(abs(square - limit))
    assert math.log2(gaps[0] / gaps[1]) == pytest.approx(1, abs=0.15)
    assert math.log2(gaps[1] / gaps[2]) == pytest.approx(1, abs=0.1)


def test_weights_of_noise_are_those_of_unrolled_steps():
    run = simple(momentum=0.7, nesterov=True, dampening=0.0, steps=6)
    with undisturbed(CPU):
        recipe = recipe_of(run, population_of(run, None, torch.float64, CPU), torch.float64, CPU)
    forms = recipe.forms()
    matrix = torch.zeros(6, 6, dtype=torch.float64)  # step k by gradient s
    for s in range(6):
        momentum = None
        for k, form in enumerate(forms):
            g = torch.tensor(float(k == s), dtype=torch.float64)
            step, momentum = form["0.weight"].displacement(torch.zeros_like(g), g, momentum)
            matrix[k, s] = -step
    found = noise_weights(forms, [k % 3 == 0 for k in range(6)])
    for s, weights in enumerate(found):
        epoch = range(s // 3 * 3, s)
        assert weights.final["0.weight"] == pytest.approx(float(matrix[:, s].sum()))
        assert weights.earlier["0.weight"] == pytest.approx(sum(float(matrix[:, r].sum()) for r in epoch))
        assert weights.entered["0.weight"] == pytest.approx(sum(float(matrix[r:s, r].sum()) for r in epoch))


# -- the public function ----------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def found():
    return ks.ensemble(simple(steps=12, momentum=0.5), queries(), seeds=60, terms=True)


def test_an_ensemble_has_a_mean_a_spread_and_terms(found):
    assert found.outputs.shape == (60, 2, 2)
    assert len(found) == 60
    assert found.sampling == "replacement"
    assert torch.allclose(found.standard_error, found.std / 60**0.5)
    low, high = found.interval()
    assert bool((low < found.mean).all() and (found.mean < high).all())
    assert set(found.terms) == {"path", "curvature", "noise", "martingale", "variance"}
    plain, controlled = found.bias(), found.bias(controlled=True)
    assert float(controlled[1].mean()) < 0.5 * float(plain[1].mean())
    assert float(found.bias("noise", True)[0].abs().mean()) < float(found.bias("path", True)[0].abs().mean())
    assert found.info["again"] < 1e-10
    assert found.check().ok
    assert len(found.to_frame()) == 4
    assert "60 seeds of 12 steps" in repr(found)


def test_what_comes_out_hangs_on_the_seed_and_not_on_the_memory_or_the_threads(found):
    run = simple(steps=12, momentum=0.5)
    less = ks.ensemble(run, queries(), seeds=60, memory=30_000)
    assert less.info["together"] < 60
    assert torch.allclose(less.outputs, found.outputs, rtol=0, atol=1e-13)
    other = ks.ensemble(run, queries(), seeds=60, seed=1)
    assert not torch.allclose(other.outputs, found.outputs)
    assert torch.equal(other.recorded, found.recorded)


def test_an_ensemble_of_adam_has_no_terms_and_meets_the_recorded_end():
    found = ks.ensemble(simple(torch.optim.Adam), queries(), seeds=3)
    assert found.info["again"] < 1e-12
    assert found.terms == {}


def test_nothing_of_the_users_is_changed():
    run = simple()
    before, state = run.fingerprint(), torch.get_rng_state()
    ks.ensemble(run, queries(), seeds=3, terms=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert run.fingerprint() == before


def test_interrupted_it_can_be_asked_again(monkeypatch):
    run, calls = simple(), []
    from kernelscope.decomposition.stochastic import stacked

    def step(self, k, gradient, own=stacked.Stack.step):
        calls.append(k)
        if len(calls) == 4:
            raise KeyboardInterrupt
        own(self, k, gradient)

    with monkeypatch.context() as patch:
        patch.setattr(stacked.Stack, "step", step)
        with pytest.raises(KeyboardInterrupt):
            ks.ensemble(run, queries(), seeds=3)
    assert ks.ensemble(run, queries(), seeds=3).check().ok


def test_it_is_saved_and_drawn(found, tmp_path):
    again = ks.Ensemble.load(found.save(tmp_path / "ensemble"))
    assert torch.equal(again.outputs, found.outputs)
    assert repr(again) == repr(found)
    for theme in ("light", "dark"):
        assert found.plot(theme=theme).get_title(loc="left")
    without = ks.ensemble(simple(), queries(), seeds=5)
    assert without.terms == {}
    assert without.plot().get_title(loc="left")
    with pytest.raises(DataError, match="terms=True"):
        without.bias()


def test_the_training_set_may_be_more_than_the_run_saw():
    x, y = points()
    model = network()
    run = recorded(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1), [[0, 1], [1, 2], [0, 2]])
    part = ks.ensemble(run, queries(), seeds=4)
    assert "5 of the 8 training samples were never drawn" in part.info["notes"][0]
    whole = ks.ensemble(run, queries(), seeds=4, data=(x, y))
    assert (part.info["samples"], whole.info["samples"]) == (3, 8)
    assert whole.info["again"] < 1e-12
    with pytest.raises(DataError, match="in their order"):
        ks.ensemble(run, queries(), seeds=4, data=(x.flip(0), y))


def test_passes_of_a_step_and_gradients_times_a_number_are_trained_again():
    x, y = points()
    for options in ({"passes": 2}, {"clip": lambda m: [p.grad.mul_(0.5) for p in m.parameters()]}):
        model = network()
        run = recorded(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1), drawn(6, 4), **options)
        assert ks.ensemble(run, queries(), seeds=3, terms=True).info["again"] < 1e-12


def clipped():
    x, y = points()
    model = network()
    return recorded(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1), drawn(),
                    clip=lambda m: nn.utils.clip_grad_norm_(m.parameters(), 0.1))


def another_gradient():
    x, y = points()
    model = network()
    return recorded(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1), drawn(),
                    clip=lambda m: nn.utils.clip_grad_value_(m.parameters(), 0.01))


def with_module(*extra):
    return nn.Sequential(nn.Linear(3, 4), *extra, nn.Linear(4, 2)).double()


def full_batches():
    x, y = points()
    model = network()
    return recorded(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1), [list(range(8))] * 3)


REFUSED = {
    "clipping": (clipped, {}, RuleError, "multiplied by factors that change"),
    "another gradient": (another_gradient, {}, RuleError, "not that of the mean of the recorded loss"),
    "dropout": (lambda: simple(model=with_module(nn.Dropout(0.5))), {}, ModelError, "drew random numbers"),
    "batch norm": (lambda: simple(model=with_module(nn.BatchNorm1d(4))), {}, ModelError, "mixes the samples"),
    "a slice": (lambda: simple()[2:], {}, DataError, "begins at step 2"),
    "no step": (lambda: simple()[:0], {}, DataError, "no step"),
    "full batches": (full_batches, {}, DataError, "every seed would end where"),
    "terms of Adam": (lambda: simple(torch.optim.Adam), {"terms": True}, RuleError, "Pass terms=False"),
    "one seed": (simple, {"seeds": 1}, DataError, "seeds must be a whole number from 2"),
    "a scheme": (simple, {"sampling": "shuffled"}, DataError, "sampling must be"),
    "half precision": (simple, {"dtype": torch.float16}, DataError, "float32 or torch.float64"),
    "other data": (simple, {"data": (torch.zeros(8, 3).double(), points()[1])}, DataError,
            "in their order"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_again_is_refused_by_name(name):
    make, options, kind, said = REFUSED[name]
    with pytest.raises(kind, match=said):
        ks.ensemble(make(), queries(), **({"seeds": 3} | options))


def test_seeds_that_diverge_are_told():
    x, y = torch.ones(4, 1).double(), torch.tensor([[0.0], [0.0], [0.0], [1e200]]).double()
    model = nn.Linear(1, 1).double()
    run = recorded(model, x, y, torch.optim.SGD(model.parameters(), lr=1e60), [[0], [1], [2]])
    with pytest.raises(NonFiniteError, match="ended at NaN"):
        ks.ensemble(run, torch.ones(1, 1), data=(x, y), sampling="replacement")
