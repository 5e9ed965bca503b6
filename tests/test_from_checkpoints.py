"""Runs from checkpoints alone: what is in which file, what is refused, and how honest the ledger is."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import warnings
import zipfile
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import kernelscope as ks
from kernelscope.errors import (
    DataError,
    KernelscopeError,
    ModelError,
    NonFiniteError,
    StoreCorrupt,
    StoreError,
    UnsafeFile,
)
from kernelscope.run.checkpoint_files import find_checkpoints


def data(n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(n, 4, generator=g)
    return x, torch.tanh(x @ torch.randn(4, 2, generator=g))


class Net(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        torch.manual_seed(5)
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 2)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


QUERIES = torch.linspace(-1, 1, 12).reshape(3, 4)


def states(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


@cache
def trained(kind: str = "sgd", steps: int = 40, every: int = 10):
    """State dictionaries by step, those of the optimizer, and the recorded run, under full batches."""
    x, y = data()
    model = Net()
    optimizer = (torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9 if kind == "momentum" else 0.0)
                 if kind in ("sgd", "momentum") else torch.optim.AdamW(model.parameters(), lr=1e-2))
    saved, optimizers = {}, {}
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for k in range(steps + 1):
            if k % every == 0:
                saved[k] = states(model)
                buffer = io.BytesIO()
                torch.save(optimizer.state_dict(), buffer)
                buffer.seek(0)
                optimizers[k] = torch.load(buffer, weights_only=True)
            if k == steps:
                break
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
    return saved, optimizers, recording.run


def opened(checkpoints, **options):
    return ks.from_checkpoints(checkpoints, **{"model": Net, "data": data(), "loss": F.mse_loss, "lr": 0.1, **options})


def error(found, truth):
    return float((found.contributions - truth.contributions).norm() / truth.contributions.norm())


@cache
def in_memory():
    return ks.decompose(opened(trained()[0]), QUERIES)


# -- what the ledger says ---------------------------------------------------------------------------------------------


def test_with_every_step_kept_a_full_batch_run_is_the_recorded_one():
    saved, _, run = trained("sgd", 12, 1)
    truth, found = ks.decompose(run, QUERIES), ks.decompose(opened(saved), QUERIES)
    assert found.completeness() <= 1e-12
    # The training was in float32: its steps are those of the rule to that precision.
    assert error(found, truth) < 1e-5


def test_shares_are_near_those_of_the_recording_and_the_rest_is_stated():
    truth, found = ks.decompose(trained()[2], QUERIES), in_memory()
    assert found.completeness() <= 1e-12
    assert torch.allclose(found.final, truth.final)
    assert torch.allclose(found.initial, truth.initial)
    assert error(found, truth) < 0.1
    assert 0 < found.unattributed_share() < 0.1
    assert "unattributed" in found.summary()


def test_momentum_is_folded_in():
    saved, _, run = trained("momentum")
    truth = ks.decompose(run, QUERIES)
    with_it = ks.decompose(opened(saved, momentum=0.9, lr=0.1), QUERIES)
    without = ks.decompose(opened(saved, lr=0.1), QUERIES)
    assert with_it.completeness() <= 1e-12
    assert error(with_it, truth) < 0.5 * error(without, truth)


def test_an_unknown_rate_is_fitted_and_said():
    found = ks.decompose(opened(trained()[0], lr=None), QUERIES)
    assert found.completeness() <= 1e-12
    assert any("learning rate is not known" in note for note in found.info["notes"])
    assert error(found, ks.decompose(trained()[2], QUERIES)) < 0.1


def test_the_fitted_rate_is_that_of_least_squares():
    """A linear network under one chord: the rate is <D, -g> / |g|^2 with the mean gradient of both ends."""
    x, y = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([[1.0], [0.0]]).double()
    ends = [torch.tensor([[0.5]]).double(), torch.tensor([[0.2]]).double()]
    run = ks.from_checkpoints([{"weight": w} for w in ends], model=nn.Linear(1, 1, bias=False).double(), data=(x, y),
                              loss=F.mse_loss, steps=[0, 1])
    found = ks.decompose(run, torch.ones(1, 1).double())
    assert float(found.channels["unattributed"]) == pytest.approx(0.0, abs=1e-15)
    assert float(found.channels["data"]) == pytest.approx(float(ends[1] - ends[0]), abs=1e-14)


def test_second_moments_of_adam_are_used(tmp_path):
    saved, optimizers, run = trained("adamw")
    for k, state in saved.items():
        torch.save({"model_state_dict": state, "optimizer_state_dict": optimizers[k], "step": k},
                   tmp_path / f"net-{k}.pt")
    truth = ks.decompose(run, QUERIES)
    kept = opened(f"{tmp_path}/*.pt", lr=None)
    assert kept[0].optimizer == "AdamW"
    assert kept.info()["learning_rate"] == [0.01, 0.01]
    with_them = ks.decompose(kept, QUERIES)
    without = ks.decompose(opened(saved, optimizer="adamw", lr=0.01), QUERIES)
    assert with_them.completeness() <= 1e-12
    assert without.completeness() <= 1e-12
    assert error(with_them, truth) < 0.7 * error(without, truth)
    assert any("second moments" in note for note in without.info["checkpoints"])
    assert not any("second moments" in note for note in with_them.info["checkpoints"])


def test_advice_names_the_checkpoints():
    saved = trained()[0]
    found = ks.decompose(opened({k: saved[k] for k in (0, 30, 40)}), QUERIES)
    assert "more checkpoints between 0 and 30 would help most" in found.summary()
    assert found.gaps().iloc[0]["to"] == 30


def test_no_first_checkpoint_is_said():
    saved = trained()[0]
    found = ks.decompose(opened({k: saved[k] for k in (10, 20, 40)}), QUERIES)
    assert any("no checkpoint of step 0" in note for note in found.info["checkpoints"])
    assert torch.equal(found.initial, ks.decompose(trained()[2], QUERIES).path[..., 10])


def test_every_answer_works_on_it(tmp_path):
    run = opened(trained()[0])
    assert "steps" in str(ks.explain(run, QUERIES))
    assert ks.evolution(run, QUERIES) is not None
    assert ks.coverage(run, QUERIES) is not None
    assert ks.null_space(run, QUERIES, torch.zeros(3, 2)) is not None
    ks.decompose(run, QUERIES).check()
    page = ks.Report("From checkpoints", [ks.explain(run, QUERIES), ks.decompose(run, QUERIES)])
    assert "unattributed" in page.save(tmp_path / "page.html").read_text()


def test_model_and_random_state_are_left_alone():
    model = Net()
    model.train()
    before, state, python = states(model), torch.get_rng_state(), random.getstate()
    ks.decompose(opened(trained()[0], model=model), QUERIES)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == python


# -- where checkpoints are --------------------------------------------------------------------------------------------


def test_files_of_all_kinds_give_the_same_ledger(tmp_path):
    saved = trained()[0]
    for k, state in saved.items():
        for folder in ("pt", "st", "hf", "wrapped", "light"):
            (tmp_path / folder).mkdir(exist_ok=True)
        torch.save(state, tmp_path / "pt" / f"step{k}.pt")
        save_file(state, tmp_path / "st" / f"step_{k}.safetensors")
        (tmp_path / "hf" / f"checkpoint-{k}").mkdir()
        save_file(state, tmp_path / "hf" / f"checkpoint-{k}" / "model.safetensors")
        (tmp_path / "hf" / f"checkpoint-{k}" / "trainer_state.json").write_text(json.dumps({"global_step": k}))
        # What trainer.save_model() leaves beside them at the end.
        save_file(state, tmp_path / "hf" / "model.safetensors")
        torch.save({"state_dict": {f"module._orig_mod.{name}": t for name, t in state.items()}, "epoch": 1, "step": k},
                   tmp_path / "wrapped" / f"e{k}.pth")
        torch.save({"state_dict": {f"model.{name}": t for name, t in state.items()}, "global_step": k,
                    "pytorch-lightning_version": "2.6"}, tmp_path / "light" / f"epoch=0-step={k}.ckpt")
    truth = in_memory()
    for pattern in ("pt/*.pt", "st", "hf/checkpoint-*", "hf", "wrapped/*", "light/*.ckpt"):
        run = opened(str(tmp_path / pattern))
        assert run.points == [0, 10, 20, 30, 40], pattern
        assert torch.equal(ks.decompose(run, QUERIES).contributions, truth.contributions), pattern
    assert "module.' stripped" in opened(str(tmp_path / "wrapped/*")).info()["notes"]["checkpoints"][0]
    assert "'model.' stripped" in opened(str(tmp_path / "light/*")).info()["notes"]["checkpoints"][0]


def test_the_optimizers_own_count_comes_before_the_number_in_a_name(tmp_path):
    """Files of the second and third ten updates that are named 1 and 2 are ten updates apart, not one."""
    saved, optimizers, _ = trained("adamw")
    for i, k in enumerate(saved):
        torch.save({"model": saved[k], "optimizer": optimizers[k], "epoch": i}, tmp_path / f"ckpt_{i}.pt")
    run = opened([tmp_path / f"ckpt_{i}.pt" for i in range(1, 5)], lr=None)
    assert run.points == [10, 20, 30, 40]
    truth = ks.decompose(opened({k: {"model": saved[k], "optimizer": optimizers[k]} for k in saved if k}, lr=None),
                         QUERIES)
    assert torch.equal(ks.decompose(run, QUERIES).contributions, truth.contributions)


@pytest.mark.parametrize("word", ["ckpt_", "model", "epoch="])
def test_numbers_in_a_row_are_not_taken_for_updates(word, tmp_path):
    """The rate is fitted, whatever the files tell of it; with a rate that was given the updates are asked for."""
    saved, optimizers, _ = trained()
    for i, k in enumerate(saved):
        torch.save({"model": saved[k], "optimizer": optimizers[k]}, tmp_path / f"{word}{i}.pt")
    run = opened(f"{tmp_path}/*.pt", lr=None)
    assert all(run[k].fits for k in range(len(run)))
    fitted = ks.decompose(opened(list(saved.values()), lr=None), QUERIES)
    assert torch.equal(ks.decompose(run, QUERIES).contributions, fitted.contributions)
    assert "Pass steps=" in str(run.info()["notes"])
    with pytest.raises(DataError, match="{step: path}"):
        opened(f"{tmp_path}/*.pt")


def test_paths_may_come_by_step(tmp_path):
    saved = trained()[0]
    for k, state in saved.items():
        torch.save(state, tmp_path / f"file{k // 10}.pt")
    run = opened({k: tmp_path / f"file{k // 10}.pt" for k in saved})
    assert run.points == [0, 10, 20, 30, 40]
    assert torch.equal(ks.decompose(run, QUERIES).contributions, in_memory().contributions)
    with pytest.raises(DataError, match="from 0 on"):
        opened({-1: tmp_path / "file0.pt", 0: tmp_path / "file1.pt"})


def test_influence_through_training_is_refused_where_its_steps_are_unknown():
    run = opened(trained()[0])
    with pytest.raises(DataError, match="gauss-newton"):
        ks.influence(run, QUERIES)
    assert bool(ks.influence(run, QUERIES, method="gauss-newton").influences.any())


def test_files_are_in_natural_order(tmp_path):
    for k in (2, 10, 1, 100):
        (tmp_path / f"s{k}.pt").touch()
    assert [c.path.name for c in find_checkpoints(f"{tmp_path}/*.pt")] == ["s1.pt", "s2.pt", "s10.pt", "s100.pt"]


def test_files_are_read_when_needed_and_few_are_held(tmp_path, monkeypatch):
    from kernelscope.run import from_checkpoints as module

    monkeypatch.setattr(module, "CACHE", 1)
    for k, state in trained()[0].items():
        torch.save(state, tmp_path / f"step{k}.pt")
    run = opened(f"{tmp_path}/*.pt")
    assert torch.equal(ks.decompose(run, QUERIES).contributions, in_memory().contributions)
    assert len(run._index.kept._held) <= 2


def test_logged_rates_of_a_trainer_are_read(tmp_path):
    for k in (0, 10, 20):
        folder = tmp_path / f"checkpoint-{k}"
        folder.mkdir()
        save_file(trained()[0][k], folder / "model.safetensors")
        log = [{"step": s, "learning_rate": 0.1 - 0.005 * s, "loss": 1.0} for s in range(1, k + 1)]
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": k, "log_history": log}))
    run = opened(str(tmp_path), lr=None)
    assert run.info()["learning_rate"] == pytest.approx([0.0225, 0.0725])


def test_a_real_trainer_leaves_what_is_read(tmp_path):
    transformers = pytest.importorskip("transformers")

    class Task(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def forward(self, x, labels=None):
            out = self.net(x)
            return {"loss": F.mse_loss(out, labels), "logits": out} if labels is not None else out

    x, y = data()
    rows = [{"x": a, "labels": b} for a, b in zip(x, y, strict=True)]
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=8, save_steps=2, logging_steps=1, per_device_train_batch_size=8, report_to=[],
        use_cpu=True, disable_tqdm=True, learning_rate=1e-2, save_total_limit=None)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.Trainer(Task(), arguments, train_dataset=rows).train()
    run = opened(f"{tmp_path}/checkpoint-*", lr=None)
    assert run.points == [2, 4, 6, 8]
    assert run[0].optimizer == "AdamW"
    found = ks.decompose(run, QUERIES)
    assert found.completeness() <= 1e-12
    assert "'net.' stripped" in found.info["checkpoints"][0]
    assert not any("second moments" in note for note in found.info["checkpoints"])


def test_models_of_transformers_are_called_by_name(tmp_path):
    """Dictionaries of samples are read as the Trainer reads them: the ledger is that of a wrapper with its logits."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                                     intermediate_size=8, max_position_embeddings=8, num_labels=3)
    torch.manual_seed(0)
    ids, labels = torch.randint(0, 11, (12, 5)), torch.randint(0, 3, (12,))
    model = transformers.BertForSequenceClassification(config).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for k in (0, 1, 2):
        torch.save(model.state_dict(), tmp_path / f"step{k}.pt")
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = transformers.BertForSequenceClassification(config)

        def forward(self, x):
            return self.model(input_ids=x).logits

    rows = [{"input_ids": a, "labels": b} for a, b in zip(ids, labels, strict=True)]
    options = {"loss": F.cross_entropy, "lr": 0.1}
    found = ks.from_checkpoints(f"{tmp_path}/step*.pt", model=model, data=rows, **options)
    saved = {k: {f"model.{name}": t for name, t in torch.load(tmp_path / f"step{k}.pt", weights_only=True).items()}
             for k in (0, 1, 2)}
    truth = ks.from_checkpoints(saved, model=Logits(), data=(ids, labels), **options)
    asked, beside = (ks.decompose(run, x, "margin") for run, x in ((found, {"input_ids": ids[:2]}), (truth, ids[:2])))
    assert float((asked.contributions - beside.contributions).abs().max()) <= 1e-14
    assert asked.completeness() <= 1e-12
    assert ks.explain(found, ids[:1]).sentence().startswith("The network predicts")
    with pytest.raises(DataError, match="none of these is called labels or label"):
        ks.from_checkpoints(f"{tmp_path}/step*.pt", model=model, data=[{"input_ids": row} for row in ids], **options)


