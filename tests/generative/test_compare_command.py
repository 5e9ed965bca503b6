"""The command that writes a page about two generative runs."""

import json

import numpy as np
import pytest
import torch

from kernelscope.cli import main
from kernelscope.generative.reference import points
from kernelscope.generative.training import train_diffusion, train_gan


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A denoiser, a game, and two denoisers of different seeds in one folder, on a few digits."""
    root = tmp_path_factory.mktemp("runs")
    x = points("digits", count=60)
    with torch.random.fork_rng():
        train_diffusion(x, steps=4, width=4, batch=32, out=root / "denoiser")
        train_gan(x, steps=4, width=4, latents=4, batch=32, out=root / "game")
        for seed in (0, 1):
            train_diffusion(x, steps=4, width=4, batch=32, seed=seed, out=root / "several" / f"seed-{seed}")
    (root / "nothing").mkdir()
    return root


def answer(capsys, *words, code=0):
    assert main([str(word) for word in words]) == code
    out, err = capsys.readouterr()
    return out if code == 0 else err


def test_it_writes_one_page_that_needs_nothing_else(folders, tmp_path, capsys):
    page = tmp_path / "compare.html"
    told = json.loads(answer(capsys, "compare", folders / "denoiser", folders / "game", "-o", page, "--data", "digits",
                             "--samples", 16, "--probes", 1, "--json"))
    assert told["report"] == str(page)
    text = page.read_text()
    assert "denoiser and game" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert {claim["topic"] for claim in told["claims"]} >= {"cancellation", "coverage", "memorisation", "bridge"}
    # The digits are known, so alignment with their classes is too.
    row = next(row for row in told["table"] if row["metric"] == "class_alignment" and row["slot"] == "main")
    assert row["why"] == ["", ""]


def test_a_folder_of_several_runs_is_a_list_of_seeds(folders, tmp_path, capsys):
    told = json.loads(answer(capsys, "compare", folders / "several", folders / "game", "-o", tmp_path / "page.html",
                             "--samples", 16, "--no-paths", "--json"))
    assert seeds_of(told) == [2, 1]
    assert "of the training points" in next(c["text"] for c in told["claims"] if c["topic"] == "coverage")


@pytest.mark.slow
def test_points_of_a_file_are_held_out_and_seeds_are_left_out(folders, tmp_path, capsys):
    np.save(tmp_path / "held.npy", points("digits", split="test", count=30).numpy())
    told = json.loads(answer(capsys, "compare", folders / "several", folders / "game", "-o", tmp_path / "page.html",
                             "--data", tmp_path / "held.npy", "--samples", 16, "--no-paths", "--seeds", 1, "--json"))
    assert "points nobody was trained on" in next(c["text"] for c in told["claims"] if c["topic"] == "coverage")
    assert seeds_of(told) == [1, 1]


def seeds_of(told):
    """How many runs of each model were asked for their coverage."""
    return [len(values) for row in told["table"] if row["metric"] == "coverage" for values in row["values"]]


@pytest.mark.parametrize(("words", "said"), [
    (("nowhere", "game"), "There is no folder"),
    (("nothing", "game"), "no generative run and holds none"),
    (("denoiser", "game", "--seeds", "0"), "--seeds must be"),
    (("denoiser", "game", "--data", "nothing.npy"), "nothing.npy"),
])
def test_what_cannot_be_compared_is_said_in_a_sentence(folders, tmp_path, capsys, words, said):
    names = [str(folders / word) if word in ("nowhere", "nothing", "denoiser", "game") else word for word in words]
    assert said in answer(capsys, "compare", *names, "-o", tmp_path / "page.html", code=2)
    assert not (tmp_path / "page.html").exists()


def test_a_sample_of_each_is_explained_and_the_time_is_told_before(folders, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main([str(word) for word in ("compare", folders / "denoiser", folders / "game", "-o", page, "--data",
                                        "digits", "--samples", 16, "--json")]) == 0
    said = capsys.readouterr()
    assert "takes about 1 second;" in said.err
    assert len(json.loads(said.out)["explained"]) == 2
    for heading in ("Why a sample of denoiser is what it is", "Why a sample of game is where it is"):
        assert heading in page.read_text()


@pytest.mark.slow
def test_what_was_done_before_an_interruption_stays_on_the_page(folders, tmp_path, capsys, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("kernelscope.generative.games.explaining.explain_gan", interrupted)
    page = tmp_path / "page.html"
    told = json.loads(answer(capsys, "compare", folders / "denoiser", folders / "game", "-o", page, "--samples", 16,
                             "--json"))
    assert told["explained"] == ["Why a sample of denoiser is what it is"]
    assert told["left_out"] == "Interrupted: the explanation of a sample of game is not on this page."
    assert told["left_out"] in page.read_text()


@pytest.mark.parametrize("command", ["info", "check"])
@pytest.mark.parametrize("run", ["denoiser", "game", "game/critic", "game/generator"])
def test_commands_take_generative_runs_without_code(folders, capsys, command, run):
    said = answer(capsys, command, folders / run)
    assert "--loss" not in said


@pytest.mark.parametrize("command", ["explain", "report"])
@pytest.mark.parametrize(("run", "way"), [("denoiser", "explain_diffusion("), ("game", "explain_gan("),
                                          ("game/critic", "one side of the GAN")])
def test_commands_for_answers_name_the_way_to_ask_a_generative_run(folders, tmp_path, capsys, monkeypatch, command,
                                                                   run, way):
    monkeypatch.chdir(tmp_path)
    assert way in answer(capsys, command, folders / run, code=2)
