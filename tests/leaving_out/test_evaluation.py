"""Evaluations: each way under its own name, judged by networks that were trained without some samples."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from kernelscope import plots
from kernelscope.cli import main
from kernelscope.diagnostics.leaving_out import evaluating, retraining
from kernelscope.diagnostics.leaving_out.evaluation import CONTRIBUTION, GAUSS_NEWTON, METAGRADIENT, RANDOM
from kernelscope.diagnostics.leaving_out.gradient_baselines import checkpoints_of
from kernelscope.diagnostics.leaving_out.trial import subset_trial
from kernelscope.errors import DataError
from kernelscope.report import Report

from .runs import network, normal, recorded, samples


@pytest.fixture(scope="module")
def run():
    return recorded(steps=30, n=40)


@pytest.fixture(scope="module")
def found(run):
    x, y = samples(10, seed=8)
    own = {"mine": torch.ones(10, 40), "several": ("influence", {"a": normal(10, 40, seed=1),
                                                                "b": normal(10, 40, seed=2)})}
    return ks.evaluate(run, x, y, subsets=24, scores=own)


def test_every_way_is_there_and_contribution_and_influence_are_kept_apart(found):
    roles = {name: found.own.role(name) for name in found.names}
    assert roles == {CONTRIBUTION: "contribution", METAGRADIENT: "influence", GAUSS_NEWTON: "influence",
                     "gradient dot": "baseline", "TracInCP, 10 checkpoints": "baseline", RANDOM: "null",
                     "mine": "baseline", "several": "influence"}
    table = found.to_frame().set_index("way")
    assert table.loc[CONTRIBUTION, "what it is"].startswith("share")
    assert table.loc[METAGRADIENT, "what it is"].startswith("counterfactual")
    assert found.left_out == {}
    assert "damping" in found.settings[GAUSS_NEWTON]
    assert set(found.settings["several"].split(" / ")) <= {"a", "b"}


def test_what_is_foretold_and_measured_is_what_public_calls_give(run, found):
    x, y = samples(10, seed=8)
    members = (found.own.predicted[0] != 0).any(1)
    scores = ks.decompose(run, x, output="loss", targets=y).contributions[:, 0]
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randperm(40, generator=generator)[:20] for _ in range(24)]
    again = ks.retrain(run, drawn)
    torch.testing.assert_close(found.own.measured[0], again.outputs(x, "loss", y)[0, ..., 0], rtol=0, atol=1e-12)
    sums = torch.stack([scores[:, subset].sum(1) for subset in drawn])
    place = found.own.names.index(CONTRIBUTION)
    torch.testing.assert_close(found.own.predicted[place], sums, rtol=0, atol=1e-10)
    assert members.any()
    model = network()
    model.load_state_dict(again.state(0, 5))
    torch.testing.assert_close(found.own.measured[0, 5], F.cross_entropy(model(x), y, reduction="none").detach())


def test_gradient_baselines_are_products_of_gradients(run, found):
    x, y = samples(10, seed=8)
    xt, yt = samples(40)
    model = network()

    def rows(inputs, targets):
        return torch.stack([torch.cat([g.flatten() for g in torch.autograd.grad(
            F.cross_entropy(model(inputs[i:i + 1]), targets[i:i + 1]), list(model.parameters()))])
            for i in range(len(inputs))])

    total = 0
    for k in checkpoints_of(30, 10):
        model.load_state_dict(run.parameters(k))
        last = -0.1 * rows(x, y) @ rows(xt, yt).T
        total = total + last
    generator = torch.Generator().manual_seed(0)
    subset = [torch.randperm(40, generator=generator)[:20] for _ in range(24)][7]
    for name, scores in (("gradient dot", last), ("TracInCP, 10 checkpoints", total)):
        torch.testing.assert_close(found.own.predicted[found.own.names.index(name), 7], scores[:, subset].sum(1),
                                   rtol=0, atol=1e-10)


def test_influence_foretells_better_than_random_and_no_score_beats_what_is_without_noise(found):
    assert found.own.exact
    assert found.own.ceiling == 1.0
    assert found.lds(METAGRADIENT) > 0.5
    assert abs(found.lds(RANDOM)) < 0.25
    # The same score for each sample says the same of each subset of one size.
    assert found.lds("mine") == 0.0
    assert found.anew.measured.shape == (3, 24, 10)
    assert 0 < found.anew.ceiling <= 1
    assert found.lds(METAGRADIENT, "mean of seeds") < found.anew.ceiling + 0.1


def test_leaving_out_is_linear_where_influence_is_exact():
    # One step of a linear model under the squared loss: a subset's mean gradient is the mean of its samples' ones.
    x, y = normal(16, 2, seed=3), normal(16, 1, seed=4)
    model = nn.Linear(2, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    found = ks.evaluate(recording.run, normal(4, 2, seed=5), subsets=16, output=0)
    for name in (CONTRIBUTION, METAGRADIENT):
        assert found.lds(name) == pytest.approx(1.0, abs=1e-9)


def test_random_batches_have_noise_from_the_same_start_too():
    x, y = samples(6, seed=8)
    found = ks.evaluate(recorded(batch=8, steps=20), x, y, subsets=12, seeds=2)
    assert found.own.measured.shape == (2, 12, 6)
    assert not found.own.exact
    assert 0 < found.own.ceiling < 1


def test_where_no_start_is_drawn_it_is_said():
    model = network()
    with torch.no_grad():
        model[0].weight.mul_(6)
    x, y = samples(6, seed=8)
    found = ks.evaluate(recorded(model=model), x, y, subsets=8)
    assert found.anew is None
    assert "did not begin" in found.info["why not anew"]
    assert list(found.trials) == ["same start"]
    assert len(plots.title(found)) > 10


def test_queries_that_were_trained_on_are_told(run):
    x, y = samples(40)
    check = ks.evaluate(run, x[:3], y[:3], subsets=8, seeds=2, damping=0.1).check()
    row = next(row for row in check.rows if row.name == "held out")
    assert (row.status, row.value) == ("warn", 3)


def test_what_does_not_fit_is_refused(run):
    x, y = samples(4, seed=8)
    for scores, words in (({"mine": torch.ones(4, 39)}, "for each of 40 training samples"), ([1], '"name": scores'),
                          ({"mine": ("share", torch.ones(4, 40))}, "role"), ({"mine": {}}, "no setting")):
        with pytest.raises(DataError, match=words):
            ks.evaluate(run, x, y, scores=scores)
    with pytest.raises(DataError, match="subsets"):
        ks.evaluate(run, x, y, subsets=4)
    with pytest.raises(DataError, match="seeds"):
        ks.evaluate(run, x, y, seeds=1)
    with pytest.raises(DataError, match="targets"):
        ks.evaluate(run, x)


def test_results_are_kept_drawn_and_shown(found, tmp_path):
    again = ks.Evaluation.load(found.save(tmp_path / "evaluation"))
    assert repr(again) == repr(found)
    assert "foretells" in plots.title(found)
    # A name keeps its hyphen; only numbers get the sign of subtraction.
    assert "Gauss−Newton" not in plots.title(found)
    page = Report("Leaving out", [found]).html()
    assert "ceiling of noise" in page
    assert "What foretells leaving samples out" in page
    assert "<table" in found._repr_html_()
    assert found.check().ok
    with pytest.raises(DataError, match="no comparison"):
        found.lds(RANDOM, "other")


def test_the_command_needs_held_out_points_and_judges_by_them(tmp_path, capsys):
    folder = tmp_path / "run"
    recorded(steps=10, out=folder)
    x, y = samples(6, seed=8)
    assert main(["evaluate", str(folder)]) == 2
    assert "--input" in capsys.readouterr().err
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "y.npy", y.numpy())
    assert main(["evaluate", str(folder), "--input", str(tmp_path / "x.npy")]) == 2
    assert "--targets" in capsys.readouterr().err
    words = ["evaluate", str(folder), "--subsets", "8", "--seeds", "2", "--damping", "0.1"]
    page = tmp_path / "page.html"
    assert main([*words, "--input", str(tmp_path / "x.npy"), "--targets", str(tmp_path / "y.npy"), "-o",
                 str(page)]) == 0
    said = capsys.readouterr().out
    assert "share: what the sample added along this run" in said
    assert "counterfactual" in said
    assert "What foretells leaving samples out" in page.read_text()
    np.savez(tmp_path / "both.npz", x=x.numpy(), y=y.numpy())
    assert main([*words, "--input", str(tmp_path / "both.npz"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert {row["way"] for row in data["ways"]} >= {CONTRIBUTION, METAGRADIENT, GAUSS_NEWTON, RANDOM}
    assert data["ceilings"]["same start"] == 1.0


def test_answers_that_do_not_vary_are_nothing_to_foretell(run):
    x, y = samples(4, seed=8)
    with pytest.raises(DataError, match="no answer varies between subsets"):
        ks.evaluate(run, x, torch.full((4,), -100), subsets=8, seeds=2)
    y[0] = -100
    some = ks.evaluate(run, x, y, subsets=8, seeds=2)
    assert {row.name: (row.status, row.value) for row in some.check().rows}["spread, same start"] == ("warn", 1)
    members, scores = torch.arange(80).reshape(8, 10) % 3 == 0, {"one": ("influence", torch.ones(2, 10))}
    same = subset_trial(scores, members, torch.full((2, 8, 2), 0.1), exact=True)
    assert "no answer varies" in same.said()
    assert not same.check().ok
    assert "foretells" not in replace(some, own=same).said()


@pytest.mark.parametrize(("given", "said"), [
    ({"damping": -1.0}, "damping"), ({"damping": "x"}, "damping"), ({"scores": {"mine": "text"}}, "mine"),
    ({"x": torch.zeros(1, 3), "y": torch.zeros(1).long()}, "two or more"),
    ({"x": torch.zeros(0, 3), "y": torch.zeros(0).long()}, "query"),
])
def test_what_cannot_be_judged_is_refused_before_anything_is_trained(given, said, monkeypatch):
    torch.manual_seed(0)
    x, y = torch.randn(9, 3), torch.arange(9) % 3
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (x, y), loss=torch.nn.functional.cross_entropy) as recording:
        for _ in range(2):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    monkeypatch.setattr("kernelscope.diagnostics.leaving_out.evaluating._answers", None)
    with pytest.raises(DataError, match=said):
        ks.evaluate(recording.run, **{"x": x[:3] + 1, "y": y[:3], "subsets": 8, "seeds": 2} | given)


@pytest.mark.parametrize(("after", "own", "anew"), [(7, None, None), (8, 8, None), (11, 11, None), (19, 16, None),
                                                    (16 + 3 * 10 + 1, 16, 10)])
def test_ctrl_c_judges_by_the_subsets_that_were_trained(run, after, own, anew, monkeypatch):
    whole = ks.evaluate(run, *samples(10, seed=8), subsets=16, damping=0.1)
    calls = []
    train = retraining.train

    def pressed(*args, **kwargs):
        calls.append(0)
        if len(calls) > after:
            raise KeyboardInterrupt
        return train(*args, **kwargs)

    monkeypatch.setattr(retraining, "TOGETHER", 1)
    monkeypatch.setattr(retraining, "train", pressed)
    if own is None:
        with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="fewer than 8 subsets"):
            ks.evaluate(run, *samples(10, seed=8), subsets=16, damping=0.1)
        return
    with pytest.warns(UserWarning, match="Ctrl-C was pressed after"):
        found = ks.evaluate(run, *samples(10, seed=8), subsets=16, damping=0.1)
    torch.testing.assert_close(found.own.measured, whole.own.measured[:, :own], rtol=0, atol=1e-10)
    torch.testing.assert_close(found.own.predicted, whole.own.predicted[:, :own], rtol=0, atol=1e-10)
    assert (found.anew is None) == (anew is None)
    if anew is not None:
        torch.testing.assert_close(found.anew.measured, whole.anew.measured[:, :anew], rtol=0, atol=1e-10)
    assert any(row.name == "interrupted" and row.status == "warn" for row in found.check().rows)
    assert not any(row.name == "interrupted" for row in whole.check().rows)
    assert found.info["networks"] == own + 3 * (anew or 0)


def test_ctrl_c_while_scores_are_computed_judges_those_that_were(run, monkeypatch):
    def pressed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluating, "influence", pressed)
    x, y = samples(10, seed=8)
    with pytest.warns(UserWarning, match=r"while scores were computed \(influence, metagradient\)"):
        found = ks.evaluate(run, x, y, subsets=16, damping=0.1, scores={"mine": torch.ones(10, 40)})
    assert set(found.names) == {CONTRIBUTION, RANDOM, "mine"}
    assert {METAGRADIENT, GAUSS_NEWTON, "gradient dot"} <= set(found.left_out)
    assert found.own.measured.shape == (1, 16, 10)
    assert sum("Ctrl-C was pressed" in row.sentence for row in found.check().rows) == 4
    monkeypatch.setattr(evaluating, "_random", pressed)
    with pytest.warns(UserWarning, match="while scores"), pytest.raises(KeyboardInterrupt):
        ks.evaluate(run, x, y, subsets=16, damping=0.1)
