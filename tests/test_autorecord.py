"""Scripts that say nothing about being recorded: each gives the run that two lines would have given."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as hooks
from torch.optim import optimizer as optimizers
from torch.utils.data import DataLoader, Subset, TensorDataset

import kernelscope as ks
from kernelscope.cli import main
from kernelscope.errors import RecordingError
from kernelscope.run.autorecord import AutoRecording

HEAD = """
import sys
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, IterableDataset, Subset

torch.manual_seed(0)
x, y = torch.randn(24, 3), torch.randint(0, 2, (24,))
data = TensorDataset(x, y)
model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
"""

PLAIN = HEAD + """
for epoch in range(2):
    for inputs, targets in DataLoader(data, batch_size=8, shuffle=True):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
"""


def script(tmp_path, text, name="train.py"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def recorded(tmp_path, text, *words):
    """The run of a script, and its globals."""
    import runpy

    with AutoRecording() as recording:
        left = runpy.run_path(str(script(tmp_path, text)))
    return recording.run, left


def batch_ids(run):
    return [[batch.columns.tolist() for batch in step.batches] for step in run]


def assert_the_script_ran_as_alone(tmp_path, text):
    """With and without the recording the script ends with the same parameters and random state; the ledger closes."""
    import runpy

    run, left = recorded(tmp_path, text)
    state = torch.get_rng_state()
    alone = runpy.run_path(str(script(tmp_path, text)))
    assert torch.equal(torch.get_rng_state(), state)
    for p, q in zip(left["model"].state_dict().values(), alone["model"].state_dict().values(), strict=True):
        assert torch.equal(p, q)
    for name, p in alone["model"].named_parameters():
        assert torch.equal(run.parameters()[name], p)
    x = torch.stack([run.sample(i)[0] for i in range(3)])
    d = ks.decompose(run, x)
    assert d.completeness() < 1e-12
    assert not d.channels["unattributed"].any()
    return run


def test_a_plain_script_gives_the_run_of_two_lines(tmp_path):
    run = assert_the_script_ran_as_alone(tmp_path, PLAIN)
    with torch.random.fork_rng():
        left = {}
        exec(compile(HEAD, "head", "exec"), left)
        model, optimizer = left["model"], left["optimizer"]
        loader = DataLoader(left["data"], batch_size=8, shuffle=True)
        with ks.record(model, loader, loss=F.cross_entropy) as recording:
            for _ in range(2):
                for inputs, targets in loader:
                    optimizer.zero_grad()
                    F.cross_entropy(model(inputs), targets).backward()
                    optimizer.step()
    assert batch_ids(run) == batch_ids(recording.run)
    assert run.loss.name == "cross_entropy"
    for k in range(len(run) + 1):
        assert torch.equal(run.row(k), recording.run.row(k))


SCRIPTS = {
    "accumulation and clipping": HEAD + """
for i, (inputs, targets) in enumerate(DataLoader(data, 4)):
    F.cross_entropy(model(inputs), targets, reduction="sum").div(8).backward()
    if i % 2:
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
""",
    "a loss module with options": HEAD + """
loss = nn.CrossEntropyLoss(label_smoothing=0.1)
for inputs, targets in DataLoader(data, 8):
    optimizer.zero_grad(); loss(model(inputs), targets).backward(); optimizer.step()
""",
    "class weights": HEAD + """
loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))
for inputs, targets in DataLoader(data, 8):
    optimizer.zero_grad(); loss(model(inputs), targets).backward(); optimizer.step()
""",
    "targets that the loop casts and reshapes": HEAD + """
model = nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for inputs, targets in DataLoader(data, 8):
    optimizer.zero_grad()
    nn.BCEWithLogitsLoss()(model(inputs).squeeze(1), targets.float()).backward()
    optimizer.step()
""",
    "an autoencoder, whose target is its input": HEAD + """
model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for inputs, _ in DataLoader(data, 8):
    optimizer.zero_grad(); F.mse_loss(model(inputs), inputs).backward(); optimizer.step()
""",
    "inputs that the loop scales, batches in a dictionary": HEAD + """
class Named(torch.utils.data.Dataset):
    def __len__(self):
        return len(x)
    def __getitem__(self, i):
        return {"image": x[i], "label": y[i]}
for batch in DataLoader(Named(), 8, shuffle=True):
    optimizer.zero_grad(); F.cross_entropy(model(batch["image"] / 2), batch["label"]).backward(); optimizer.step()
""",
    "a loader and a data set made anew in every epoch": HEAD + """
