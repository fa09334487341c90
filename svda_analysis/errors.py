"""What "bad input" means here: one exception, shown by the command line as a single line with exit code 2."""

import tempfile
import unicodedata
from pathlib import Path

_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"  # bidirectional marks


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
    """A text on one line that is safe to show: control characters as ``\\x1b``, what has no UTF-8 as ``\\udc80``; of an
    error without words its type."""
    said = " ".join(line.strip() for line in str(text).splitlines()).strip()
    return printable(said) or (type(text).__name__ if isinstance(text, BaseException) else "")


def printable(text: str) -> str:
    """A text without what a terminal takes as a command: control characters (all but tab and new line), marks that turn
    the direction of writing, and surrogates are written out."""
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or not _is_command(c) else repr(c)[1:-1] for c in text)


def _is_command(character: str) -> bool:
    """Whether a character is of Unicode's categories Cc, Cs, or a format character that turns or hides text."""
    kind = unicodedata.category(character)
    return kind in ("Cc", "Cs", "Zl", "Zp") or (kind == "Cf" and character in _TURNING)
