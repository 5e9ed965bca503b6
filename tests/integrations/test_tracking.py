"""Five numbers and a page are logged, and what was written is read back from each tracker's own files."""

import json
import math
import os
from pathlib import Path

import pytest
import torch

import kernelscope as ks
from kernelscope.cli import main
from kernelscope.errors import DataError, StoreError
from kernelscope.integrations.scalars import DEFINITIONS
from tests.comparing_runs.runs import data, probes, record, trained

X, Y = probes(10)


@pytest.fixture(scope="module")
def told():
    return ks.integrations.run_scalars(trained(0), X, targets=Y, times=4)


@pytest.fixture
def page(tmp_path):
    return ks.Report("A page", []).save(tmp_path / "page.html")


# -- the five numbers ------------------------------------------------------------------------------------------------

def test_the_five_numbers_are_those_of_their_questions(told):
    run = trained(0)
    ledger = ks.decompose(run, X, "answer")
    kappa = ledger.contributions.abs().sum(2) / ledger.contributions.sum(2).abs()
    distances = ks.kernel_distances(run, run, times=2)
    assert list(told.five) == list(DEFINITIONS)
    assert told.five["completeness"] == pytest.approx(ledger.completeness(), abs=1e-15)
    assert told.five["completeness"] < 1e-12
    assert told.five["cancellation"] == pytest.approx(float(kappa.nanmedian()))
    assert told.five["coverage"] == pytest.approx(float(ks.coverage(run, X, baselines=False).coverage.mean()))
    assert told.five["drift"] == pytest.approx(1 - float(distances.cka[0, -1]), abs=1e-9)
    kernel = ks.kernels.Tangent(run.network.module(())).at(run.network.parameters | run.parameters())
    assert told.five["effective_rank"] == pytest.approx(ks.spectrum(kernel(data()[0])).entropy_rank()[0], rel=1e-6)


def test_the_course_begins_at_the_start_and_ends_at_the_end(told):
    assert (told.steps[0], told.steps[-1]) == (0, len(trained(0)))
    assert told.course["cka_with_start"][0] == pytest.approx(1)
    assert told.course["cka_with_end"][-1] == pytest.approx(1)
    assert told.course["effective_rank"][-1] == pytest.approx(told.five["effective_rank"])
    assert 1 - told.course["cka_with_start"][-1] == pytest.approx(told.five["drift"])


def test_without_probes_coverage_is_that_of_training_samples_by_the_others():
    told = ks.integrations.run_scalars(trained(0), times=2)
    left_out = ks.coverage(trained(0), X, baselines=False).left_out
    assert told.five["coverage"] == pytest.approx(float(left_out.mean()))
    assert told.probes == "16 training samples"


def test_what_does_not_fit_is_said():
    with pytest.raises(DataError, match="Targets came without probes"):
        ks.integrations.run_scalars(trained(0), targets=Y)
    with pytest.raises(DataError, match="without steps"):
        ks.integrations.run_scalars(trained(0)[:0])
    for word in ("nowhere", "tensorboard:", 3, None, object()):
        with pytest.raises(DataError, match="tensorboard, wandb, mlflow"):
            ks.integrations.log_run(trained(0), X, to=word)


@pytest.mark.parametrize("package", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, package):
    import importlib

    run, real = trained(0), importlib.import_module

    def missing(name, package=None):
        if name in ("torch.utils.tensorboard", "wandb", "mlflow"):
            raise ImportError(f"No module named {name!r}")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(DataError, match=rf"kernelscope\[{package}\]"):
        ks.integrations.log_run(run, X, to=package)


# -- TensorBoard -----------------------------------------------------------------------------------------------------