for epoch in range(2):
    for inputs, targets in DataLoader(TensorDataset(x, y), 8, shuffle=True):
        optimizer.zero_grad(); F.cross_entropy(model(inputs), targets).backward(); optimizer.step()
""",
    "evaluation with gradients before and between": HEAD + """
held_out = TensorDataset(torch.randn(8, 3), torch.zeros(8, dtype=torch.long))
parts = Subset(data, range(16))
for epoch in range(2):
    for inputs, targets in DataLoader(held_out, 8):
        F.cross_entropy(model(inputs), targets)
    for inputs, targets in DataLoader(parts, 8):
        optimizer.zero_grad(); F.cross_entropy(model(inputs), targets).backward(); optimizer.step()
""",
    "batch normalisation, dropout and workers": HEAD + """
model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for inputs, targets in DataLoader(data, 8, shuffle=True, num_workers=2):
    optimizer.zero_grad(); F.cross_entropy(model(inputs), targets).backward(); optimizer.step()
""",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_as_people_write_them(name, tmp_path):
    assert len(assert_the_script_ran_as_alone(tmp_path, SCRIPTS[name])) > 0


def test_a_pass_before_the_first_step_finds_the_buffers_as_they_were(tmp_path):
    run, _ = recorded(tmp_path, SCRIPTS["batch normalisation, dropout and workers"])
    assert not run.buffers(-1)["1.running_mean"].any()
    assert run.buffers(len(run))["1.running_mean"].any()


def test_nothing_is_left_behind(tmp_path):
    loader_iter, functions = DataLoader.__iter__, {name: getattr(F, name) for name in ("cross_entropy", "mse_loss")}
    for text in (PLAIN, HEAD + "raise ValueError('midway')", PLAIN + "raise ValueError('afterwards')"):
        try:
            recorded(tmp_path, text)
        except ValueError:
            pass
        assert DataLoader.__iter__ is loader_iter
        assert all(getattr(F, name) is function for name, function in functions.items())
        assert not hooks._global_forward_pre_hooks
        assert not hooks._global_forward_hooks
        assert not hooks._has_any_global_hook()
        assert not optimizers._global_optimizer_pre_hooks


def test_a_script_that_records_itself_is_left_alone(tmp_path):
    text = HEAD + f"""
import kernelscope as ks
loader = DataLoader(data, 8)
next(iter(loader))
with ks.record(model, loader, loss=F.cross_entropy, out={str(tmp_path / "own")!r}) as recording:
    for inputs, targets in loader:
        optimizer.zero_grad(); F.cross_entropy(model(inputs), targets).backward(); optimizer.step()
"""
    path = script(tmp_path, text)
    assert main(["record", str(path), "-o", str(tmp_path / "other")]) == 0
    assert len(ks.load(tmp_path / "own")) == 3
    assert ks.load(tmp_path / "own").loss.name == "cross_entropy"
    assert not (tmp_path / "other").exists()


STEP = "optimizer.zero_grad(); loss.backward(); optimizer.step()"
IN_LOOP = "for inputs, targets in DataLoader(data, 8):\n    loss = {}; " + STEP

REFUSED = {
    "no loss function": (IN_LOOP.format("(model(inputs)[:, 0] - targets).square().mean()"), "no loss function"),
    "two losses": (IN_LOOP.format("(lambda o: F.cross_entropy(o, targets) + F.multi_margin_loss(o, targets))"
                                  "(model(inputs))"), "cross_entropy and multi_margin_loss"),
    "a target that is computed": (IN_LOOP.format("F.mse_loss(model(inputs), F.one_hot(targets, 2).float())"),
                                  "the target that mse_loss was given is not in the batch"),
    "no loader": ("loss = F.cross_entropy(model(x), y); " + STEP, "no DataLoader was iterated"),
    "a batch that is cut": (IN_LOOP.format("F.cross_entropy(model(inputs[:4] * 2), targets[:4])"), "4 rows after"),
    "samples without names": (
        "class Stream(IterableDataset):\n    def __iter__(self):\n        return iter(zip(x, y))\n"
        "for inputs, targets in DataLoader(Stream(), 8):\n    loss = F.cross_entropy(model(inputs), targets); " + STEP,
        "have no names"),
    "no training": ("print('nothing')", "no DataLoader was iterated and no network received a gradient"),
    "evaluation only": ("for inputs, targets in DataLoader(data, 8):\n    model(inputs)", "received a gradient"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_found_is_named_with_the_two_lines_to_add(name, tmp_path, capsys):
    text, reason = REFUSED[name]
    assert main(["record", str(script(tmp_path, HEAD + text)), "-o", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert "with kernelscope.record(model, loader, loss=...) as recording:" in said
    assert "run = recording.run" in said


def test_a_network_called_by_keywords_is_refused(tmp_path):
    with pytest.raises(RecordingError, match="called with keyword arguments"):
        recorded(tmp_path, HEAD + IN_LOOP.format("F.cross_entropy(model(input=inputs), targets)"))


def test_modules_that_are_trained_together_are_refused(tmp_path):
    text = HEAD + """
