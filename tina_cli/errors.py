"""The errors a user can meet: one message, one hint, one exit code each."""

from __future__ import annotations


class TinaError(Exception):
    """A failure that is the input's or the environment's, not a bug: shown as `error:` and `hint:` lines."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(TinaError):
    """The command's words do not make sense together."""

    exit_code = 2


class PromptError(UsageError):
    """The prompt names no usable set of classes."""


class DataError(TinaError):
    """A data file or folder is missing, broken or not what it claims to be."""


class ImageError(DataError):
    """A picture cannot be used."""


class ModelFileError(DataError):
    """A model file is not one of ours, is damaged, or does not fit."""


class GeneratorError(DataError):
    """A generator directory is missing, damaged, or does not fit."""


class OutputError(TinaError):
    """The result cannot be written where it was asked for."""


class DeviceError(TinaError):
    """The requested device is not there."""


class GateMissed(TinaError):
    """A gate such as --min-accuracy was missed."""

    exit_code = 3
