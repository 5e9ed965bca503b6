"""Whatever is given for an argument, it is taken as meant or refused in a sentence; never with a raw traceback."""

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kernelscope as ks
from kernelscope.errors import DataError, KernelscopeError, RecordingError, StoreError

X, Y = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3

#: Values that are wrong almost everywhere, and the raw errors that they cause where nobody looks.
ODD = {
    "none": None, "int": 3, "negative": -1, "float": 2.5, "nan": math.nan, "infinite": math.inf, "huge": 10**30,
    "word": "zebra", "empty word": "", "bytes": b"ab", "no list": [], "list": ["a", 1], "list of none": [None],
    "dictionary": {}, "yes": True, "object": object(), "class": object, "number": torch.tensor(3.0),
    "table": torch.randn(5, 5), "table of nan": torch.full((2, 3), math.nan), "array": np.zeros((2, 2)),
    "zero byte": "a\0b", "long": "x" * 5000,
}


def record(model=None, loader=None, **options):
    torch.manual_seed(0)
    model = nn.Linear(3, 3) if model is None else model
    loader = DataLoader(TensorDataset(X, Y), batch_size=4) if loader is None else loader
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1) if isinstance(model, nn.Module) else None
    with ks.record(model, loader, **{"loss": F.cross_entropy, **options}) as recording:
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return recording.run


@pytest.fixture(scope="module")
def run():
    return record()


@pytest.fixture(scope="module")
def ledger(run):
    return ks.decompose(run, X[:2])


@pytest.fixture(scope="module")
def why(run):
    return ks.explain(run, X[:2])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def raw_errors(ask, values=ODD):
    """Asks with each value; what is raised and is no error of the package, by the value's name."""
    raised, said = {}, []
    for name, value in values.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ask(value)
        except KernelscopeError as error:
            said.append(str(error))
        except Exception as error:  # noqa: BLE001
            raised[name] = f"{type(error).__name__}: {error}"
    assert [words for words in said if not words.endswith((".", ")"))] == []
    return raised


@pytest.mark.parametrize("name", ["model", "loader", "loss", "out", "keep", "average", "batch", "ids", "class_names",
                                  "commit_every", "overwrite", "resume", "notes"])
def test_recording_takes_or_refuses_whatever_is_given(name):
    # A class can be called; what it raises is its own.
    values = {key: value for key, value in ODD.items() if key != "class" or name not in ("batch", "ids")}
    assert raw_errors(lambda value: record(**{name: value}), values) == {}


@pytest.mark.parametrize("name", ["path", "model", "data", "loss"])
def test_loading_takes_or_refuses_whatever_is_given(run, name):
    run.save("kept")
    assert raw_errors(lambda value: ks.load(**{"path": "kept", name: value})) == {}


@pytest.mark.parametrize("ask", [ks.decompose, ks.explain])
@pytest.mark.parametrize("name", ["run", "x", "output", "targets", "quadrature", "weights", "rule", "groups", "dtype",
                                  "device", "memory", "progress", "k", "labels"])
def test_asking_takes_or_refuses_whatever_is_given(run, ask, name):
    if ask is ks.decompose and name in ("k", "labels"):
        name = "output"
    assert raw_errors(lambda value: ask(**{"run": run, "x": X[:2], name: value})) == {}


@pytest.mark.parametrize("call", [
    lambda d, e, v: d[v], lambda d, e, v: e[v], lambda d, e, v: d.top(k=v), lambda d, e, v: d.top(query=v),
    lambda d, e, v: d.top(output=v), lambda d, e, v: e.net(v), lambda d, e, v: e.divisible(v),
    lambda d, e, v: e.unmoved(v), lambda d, e, v: e.answer(v), lambda d, e, v: e.probabilities(v),
    lambda d, e, v: e.group_shares(v), lambda d, e, v: e.booked(v), lambda d, e, v: e.learned(v),
    lambda d, e, v: e.balance(v), lambda d, e, v: e.sentence(v), lambda d, e, v: e.helpful(v),
    lambda d, e, v: e.harmful(v), lambda d, e, v: e.class_name(v), lambda d, e, v: e.ranked(v, 2, 1),
    lambda d, e, v: e.ranked(0, v, 1), lambda d, e, v: e.ranked(0, 2, v), lambda d, e, v: d.plot(ax=v),
    lambda d, e, v: e.plot(ax=v), lambda d, e, v: d.plot(query=v), lambda d, e, v: d.plot(output=v),
    lambda d, e, v: e.plot(query=v), lambda d, e, v: e.plot(theme=v), lambda d, e, v: e.plot(zebra=v),
    lambda d, e, v: d.save(v), lambda d, e, v: e.save("kept", overwrite=v), lambda d, e, v: ks.Explanation.load(v),
])
def test_results_take_or_refuse_whatever_is_given(ledger, why, call):
    assert raw_errors(lambda value: call(ledger, why, value)) == {}


@pytest.mark.parametrize("call", [
    lambda r, v: r[v], lambda r, v: r.parameters(v), lambda r, v: r.sample(v), lambda r, v: r.save(v),
    lambda r, v: r.save("kept", overwrite=v), lambda r, v: ks.data.digits(v),
])
def test_runs_take_or_refuse_whatever_is_given(run, call):
    assert raw_errors(lambda value: call(run, value)) == {}


@pytest.mark.parametrize("make", [
    lambda e, v: ks.Report(v, [e]), lambda e, v: ks.Report("t", v), lambda e, v: ks.Report("t", [v]),
    lambda e, v: ks.Report("t", {"a": v}), lambda e, v: ks.Report("t", [e], v), lambda e, v: ks.Report("t", [e], {}, v),
])
def test_a_report_takes_or_refuses_whatever_is_given_when_it_is_made(why, make):
    made = []
    assert raw_errors(lambda value: made.append(make(why, value))) == {}
    assert raw_errors(lambda page: page.html(), dict(enumerate(made))) == {}


