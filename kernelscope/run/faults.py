"""What can go wrong while a loop is recorded, in sentences: what happened, and what to do."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch

from ..errors import NonFiniteError, RecordingError, StoreError, StoreFull

#: Where the lines are that are nobody's loop.
NOT_THE_LOOP = tuple(str(Path(file).parent) for file in (torch.__file__, __file__))


def warn(message: str) -> None:
    """Warns at the line of the loop that led here, which is below those of torch and of the recorder."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(NOT_THE_LOOP):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def non_finite(step: int, what: str, more: str) -> NonFiniteError:
    """A gradient or a parameter is no number."""
    return NonFiniteError(
        f"At step {step} {what} is NaN or infinite ({more}), so no share of it can be booked. Look at the loss of this "
        "batch and the learning rate, or clip gradients. The steps before it are kept."
    )


def never_iterated(step: int) -> RecordingError:
    """A step before the first batch."""
    return RecordingError(
        f"The optimizer makes step {step}, but the recorded loader was never iterated, so the samples of the step are "
        "unknown. Give record(...) the loader that the loop reads, and begin to iterate it inside the block."
    )


def other_rows(step: int) -> RecordingError:
    """A step after a pass over rows that no batch explains."""
    return RecordingError(
        f"The optimizer makes step {step} after a forward pass whose number of rows is not that of the batch that was "
        "delivered. Give record(...) the loader that the loop reads; in a loop without a loader call "
        "recording.batch(ids) before each forward pass."
    )


def not_called(step: int) -> RecordingError:
    """A step without a pass."""
    return RecordingError(
        f"The optimizer makes step {step}, but the recorded model was not called on a batch of the recorded loader "
        "since the step before. Was the model replaced or wrapped after record(...)? Record the module that the loop "
        "calls; of one that was compiled with torch.compile that is the compiled module."
    )


def nothing_recorded(foreign: int, batches: int, unread: bool, what: str = "recorded model") -> RecordingError:
    """A block without a step of the recorded model.

    Args:
        foreign: The number of steps that moved other things.
        batches: The number of batches that came.
        unread: Whether there was a loader, and it gave none.
        what: What was recorded.
    """
    if foreign:
        return RecordingError(
            f"{foreign} optimizer steps were seen and none of them moved the {what}. Was it replaced after the "
            f"recording was made? Create the {what.split()[-1]}, then the recording, then the optimizer from its "
            "parameters()."
        )
    if unread:
        return RecordingError(
            "The recorded loader was never iterated and no optimizer step was seen. Put the training loop inside the "
            "`with ks.record(...)` block, in this process."
        )
    return RecordingError(
        f"{batches} batches were delivered, but no optimizer step was seen. A step counts when optimizer.step() of a "
        "torch.optim optimizer runs inside the `with ks.record(...)` block."
    )


def rescued(failure: StoreError, out: Path | None, stored: int, steps: int, kept: bool,
            resumable: bool = True) -> str:
    """What is left of a recording whose folder failed it.

    Args:
        failure: What went wrong.
        out: The folder.
        stored: The number of steps in it.
        steps: The number of recorded steps.
        kept: Whether all of them are in memory.
        resumable: Whether the recording could be taken up.
    """
    some = f"{stored} of {steps} recorded steps are safe in {out}" if stored else (
        f"None of the {steps} recorded steps is in {out}")
    if not kept:
        on = ", or go on from there with resume=True" if resumable else ""
        way = f": open them with kernelscope.load{on}" if stored else ""
        return f"{some}{way}."
    room = "make room and " if isinstance(failure, StoreFull) else ""
    return f"{some}, and all of them are in recording.run: {room}call recording.run.save(...) with another folder."


def no_run_yet() -> RecordingError:
    """A run that is asked for too early."""
    return RecordingError(
        "There is no run yet. Put the training loop inside `with ks.record(...) as recording:` and read recording.run "
        "after the block; if the block ended by an error before its first step, nothing was kept."
    )
