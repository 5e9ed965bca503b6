"""The built-in example, small in the default suite and whole among the slow tests."""

import json
from fractions import Fraction

import pytest
import torch

import kernelscope as ks
from kernelscope.cli import main
from kernelscope.demo import choose, demo, network


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return demo(tmp_path_factory.mktemp("demo"), epochs=2, right=2, wrong=1)


def test_both_runs_are_kept_and_both_learned(small):
    assert [trained.run.info()["rules"] for trained in small.trained] == [["SGD"], ["AdamW"]]
    for trained in small.trained:
        assert ks.load(trained.run.info()["path"]).fingerprint() == trained.run.fingerprint()
        assert trained.accuracy > 0.8


def test_the_same_digits_are_explained_for_both_runs(small):
    first, second = (trained.why for trained in small.trained)
    assert torch.equal(first.inputs, second.inputs)
    assert len(first) == len(small.queries) == 3


def test_every_balance_sheet_closes(small):
    for trained in small.trained:
        assert trained.why.check().ok
        assert trained.why.decomposition.completeness() < 1e-12
        for query in range(len(trained.why)):
            *terms, (_, _, final) = trained.why.balance(query)
            gap = abs(sum(Fraction(value) for _, _, value in terms) - Fraction(final))
            assert gap <= Fraction(1e-16) * Fraction(float(trained.why.decomposition.magnitude[query, 0]))


def test_the_page_says_what_was_explained_and_by_which_rule(small):
    page = small.page.read_text(encoding="utf-8")
    assert "the first 2 of the held-out set that both networks get right" in page
    assert "SGD with momentum" in page
    assert len(page.encode()) <= 2e6


def test_a_second_time_gives_the_same_bytes(small, tmp_path):
    assert demo(tmp_path, epochs=2, right=2, wrong=1).page.read_bytes() == small.page.read_bytes()


def test_runs_that_are_there_are_written_anew(small):
    out = small.page.parents[1]
    again = demo(out, epochs=1, right=1, wrong=0)
    assert len(ks.load(out / "runs" / "demo-sgd")) == len(again.trained[0].run) == 23


def test_the_global_random_state_and_the_threads_are_not_touched(tmp_path):
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    network(seed=3)
    demo(tmp_path, epochs=1, right=1, wrong=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_queries_are_the_first_right_and_the_first_wrong_ones():
    truth = torch.tensor([0, 1, 2, 3, 4])
    answers = [torch.tensor([0, 9, 2, 3, 4]), torch.tensor([0, 1, 2, 9, 4])]
    assert choose(answers, truth, right=2, wrong=1).tolist() == [0, 2, 1]
    assert choose(answers, truth, right=9, wrong=9).tolist() == [0, 2, 4, 1, 3]


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_the_command_says_few_lines_and_writes_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 0
    said = capsys.readouterr().out
    assert len(said.splitlines()) < 30
    assert "runs/demo-sgd: 230 steps of SGD" in said
    assert "reports/demo.html has all 12 digits" in said
    assert (tmp_path / "reports" / "demo.html").stat().st_size <= 2e6


def test_the_command_answers_in_json(tmp_path, capsys):
    assert main(["demo", "--json", "--out", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["queries"]) == 12
    for run in found["runs"]:
        assert run["accuracy"] > 0.95
        assert {check["status"] for check in run["checks"]} <= {"pass", "warn"}
        # Some of the twelve are wrong, so the page has mistakes to explain.
        assert any(one["prediction"] != one["target"] for one in run["explanations"])