def test_a_page_goes_wherever_a_file_can(why):
    assert raw_errors(lambda value: ks.Report("t", [why]).save(value)) == {}


@pytest.mark.parametrize(("ask", "kind", "sentence"), [
    (lambda run: ks.decompose(run, X[:2], groups=3), DataError, "groups must hold a word for each .*; 3 came. Pass"),
    (lambda run: ks.decompose(run, X[:2], groups="abcdefghijkl"), DataError, "groups must hold .*'abcdefghijkl' came"),
    (lambda run: ks.explain(run, X[:2], labels="abcdefghijkl"), DataError, "labels must hold .*'abcdefghijkl' came"),
    (lambda run: ks.explain(run, X[:2], groups=["a"] * 12), DataError, "no option 'groups'.*labels="),
    (lambda run: ks.explain(run, X[:2], zebra=1), DataError, "no option 'zebra'. Those of decompose are quadrature"),
    (lambda run: ks.explain(run, X[:2], k=2.5), DataError, "a whole number from 1 on; got k=2.5"),
    (lambda run: ks.explain(run, X[:2], k=torch.tensor(3.0)), DataError, "got k=a Tensor"),
    (lambda run: ks.explain(run, X[:2], k=-1), DataError, "a whole number from 1 on; got k=-1"),
    (lambda run: ks.record(None, None, loss=F.mse_loss), RecordingError, "model must be a torch.nn.Module; None came"),
    (lambda run: ks.record(nn.Linear, None, loss=F.mse_loss), RecordingError, r"class Linear came. Make one of it"),
    (lambda run: record(overwrite="no"), DataError, "overwrite must be True or False; 'no' came"),
    (lambda run: record(out=""), DataError, "an empty one came"),
    (lambda run: record(batch=lambda b: None), DataError, r"batch= must give \(inputs, targets\).* it gave None"),
    (lambda run: record(ids=lambda b: None), RecordingError, "Sample ids must be whole numbers.*; None came"),
    (lambda run: ks.load(5), DataError, "The folder of a run must be a path.*; 5 came. Pass"),
    (lambda run: ks.load(None), DataError, "The folder of a run must be a path.*; None came"),
    (lambda run: ks.Report("", []), DataError, "A page needs a title, as text; an empty one came"),
    (lambda run: ks.Report(5, []), DataError, "A page needs a title, as text; 5 came"),
    (lambda run: ks.Report("t", "words"), DataError, "takes a list of results.*Put it into a list"),
    (lambda run: ks.Report("t", ["words", 3]), DataError, "item 1 is 3"),
    (lambda run: ks.decompose(run, X[:2])[2], DataError, "index=2 was asked for, and there are 2 queries"),
    (lambda run: ks.decompose(run, X[:2])[[True]], DataError, "a mask of 2 entries; a list came"),
    (lambda run: ks.explain(run, X[:2]).sentence(7), DataError, "query=7 was asked for, and there are 2 queries"),
    (lambda run: ks.explain(run, X[:2])[[]].sentence(), DataError, "query=0 was asked for, and there are no queries"),
    (lambda run: run["a"], DataError, "asked for a step by its number.*; 'a' came"),
])
def test_what_is_refused_is_named_with_what_was_needed(run, ask, kind, sentence):
    with pytest.raises(kind, match=sentence):
        ask(run)


def test_a_report_of_one_result_is_no_list_of_its_queries(why):
    with pytest.raises(DataError, match="an Explanation came. Put it into a list"):
        ks.Report("t", why)


def test_queries_are_picked_as_from_a_list_and_a_loop_over_them_ends(ledger, why):
    for result in (ledger, why):
        assert [len(one) for one in result] == [1, 1]
        for index in (slice(None, None, -1), [1, 0], torch.tensor([1, 0]), np.array([1, 0]), range(1, -1, -1), (-1, 0)):
            assert len(result[index]) == 2
        mask = result[torch.tensor([False, True])]
        assert mask.to_frame().drop(columns="query").equals(result[1].to_frame().drop(columns="query"))
    assert torch.equal(ledger[::-1].final, ledger.final.flip(0))
    assert torch.equal(ledger[np.int64(-1)].final, ledger.final[1:])


def test_the_errors_are_there_without_anything_else_being_imported():
    assert ks.errors.KernelscopeError is KernelscopeError
    assert "errors" in ks.__all__


# -- folders -----------------------------------------------------------------------------------------------------------


def test_a_page_is_not_written_into_a_folder_that_is_not_there(why, tmp_path):
    page = ks.Report("t", [why])
    with pytest.raises(StoreError, match="There is no folder pages to write a.html into. .*mkdir -p pages"):
        page.save("pages/a.html")
    assert not (tmp_path / "pages").exists()
    (tmp_path / "pages").mkdir()
    assert page.save("pages/a.html").is_file()


def test_a_run_makes_its_folder_and_the_one_it_lies_in_and_no_more(run, ledger, tmp_path):
    assert len(ks.load(record(out="runs/digits").store.path)) == 3
    run.save("copies/digits")
    ledger.save("answers/digits")
    for make in (lambda: record(out="disk/runs/digits"), lambda: run.save("disk/runs/a"),
                 lambda: ledger.save("disk/b/c")):
        with pytest.raises(StoreError, match="There is no folder .*disk, so .* cannot be made in it. .*mkdir -p"):
            make()
    assert not (tmp_path / "disk").exists()
