"""One exception for bad input, on one line; and whether a folder can be written to, without a trace."""

import pytest

from svda_analysis.errors import DataNotFoundError, InputError, check_writable, one_line


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


def test_bad_input_is_told_on_one_line_whatever_came():
    for kind in (InputError, DataNotFoundError):
        assert str(kind("no file a\nb\x1b[31m\u202e")) == "no file a b\\x1b[31m\\u202e"
    assert len(str(InputError("x" * 10**6))) == 1000
