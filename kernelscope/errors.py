"""What can go wrong, by name.

Every message finishes the sentence: what happened, where, the likely cause, how to mend it, and what is still safe.
"""


class KernelscopeError(Exception):
    """The root of every error raised on purpose; catch it to catch them all."""


class RecordingError(KernelscopeError):
    """A training run could not be recorded as it was asked."""


class DataError(KernelscopeError):
    """Something handed in has the wrong shape, type, order or content."""


class OutOfRange(DataError, IndexError):
    """A number names one of several things, and there are not so many."""


class NonFiniteError(DataError):
    """A number that must be finite is NaN or infinite."""


class StoreError(KernelscopeError):
    """A stored folder could not be written or read."""


class StoreCorrupt(StoreError):
    """Stored bytes are not the bytes that were written."""


class StoreBusy(StoreError):
    """Another process writes to the folder."""


class StoreFull(StoreError):
    """The disk has no room for what should be written; what was committed before is intact."""


class StoreExists(StoreError):
    """The folder already holds a store, and nobody asked to replace it."""


class UnsafeFile(StoreError):
    """A file asks for something no file of this kind may ask for; it was refused before it could do harm."""


class RuleError(KernelscopeError):
    """An optimizer's update cannot be unrolled."""


class ModelError(KernelscopeError):
    """A model cannot be used as a function of its parameters and inputs."""


class ProcessLost(KernelscopeError):
    """One of several processes that work together has ended, or does not answer."""


class OutOfBudget(KernelscopeError):
    """The computation would need more memory or time than it was given."""


class ConversionRefused(KernelscopeError):
    """A layer cannot be converted in the way that was asked for, and the reason is known before it is tried."""