head = nn.Linear(2, 2)
optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.1)
""" + IN_LOOP.format("F.cross_entropy(head(model(inputs)), targets)")
    with pytest.raises(RecordingError, match="trains several modules together"):
        recorded(tmp_path, text)


def test_a_second_data_set_is_refused(tmp_path):
    text = HEAD + """
for part in (range(8), range(8, 24)):
    for inputs, targets in DataLoader(Subset(data, part), 8):
        optimizer.zero_grad(); F.cross_entropy(model(inputs), targets).backward(); optimizer.step()
"""
    with pytest.raises(RecordingError, match="another data set"):
        recorded(tmp_path, text)


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_runs_the_script_as_python_would(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "beside.py").write_text("value = 7\n", encoding="utf-8")
    script(tmp_path / "sub", PLAIN + "import beside\nprint(__name__, sys.argv, beside.value)\n")
    argv, path = sys.argv[:], sys.path[:]
    assert main(["record", "sub/train.py", "--epochs", "3", "--json"]) == 0
    said = capsys.readouterr().out
    assert "__main__ ['sub/train.py', '--epochs', '3', '--json'] 7" in said
    assert "Recorded sub/train.py" in said
    assert "runs/train: 6 steps of SGD" in said
    assert "kernelscope report runs/train" in said
    assert (sys.argv, sys.path) == (argv, path)
    assert ks.load("runs/train").info()["notes"] == {"script": "train.py --epochs 3 --json"}


def test_words_of_the_command_stand_before_the_script_or_right_after_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script(tmp_path, PLAIN + "print(sys.argv[1:])\n")
    assert main(["record", "-o", "a", "train.py", "--json", "--", "-o", "c"]) == 0
    said = capsys.readouterr()
    assert said.err == "['-o', 'c']\n"
    found = json.loads(said.out)
    assert (found["run"], found["exit"], found["steps"]) == ("a", 0, 6)
    assert main(["record", "train.py", "--out=b", "--keep", "2", "x", "-o", "c"]) == 0
    assert "['x', '-o', 'c']" in capsys.readouterr().out
    assert ks.load("b").info()["rows"] == 4
    assert not Path("c").exists()


def test_a_run_that_is_there_is_kept_unless_it_may_be_replaced(tmp_path, capsys):
    path, out = str(script(tmp_path, PLAIN + "print('ran')\n")), str(tmp_path / "run")
    assert main(["record", path, "-o", out]) == 0
    capsys.readouterr()
    assert main(["record", path, "-o", out]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "holds a run already" in said.err
    assert "put it before" not in said.err
    assert main(["record", "-o", out, path, "--epochs", "3", "--overwrite"]) == 2
    assert "The --overwrite that came stands behind words of the script" in capsys.readouterr().err
    assert main(["record", "--overwrite", path, "-o", out]) == 0


def test_the_next_command_is_one_that_can_be_run(tmp_path, capsys):
    text = HEAD + """
class Net(torch.nn.Module):
    def __init__(self, width=1):
        super().__init__()
        self.layer = torch.nn.Linear(3, width)
    def forward(self, x):
        return self.layer(x)
"""
    for needed in ("width=1", "width"):
        own = text.replace("width=1", needed) + """