def test_data_sets_and_loaders():
    x, y = data()

    class Rows(Dataset):
        def __len__(self):
            return len(x)

        def __getitem__(self, i):
            return {"x": x[i], "y": y[i], "noise": random.random()}

    truth = in_memory()
    for given, options in ((TensorDataset(x, y), {}), (DataLoader(TensorDataset(x, y), batch_size=7, shuffle=True), {}),
                           (Rows(), {"batch": lambda b: (b["x"], b["y"])})):
        found = ks.decompose(opened(trained()[0], data=given, **options), QUERIES)
        assert torch.equal(found.contributions, truth.contributions)


def test_buffers_come_from_checkpoints():
    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))

    model, (x, y), saved = make(), data(), {}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for k in range(9):
        saved[k] = states(model)
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    found = ks.decompose(opened({k: saved[k] for k in (0, 4, 8)}, model=make, lr=0.05), QUERIES)
    assert found.completeness() <= 1e-12
    assert float(found.channels["buffers"].abs().max()) > 0
    model.load_state_dict(saved[8])
    model.eval()
    assert torch.allclose(found.final.float(), model(QUERIES), atol=1e-5)


# -- what is refused --------------------------------------------------------------------------------------------------


class Evil:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def hostile(folder: Path) -> dict[str, bytes]:
    evil = Evil(folder / "it-was-run")
    good = io.BytesIO()
    torch.save(trained()[0][10], good)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10**6)
    outside = io.BytesIO()
    with zipfile.ZipFile(outside, "w") as archive:
        archive.writestr("../../data.pkl", b"x")
    odd = io.BytesIO()
    torch.save({"state_dict": trained()[0][10], "extra": evil}, odd)
    save_file(trained()[0][10], folder / "good.safetensors")
    tensors = (folder / "good.safetensors").read_bytes()
    (folder / "good.safetensors").unlink()
    return {"pickle.pt": pickle.dumps(evil), "old.bin": pickle.dumps({"a": evil}, protocol=2),
            "zip.pt": odd.getvalue(), "cut.pt": good.getvalue()[:-200], "half.pt": good.getvalue()[:300],
            "empty.pt": b"", "noise.pt": b"\x80\x02" * 99,
            "bomb.pt": packed.getvalue(), "outside.pt": outside.getvalue(), "cut.safetensors": tensors[:-8],
            "empty.safetensors": b"", "huge.safetensors": b"\xff" * 8 + tensors[8:], "renamed.pt": tensors,
            "renamed.safetensors": good.getvalue(), "words.txt": b"hello", "words.ckpt": b"hello",
            "list.pt": _saved([1, 2]), "nothing.pt": _saved({"a": 1})}


