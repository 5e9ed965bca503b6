"""Each command as a user types it: what it says, what it gives to a program, its exit code, its errors."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import kernelscope as ks
from kernelscope.cli import main
from kernelscope.commands import opening
from kernelscope.errors import StoreError


class Own(nn.Module):
    """A model with code of its own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x) * 2


def record(out, model, loss=cross_entropy, minimised=None, epochs=1, **options):
    loader = DataLoader(ks.data.digits(), batch_size=256, generator=torch.Generator().manual_seed(0), shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with ks.record(model, loader, loss=loss, out=out, **options):
        for _ in range(epochs):
            for x, y in loader:
                optimizer.zero_grad()
                (minimised or loss)(model(x), y).backward()
                optimizer.step()
    return str(out)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of six steps of a small network on the digits."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return record(tmp_path_factory.mktemp("runs") / "digits", nn.Sequential(nn.Linear(64, 8), nn.Tanh(),
                                                                                 nn.Linear(8, 10)))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The folder of a run of a model and a loss that no folder describes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return record(tmp_path_factory.mktemp("runs") / "own", Own(), loss=nn.CrossEntropyLoss(torch.ones(10)))


def answer(capsys, *words, code=0):
    assert main([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def refused(capsys, *words):
    assert main([*words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


# -- info --------------------------------------------------------------------------------------------------------------


def test_info_says_what_the_run_holds(run, capsys):
    assert main(["info", run]) == 0
    said = capsys.readouterr().out
    assert "6 of SGD" in said
    assert "1,437, of which training drew 1,437" in said
    assert "610 in float32" in said


def test_info_gives_the_same_to_a_program(run, capsys):
    assert answer(capsys, "info", run) == ks.load(run).info()


def test_info_needs_no_code_of_ones_own(own, monkeypatch, capsys):
    monkeypatch.setattr(opening, "open_run", None)
    assert main(["info", own]) == 0
    said = capsys.readouterr().out
    for words in ("6 of SGD", "1,437, of which training drew 1,437", "650 in float32", "Own, which has code of its own",
                  "the checksums of", "--model module:Own and --loss module:function"):
        assert words in said
    run = ks.load(own, model=Own(), loss=nn.CrossEntropyLoss(torch.ones(10)))
    assert answer(capsys, "info", own) == run.info()


def test_info_looks_at_every_byte(tmp_path, capsys):
    run = record(tmp_path / "run", Own())
    segment = next((tmp_path / "run").glob("*.safetensors"))
    content = bytearray(segment.read_bytes())
    content[-1] ^= 1
    segment.write_bytes(content)
    assert segment.name in refused(capsys, "info", run)


def test_a_folder_that_holds_no_run_is_named(tmp_path, capsys):
    assert str(tmp_path / "none") in refused(capsys, "info", str(tmp_path / "none"))


@pytest.mark.parametrize("command", ["info", "explain", "report", "check"])
def test_what_is_no_run_is_said_to_be_none_to_readers_and_programs(run, command, tmp_path, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "points.npy", np.zeros(3))
    ks.decompose(ks.load(run), ks.data.digits("test").x[:1]).save(tmp_path / "ledger")
    wrote = "A run is the folder that kernelscope.record(..., out=...) or the command kernelscope record wrote"
    for place, words in (("none", f"There is no folder {str(tmp_path / 'none')!r}. {wrote}"),
                         ("file", f"file is a file, and no run. {wrote}"),
                         ("points.npy", f"points.npy is a file, and no run. {wrote}"),
                         ("empty", f"empty is no run: there is no manifest.json in it. {wrote}"),
                         ("ledger", "of the kind 'result'. Open it with kernelscope.Decomposition.load("), ("", wrote)):
        name = str(tmp_path / place) if place else ""
        assert words in refused(capsys, command, name)
        found = answer(capsys, command, name, code=2)
        assert words in found["error"]
        assert found["kind"] == "StoreError"
        if place:
            with pytest.raises(StoreError, match=re.escape(words)):
                ks.load(name)
    parent = run.rpartition("/")[0]
    assert f"In it are {run}: name one." in refused(capsys, command, parent)


def test_a_manifest_of_another_program_is_said_to_be_one(tmp_path, capsys):
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    assert "or another program wrote it" in refused(capsys, "info", str(tmp_path))


# -- check -------------------------------------------------------------------------------------------------------------


def test_check_passes_a_run_that_is_what_it_says(run, capsys):
    found = answer(capsys, "check", run)
    rows = {row["name"]: row for row in found["checks"]}
    assert found["ok"]
    assert rows["replay"]["status"] == "pass"
    assert rows["completeness"]["value"] < 1e-12
    assert main(["check", run]) == 0
    assert capsys.readouterr().out.rstrip().endswith("Every check passed.")


def test_check_fails_a_run_with_one_flipped_bit(tmp_path, capsys):
    run = record(tmp_path / "run", nn.Linear(64, 10))
    segment = next((tmp_path / "run").glob("*.safetensors"))
    content = bytearray(segment.read_bytes())
    content[-100] ^= 1
    segment.write_bytes(content)
    found = answer(capsys, "check", run, code=1)
    assert [row["name"] for row in found["checks"]] == ["checksums"]
    assert main(["check", run]) == 1
    assert "fail  checksums" in capsys.readouterr().out


def test_check_fails_a_run_recorded_with_another_loss(tmp_path, capsys):
    with pytest.warns(UserWarning, match="unattributed"):
        record(tmp_path / "run", nn.Linear(64, 10), loss=cross_entropy, minimised=nn.functional.multi_margin_loss)
    rows = {row["name"]: row["status"] for row in answer(capsys, "check", str(tmp_path / "run"), code=1)["checks"]}
    assert rows["replay"] == "fail"


def test_check_replays_what_was_not_stored(tmp_path, capsys):
    run = record(tmp_path / "run", nn.Linear(64, 10), keep=4)
    row = {row["name"]: row for row in answer(capsys, "check", run)["checks"]}["replay"]
    assert row["status"] == "pass"


# -- explain -----------------------------------------------------------------------------------------------------------


def test_explain_says_why_and_adds_up(run, capsys):
    assert main(["explain", run, "--sample", "7"]) == 0
    said = capsys.readouterr().out
    assert "Training sample 7" in said
    assert "The network predicts" in said
    assert "before training" in said
    assert said.rstrip().endswith("after training")


def test_the_printed_lines_add_up_to_the_last_digit(run, capsys):
    from decimal import Decimal

    assert main(["explain", run, "--sample", "7"]) == 0
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ") and "." in line]
    numbers = [Decimal(row.replace("−", "-")) for row in rows if row[0] in "+−0123456789"]
    assert sum(numbers[:-1]) == numbers[-1]


def test_explain_gives_every_number_to_a_program(run, capsys):
    found = answer(capsys, "explain", run, "--sample", "7", "11", "-k", "2")
    assert [query["name"] for query in found["queries"]] == ["Training sample 7", "Training sample 11"]
    for query in found["queries"]:
        assert len(query["for"]) == len(query["against"]) == 2
        balance = [line["value"] for line in query["balance"]]
        assert sum(balance[:-1]) == pytest.approx(balance[-1])


def test_explain_without_a_question_takes_the_hardest_samples(run, capsys):
    recorded = ks.load(run)
    losses = opening.final_losses(recorded, torch.arange(recorded.size))
    hardest = losses.argsort(descending=True, stable=True)[:3].tolist()
    found = answer(capsys, "explain", run)
    assert [query["name"] for query in found["queries"]] == [f"Training sample {i}" for i in hardest]


def test_the_final_losses_are_those_of_the_trained_network(run):
    recorded = ks.load(run)
    x, y = (torch.stack(column) for column in zip(*map(recorded.sample, range(20)), strict=True))
    outputs = recorded.network(recorded.parameters(), {}, (x,))
    expected = cross_entropy(outputs, y, reduction="none").double()
    torch.testing.assert_close(opening.final_losses(recorded, torch.arange(20), block=7), expected)


@pytest.mark.parametrize("kind", [".npy", ".npz", ".safetensors"])
def test_points_are_read_from_a_file(run, kind, tmp_path, capsys):
    x = ks.data.digits("test").x[:2]
    file = tmp_path / f"points{kind}"
    if kind == ".npy":
        np.save(file, x.numpy().astype(np.float64))
    elif kind == ".npz":
        np.savez(file, x=x.numpy(), other=np.zeros(3))
    else:
        save_file({"points": x}, file)
    found = answer(capsys, "explain", run, "--input", str(file))
    why = ks.explain(ks.load(run), x)
    assert [query["output"] for query in found["queries"]] == why.decomposition.final[:, 0].tolist()


def test_true_answers_beside_the_points_say_which_are_wrong(run, tmp_path, capsys):
    digits = ks.data.digits("test")
    np.savez(tmp_path / "test.npz", x=digits.x[:40].numpy(), y=digits.y[:40].numpy())
    said = ks.decompose(ks.load(run), digits.x[:40]).final.argmax(1)
    wrong = (said != digits.y[:40]).nonzero().flatten().tolist()
    assert wrong
    assert main(["explain", run, "--input", str(tmp_path / "test.npz")]) == 0
    said = capsys.readouterr().out
    assert f"Answered wrongly: {len(wrong)} of 40 (Point {wrong[0]}" in said
    assert "Point 11, true answer" in said
    assert "\nPoint 12" not in said
    assert "the first 12 of 40 points" in said
    found = answer(capsys, "explain", run, "--input", str(tmp_path / "test.npz"))
    assert len(found["queries"]) == 40


def test_arrays_called_y_that_are_no_true_answers_are_left(run, tmp_path, capsys):
    digits = ks.data.digits("test")
    for y in (digits.y[:3].numpy(), digits.y[:2].numpy() * 0.5):
        np.savez(tmp_path / "test.npz", x=digits.x[:2].numpy(), y=y)
        assert main(["explain", run, "--input", str(tmp_path / "test.npz")]) == 0
        assert "true answer" not in capsys.readouterr().out


def test_the_model_is_named_as_the_script_that_recorded_it_has_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("class Own:\n    pass\n")
    made = record(tmp_path / "run", Own(), notes={"script": "train.py --epochs 3"})
    assert "--model train.py:Own." in refused(capsys, "explain", made)
    (tmp_path / "train.py").write_text("from elsewhere import Own\n")
    assert "--model module:Own." in refused(capsys, "explain", made)


def test_a_single_point_needs_no_batch_axis(run, tmp_path, capsys):
    np.save(tmp_path / "x.npy", ks.data.digits("test").x[0].numpy())
    assert len(answer(capsys, "explain", run, "--input", str(tmp_path / "x.npy"))["queries"]) == 1


def test_nothing_is_unpickled_from_a_file(run, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "nothing is unpickled" in refused(capsys, "explain", run, "--input", str(tmp_path / "x.npy"))


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.safetensors"])
def test_a_damaged_file_is_a_sentence(run, name, tmp_path, capsys):
    (tmp_path / name).write_bytes(b"PK\x03\x04 neither one thing nor the other")
    assert name in refused(capsys, "explain", run, "--input", str(tmp_path / name))


def test_other_files_are_refused_by_their_ending(run, tmp_path, capsys):
    (tmp_path / "x.pt").write_bytes(b"")
    assert "its name ends in '.pt'" in refused(capsys, "explain", run, "--input", str(tmp_path / "x.pt"))
    assert "there is no such file" in refused(capsys, "explain", run, "--input", str(tmp_path / "x.npy"))


def test_a_file_with_several_arrays_must_name_one_x(run, tmp_path, capsys):
    save_file({"a": torch.zeros(1, 64), "b": torch.zeros(1, 64)}, tmp_path / "x.safetensors")
    assert "holds the arrays a, b" in refused(capsys, "explain", run, "--input", str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize(("array", "words"), [
    (np.zeros((0, 64), np.float32), "holds no point at all"),
    (np.float32(1), "with shape (n, 64); an array of shape (1,) came"),
    (np.zeros((2, 0, 64), np.float32), "an array of shape (2, 0, 64) came"),
    (np.array(["a"]), "holds <U1, and numbers are needed"),
    (np.zeros((1, 64), complex), "holds torch.complex128"),
    (np.where(np.arange(128).reshape(2, 64) == 70, np.nan, 0.0), "Point 1 of"),
    (np.full((1, 64), 1e300), "numbers that float32 cannot hold"),
])
def test_points_that_cannot_be_asked_about_are_refused_and_no_page_is_written(run, array, words, tmp_path, capsys):
    np.save(tmp_path / "x.npy", array)
    for command in (["explain", run], ["report", run, "-o", str(tmp_path / "page.html")]):
        assert words in refused(capsys, *command, "--input", str(tmp_path / "x.npy"))
        assert words in answer(capsys, *command, "--input", str(tmp_path / "x.npy"), code=2)["error"]
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("dtype", [">f4", "longdouble", "float16", "uint16", "bool"])
def test_numbers_of_any_kind_are_points(run, dtype, tmp_path, capsys):
    x = (ks.data.digits("test").x[:1].numpy() > 0.5).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    found = answer(capsys, "explain", run, "--input", str(tmp_path / "x.npy"))
    why = ks.explain(ks.load(run), torch.from_numpy(x.astype(np.float32)))
    assert found["queries"][0]["output"] == float(why.decomposition.final[0, 0])


def test_points_of_another_shape_are_refused(run, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((2, 63), np.float32))
    assert "(2, 63)" in refused(capsys, "explain", run, "--input", str(tmp_path / "x.npy"))


def test_a_sample_that_is_not_there_is_named(run, capsys):
    assert "no sample 1437; its 1437 samples are 0 to 1436" in refused(capsys, "explain", run, "--sample", "1437")


# -- code of one's own -------------------------------------------------------------------------------------------------


def test_a_model_with_code_of_its_own_asks_for_the_flag(own, capsys):
    assert "--model module:Own" in refused(capsys, "explain", own)


def test_a_loss_of_ones_own_asks_for_the_flag(own, capsys):
    assert "--loss module:function" in refused(capsys, "explain", own, "--model", "tests.test_commands:Own")


def test_the_named_module_is_imported_from_the_current_folder(own, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.path", __import__("sys").path[:])
    code = ("import torch, kernelscope\nfrom torch import nn\n"
            "class Own(nn.Module):\n"
            "    def __init__(self):\n        super().__init__()\n        self.layer = nn.Linear(64, 10)\n"
            "    def forward(self, x):\n        return self.layer(x) * 2\n"
            "loss = nn.CrossEntropyLoss(torch.ones(10))\n"
            "def data():\n    return kernelscope.data.digits()\n"
            "def test():\n    return kernelscope.data.digits('test')\n")
    (tmp_path / "code_of_ones_own.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    named = ["--model", "code_of_ones_own:Own", "--loss", "code_of_ones_own:loss"]
    assert answer(capsys, "check", own, *named, "--data", "code_of_ones_own:data")["ok"]
    said = refused(capsys, "info", own, *named, "--data", "code_of_ones_own:test")
    assert "the data given holds 360" in said


IMPORTED = """
import sys
assert len(sys.argv) == 1, sys.argv
print("said by the script", sys.argv[0])
from torch import nn
class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)
    def forward(self, x):
        return self.layer(x) * 2
loss = nn.CrossEntropyLoss()
needs = lambda size: Own()
nothing = lambda: None
def fails():
    raise RuntimeError("no weights here")
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module into the current folder; it is forgotten afterwards."""
    import sys

    monkeypatch.setattr("sys.path", sys.path[:])
    monkeypatch.chdir(tmp_path)
    known = set(sys.modules)
    yield lambda name, text: (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    for name in set(sys.modules) - known:
        if (tmp_path / f"{name}.py").exists():
            del sys.modules[name]


def test_an_imported_script_sees_its_own_name_alone_and_does_not_speak_into_the_answer(own, module, capsys,
                                                                                       monkeypatch):
    module("imported_a", IMPORTED)
    monkeypatch.setattr("sys.argv", words := ["kernelscope", "info", own, "--json"])
    assert main(["info", own, "--model", "imported_a:Own", "--loss", "imported_a:loss", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["steps"] == 6
    assert "said by the script imported_a.py" in said.err
    assert __import__("sys").argv is words


@pytest.mark.parametrize(("text", "name", "words"), [
    ("import sys\nsys.exit(3)", "Own", "ends the program where it is imported (exit code 3)"),
    ("import argparse\nargparse.ArgumentParser().parse_args(['--no'])", "Own", "(exit code 2)"),
    ("def f():\n    return 1 / 0\nf()", "Own", "it raised ZeroDivisionError at line 2 of imported_b.py"),
    ("x = (", "Own", "it raised SyntaxError: '(' was never closed (imported_b.py, line 1)"),
    (IMPORTED, "fails", "it raised RuntimeError at line 16 of imported_b.py: no weights here"),
    (IMPORTED, "needs", "must be callable without arguments, and it asks for size"),
    (IMPORTED, "nothing", "gives a NoneType, and a torch.nn.Module is needed"),
])
def test_a_module_that_fails_is_a_sentence(own, module, text, name, words, capsys):
    module("imported_b", text)
    asked = ["info", own, "--model", f"imported_b:{name}", "--loss", "torch.nn.functional:cross_entropy"]
    assert words in refused(capsys, *asked)
    assert words in answer(capsys, *asked, code=2)["error"]


def test_a_file_is_read_where_it_is_with_what_lies_beside_it(own, module, tmp_path, capsys):
    import sys

    (tmp_path / "scr").mkdir()
    (tmp_path / "scr" / "torch.py").write_text("import torch.nn\nfrom beside_it import Own, loss\n",
                                               encoding="utf-8")
    (tmp_path / "scr" / "beside_it.py").write_text(IMPORTED, encoding="utf-8")
    path, there = sys.path[:], str(tmp_path / "scr" / "torch.py")
    for file in ("scr/torch.py", there):
        named = ["--model", f"{file}:Own", "--loss", f"{file}:loss"]
        # torch is there already, and the file of the same name beside it is not taken for it.
        assert answer(capsys, "check", own, *named, "--data", "kernelscope.data:digits")["ok"]
    assert set(sys.path) - set(path) <= {str(tmp_path)}
    del sys.modules[there], sys.modules["beside_it"]


def test_a_file_that_fails_or_lacks_the_name_is_a_sentence(own, module, capsys):
    module("of_ones_own", "def f():\n    return 1 / 0\nf()")
    said = refused(capsys, "explain", own, "--model", "of_ones_own.py:Own", "--loss", "torch.nn.functional:l1_loss")
    assert "it raised ZeroDivisionError at line 2 of of_ones_own.py" in said
    module("of_ones_own", "x = 1")  # a file that failed is read again
    said = refused(capsys, "explain", own, "--model", "of_ones_own.py:Own", "--loss", "torch.nn.functional:l1_loss")
    assert "has no attribute 'Own'" in said


@pytest.mark.parametrize("word", ["scr/net:Own", "./scr/net:Own", "scr/absent:Own", "absent.py:Own"])
def test_the_advice_for_a_path_is_followed(own, module, word, tmp_path, capsys):
    import sys

    (tmp_path / "scr").mkdir()
    (tmp_path / "scr" / "net.py").write_text(IMPORTED, encoding="utf-8")
    said = refused(capsys, "info", own, "--model", word, "--loss", "torch.nn.functional:cross_entropy")
    advised = re.search(r"--model (\S+:Own)\.", said)[1]
    for name in ("scr/absent", "absent"):
        (tmp_path / f"{name}.py").write_text(IMPORTED, encoding="utf-8")
    assert answer(capsys, "info", own, "--model", advised, "--loss", "torch.nn.functional:cross_entropy")["steps"] == 6
    for name in ("scr", "scr.absent", "absent", str(tmp_path / "scr" / "net.py")):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("word", "sentence"), [
    ("no-colon", "takes module:function or file.py:function"),
    ("absent_module:f", "No module named 'absent_module'"),
    ("torch:absent_function", "has no attribute 'absent_function'"),
    ("torch:flatten", "must be callable without arguments"),
])
def test_a_flag_that_names_nothing_is_a_sentence(own, word, sentence, capsys, monkeypatch):
    monkeypatch.setattr("sys.path", __import__("sys").path[:])
    assert sentence in refused(capsys, "info", own, "--model", word, "--loss", "torch.nn.functional:cross_entropy")


def test_no_module_is_imported_that_was_not_named(run, tmp_path, monkeypatch):
    import sys

    path = sys.path[:]
    monkeypatch.chdir(tmp_path)
    assert main(["info", run]) == 0
    assert sys.path == path


# -- report ------------------------------------------------------------------------------------------------------------


def test_report_writes_one_page_and_says_which_samples_it_took(run, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["report", run, "-o", str(page)]) == 0
    said = capsys.readouterr().out
    rule = ("The 6 training samples whose loss was largest at the end of training, and 6 others drawn with seed 0.")
    assert rule in said
    assert rule in page.read_text(encoding="utf-8")
    first = page.read_bytes()
    found = answer(capsys, "report", run, "-o", str(page))
    assert len(set(found["queries"])) == 12
    assert page.read_bytes() == first


def test_a_report_names_each_point_and_counts_none_that_are_not_there(tmp_path, capsys):
    data = ks.data.digits().x[:3], ks.data.digits().y[:3]
    model = nn.Linear(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, data, loss=cross_entropy, out=tmp_path / "run"):
        cross_entropy(model(data[0]), data[1]).backward()
        optimizer.step()
    found = answer(capsys, "report", str(tmp_path / "run"), "-o", str(tmp_path / "page.html"))
    assert found["rule"] == "The 3 training samples whose loss was largest at the end of training."
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "trained in 1 step of SGD on 3 samples" in text
    assert all(name in text for name in found["queries"])


def test_report_takes_other_points(run, tmp_path, capsys):
    np.save(tmp_path / "x.npy", ks.data.digits("test").x[:2].numpy())
    found = answer(capsys, "report", run, "-o", str(tmp_path / "a.html"), "--input", str(tmp_path / "x.npy"))
    assert found["queries"] == ["Point 0", "Point 1"]


def test_report_shows_what_was_learned_too(run, tmp_path, capsys):
    np.save(tmp_path / "x.npy", ks.data.digits("test").x[:4].numpy())
    found = answer(capsys, "report", run, "-o", str(tmp_path / "a.html"), "--input", str(tmp_path / "x.npy"),
                   "--also", "coverage", "null-space", "evolution")
    assert [more["name"] for more in found["also"]] == ["KernelEvolution", "NullSpace", "Coverage"]
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    for heading in ("How the kernel moved", "What it could not learn", "Inside or outside of what was learned"):
        assert heading in page


def test_report_shows_influence_beside_contribution(run, tmp_path, capsys):
    found = answer(capsys, "report", run, "-o", str(tmp_path / "a.html"), "--also", "influence")
    told = (tmp_path / "a.html").read_text().partition("What these numbers are not")[2]
    assert "not verified by retraining" in told.partition("What the words mean")[0]
    assert [more["name"] for more in found["also"]] == ["ContributionAndInfluence"]
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    for words in ("Contribution: what training on it added", "Influence: what its weight would do", "Their ranks"):
        assert words in page


def test_the_coverage_of_training_samples_is_refused(run, tmp_path, capsys):
    assert main(["report", run, "-o", str(tmp_path / "a.html"), "--also", "coverage"]) == 2
    assert "Name other points with --input" in capsys.readouterr().err
    assert not (tmp_path / "a.html").exists()


def test_report_into_a_folder_that_is_not_there_is_refused_before_anything_is_computed(run, tmp_path, capsys,
                                                                                        monkeypatch):
    monkeypatch.setattr("kernelscope.commands.opening.open_run", None)
    assert main(["report", run, "-o", str(tmp_path / "new" / "page.html"), "--sample", "1"]) == 2
    assert f"There is no folder {tmp_path / 'new'} to write page.html into." in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


# -- record ------------------------------------------------------------------------------------------------------------

FAILING = """
import sys
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
data = TensorDataset(torch.randn(24, 3), torch.randint(0, 2, (24,)))
model = nn.Linear(3, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
def stop():
    try:
        {}["key"]
    except KeyError as error:
        raise ERROR("boom") from error
for k, (x, y) in enumerate(DataLoader(data, 4)):
    if k == int(sys.argv[1]):
        stop()
    optimizer.zero_grad()
    cross_entropy(model(x), y).backward()
    optimizer.step()
"""


@pytest.mark.parametrize(("steps", "words"), [
    (0, "No step had been made, so nothing is kept."),
    (1, "The one step made before is kept in {out}; kernelscope info {out} says what is there."),
    (3, "The 3 steps made before are kept in {out}; kernelscope info {out} says what is there."),
])
def test_a_script_that_fails_shows_its_own_frames_and_what_is_kept(steps, words, tmp_path, capsys):
    (tmp_path / "fails.py").write_text(FAILING.replace("ERROR", "ValueError"), encoding="utf-8")
    out = tmp_path / "run"
    asked = ["record", "-o", str(out), str(tmp_path / "fails.py"), str(steps)]
    assert main(asked) == 1
    said = capsys.readouterr()
    *shown, last = said.err.splitlines()
    files = {line.split('"')[1] for line in shown if line.startswith("  File ")}
    assert said.out == ""
    assert files == {str(tmp_path / "fails.py")}
    assert [line for line in shown if line.endswith(("KeyError: 'key'", "ValueError: boom"))] == [
        "KeyError: 'key'", "ValueError: boom"]
    assert last == f"kernelscope: {words.format(out=out)}"
    found = answer(capsys, "record", "--json", "--overwrite", *asked[1:], code=1)
    assert (found["steps"], found["exit"], found["kind"]) == (steps, 1, "ValueError")
    assert found["error"] == f"{tmp_path / 'fails.py'} raised ValueError: boom. {words.format(out=out)}"
    if steps:
        assert len(ks.load(out)) == steps


def test_a_script_that_is_stopped_says_what_is_kept(tmp_path, capsys):
    (tmp_path / "stopped.py").write_text(FAILING.replace("ERROR", "KeyboardInterrupt"), encoding="utf-8")
    out = tmp_path / "run"
    assert main(["record", "-o", str(out), str(tmp_path / "stopped.py"), "2"]) == 130
    said = capsys.readouterr().err
    assert f"The 2 steps made before are kept in {out}" in said
    assert "Traceback" not in said


def test_a_script_that_cannot_be_read_shows_where(tmp_path, capsys):
    (tmp_path / "broken.py").write_text("x = (\n", encoding="utf-8")
    assert main(["record", str(tmp_path / "broken.py")]) == 1
    said = capsys.readouterr().err
    assert "SyntaxError: '(' was never closed" in said
    assert "kernelscope/" not in said


@pytest.mark.parametrize("words", [["--keep", "²"], ["--keep", "-1"], ["--keep", "x"], ["--overwrite=5"], ["-o"]])
def test_odd_words_for_a_recording_are_refused_before_the_script_runs(words, tmp_path, capsys):
    (tmp_path / "script.py").write_text("raise SystemExit(9)", encoding="utf-8")
    out = ["-o", str(tmp_path / "run")]
    assert refused(capsys, "record", *out, *words, str(tmp_path / "script.py"))