x = torch.linspace(0, 1, 12).reshape(4, 3)
loader, model = DataLoader(TensorDataset(x, x[:, :1]), batch_size=2), Net(width=1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x, y in loader:
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(model(x), y).backward()
    optimizer.step()
"""
        path = script(tmp_path, own)
        assert main(["record", "--overwrite", str(path), "-o", str(tmp_path / "run")]) == 0
        word = f"{path}:{'Net' if needed == 'width=1' else 'function'}"
        assert f"--model {word}\n" in capsys.readouterr().out


@pytest.mark.parametrize(("ending", "code", "said"), [
    ("sys.exit(3)", 3, ""), ("sys.exit('enough')", 1, "enough\n"), ("sys.exit()", 0, ""), ("sys.exit(True)", 1, ""),
    ("sys.exit(['a'])", 1, "['a']\n"),
])
def test_a_script_that_leaves_early_keeps_its_steps_and_gives_its_exit_code(tmp_path, ending, code, said, capsys):
    path = script(tmp_path, PLAIN + ending)
    assert main(["record", str(path), "-o", str(tmp_path / "run"), "--json"]) == code
    told = capsys.readouterr()
    assert (json.loads(told.out)["exit"], told.err) == (code, said)
    assert len(ks.load(tmp_path / "run")) == 6
    assert main(["record", "--overwrite", str(path), "-o", str(tmp_path / "run")]) == code
    assert ("It ended with exit code" in capsys.readouterr().out) == (code != 0)


def test_a_script_that_leaves_before_it_trains_gives_its_exit_code_and_no_advice(tmp_path, capsys):
    path = script(tmp_path, "import sys\nsys.exit(4)\n")
    assert main(["record", str(path), "-o", str(tmp_path / "run")]) == 4
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"kernelscope: {path} ended with exit code 4. No step had been made, so nothing is kept.\n"
    assert main(["record", str(path), "-o", str(tmp_path / "run"), "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert (found["exit"], found["run"], found["steps"]) == (4, None, 0)


def test_a_script_that_fails_shows_its_own_error_and_keeps_its_steps(tmp_path):
    path = script(tmp_path, PLAIN + "raise ValueError('the disk is on fire')")
    command = [sys.executable, "-m", "kernelscope", "record", str(path), "-o", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[1])
    assert done.returncode == 1
    assert "ValueError: the disk is on fire" in done.stderr
    run = ks.load(tmp_path / "run")
    assert (len(run), run.info()["complete"]) == (6, False)


def test_a_script_that_is_not_there_is_named(capsys):
    assert main(["record", "absent.py"]) == 2
    assert "There is no script absent.py" in capsys.readouterr().err


def test_data_sets_are_one_when_they_are_made_of_the_same_parts():
    from kernelscope.run.autorecord import _same_samples

    x, y = torch.zeros(4, 1), torch.zeros(4)
    data = TensorDataset(x, y)
    assert _same_samples(TensorDataset(x, y), data)
    assert _same_samples(Subset(TensorDataset(x, y), [0, 2]), Subset(data, [0, 2]))
    assert not _same_samples(Subset(data, [0, 1]), Subset(data, [0, 2]))
    assert not _same_samples(TensorDataset(x.clone(), y), data)
    assert not _same_samples([1], [1])


def test_weights_of_a_loss_module_follow_the_precision_of_the_ledger():
    x, y = torch.randn(12, 3), torch.randint(0, 2, (12,))
    model, loss = nn.Linear(3, 2), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (x, y), loss=loss) as recording:
        for _ in range(4):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
    d = ks.decompose(recording.run, x[:2])
    assert d.completeness() < 1e-12
    assert not d.channels["unattributed"].any()
    assert loss.weight.dtype == torch.float32


def test_validation_between_epochs_is_not_training_on_another_set(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import torch\nfrom torch import nn\nimport torch.nn.functional as F\n"
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "x = torch.randn(80, 3)\ny = (x.sum(1) > 0).long()\n"
        "train = DataLoader(TensorDataset(x[:60], y[:60]), 20, shuffle=True)\n"
        "held = DataLoader(TensorDataset(x[60:], y[60:]), 20)\n"
        "model = nn.Linear(3, 2)\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "for epoch in range(3):\n"
        "    for a, b in train:\n"
        "        optimizer.zero_grad()\n        F.cross_entropy(model(a), b).backward()\n        optimizer.step()\n"
        "    with torch.no_grad():\n        for a, b in held:\n            model(a)\n"
    )
    assert main(["record", "-o", str(tmp_path / "run"), str(script)]) == 0
    assert len(ks.load(tmp_path / "run")) == 9


def test_a_loss_that_was_imported_by_its_own_name_before_is_heard():
    import types

    script = types.ModuleType("a_script_of_a_user")
    exec("from torch.nn.functional import cross_entropy, mse_loss as squares", vars(script))
    original = script.squares
    sys.modules[script.__name__] = script
    try:
        x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
        model, loader = nn.Linear(3, 1), DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with AutoRecording() as recording:
            script.cross_entropy = "another value"
            for inputs, targets in loader:
                optimizer.zero_grad()
                script.squares(model(inputs), targets).backward()
                optimizer.step()
        assert len(recording.run) == 3
        assert recording.run.loss.name == "mse_loss"
        assert script.squares is original is F.mse_loss
        assert script.cross_entropy == "another value"
    finally:
        del sys.modules[script.__name__]
