"""One exception for bad input, on one line; and whether a folder can be written to, without a trace."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import pytest
import torch

from svda_analysis.errors import DataNotFoundError, InputError, check_fields, check_writable, one_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("  a\n\n b \r\n c", "a  b c"),
        (InputError("x\ny"), "x y"),
        (MemoryError(), "MemoryError"),
        (KeyError(""), "''"),
        ("", ""),
        (None, "None"),
    ],
)
def test_any_text_is_one_line_and_a_wordless_error_says_its_type(text, line):
    assert one_line(text) == line


def test_missing_data_are_bad_input_and_bad_input_is_a_value_error():
    assert issubclass(DataNotFoundError, InputError)
    assert issubclass(InputError, ValueError)


def test_a_folder_that_can_be_made_is_writable_and_nothing_is_left(tmp_path):
    check_writable(tmp_path / "a" / "b", "output folder")
    check_writable(tmp_path, "output folder")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(InputError, match=f"report folder {place} cannot be written: "):
            check_writable(place, "report folder")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="report folder file/x cannot be written: "):
        check_writable(type(tmp_path)("file/x"), "report folder")
    assert (tmp_path / "file").read_text() == "mine"


@dataclasses.dataclass(frozen=True)
class Declared:
    switch: bool = True
    count: int = 1
    share: float = 0.5
    name: str = "a"
    most: int | None = None
    start: float | str = "one"
    way: Literal["a", "b"] = "a"
    many: tuple[int, ...] | None = None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"switch": "no"}, "switch must be true or false, got 'no'"),
        ({"switch": 1}, "switch must be true or false, got 1"),
        ({"count": True}, "count must be a whole number, got True"),
        ({"count": 1.5}, "count must be a whole number, got 1.5"),
        ({"count": np.float64(1)}, r"count must be a whole number, got (np\.float64\()?1\.0"),
        ({"share": torch.tensor(0.5)}, r"share must be a number, got tensor\(0\.5"),
        ({"share": False}, "share must be a number, got False"),
        ({"share": None}, "share must be a number, got None"),
        ({"name": 3}, "name must be text, got 3"),
        ({"most": 2.0}, "most must be a whole number or None, got 2.0"),
        ({"start": [1]}, r"start must be a number or text, got \[1\]"),
    ],
)
def test_a_field_that_is_not_what_it_is_declared_to_be_is_named(change, said):
    with pytest.raises(InputError, match=said):
        check_fields(Declared(**change))


def test_fields_that_are_what_they_are_declared_to_be_stay_and_are_plain():
    check_fields(Declared())
    given = Declared(share=1, most=3, start=2.0, way="c", many=[1])  # the last two have checks of their own
    check_fields(given)
    assert given == Declared(share=1, most=3, start=2.0, way="c", many=[1])
    assert type(given.share) is int
    given = Declared(share=np.float32(0.25), count=np.int64(3))
    check_fields(given)
    assert (type(given.share), type(given.count)) == (float, int)
    assert (given.share, given.count) == (0.25, 3)


def test_bad_input_is_told_on_one_line_whatever_came():
    for kind in (InputError, DataNotFoundError):
        assert str(kind("no file a\nb\x1b[31m\u202e")) == "no file a b\\x1b[31m\\u202e"
    assert len(str(InputError("x" * 10**6))) == 1000
