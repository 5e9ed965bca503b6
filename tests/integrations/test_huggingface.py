"""A Trainer of transformers, recorded by a callback: what is recorded is what it did."""

import copy

import pytest
import torch
import torch.nn.functional as F

import kernelscope as ks
from kernelscope.errors import DataError, RecordingError

from .killed import assert_closed, assert_final, final, killed_and_resumed, start

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    # torch of its schedules, where the first step is that of a recording's folder.
    pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning"),
]

TEXT = (ks.__doc__ + ks.record.__doc__ + ks.decompose.__doc__).encode("ascii", "ignore")
TOKENS = 24


@pytest.fixture(autouse=True)
def quiet():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def texts(n=24, vary=False):
    """Pieces of a text, byte by byte, some shorter than others."""
    rows = [torch.tensor(list(TEXT[i * TOKENS:i * TOKENS + (6 + 5 * i % 17 if vary else TOKENS)])) for i in range(n)]
    return [{"input_ids": r, "attention_mask": torch.ones_like(r), "labels": r.clone()} for r in rows]


def padded(items):
    """A batch as long as its longest text."""
    longest = max(len(item["input_ids"]) for item in items)
    return {name: torch.stack([F.pad(item[name], (0, longest - len(item[name])), value=value) for item in items])
            for name, value in (("input_ids", 0), ("attention_mask", 0), ("labels", -100))}


def gpt(dropout=0.0):
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=256, n_positions=32, n_embd=8, n_layer=1, n_head=2, resid_pdrop=dropout, embd_pdrop=dropout,
        attn_pdrop=dropout, bos_token_id=0, eos_token_id=0, pad_token_id=0))


def bert(kind, **options):
    return kind(transformers.BertConfig(
        vocab_size=256, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **options))


def trainer(folder, model, data, collator=None, callback=None, eval_dataset=None, **options):
    options = {"max_steps": 4, "per_device_train_batch_size": 6, "save_strategy": "no", **options}
    args = transformers.TrainingArguments(
        str(folder / "out"), report_to=[], use_cpu=True, disable_tqdm=True, logging_strategy="no", learning_rate=1e-2,
        **options)
    return transformers.Trainer(model, args, train_dataset=data, data_collator=collator, eval_dataset=eval_dataset,
                                callbacks=[] if callback is None else [callback])


def trained(folder, model, data, collator=None, **options):
    """The run of a training, and its trainer."""
    callback = ks.integrations.HFCallback(folder / "run")
    used = trainer(folder, model, data, collator, callback, **options)
    used.train()
    return callback.run, used


def queried(data, collator=None):
    batch = (collator or transformers.default_data_collator)(data[:2])
    return batch, batch.pop("labels")


CASES = {
    "passes": (gpt, {}, {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 2}),
    "lengths": (gpt, {"vary": True}, {}),
    "lengths and passes": (gpt, {"vary": True}, {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 2}),
    "lengths, passes, no clipping": (gpt, {"vary": True}, {"gradient_accumulation_steps": 2, "max_grad_norm": 0.0}),
    "smoothing": (gpt, {"vary": True}, {"label_smoothing_factor": 0.1, "gradient_accumulation_steps": 2}),
    "checkpointing": (gpt, {}, {"gradient_checkpointing": True}),
    "masked words": (lambda: bert(transformers.BertForMaskedLM), {"vary": True}, {}),
    "dropout": (lambda: gpt(0.1), {}, {}),
    "dropout and lengths": (lambda: gpt(0.1), {"vary": True}, {"gradient_accumulation_steps": 2}),
}


