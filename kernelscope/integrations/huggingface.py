r"""The training of a Hugging Face ``Trainer``, recorded by a callback.

The Trainer calls its model by names, with the labels among them, and takes the loss from the model. A run needs inputs
in order and a loss for each sample. So the callback looks at one batch: what it holds beside the labels are the inputs;
and the loss is the one that the model's head computes, once for each sample, by the kind of the head.

How the Trainer averages needs no copy of its rules. A head that predicts tokens divides their sum by the number of
tokens of a step; the recorded loss of a text is its sum, and the factor between the two follows from the recorded
gradients, as that of clipping does.
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..arguments import as_path, as_switch
from ..errors import DataError, RecordingError
from ..losses import Loss, named_loss
from ..run.calling import FILLED, Calling, known_to_transformers
from ..run.classes import checked_names
from ..run.keeping import Keep
from ..run.order import collated
from ..run.prepared import within
from ..run.recording import Recording
from ..run.run import Run
from ..run.tape import Place

try:
    from transformers import TrainerCallback
except ImportError:
    raise DataError(
        "HFCallback records a Trainer of transformers, which is not installed. Install it with pip install "
        "'kernelscope[transformers]'."
    ) from None

#: Samples whose lengths are compared to see whether batches are padded each to its own length.
LOOKS = 16

#: Widths are rounded up to a multiple of this, as collators may pad.
MULTIPLE = 8

#: Heads with one label for each sample, and heads with one for each token.
OF_SAMPLES = ("ForSequenceClassification", "ForImageClassification", "ForVideoClassification",
              "ForAudioClassification")
OF_TOKENS = {"ForCausalLM": 1, "ForMaskedLM": 0, "ForTokenClassification": 0, "ForConditionalGeneration": 0}

#: Names by which several texts are told apart that share a row.
PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "seq_idx", "shift_labels")


class HFCallback(TrainerCallback):
    r"""Records the training of a ``transformers.Trainer``, from its beginning to its end.

    A run that was killed is taken up by ``Trainer.train(resume_from_checkpoint=True)``: what was recorded after the
    checkpoint is dropped and recorded again. Before each checkpoint everything is brought to the disk.

    The inputs of the recorded network are what the batches hold beside labels, in their order; ask about a point with a
    dictionary of them, or with a tuple in this order. Rows of tokens are made equally long where batches are padded
    each to its own length.

    Args:
        out: The folder to record into.
        loss: ``(outputs, labels) -> (n,)``, the loss of each sample where the Trainer minimises another one than its
            model's head computes; it must be a mean or a multiple of it that is minimised.
        keep: Which parameters are stored, as in :func:`kernelscope.record`.
        output: The name of what is explained, among what the model gives.
        overwrite: Whether a run in ``out`` may be replaced when a training begins anew.
        class_names: A word for each class; those of the model's configuration if not given.
        commit_every: Seconds after which recorded steps are brought to the disk.
        notes: Plain data to keep with the run.

    Attributes:
        recording: The :class:`Recording` under way, or the last one.

    Raises:
        RecordingError: If the training is one that cannot be recorded; the message says which setting makes it so.

    Example:
        >>> import transformers
        >>> callback = HFCallback("runs/bert")
        >>> isinstance(callback, transformers.TrainerCallback)
        True
    """

    def __init__(self, out: str | Path, *, loss: Callable[..., Tensor] | None = None, keep: int | str = "all",
                 output: str = "logits", overwrite: bool = False, class_names: Sequence[str] | None = None,
                 commit_every: float = 1.0, notes: dict[str, Any] | None = None):
        self.out = as_path(out, "out, the folder to record into,", 'HFCallback("runs/bert")')
        self.recording: Recording | None = None
        self._open, self._begun = False, 0
        self._loss = None if loss is None else Loss(loss)
        self._keep, self._output = Keep.parse(keep), output
        self._overwrite = as_switch(overwrite, "overwrite")
        self._class_names, self._notes = checked_names(class_names), notes or {}
        self._place = partial(Place, self.out, commit_every)

    @property
    def run(self) -> Run:
        """The recorded run, after the training."""
        if self.recording is None:
            raise RecordingError("No training was recorded yet. Give the callback to a Trainer and call train().")
        return self.recording.run

    # -- what the Trainer calls --------------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begins to record, or takes the recording up where a checkpoint was loaded."""
        self.close()
        # Of a training that was stopped in a notebook another callback may still hold the folder.
        for other in [one for one in _OPEN if one.out.absolute() == self.out.absolute()]:
            other.close()
        model, loader = kwargs["model"], kwargs["train_dataloader"]
        _refuse_settings(args)
        if not isinstance(loader, DataLoader):
            raise RecordingError(f"The Trainer reads a {type(loader).__name__}, and a recording listens to a torch "
                                 "DataLoader. Let get_train_dataloader return one.")
        self._begun = state.global_step
        self.recording = self._made(model, loader, args, self._begun)
        try:
            self.recording.__enter__()
        except RecordingError as error:
            if state.global_step:
                error.add_note(
                    "The Trainer says that it took up its checkpoint. If it warned of missing keys, it did not: some "
                    "models are saved under other names than they are loaded by."
                )
            raise
        self._open = True
        _OPEN.add(self)
        # A training that ends by an error tells no callback of it.
        atexit.register(_close, weakref.ref(self))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Brings steps to the disk before the Trainer does something with the parameters: saves them, or stops."""
        if control.should_save or control.should_evaluate or control.should_training_stop \
                or state.global_step >= state.max_steps:
            self._commit()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The same at the end of an epoch."""
        self._commit()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ends the recording."""
        recording = self._opened()
        if recording is not None and state.global_step and state.global_step == self._begun:
            # The checkpoint was one of the end: nothing was left to train, and what was recorded stays.
            self.close()
        elif recording is not None:
            self._open = False
            recording.__exit__(None, None, None)

    def close(self) -> None:
        """Ends a recording whose training ended by an error; what was recorded is kept."""
        recording, self._open = self._opened(), False
        _OPEN.discard(self)
        if recording is not None:
            error = RecordingError("The training ended before its end.")
            recording.__exit__(RecordingError, error, None)

    def _opened(self) -> Recording | None:
        return self.recording if self._open else None

    def _commit(self) -> None:
        recording = self._opened()
        if recording is not None and recording.steps:
            recording.commit()

    # -- what is recorded --------------------------------------------------------------------------------------------

    def _made(self, model: nn.Module, loader: DataLoader[Any], args: Any, begun: int) -> Recording:
        batch = _glance(loader)
        labels = [name for name in _label_names(model, args) if name in batch]
        if len(labels) != 1:
            raise RecordingError(
                f"The batches hold {' and '.join(labels) or 'no labels'}, and a recording compares the outputs of a "
                "model with one tensor of labels. Let the batches hold one, under a name of TrainingArguments("
                "label_names=[...])."
            )
        names = [name for name, value in batch.items() if isinstance(value, Tensor) and name not in labels]
        head = _Head(model, batch[labels[0]], float(args.label_smoothing_factor))
        loss = self._loss or head.loss()
        padding = getattr(getattr(model, "config", None), "pad_token_id", None)
        calling = Calling(
            tuple(names), self._output, (*labels, "num_items_in_batch"), _width(loader, names),
            padding if isinstance(padding, int) else FILLED["input_ids"], known_to_transformers(model),
        )
        notes = {**({"first_step": begun} if begun else {}), **self._notes}
        place = self._place(overwrite=self._overwrite and not begun, resume=begun > 0, resumable=False)
        return Recording(
            model, loader, loss, place=place,
            keep=self._keep, average=None, split=lambda given: ((), head.targets(given[labels[0]])), ids=None,
            class_names=self._class_names or head.class_names(), notes=notes, calling=calling,
        )


#: The callbacks whose training goes on, or was stopped without a word.
_OPEN: weakref.WeakSet[HFCallback] = weakref.WeakSet()


def _close(callback: weakref.ref[HFCallback]) -> None:
    found = callback()
    if found is not None:
        found.close()


class _Head:
    """What the head of a model computes from its outputs and labels.

    Args:
        model: The model.
        labels: The labels of two samples.
        smoothing: The label smoothing of the Trainer.
    """

    def __init__(self, model: nn.Module, labels: Tensor, smoothing: float):
        config: Any = getattr(model, "config", None)
        self._name, self._config = type(model).__name__, config
        kind = getattr(model, "loss_type", None) or ("ForCausalLM" if self._name in _language_models() else "")
        self._smoothing = {"label_smoothing": smoothing} if smoothing else {}
        self._shift, self._problem = OF_TOKENS.get(kind), None
        if getattr(config, "is_encoder_decoder", False) and self._shift is not None:
            self._shift = 0
        if kind in OF_SAMPLES:
            whole = labels.dtype in (torch.int64, torch.int32)
            self._problem = getattr(config, "problem_type", None) or (
                "regression" if config.num_labels == 1 else
                "single_label_classification" if whole else "multi_label_classification")

    def loss(self) -> Loss:
        """The loss of each sample.

        Raises:
            RecordingError: If the head is not known.
        """
        names = {"single_label_classification": "cross_entropy", "regression": "mse_loss",
                 "multi_label_classification": "binary_cross_entropy_with_logits"}
        name = names.get(self._problem or "")
        options: dict[str, Any] = self._smoothing if name == "cross_entropy" else {}
        if self._shift is not None:
            name = "token_cross_entropy"
            options = {**self._smoothing, **({"shift": self._shift} if self._shift else {})}
        found = None if name is None else named_loss(name, options)
        if found is None:
            raise RecordingError(
                f"The loss of each sample is not known for a {self._name}: known are heads that classify samples or "
                "tokens, and language models. Pass HFCallback(..., loss=...), a function (outputs, labels) -> (n,)."
            )
        return found

    def targets(self, labels: Any) -> Any:
        """The labels as the loss takes them."""
        if self._problem == "single_label_classification":
            return labels.reshape(-1)
        if self._problem == "regression":
            return labels.float().reshape(len(labels), -1)
        return labels

    def class_names(self) -> list[str] | None:
        """The names of the classes, where the configuration has some of its own."""
        words = getattr(self._config, "id2label", None) or {}
        if self._problem != "single_label_classification" or any(
                str(word) == f"LABEL_{number}" for number, word in words.items()):
            return None
        return checked_names([str(words[number]) for number in sorted(words)]) if words else None


def _language_models() -> set[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())


def _refuse_settings(args: Any) -> None:
    """Refuses what cannot be recorded, by the names of the settings.

    Raises:
        RecordingError: If there is one.
    """
    one = "Record a training that runs in one process; with gradient_accumulation_steps it may use batches as large."
    fp16 = args.fp16 and args.gradient_accumulation_steps > 1
    reasons = {
        f"world_size={args.world_size}": args.world_size > 1 and (
            f"its steps use gradients of samples that other processes saw. {one}"),
        f"n_gpu={args.n_gpu}": args.n_gpu > 1 and (
            "each GPU runs a copy of the network. Let the process see one: CUDA_VISIBLE_DEVICES=0."),
        "deepspeed": args.deepspeed and f"parameters and gradients are held in parts. {one}",
        "fsdp": args.fsdp and f"parameters are held in parts. {one}",
        "torch_compile=True": args.torch_compile and (
            "the callback is given the network that was compiled, which the loop does not call. Train without it."),
        "neftune_noise_alpha": args.neftune_noise_alpha and (
            "noise is added to the embeddings by a hook, so the network is not the function that is trained. Train "
            "without it, or with dropout."),
        "fp16=True with gradient accumulation": fp16 and (
            "the gradients that passes add up are scaled, and the sum no longer is. Use bf16=True."),
    }
    for name, reason in reasons.items():
        if reason:
            raise RecordingError(f"A training with {name} cannot be recorded: {reason}")


def _label_names(model: nn.Module, args: Any) -> list[str]:
    from transformers.utils import find_labels

    return list(args.label_names if args.label_names is not None else find_labels(type(model)))


def _glance(loader: DataLoader[Any]) -> Mapping[str, Any]:
    """Two samples put together as in a batch; nothing is drawn from the loader.

    Raises:
        RecordingError: If a batch is not a dictionary of tensors with a row for each sample.
    """
    base = within(loader)
    if not hasattr(base.dataset, "__len__") or not hasattr(base.dataset, "__getitem__"):
        raise RecordingError(
            "The Trainer reads a data set that is iterated, so its samples have no id by which a share could be "
            "booked. Give it one with a length and an index, such as datasets.Dataset or a list of dictionaries."
        )
    batch = collated(base, [0, min(1, len(base.dataset) - 1)])
    if not isinstance(batch, Mapping):
        raise RecordingError(f"The batches of the Trainer must be dictionaries; the collator gives a "
                             f"{type(batch).__name__}. Pass data_collator=transformers.default_data_collator.")
    packed = [name for name in PACKED if name in batch]
    odd = [name for name, value in batch.items() if isinstance(value, Tensor) and value.shape[:1] != (2,)]
    if packed or odd:
        name = (packed or odd)[0]
        raise RecordingError(
            f"The collator packs several samples into a row (two of them gave {name!r} another length than two), so "
            "rows are no samples, and shares would be booked on the wrong ones. Use a collator that pads instead, such "
            "as transformers.DataCollatorWithPadding."
        )
    return batch


def _width(loader: DataLoader[Any], names: Sequence[str]) -> int | None:
    """How long rows of tokens are made, where the collator pads each batch to a length of its own."""
    base = within(loader)
    if "input_ids" not in names:
        return None
    places = range(0, len(base.dataset), max(1, len(base.dataset) // LOOKS))
    if len({collated(base, [i])["input_ids"].shape[1] for i in places}) < 2:
        return None
    longest = max(collated(base, [i])["input_ids"].shape[1] for i in range(len(base.dataset)))
    return -(-longest // MULTIPLE) * MULTIPLE