def _saved(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_hostile_files_end_in_a_sentence_and_run_nothing(tmp_path):
    torch.save(trained()[0][0], tmp_path / "step0.pt")
    files = hostile(tmp_path)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(StoreError) as caught:
            opened([tmp_path / "step0.pt", tmp_path / name], steps=[0, 10])
        assert name in str(caught.value), (name, str(caught.value))
        assert str(caught.value).endswith("."), name
        kind = UnsafeFile if name in ("pickle.pt", "old.bin", "zip.pt", "bomb.pt", "outside.pt") else StoreError
        assert isinstance(caught.value, kind), (name, repr(caught.value))
    assert not (tmp_path / "it-was-run").exists()
    pickle.loads(files["pickle.pt"])
    assert (tmp_path / "it-was-run").exists()


def test_a_folder_without_a_checkpoint_and_a_path_that_leads_out(tmp_path):
    torch.save(trained()[0][0], tmp_path / "step0.pt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="holds no checkpoint"):
        opened([tmp_path / "step0.pt", tmp_path / "folder"], steps=[0, 1])
    (tmp_path / "folder" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../step0.pt"}}')
    with pytest.raises(UnsafeFile, match="outside of its folder"):
        opened([tmp_path / "step0.pt", tmp_path / "folder"], steps=[0, 1])
    (tmp_path / "folder" / "model.safetensors.index.json").write_text("{")
    with pytest.raises(StoreCorrupt, match="cannot be read"):
        opened([tmp_path / "step0.pt", tmp_path / "folder"], steps=[0, 1])
    with pytest.raises(StoreError, match="No checkpoint is called"):
        opened(f"{tmp_path}/*.nothing")
    with pytest.raises(StoreError, match="There is no checkpoint"):
        opened([tmp_path / "a.pt", tmp_path / "b.pt"])


def test_flipped_bits_are_told_where_they_can_be(tmp_path):
    """Every flip is refused, told of, or changes a number by less than the outlier limit."""
    saved, chance = trained()[0], random.Random(0)
    for k in (0, 10, 20):
        save_file(saved[k], tmp_path / f"step{k}.safetensors")
    path = tmp_path / "step10.safetensors"
    content = path.read_bytes()
    silent = refused = told = 0
    for _ in range(60):
        place, bit = chance.randrange(len(content)), chance.randrange(8)
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1:])
        try:
            run = opened(f"{tmp_path}/*.safetensors")
        except KernelscopeError as error_:
            refused += str(error_).endswith(".")
            continue
        if any("may be damaged" in note for note in run.info()["notes"]["checkpoints"]):
            told += 1
            continue
        row = run.row(1)
        silent += 1
        assert float(row.abs().max()) <= 1e4 * max(float(run.row(0).abs().max()), 1.0)
    assert refused + told + silent == 60
    assert refused > 0
    state = {name: t.clone() for name, t in saved[10].items()}
    state["last.weight"].view(-1)[3] *= 2.0**100
    save_file(state, path)
    notes = opened(f"{tmp_path}/*.safetensors").info()["notes"]["checkpoints"]
    assert any("step10.safetensors has an entry of" in note and "'last.weight'" in note for note in notes)


@pytest.mark.parametrize(("change", "error_", "words"), [
    (lambda s: {k: v for k, v in s.items() if k != "last.bias"}, ModelError, "lacks 1 tensors of the model"),
    (lambda s: s | {"head.weight": torch.zeros(2)}, ModelError, "1 that the model lacks .*'head.weight'"),
    (lambda s: s | {"last.weight": torch.zeros(2, 9)}, ModelError, r"another shape .*\(2, 9\) and not \(2, 8\)"),
    (lambda s: s | {"last.bias": torch.tensor([float("nan"), 0.0])}, NonFiniteError, "'last.bias' that are NaN"),
    (lambda s: {}, StoreError, "holds no tensors"),
    (lambda s: {"a": torch.zeros(1)}, ModelError, "another network"),
])
def test_another_network_is_named(change, error_, words):
    saved = trained()[0]
    with pytest.raises(error_, match=words):
        opened([saved[0], change(saved[10])], steps=[0, 10])


@pytest.mark.parametrize(("options", "error_", "words"), [
    ({"checkpoints": [trained()[0][0]], "steps": [0]}, DataError, "One checkpoint came"),
    ({"checkpoints": []}, DataError, "checkpoint"),
    ({"checkpoints": trained()[0][0]}, DataError, "two checkpoints at least"),
    ({"checkpoints": 3}, DataError, "checkpoints must be"),
    ({"checkpoints": [1, 2]}, DataError, "A checkpoint is a path"),
    ({"checkpoints": list(trained()[0].values())}, DataError, r"Pass steps=\[...\]"),
    ({"steps": [0, 1]}, DataError, "a whole number for each of the 5"),
    ({"steps": [0, 1, 1, 2, 3]}, DataError, "are both of step 1"),
    ({"steps": [0, 1, -1, 2, 3]}, DataError, "a whole number for each"),
    ({"lr": -1.0}, DataError, "lr must be"),
    ({"lr": [0.1]}, DataError, "one for each of the 4 chords"),
    ({"lr": "x"}, DataError, "lr must be"),
    ({"lr": torch.tensor([0.1])}, DataError, "one for each of the 4 chords"),
    ({"momentum": 2.0}, DataError, "momentum must be"),
    ({"momentum": float("nan")}, DataError, "momentum must be"),
    ({"weight_decay": "a"}, DataError, "weight_decay must be"),
    ({"optimizer": "lion"}, DataError, "optimizer must be"),
    ({"nodes": "both"}, DataError, "nodes must be"),
    ({"model": 3}, ModelError, "torch.nn.Module"),
    ({"model": lambda width: Net(width)}, ModelError, "without arguments"),
    ({"data": 3}, DataError, "data must be the training set"),
    ({"data": (torch.zeros(3, 4), torch.zeros(2, 2))}, DataError, "one row for each sample"),
    ({"data": TensorDataset(torch.zeros(0, 4), torch.zeros(0, 2))}, DataError, "empty"),
])
def test_refusals(options, error_, words):
    with pytest.raises(error_, match=words):
        opened(**{"checkpoints": trained()[0], **options})


def test_without_steps_or_rate_checkpoints_are_counted():
    run = opened(list(trained()[0].values()), lr=None)
    assert run.points == [0, 1, 2, 3, 4]
    assert ks.decompose(run, QUERIES).completeness() <= 1e-12


def test_frozen_parameters_that_move_are_told():
    model = Net()
    model.last.weight.requires_grad_(False)
    with pytest.raises(ModelError, match="holds 'last.weight' fixed"):
        opened(trained()[0], model=model)


def test_a_rate_may_be_a_tensor():
    found, plain = (ks.decompose(opened(trained()[0], lr=lr), QUERIES) for lr in (torch.tensor(0.1), 0.1))
    assert error(found, plain) <= 1e-6


@pytest.mark.parametrize("names", [
    # The last one is no step, and the others are.
    ["step_10", "step_20", "final_3"],
    # What stands behind a point is an accuracy.
    ["best-acc0.81", "best-acc0.92", "best-acc0.93"],
])
def test_numbers_that_count_no_steps_are_not_taken_for_them(tmp_path, names):
    for name, state in zip(names, trained()[0].values(), strict=False):
        torch.save(state, tmp_path / f"{name}.pt")
    with pytest.raises(DataError, match=r"Pass steps=\[...\]"):
        opened(f"{tmp_path}/*.pt")


def test_steps_in_another_order_than_the_files_say_are_noted(tmp_path):
    saved = trained()[0]
    for k, state in saved.items():
        torch.save({"model": state, "step": k}, tmp_path / f"{k}.pt")
    paths = [str(tmp_path / f"{k}.pt") for k in sorted(saved, key=str)]
    wrong = opened(paths, steps=[0, 5, 6, 7, 8]).info()["notes"]["checkpoints"][0]
    assert "given)" in wrong
    wrong = opened(paths[::-1], steps=[0, 10, 20, 30, 40]).info()["notes"]["checkpoints"][0]
    assert "given, in another order than that of the numbers in the files" in wrong


def test_a_network_beside_its_average_is_not_chosen_in_silence():
    saved = trained()[0]
    both = {k: {f"{word}.{name}": t for word in ("student", "ema") for name, t in state.items()}
            for k, state in saved.items()}
    with pytest.raises(ModelError, match="several networks of this kind, 'ema.' and 'student.'"):
        opened(both)
    # With a network of another shape beside it there is no doubt.
    teacher = {k: {**{f"net.{name}": t for name, t in state.items()}, "big.first.weight": torch.zeros(9, 9)}
               for k, state in saved.items()}
    assert error(ks.decompose(opened(teacher), QUERIES), in_memory()) <= 1e-6


def left_behind(folder, make, steps=20, every=10):
    """Checkpoints with the optimizer's state."""
    x, y = data()
    model = Net()
    optimizer = make(model)
    for k in range(steps + 1):
        if k % every == 0:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": k},
                       folder / f"{k}.pt")
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    return f"{folder}/*.pt"