def often(names, *always):
    """Of many cases a few run every time, the others with the slow tests."""
    return [name if name in always else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", often(CASES, "lengths and passes", "dropout and lengths"))
def test_every_way_of_averaging_is_booked_to_the_last_digit(tmp_path, name):
    make, kind, options = CASES[name]
    torch.manual_seed(0)
    data, collator = texts(**kind), padded
    run, used = trained(tmp_path, make(), data, collator, **options)
    assert len(run) == used.state.global_step == 4
    assert_final(run, used.model.state_dict())
    x, labels = queried(data, collator)
    d = ks.decompose(ks.load(tmp_path / "run"), x, "loss", targets=labels)
    # Float32 keeps 6e-8 of each number; shares of a step and the step itself differ by as much.
    assert_closed(d, 1e-6)


def test_the_callback_changes_nothing_of_the_training(tmp_path):
    torch.manual_seed(0)
    model = gpt(0.1)
    other, data = copy.deepcopy(model), texts(vary=True)
    torch.manual_seed(1)
    trainer(tmp_path, other, data, padded).train()
    after = torch.rand(1)
    torch.manual_seed(1)
    run, _ = trained(tmp_path, model, data, padded)
    assert torch.equal(torch.rand(1), after)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert_final(run, other.state_dict())


HEADS = {
    "classes": ({"num_labels": 3}, lambda i: i % 3, "cross_entropy"),
    "a number": ({"num_labels": 1}, lambda i: i / 7, "mse_loss"),
    "several classes": ({"num_labels": 2}, lambda i: torch.tensor([1.0, i % 2]), "binary_cross_entropy_with_logits"),
}


@pytest.mark.parametrize("name", often(HEADS, "classes"))
def test_heads_of_samples_have_their_own_loss(tmp_path, name):
    options, label, loss = HEADS[name]
    torch.manual_seed(0)
    data = [{**item, "labels": label(i)} for i, item in enumerate(texts())]
    run, used = trained(tmp_path, bert(transformers.BertForSequenceClassification, **options), data,
                        gradient_accumulation_steps=2)
    assert run.loss.name == loss
    x, _ = queried(data)
    d = ks.decompose(ks.load(tmp_path / "run"), x)
    assert_closed(d, 1e-6)
    with torch.no_grad():
        used.model.eval()
        # The outputs explained are the logits; float32 against float64.
        torch.testing.assert_close(d.final.float(), used.model(**x).logits, atol=1e-5, rtol=1e-5)


def test_inputs_come_as_people_have_them(tmp_path):
    torch.manual_seed(0)
    data = [{**item, "labels": i % 3} for i, item in enumerate(texts())]
    model = bert(transformers.BertForSequenceClassification, num_labels=3)
    trained(tmp_path, model, data, max_steps=2)
    run = ks.load(tmp_path / "run", model=copy.deepcopy(model))
    x, _ = queried(data)
    by_name = ks.decompose(run, x)
    assert torch.equal(by_name.contributions, ks.decompose(run, tuple(x.values())).contributions)
    items = [{name: value for name, value in item.items() if name != "labels"} for item in data[:2]]
    assert torch.equal(by_name.contributions, ks.decompose(run, items).contributions)
    why = ks.explain(run, {name: t[:1] for name, t in x.items()})
    assert "0" in repr(why)
    with pytest.raises(DataError, match="'attention_mask' is missing"):
        ks.decompose(run, {"input_ids": x["input_ids"]})


def test_best_weights_that_are_loaded_at_the_end_are_no_step(tmp_path):
    torch.manual_seed(0)
    data = texts()
    callback = ks.integrations.HFCallback(tmp_path / "run")
    used = trainer(tmp_path, gpt(), data, padded, callback, max_steps=4, save_strategy="steps", save_steps=1,
                   eval_strategy="steps", eval_steps=1, load_best_model_at_end=True, metric_for_best_model="eval_loss",
                   greater_is_better=True, eval_dataset=data[:6])
    used.train()
    best = used.state.best_global_step
    assert best < 4  # the greatest loss is an early one, so other weights were loaded than those of the last step
    run = callback.run
    assert len(run) == 4
    for name, p in run.parameters(best).items():
        assert torch.equal(p, used.model.state_dict()[name.removeprefix("model.")])
    assert not torch.equal(run.row(4), run.row(best))
    x, labels = queried(data, padded)
    assert_closed(ks.decompose(run, x, "loss", targets=labels), 1e-6)


@pytest.mark.parametrize(("options", "words"), [
    ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha cannot be recorded"),
    ({"torch_compile": True}, "torch_compile=True cannot be recorded"),
])
def test_settings_that_cannot_be_recorded_are_named(tmp_path, options, words):
    with pytest.raises(RecordingError, match=words):
        trained(tmp_path, gpt(), texts(), **options)
    assert not (tmp_path / "run").exists()


def test_packed_rows_are_refused(tmp_path):
    data = [{name: t.tolist() for name, t in item.items()} for item in texts(vary=True)]
    with pytest.raises(RecordingError, match="packs several samples into a row"):
        trained(tmp_path, gpt(), data, transformers.DataCollatorWithFlattening())


def test_an_unknown_head_asks_for_a_loss(tmp_path):
    data = [{**item, "labels": 0} for item in texts()]
    with pytest.raises(RecordingError, match="known are heads that classify"):
        trained(tmp_path, bert(transformers.BertForNextSentencePrediction), data)


def test_another_loss_is_noticed_at_the_first_step(tmp_path):
    class Other(transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **_):
            outputs = model(**inputs)
            return outputs.logits.square().mean()

    callback = ks.integrations.HFCallback(tmp_path / "run")
    used = trainer(tmp_path, gpt(), texts(), callback=callback)
    other = Other(used.model, used.args, train_dataset=texts(), callbacks=[callback])
    with pytest.warns(UserWarning, match="differs by .* from that of the recorded loss"):
        other.train()


SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch, transformers
import kernelscope as ks

folder, word = Path(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.manual_seed(0)
{data}

class Kill(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if word == "kill" and state.global_step == {kill}:
            os.kill(os.getpid(), signal.SIGKILL)

args = transformers.TrainingArguments(
    str(folder / "out"), max_steps={steps}, save_steps={every}, save_strategy="steps", learning_rate=3e-3, use_cpu=True,
    report_to=[], disable_tqdm=True, logging_strategy="no", warmup_steps=3, seed=1, {options})
# The killer stands first, so that nothing is brought to the disk for this step.
trainer = transformers.Trainer(model, args, train_dataset=data, data_collator=collator,
                               callbacks=[Kill(), ks.integrations.HFCallback(folder / "run")])
trainer.train(resume_from_checkpoint=word == "resume")
torch.save(model.state_dict(), folder / "final.pt")
"""

CLASSES = """
sys.path.insert(0, {tests!r})
from tests.integrations.test_huggingface import bert, padded, texts
model = bert(transformers.BertForSequenceClassification, num_labels=3)
data, collator = [dict(item, labels=i % 3) for i, item in enumerate(texts(40))], None
"""

TEXTS = """
sys.path.insert(0, {tests!r})
from tests.integrations.test_huggingface import gpt, padded, texts
model, data, collator = gpt(0.1), texts(40, vary=True), padded
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classes", "texts"])
def test_a_training_killed_and_resumed_is_the_training(tmp_path, kind):
    from .killed import ROOT

    script = tmp_path / "train.py"
    data, options = {
        "classes": (CLASSES.format(tests=str(ROOT)), "per_device_train_batch_size=8"),
        "texts": (TEXTS.format(tests=str(ROOT)), "per_device_train_batch_size=4, gradient_accumulation_steps=2"),
    }[kind]
    script.write_text(SCRIPT.format(data=data, options=options, steps=24, every=7, kill=18))
    whole, parts = killed_and_resumed(script, tmp_path)
    cut = ks.load(parts)
    # The checkpoint of step 14 is on the disk, and so is everything before it.
    assert 14 <= len(cut) < 24
    assert start(script, tmp_path / "parts", "resume") == 0
    run, other = ks.load(parts), ks.load(whole)
    assert len(run) == len(other) == 24
    assert_final(run, final(tmp_path / "parts"))
    assert all(torch.equal(p, q) for p, q in zip(final(tmp_path / "parts").values(),
                                                 final(tmp_path / "whole").values(), strict=True))
    held, labels = run.samples.batch(torch.tensor([0, 1, 2]))
    asked = {} if kind == "classes" else {"output": "loss", "targets": labels}
    d, e = (ks.decompose(r, held, **asked) for r in (run, other))
    assert_closed(d, 1e-5)
    # What follows is computed from the same numbers in the same order, but for the chunks they lie in.
    torch.testing.assert_close(d.contributions, e.contributions, atol=1e-12, rtol=1e-9)
    # A second look at the same checkpoint: the steps behind it are dropped and made again.
    assert all(torch.equal(run.row(k), other.row(k)) for k in range(25))


def test_a_training_that_had_ended_is_left_as_it_is(tmp_path):
    torch.manual_seed(0)
    data, model = texts(), gpt()
    trained(tmp_path, model, data, padded, save_strategy="steps", save_steps=4)
    callback = ks.integrations.HFCallback(tmp_path / "run")
    again = trainer(tmp_path, gpt(), data, padded, callback, save_strategy="steps", save_steps=4)
    again.train(resume_from_checkpoint=True)
    assert len(callback.run) == 4
    assert ks.load(tmp_path / "run").meta["complete"]


def test_a_folder_that_is_taken_is_told_in_the_words_of_the_callback(tmp_path):
    torch.manual_seed(0)
    trained(tmp_path, gpt(), texts(), padded)
    with pytest.raises(ks.errors.StoreExists, match="or pass overwrite=True") as caught:
        trained(tmp_path, gpt(), texts(), padded)
    assert "resume=True" not in str(caught.value)


def test_batches_that_are_dispatched_are_told_by_the_setting(tmp_path):
    with pytest.raises(RecordingError, match="dispatch_batches=False"):
        trained(tmp_path, gpt(), texts(), padded, accelerator_config={"dispatch_batches": True})


class Stop(transformers.TrainerCallback):
    """Ctrl-C at a step."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt


def test_a_training_stopped_in_a_notebook_is_taken_up_by_another_callback(tmp_path):
    torch.manual_seed(0)
    model, data = gpt(), texts()
    options = {"save_strategy": "steps", "save_steps": 2}
    first = trainer(tmp_path / "out", model, data, callback=ks.integrations.HFCallback(tmp_path / "run"), **options)
    first.add_callback(Stop())
    with pytest.raises(KeyboardInterrupt):
        first.train()
    callback = ks.integrations.HFCallback(tmp_path / "run")
    trainer(tmp_path / "out", gpt(), data, callback=callback, **options).train(resume_from_checkpoint=True)
    assert len(callback.run) == 4
