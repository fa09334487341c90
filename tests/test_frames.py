"""The schemas of frames, and what makes and checks one."""

import pandas as pd
import pytest

from svda_analysis import frames
from svda_analysis.errors import InputError
from svda_analysis.frames import MAP_COLUMNS, TABLE_COLUMNS, check_columns, each_row, make_frame

SCHEMAS = {name: schema for name, schema in vars(frames).items() if name.endswith("_COLUMNS")} | MAP_COLUMNS
SCHEMAS.pop("MAP_COLUMNS")


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_empty_frame_has_every_column_with_its_dtype(name):
    frame = make_frame([], SCHEMAS[name])
    assert frame.empty
    assert dict(frame.dtypes.astype(str)) == SCHEMAS[name]


def test_what_a_row_leaves_out_is_missing_and_what_it_has_too_much_is_dropped():
    frame = make_frame([{"model": "vit", "mean": 1, "colour": "red"}, {"layer": 2}], TABLE_COLUMNS)
    assert list(frame) == list(TABLE_COLUMNS)
    assert dict(frame.dtypes.astype(str)) == TABLE_COLUMNS
    assert frame["mean"].tolist() == pytest.approx([1.0, float("nan")], nan_ok=True)
    assert frame["layer"].tolist() == [pd.NA, 2]
    assert frame["model"].tolist() == ["vit", pd.NA]


def test_rows_are_named_tuples():
    rows = each_row(pd.DataFrame({"model": ["a", "b"], "mean": [1.0, 2.0]}))
    assert [(row.model, row.mean) for row in rows] == [("a", 1.0), ("b", 2.0)]


def test_missing_columns_and_an_empty_frame_are_named():
    frame = pd.DataFrame({"model": ["a"], "mean": [1.0]})
    check_columns(frame, ["mean"])
    check_columns(frame, [])
    with pytest.raises(InputError, match="history lacks the columns seed, layer; it has model, mean"):
        check_columns(frame, ["seed", "mean", "layer"], "history")
    with pytest.raises(InputError, match="table has no rows"):
        check_columns(frame[:0], ["mean"])
