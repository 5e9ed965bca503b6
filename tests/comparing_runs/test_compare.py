"""Two runs compared: what is the same is told as the same, what differs is told first, and every number has a null."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from kernelscope.diagnostics.comparing.metrics import METRICS
from kernelscope.diagnostics.comparing.result import Measure
from kernelscope.diagnostics.comparing.sides import contrast
from kernelscope.diagnostics.comparing.wording import _apart
from kernelscope.errors import DataError, OutOfBudget
from tests.comparing_runs.runs import data, probes, record, trained

X, Y = probes()
KINDS = ("agreement", "overlap", "contribution_rank", "cka", "feature_cka")


@pytest.fixture(scope="module")
def found():
    """Another optimizer, beside a further run of the first."""
    return ks.compare(trained(0), trained(1, adam=True), X, targets=Y, again=trained(1), k=5, names=("sgd", "adam"))


@pytest.fixture(scope="module")
def same():
    return ks.compare(trained(0), trained(0), X, k=5, draws=100)


def test_a_run_and_itself_are_the_same_in_everything(same):
    for name in (*KINDS, "pooled_overlap", "rank_ratio", "cka_plain"):
        assert same.measure(name).value == pytest.approx(1, abs=1e-12), name
    for name in ("outputs_apart", "samples_apart", "coverage_change"):
        assert same.measure(name).value == 0, name
    assert not any(claim.differs for claim in same.claims())
    assert same.plot().get_title(loc="left") == "Nothing is shown to differ"
    assert not len(same.differing())
    assert not len(same.only_a())


def test_every_measure_is_known_or_says_why_and_has_a_null(found, same):
    for result in (found, same):
        assert list(result.measures) == list(METRICS)
        for measure in result.measures.values():
            assert math.isnan(measure.value) == bool(measure.why)
            assert measure.why or measure.nulls or measure.name == "samples_apart"
    assert same.measure("right_a").why == "no targets were given"


def test_intervals_hold_their_values(found):
    for measure in found.measures.values():
        assert math.isnan(measure.low) or measure.low <= measure.value <= measure.high


def test_answers_are_those_of_the_networks(found):
    with torch.no_grad():
        answers = [run.network(run.parameters(), run.buffers(run.stop), (X,)).argmax(1)
                   for run in (trained(0), trained(1, adam=True))]
    assert found.measure("agreement").value == float((answers[0] == answers[1]).double().mean())
    for side, own in zip("ab", answers, strict=True):
        assert found.measure(f"right_{side}").value == float((own == Y).double().mean())
    assert [row["probe"] for row in found.differing().to_dict("records")] == [
        str(i) for i in (answers[0] != answers[1]).nonzero().flatten().tolist()]
    chance = sum(float((answers[0] == c).double().mean() * (answers[1] == c).double().mean()) for c in range(3))
    assert found.measure("agreement").nulls["by chance"] == pytest.approx(chance)


def test_outputs_apart_is_the_distance_over_the_spread(found):
    a, b = (side - side.mean(2, keepdim=True) for side in (found.outputs["a"], found.outputs["b"]))
    spread = sum(float((t[1] - t[1].mean(0)).square().sum()) for t in (a, b)) / 2
    measure = found.measure("outputs_apart")
    assert measure.value == pytest.approx(math.sqrt(float((a[1] - b[1]).square().sum()) / spread))
    gaps = [float((a[1, i] - b[1, j]).square().sum()) for i in range(len(X)) for j in range(len(X)) if i != j]
    assert measure.nulls["other probes"] == pytest.approx(
        math.sqrt(sum(gaps) / len(gaps) / (spread / len(X))))


def test_contributions_are_those_of_decompose_to_the_same_class_in_both(found):
    for side, run in (("a", trained(0)), ("b", trained(1, adam=True))):
        ledger = ks.decompose(run, X, contrast, targets=Y)
        torch.testing.assert_close(found.contributions[side], ledger.contributions)
        kappa = ledger.contributions.abs().sum(2) / ledger.contributions.sum(2).abs()
        assert found.measure(f"kappa_{side}").value == pytest.approx(float(kappa.median()), rel=1e-12)


def test_kernels_are_those_of_kernel_distances(found):
    distances = ks.kernel_distances(trained(0), trained(1, adam=True), X, times=2)
    assert found.measure("cka_plain").value == pytest.approx(float(distances.cka[-1, -1]), abs=1e-9)
    assert found.measure("cka_plain").nulls["untrained"] == pytest.approx(float(distances.cka[0, 0]), abs=1e-9)
    for side in "ab":
        assert found.measure(f"rank_{side}").value == ks.spectrum(found.kernels[side]).entropy_rank()[0]


def test_coverage_is_that_of_coverage(found):
    own = ks.coverage(trained(0), X, baselines=False)
    assert found.measure("coverage_a").value == pytest.approx(float(own.coverage.mean()), rel=1e-12)
    assert found.measure("coverage_a").nulls["training samples by the others"] == pytest.approx(
        float(own.left_out.mean()), rel=1e-12)


def test_a_further_run_is_a_null_of_what_is_of_two_runs(found):
    other = ks.compare(trained(0), trained(1), X, targets=Y, k=5, draws=0)
    for name in (*KINDS, "outputs_apart", "pooled_overlap"):
        assert found.measure(name).nulls["another run of a"] == pytest.approx(other.measure(name).value, rel=1e-9)
    assert "another run of a" not in found.measure("kappa_a").nulls


def test_differences_come_first(found):
    flags = [claim.differs for claim in found.claims()]
    assert flags == sorted(flags, reverse=True)
    assert all(claim.text and claim.null for claim in found.claims())


def test_other_data_are_named_and_told_first():
    x, y = data()
    x, y = x.clone(), y.clone()
    x[:4] += 3
    y[10] = (y[10] + 1) % 3
    other = record(x, y)
    result = ks.compare(trained(0), other, X, k=5, draws=50, coverage=False)
    assert result.data == "40 and 40 samples, 5 differ, 1 of them with the same input and another target"
    assert result.measure("samples_apart").value == 10
    assert result.claims()[0].topic == "data"
    # Samples of one run alone have no place in the other.
    assert {0, 1, 2, 3, 10}.isdisjoint(result.shared()["sample in a"].tolist())
    table = result.leaning()
    assert len(table) == 45
    assert table["rank in b"].isna().sum() == 5
    assert result.measure("overlap").nulls["by chance"] == pytest.approx(5 * 35 / (40 * 40))


def test_networks_of_other_architecture_are_compared():
    result = ks.compare(trained(0), trained(0, width=20), X, k=5, draws=50)
    assert 0 < result.measure("cka").value < 1
    assert result.info["runs"][0]["parameters"] != result.info["runs"][1]["parameters"]


def test_regressions_have_no_agreement_and_a_loss():
    x, _ = data()
    y = torch.stack([x.sum(1), x[:, 0]], 1)
    runs = [record(x, y, seed=seed, loss=F.mse_loss, outputs=2, make=lambda p: torch.optim.SGD(p, lr=0.02))
            for seed in (0, 1)]
    z = X[:10]
    result = ks.compare(*runs, z, targets=torch.stack([z.sum(1), z[:, 0]], 1), k=3, draws=50)
    assert result.measure("agreement").why == "the networks tell no classes apart"
    assert result.contributions["a"].shape == (10, 2, 40)
    losses = [float(F.mse_loss(run.network(run.parameters(), {}, (z,)), torch.stack([z.sum(1), z[:, 0]], 1)))
              for run in runs]
    assert result.measure("loss_change").value == pytest.approx(losses[1] - losses[0])
    assert {claim.topic for claim in result.claims()} >= {"answers", "loss", "samples", "kernels"}
    assert "answer 0" not in result.summary()


def test_one_logit_tells_two_classes():
    x, y = data()
    y = (y > 0).double()[:, None]
    runs = [record(x, y, seed=seed, loss=F.binary_cross_entropy_with_logits, outputs=1) for seed in (0, 1)]
    result = ks.compare(*runs, X, targets=(Y > 0).long(), k=4, draws=50)
    assert result.measure("right_a").value > 0.5
    assert result.info["explained"] == "the logit"


def test_what_was_left_out_is_not_known():
    result = ks.compare(trained(0), trained(1), X, contributions=False, coverage=False, draws=50)
    assert result.measure("overlap").why == "contributions were left out"
    assert result.measure("coverage_a").why == "coverage was left out"
    assert "samples" not in {claim.topic for claim in result.claims()}
    with pytest.raises(DataError, match="Contributions were left out"):
        result.plot(show="samples")
    assert result._repr_html_()


def test_it_is_kept_whole(found, tmp_path):
    found.save(tmp_path / "kept")
    again = ks.RunComparison.load(tmp_path / "kept")
    assert again.summary() == found.summary()
    assert again.to_frame().equals(found.to_frame())
    assert again.claims() == found.claims()
    assert repr(again.check()) == repr(found.check())
    assert again.shared().equals(found.shared())


@pytest.mark.parametrize("show", ["measures", "spectra", "samples"])
def test_drawings_say_what_they_show(found, show):
    ax = found.plot(show=show)
    assert ax.get_title(loc="left")
    assert found.plot(show=show, theme="dark").get_title(loc="left") == ax.get_title(loc="left")


def test_it_is_a_section_of_a_page():
    found = ks.compare(trained(0), trained(1), X, targets=Y, k=5, draws=50)
    assert any(claim.differs for claim in found.claims())
    page = ks.Report("Two runs", [found]).html()
    assert page.index("What differs") < page.index("What is not shown to differ")
    assert "Every number, beside its null" in page
    assert page == ks.Report("Two runs", [found]).html()
    assert "%" not in "".join(claim.text for claim in found.claims())


def test_no_percentages_stand_where_contributions_cancel():
    # Labels by lot push every answer to and fro.
    labels = torch.randint(3, (40,), generator=torch.Generator().manual_seed(5))
    noisy = record(data()[0], labels, steps=60, make=lambda p: torch.optim.SGD(p, lr=0.3))
    result = ks.compare(trained(0), noisy, X, targets=Y, k=5, draws=20, coverage=False)
    assert result.measure("kappa_a").value < 10 < result.measure("kappa_b").value
    claim = next(claim for claim in result.claims() if claim.topic == "cancellation")
    assert "only ranks are read" in claim.text
    assert all("%" not in claim.text for claim in result.claims())
    assert any(row.status == "warn" and row.name.startswith("cancellation") for row in result.check().rows)


def test_nothing_of_the_users_is_changed(found):
    before = [t.clone() for t in trained(0).network.parameters.values()]
    state = torch.random.get_rng_state()
    ks.compare(trained(0), trained(1), X, draws=10, k=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, trained(0).network.parameters.values(), strict=True))


def test_the_same_seed_gives_the_same_numbers(same):
    again = ks.compare(trained(0), trained(0), X, k=5, draws=100)
    assert again.table == same.table


@pytest.mark.parametrize(("options", "said"), [
    ({"k": 0}, "k must be a whole number from 1"),
    ({"match": "name"}, 'match must be "content"'),
    ({"ids": ["one"]}, "ids must hold 24 words"),
    ({"names": "ab"}, "names must hold 2 words"),
    ({"output": 3.5}, "output must be None"),
    ({"targets": Y[:3]}, "target"),
    ({"coverage": "no"}, "coverage must be True or False"),
])
def test_what_does_not_fit_is_said_in_a_sentence(options, said):
    with pytest.raises(DataError, match=said):
        ks.compare(trained(0), trained(1), X, **options)


def test_runs_that_cannot_be_compared_are_refused():
    x, y = data()
    wide = record(torch.cat([x, x], 1), y, steps=2)
    with pytest.raises(DataError, match="take inputs of shapes"):
        ks.compare(trained(0), wide, X)
    with pytest.raises(DataError, match="must be a recorded run"):
        ks.compare(trained(0), nn.Linear(2, 1), X)
    with pytest.raises(DataError, match="without steps"):
        ks.compare(trained(0), trained(1)[:0], X)
    with pytest.raises(DataError, match="one came"):
        ks.compare(trained(0), trained(1), X[:1])
    with pytest.raises(OutOfBudget, match="allows"):
        ks.compare(trained(0), trained(1), X, memory=1000)
    more = record(x, y, steps=2, outputs=4)
    with pytest.raises(DataError, match="Pass output="):
        ks.compare(trained(0), more, X, output=lambda out: out)


def test_generative_runs_are_sent_to_their_own_comparison():
    from kernelscope.generative.reference import points
    from kernelscope.generative.training import train_diffusion, train_gan

    z = points("digits", count=20)
    with torch.random.fork_rng():
        denoiser = train_diffusion(z, steps=1, width=2, batch=8)
        game = train_gan(z, steps=1, width=2, latents=2, batch=8)
    for run in (denoiser, game, game.critic):
        with pytest.raises(DataError, match=r"kernelscope\.generative\.compare"):
            ks.compare(trained(0), run, X)


def test_a_change_of_round_off_is_no_difference():
    one, other = (Measure(f"coverage_{of}", 0.99, 0.98, 1.0, {}, "") for of in "ab")

    def change(value):
        return _apart(Measure("coverage_change", value, value / 2, 2 * value, {}, ""), one, other)

    assert not change(2.8e-15)
    assert change(2.8e-3)


def test_no_probe_is_refused():
    a = trained()
    with pytest.raises(DataError, match="none came"):
        ks.compare(a, a, probes()[0][:0])
