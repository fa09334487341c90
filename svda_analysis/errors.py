"""What "bad input" means here: one exception, shown by the command line as a single line with exit code 2."""

import contextlib
import dataclasses
import numbers
import os
import stat
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

_LONGEST_LINE = 1000  # characters; what a file holds may be shown in full nowhere
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"  # bidirectional marks
_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "None"}
_SORTS = {bool: bool, numbers.Integral: int, numbers.Real: float, str: str, NoneType: NoneType}  # the first that fits


class InputError(ValueError):
    """Bad input. The message names the argument or file, what is allowed, and what came: one line, whatever came."""

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(message))


class HaltedError(Exception):
    """A run that stopped before its end, through no fault of its input: one line, and the exit code that says why."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type, tuple[str, int]]:  # else one that another process sends could not be read
        return type(self), (str(self), self.code)


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


def check_file(path: str | os.PathLike[str], expected: str = "a file") -> None:
    """Raise :class:`InputError` unless there is a file with something in it: no folder, pipe, socket or device, which
    would be waited for or never end."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: the name holds a NUL
        raise InputError(f"no such file: {path}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a directory, expected {expected}")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is a pipe, a socket or a device, expected {expected}")
    if not status.st_size:
        raise InputError(f"{path} is empty, expected {expected}")


def check_name(text: str, what: str = "the name") -> None:
    """Raise :class:`InputError` for a name that is no valid UTF-8, which no report could show."""
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
        raise InputError(f"{what} must be valid UTF-8, got {shown!r}: rename it") from None


@contextlib.contextmanager
def reading(complaint: str) -> Iterator[None]:
    """Around a library that reads what a user gave: whatever it fails with becomes one line that begins so."""
    try:
        yield
    except (InputError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # what fails in a library of Rust is no Exception
        raise InputError(f"{complaint}: {one_line(_own_words(error))[:300]}") from None


def _own_words(error: BaseException) -> object:
    """What an error says; of one that a worker of a DataLoader passes on with its traceback, the end."""
    said = str(error).strip()
    return (
        said.splitlines()[-1]
        if "\nTraceback (most recent call last)" in said or "Original Traceback" in said
        else error
    )


def several(given: Any) -> list[Any]:
    """What a user may give one of, or several: a name, a path or an object alone is one."""
    return [*given] if isinstance(given, Iterable) and not isinstance(given, str | os.PathLike) else [given]


def check_fields(of: Any) -> None:
    """Raise :class:`InputError` unless each field of a dataclass holds what it is declared to, where that is one or
    several of ``bool``, ``int``, ``float`` (or a whole number), ``str`` and ``None``. Other numbers, such as NumPy's,
    become the plain values that files can hold."""
    declared = get_type_hints(type(of))
    for name in (field.name for field in dataclasses.fields(of)):
        hint, value = declared[name], getattr(of, name)
        allowed = get_args(hint) if get_origin(hint) is UnionType else (hint,)
        if not set(allowed) <= _PLAIN.keys():
            continue
        found = next((plain for kind, plain in _SORTS.items() if isinstance(value, kind)), None)
        if found is None or not (found in allowed or (found is int and float in allowed)):
            raise InputError(f"{name} must be {' or '.join(_PLAIN[one] for one in allowed)}, got {value!r}")
        if type(value) is not found:
            object.__setattr__(of, name, found(value))


def one_line(text: object, *, most: int = _LONGEST_LINE) -> str:
    """A text on one line of at most so many characters that is safe to show: control characters as ``\\x1b``, what has
    no UTF-8 as ``\\udc80``; of an error without words its type."""
    said = " ".join(line.strip() for line in str(text).splitlines()).strip()[:most]
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