@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
def test_adam_and_adamw_are_told_apart(tmp_path, kind):
    make = getattr(torch.optim, kind)
    run = opened(left_behind(tmp_path, lambda m: make(m.parameters(), lr=1e-2, weight_decay=0.3)), lr=None)
    assert f"of {kind}," in repr(run)


@pytest.mark.parametrize("kind", ["RMSprop", "Adagrad", "Adadelta", "NAdam", "RAdam", "Adamax"])
def test_another_optimizer_is_said_and_its_rate_not_taken(tmp_path, kind):
    make = getattr(torch.optim, kind)
    pattern = left_behind(tmp_path, lambda m: make(m.parameters(), lr=1e-2))
    run = opened(pattern, lr=None)
    assert any("another optimizer than SGD, Adam and AdamW" in note for note in run.info()["notes"]["checkpoints"])
    fitted = opened(pattern, lr=None, optimizer="SGD")
    assert ks.decompose(run, QUERIES).unattributed_share() <= ks.decompose(fitted, QUERIES).unattributed_share()


def test_the_logged_rate_is_that_of_the_first_group(tmp_path):
    rates = {"first": 1e-2, "last": 5e-2}

    def make(model):
        optimizer = torch.optim.SGD([{"params": getattr(model, name).parameters(), "lr": lr}
                                     for name, lr in rates.items()])
        torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
        return optimizer

    left_behind(tmp_path, make)
    for k in (0, 10, 20):
        folder = tmp_path / f"checkpoint-{k}"
        folder.mkdir()
        held = torch.load(tmp_path / f"{k}.pt")
        # Groups by layer follow the order of the model, which two groups alone do not tell.
        for group, name in zip(held["optimizer"]["param_groups"], rates, strict=True):
            group["param_names"] = [f"{name}.weight", f"{name}.bias"]
        torch.save(held["optimizer"], folder / "optimizer.pt")
        save_file(held["model"], folder / "model.safetensors")
        (folder / "trainer_state.json").write_text(json.dumps({
            "global_step": k, "log_history": [{"step": s, "learning_rate": 1e-2} for s in range(1, k + 1)]}))
    run = opened(f"{tmp_path}/checkpoint-*", lr=None)
    groups = run._index.steps[0].inner[0].groups
    assert {group["names"][0].split(".")[0]: group["lr"] for group in groups} == pytest.approx(rates)


