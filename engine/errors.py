"""The error tree of stt2v.

    Stt2vError                 something went wrong; exit code 1
    ├── UsageError             an argument has an invalid value; exit code 2
    │   └── PlanError          the frame arithmetic cannot be done as asked
    ├── InputError             a file the user gave cannot be used; exit code 2
    ├── EngineSetError         an engine set is missing, damaged or does not fit; exit code 1
    │   └── ParityError        ... or its engines compute wrongly on this machine
    ├── BackendError           a compiled engine failed at run time; exit code 1
    │   ├── OutOfMemoryError   ... because memory ran out
    │   └── DeviceLostError    ... and its device is of no use to this process any more
    ├── StageError             a stage produced frames that cannot be right (NaN, constant); exit code 1
    │   └── DriftError         ... or that are farther from the beginning than was allowed
    ├── OutputError            the video cannot be written; exit code 1
    ├── BatchError             some jobs of a batch failed, the others did not; exit code 1
    ├── StoppedError           a run was stopped or had to pause, and can go on; exit code 3
    └── ExportError            weights or graphs cannot be converted or compiled; exit code 1

Every message says what came, what was expected and what to do, in one line.
"""


class Stt2vError(Exception):
    """Base of every error that stt2v raises on purpose."""

    exit_code = 1


class UsageError(Stt2vError):
    """An argument has an invalid value."""

    exit_code = 2


class PlanError(UsageError):
    """Frames, chunks or windows cannot be arranged as asked."""


class InputError(Stt2vError):
    """A file that the user gave cannot be used."""

    exit_code = 2


class EngineSetError(Stt2vError):
    """An engine set is missing, damaged or does not fit the request."""


class ParityError(EngineSetError):
    """The engines of a set compute something else on this machine than they should."""


class BackendError(Stt2vError):
    """A compiled engine failed at run time."""


class OutOfMemoryError(BackendError):
    """A compiled engine ran out of memory."""


class DeviceLostError(BackendError):
    """A card failed so that only another process can use it again."""


class StageError(Stt2vError):
    """A stage produced frames that cannot be right."""


class DriftError(StageError):
    """A chunk is farther from the beginning of the video than was allowed."""


class OutputError(Stt2vError):
    """The video cannot be written where it was asked for."""


class BatchError(Stt2vError):
    """Some jobs of a batch failed, and the others did not."""


class StoppedError(Stt2vError):
    """A run was stopped or had to pause; what it finished is kept."""

    exit_code = 3


class ExportError(Stt2vError):
    """Weights or graphs cannot be converted or compiled."""
