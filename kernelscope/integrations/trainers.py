"""Trainers of ``transformers`` in a script that does not say it is recorded: the first one is given a callback."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..errors import RecordingError
from ..run.run import Run

if TYPE_CHECKING:
    from .huggingface import HFCallback

#: Where the Trainer's callbacks are called from; it is never imported from here.
HOME = "transformers.trainer_callback"


class Trainers:
    """A block in which the first training by a Trainer is recorded.

    Args:
        out: The folder to record into.
        keep: Which parameters are stored.
        overwrite: Whether a run in ``out`` may be replaced.
        notes: Plain data to keep with the run.

    Attributes:
        found: The name of the network that was recorded, or ``None``.
    """

    def __init__(self, out: Path, *, keep: int | str, overwrite: bool, notes: dict[str, Any]):
        self._out, self._options = out, {"keep": keep, "overwrite": overwrite, "notes": notes}
        self._handler: Any = None
        self._plain: Any = None
        self._callback: HFCallback | None = None
        self.found: str | None = None

    def __enter__(self) -> Self:
        self.look()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._callback is not None:
            self._callback.close()
        if self._handler is not None:
            self._handler.on_train_begin = self._plain
            self._handler = None

    @property
    def run(self) -> Run | None:
        """The recorded run, if a Trainer was found."""
        return None if self._callback is None or self._callback.recording is None else self._callback.run

    def look(self) -> None:
        """Gets ready once the script has imported the package; asked again, it does nothing."""
        home = sys.modules.get(HOME)
        if home is None or self._handler is not None:
            return
        self._handler = home.CallbackHandler
        plain = self._plain = self._handler.on_train_begin
        trainers = self

        @functools.wraps(plain)
        def begin(handler: Any, *args: Any, **kwargs: Any) -> Any:
            trainers._give(handler)
            return plain(handler, *args, **kwargs)

        self._handler.on_train_begin = begin

    def _give(self, handler: Any) -> None:
        from .huggingface import HFCallback

        if self._callback is not None:
            # One training is recorded; others run as they are.
            handler.callbacks = [callback for callback in handler.callbacks if callback is not self._callback]
        elif not any(isinstance(callback, HFCallback) for callback in handler.callbacks):
            self._callback = _Unasked(self._out, **self._options)
            self.found = type(handler.model).__name__
            handler.add_callback(self._callback)


def _Unasked(out: Path, **options: Any) -> HFCallback:  # noqa: N802
    from .huggingface import HFCallback

    class Unasked(HFCallback):
        """A callback that says how to give one by hand, where the training cannot be recorded by itself."""

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            try:
                super().on_train_begin(*args, **kwargs)
            except RecordingError as error:
                raise RecordingError(
                    f"{error}\nA Trainer in a script is recorded by one line: Trainer(..., callbacks=["
                    f"kernelscope.integrations.HFCallback({str(out)!r}, ...)])."
                ) from error

    return Unasked(out, **options)