def trainer_folder(path: Path, states, steps):
    for k in steps:
        (path / f"checkpoint-{k}").mkdir(parents=True)
        save_file(states[k], path / f"checkpoint-{k}" / "model.safetensors")
        (path / f"checkpoint-{k}" / "trainer_state.json").write_text(json.dumps({"global_step": k}))
    # Arguments are no state dictionary, and are only read by running them.
    (path / "training_args.bin").write_bytes(pickle.dumps(Evil(path / "it-was-run"), protocol=2))
    return str(path)


def test_a_final_model_that_is_no_checkpoint_is_told_of(tmp_path):
    states = trained()[0]
    folder = trainer_folder(tmp_path / "out", states, (0, 10))
    save_file(states[20], tmp_path / "out" / "model.safetensors")
    with pytest.warns(UserWarning, match="is not that of its last checkpoint, checkpoint-10, at which this run ends"):
        run = opened(folder)
    assert len(run) == 1
    pairs = {k: f"{folder}/checkpoint-{k}" for k in (0, 10)} | {20: folder}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(opened(pairs)) == 2
        save_file(states[10], tmp_path / "out" / "model.safetensors")
        assert len(opened(folder)) == 1


def test_what_a_trainer_writes_beside_checkpoints_is_not_taken_for_one(tmp_path):
    states = trained()[0]
    folder = trainer_folder(tmp_path / "out", states, (0, 10, 20))
    assert len(opened(folder)) == 2
    assert not (tmp_path / "out" / "it-was-run").exists()