def events(folder):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def assert_in_tensorboard(folder, told):
    read = events(folder)
    for name, value in told.five.items():
        (event,) = read.Scalars(f"kernelscope/{name}")
        assert event.value == pytest.approx(value, rel=1e-6)
    for name, values in told.course.items():
        course = read.Scalars(f"kernelscope/course/{name}")
        assert [event.step for event in course] == told.steps
        assert [event.value for event in course] == pytest.approx(values, rel=1e-6)
    return read


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
def test_tensorboard_has_numbers_words_and_the_page_beside_them(tmp_path):
    pytest.importorskip("tensorboard")
    logged = ks.integrations.log_run(trained(0), X, targets=Y, to=f"tensorboard:{tmp_path / 'tb'}", times=4)
    read = assert_in_tensorboard(tmp_path / "tb", logged.scalars)
    words = read.Tensors("kernelscope/definitions/text_summary")[0].tensor_proto.string_val[0].decode()
    assert all(words.count(f"**{name}**") == 1 and words.count(text) == 1 for name, text in DEFINITIONS.items())
    link = read.Tensors("kernelscope/report/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "TensorBoard shows no HTML page" in link
    kept = Path(link.split("`")[1])
    assert kept.read_text().startswith("<!doctype html>")
    assert "and the page" in repr(logged)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
def test_a_writer_that_is_open_is_used_and_left_open(tmp_path, page):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "own")) as writer:
        writer.add_scalar("mine", 1.0, 0)
        logged = ks.integrations.log_run(trained(0), X, to=writer, times=4, report=page)
        writer.add_scalar("mine", 2.0, 1)
    read = assert_in_tensorboard(tmp_path / "own", logged.scalars)
    assert [event.value for event in read.Scalars("mine")] == [1.0, 2.0]
    assert (tmp_path / "own" / "kernelscope-report.html").read_bytes() == page.read_bytes()


# -- MLflow ----------------------------------------------------------------------------------------------------------

@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    """MLflow with a plain folder as its store, as it was before."""
    # Its small package has no database.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    package = pytest.importorskip("mlflow")
    before = package.get_tracking_uri() if package.is_tracking_uri_set() else None
    package.set_tracking_uri((tmp_path / "default").as_uri())
    yield package
    package.set_tracking_uri(before)


def assert_in_mlflow(client, run_id, told):
    for name, value in told.five.items():
        assert client.get_run(run_id).data.metrics[f"kernelscope/{name}"] == pytest.approx(value, abs=1e-18)
    for name, values in told.course.items():
        course = client.get_metric_history(run_id, f"kernelscope/course/{name}")
        assert [metric.step for metric in course] == told.steps
        assert [metric.value for metric in course] == pytest.approx(values)


@pytest.mark.filterwarnings("ignore:The filesystem tracking backend:FutureWarning")
def test_mlflow_keeps_a_run_in_a_folder(tmp_path, mlflow):
    if "sqlite" in __import__("kernelscope.integrations.trackers", fromlist=["_address"])._address("probe"):
        pytest.skip("a database is there, and is taken")
    logged = ks.integrations.log_run(trained(0), X, to=f"mlflow:{tmp_path / 'ml'}", times=4, name="first")
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "ml").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("kernelscope").experiment_id])
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert_in_mlflow(client, run.info.run_id, logged.scalars)
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    assert (folder / "kernelscope-report.html").read_text().startswith("<!doctype html>")
    assert json.loads((folder / "kernelscope-definitions.json").read_text()) == DEFINITIONS
    assert mlflow.get_tracking_uri() == (tmp_path / "default").as_uri()


@pytest.mark.filterwarnings("ignore:The filesystem tracking backend:FutureWarning")
def test_an_active_run_of_mlflow_is_used_and_left_active(mlflow, page):
    with mlflow.start_run() as active:
        mlflow.log_metric("mine", 1.0)
        logged = ks.integrations.log_run(trained(0), X, to="mlflow", times=4, report=page)
        assert mlflow.active_run().info.run_id == active.info.run_id
        again = ks.integrations.log_run(trained(0), X, to=active, times=4, report=False)
    client = mlflow.MlflowClient()
    assert client.get_run(active.info.run_id).data.metrics["mine"] == 1.0
    assert logged.scalars == again.scalars
    assert logged.scalars.five["drift"] == pytest.approx(
        client.get_run(active.info.run_id).data.metrics["kernelscope/drift"])


def test_a_store_that_mlflow_refuses_is_said_with_the_way_out(tmp_path, mlflow, monkeypatch):
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    with pytest.raises(StoreError, match="MLFLOW_ALLOW_FILE_STORE"):
        ks.integrations.log_run(trained(0), X, to=f"mlflow:{(tmp_path / 'refused').as_uri()}")


# -- Weights & Biases ------------------------------------------------------------------------------------------------

