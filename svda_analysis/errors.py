"""What "bad input" means here: one exception, shown by the command line as a single line with exit code 2."""

import tempfile
from pathlib import Path


class InputError(ValueError):
    """Bad input. The message names the argument or file, what is allowed, and what came."""


class HaltedError(Exception):
    """A run that stopped before its end, through no fault of its input: one line, and the exit code that says why."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class DataNotFoundError(InputError):
    """A data set that is not on this machine; the message says how to get it."""


def check_writable(folder: Path, name: str) -> None:
    """Raise :class:`InputError` unless files can be put into ``folder``, or it can be made. Leaves nothing behind."""
    try:
        nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InputError(f"{name} {folder} cannot be written: {error.strerror}") from None


def one_line(text: object) -> str:
    """A text on one line; of an error without words its type."""
    said = " ".join(line.strip() for line in str(text).splitlines()).strip()
    return said or (type(text).__name__ if isinstance(text, BaseException) else "")
