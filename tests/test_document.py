"""What a document holds, in the order of reading."""

import pandas as pd

from svda_analysis.document import Document, Picture, Points, Section, Table


def test_blocks_tables_and_pictures_come_in_the_order_of_reading():
    first, second = (Table(name=name, text=pd.DataFrame({"a": ["1"]})) for name in ("first", "second"))
    picture = Picture(name="drawn", draw=list)
    points = Points(("one", "two"))
    document = Document(
        title="All",
        lead=("Read this.", first),
        sections=(
            Section(name="a", title="A", blocks=(points, picture)),
            Section(name="empty"),
            Section(name="b", title="B", blocks=(second, "The end."), level=3),
        ),
    )
    assert all(
        found is wanted
        for found, wanted in zip(
            document.blocks(), ["Read this.", first, points, picture, second, "The end."], strict=True
        )
    )
    assert [table.name for table in document.tables] == ["first", "second"]
    assert document.pictures == [picture]


def test_a_picture_is_described_by_its_caption_or_its_name_and_drawn_when_asked():
    drawn = []
    picture = Picture(name="by_layer", draw=lambda: drawn.append("once"), caption="Indicators by layer")
    assert (picture.alt, Picture(name="by_layer", draw=list).alt) == ("Indicators by layer", "by_layer")
    assert drawn == []
    picture.draw()
    assert drawn == ["once"]