@pytest.fixture
def wandb(tmp_path, monkeypatch):
    package = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield package
    if package.run is not None:
        package.finish()


def entries(data):
    """The entries of an offline run's file: blocks of 32 KiB of parts, each with checksum, length, and kind."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        length, kind = int.from_bytes(data[at + 4:at + 6], "little"), data[at + 6]
        if left < 7 or kind == 0:
            at += left
            continue
        whole = data[at + 7:at + 7 + length] if kind in (1, 2) else whole + data[at + 7:at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield whole


def rows(folder):
    """The rows and the summary that an offline run has written."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    # The process that writes the file holds its last lines back until it ends.
    wandb.teardown()
    (file,) = (path for path in Path(folder).rglob("run-*.wandb") if "latest" not in str(path))
    history, summary = [], {}
    for entry in entries(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(entry)
        kind = record.WhichOneof("record_type")
        told = lambda items: {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
        if kind == "history":
            history.append(told(record.history.item))
        elif kind == "summary":
            summary |= told(record.summary.update)
    return history, summary


def assert_in_wandb(folder, told):
    history, summary = rows(folder)
    for name, value in told.five.items():
        assert summary[f"kernelscope/{name}"] == pytest.approx(value, abs=1e-18)
    course = [row for row in history if "kernelscope/step" in row]
    assert [row["kernelscope/step"] for row in course] == told.steps
    for name, values in told.course.items():
        assert [row[f"kernelscope/course/{name}"] for row in course] == pytest.approx(values)
    return history


def test_wandb_is_offline_unless_told_otherwise(tmp_path, wandb):
    logged = ks.integrations.log_run(trained(0), X, to=f"wandb:{tmp_path / 'wb'}", times=4, name="first")
    assert wandb.run is None
    assert "offline-run" in logged.where
    assert_in_wandb(tmp_path / "wb", logged.scalars)
    (page,) = (path for path in (tmp_path / "wb").rglob("*.html") if "latest" not in str(path))
    assert page.read_text().startswith("<!doctype html>")


def test_an_active_run_of_wandb_is_used_and_left_active(tmp_path, wandb, page):
    with wandb.init(mode="offline", dir=str(tmp_path / "own"), settings=wandb.Settings(silent=True)) as run:
        run.log({"mine": 1.0})
        logged = ks.integrations.log_run(trained(0), X, to="wandb", times=4, report=page)
        assert wandb.run is run
        run.log({"mine": 2.0})
    history = assert_in_wandb(tmp_path / "own", logged.scalars)
    assert [row["mine"] for row in history if "mine" in row] == [1.0, 2.0]


# -- the command -----------------------------------------------------------------------------------------------------

@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
def test_a_report_is_logged_by_the_command(tmp_path, capsys):
    pytest.importorskip("tensorboard")
    record(*data(), out=tmp_path / "run", steps=6)
    folder = tmp_path / "tb"
    assert main(["report", str(tmp_path / "run"), "-o", str(tmp_path / "page.html"), "--sample", "0", "1", "--to",
                 f"tensorboard:{folder}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["logged"]
    assert list(told["scalars"]) == list(DEFINITIONS)
    assert all(value is None or math.isfinite(value) for value in told["scalars"].values())
    (inside,) = told["to"]
    assert (Path(inside) / "kernelscope-report.html").read_bytes() == (tmp_path / "page.html").read_bytes()
    assert events(inside).Scalars("kernelscope/drift")[0].value == pytest.approx(told["scalars"]["drift"], rel=1e-6)
    assert os.path.commonpath([inside, folder]) == str(folder)


def test_a_tracker_that_is_none_is_refused_before_anything_is_computed(tmp_path, capsys):
    record(*data(), out=tmp_path / "run", steps=2)
    assert main(["report", str(tmp_path / "run"), "-o", str(tmp_path / "page.html"), "--to", "neptune"]) == 2
    assert "tensorboard, wandb, mlflow" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_logging_leaves_random_numbers_and_the_network_as_they_were(tmp_path):
    pytest.importorskip("tensorboard")
    state, before = torch.random.get_rng_state(), [t.clone() for t in trained(0).network.parameters.values()]
    ks.integrations.run_scalars(trained(0), X, times=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, trained(0).network.parameters.values(), strict=True))
