"""The command that compares two ordinary runs, and says by its exit code whether they differ by more than they may."""

import json

import numpy as np
import pytest
import torch

from kernelscope.cli import main
from kernelscope.generative.training import train_diffusion
from tests.comparing_runs.runs import data, probes, record


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    x, y = data()
    for name, seed in (("a", 0), ("b", 1)):
        record(x, y, seed=seed, out=root / name)
    z, truth = probes()
    np.save(root / "probes.npy", z.numpy())
    np.save(root / "targets.npy", truth.numpy())
    with torch.random.fork_rng():
        train_diffusion(torch.randn(20, 4), width=4, steps=2, batch=8, out=root / "denoiser")
    return root


def answer(capsys, folders, tmp_path, *words, code=0, named=("a", "b")):
    found = main(["compare", *(str(folders / name) for name in named), "-o", str(tmp_path / "page.html"),
                  *(str(word) for word in words)])
    out, err = capsys.readouterr()
    assert found == code, (out, err)
    return out if code != 2 else err


def asked(folders, targets=True):
    return ["--input", folders / "probes.npy", *(["--targets", folders / "targets.npy"] if targets else [])]


def test_it_tells_ten_lines_and_writes_a_page_that_needs_nothing_else(folders, tmp_path, capsys):
    text = answer(capsys, folders, tmp_path, *asked(folders))
    lines = text.strip().splitlines()
    assert len(lines) <= 10
    assert lines[0].startswith("a and b, asked about 24 points of probes.npy: ")
    marks = [line[0] for line in lines[1:-1]]
    assert marks == sorted(marks, reverse=True)
    assert set(marks) <= {"≠", "="}
    assert "http://" not in (tmp_path / "page.html").read_text().replace("http://www.w3.org", "")


def test_a_condition_that_holds_ends_with_1_and_says_the_numbers(folders, tmp_path, capsys):
    text = answer(capsys, folders, tmp_path, *asked(folders), "--fail-if", "overlap < 0.99", "--fail-if", "cka < 0",
                  code=1)
    assert "FAILED  overlap < 0.99: overlap is 0." in text
    assert "passed  cka < 0: cka is 0.9" in text
    # The page is written all the same, and tells it too.
    assert "FAILED" in (tmp_path / "page.html").read_text()


def test_conditions_that_do_not_hold_end_with_0(folders, tmp_path, capsys):
    told = json.loads(answer(capsys, folders, tmp_path, *asked(folders), "--fail-if", "cka.low < 0.1", "--fail-if",
                             "right_change < -0.5", "--json"))
    assert [one["fails"] for one in told["conditions"]] == [False, False]
    assert {row["measure"] for row in told["measures"]} >= {"cka", "overlap"}


def test_what_cannot_be_judged_ends_with_1(folders, tmp_path, capsys):
    told = json.loads(answer(capsys, folders, tmp_path, *asked(folders, targets=False), "--no-contributions",
                             "--no-coverage", "--fail-if", "right_b < 0.1", "--fail-if", "overlap < 0", "--json",
                             code=1))
    assert all(one["fails"] and one["value"] is None for one in told["conditions"])
    assert "no targets were given" in told["conditions"][0]["text"]
    assert "contributions were left out" in told["conditions"][1]["text"]


def test_a_further_run_is_named_beside(folders, tmp_path, capsys):
    text = answer(capsys, folders, tmp_path, *asked(folders), "--again", folders / "b", "--no-coverage", "--top", 3)
    assert "another run of a" in text


@pytest.mark.parametrize(("words", "named", "said"), [
    ([], ("a", "b"), "--input probes.npy"),
    (["--fail-if", "cka <> 1"], ("a", "b"), "takes a measure"),
    (["--fail-if", "cak < 1"], ("a", "b"), "Did you mean 'cka'"),
    (["--input", "nothing.npy"], ("a", "b"), "no such file"),
    (["--input", "digits", "--targets", "y.npy"], ("a", "b"), "bring their own targets"),
    ([], ("a", "denoiser"), "gives answers"),
    ([], ("a", "nowhere"), "Compare two runs of one kind"),
    ([], ("nowhere", "nowhere"), "There is no folder"),
    (["--fail-if", "cka < 1"], ("denoiser", "denoiser"), "There is no measure 'cka'"),
])
def test_what_cannot_be_done_ends_with_2(folders, tmp_path, capsys, words, named, said):
    assert said in answer(capsys, folders, tmp_path, *words, code=2, named=named)
    assert not (tmp_path / "page.html").exists()


def test_generative_runs_have_conditions_on_their_table(folders, tmp_path, capsys):
    told = json.loads(answer(capsys, folders, tmp_path, "--samples", 16, "--no-paths", "--json", "--fail-if",
                             "coverage_a >= 0", "--fail-if", "coverage_b > 1", "--fail-if", "gini_a > 2", code=1,
                             named=("denoiser", "denoiser")))
    assert [one["fails"] for one in told["conditions"]] == [True, False, True]
    assert "paths were left out" in told["conditions"][2]["text"]


def test_a_file_of_several_arrays_holds_its_targets_as_y(folders, tmp_path, capsys):
    both = tmp_path / "probes.npz"
    np.savez(both, x=np.load(folders / "probes.npy"), y=np.load(folders / "targets.npy"))
    text = answer(capsys, folders, tmp_path, "--input", both, "--no-contributions", "--no-coverage", "--fail-if",
                  "right_a < 0")
    assert "passed  right_a < 0: right_a is" in text
