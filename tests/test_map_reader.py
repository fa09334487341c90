"""The map of a record, read once for layers that lie alike: the same as read for each."""

import dataclasses

import pytest
import torch

from svda_analysis.map_reader import MapReader
from svda_analysis.maps import map_of_image
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.tap import records
from svda_analysis.tokens import GivenLayout


@pytest.fixture
def found():
    torch.manual_seed(0)
    return records(ViT(ViTConfig(dim=24, depth=3, heads=2)), torch.randn(4, 1, 28, 28))


def test_each_record_has_its_own_map_on_the_layout_that_all_share(found):
    reader, given = MapReader(), GivenLayout()
    for record in found:
        one, alone = reader.map_of_image(record, 4, given), map_of_image(record, 4, given)
        assert one.record is record
        assert torch.equal(one.map(), alone.map())
        same = [field.name for field in dataclasses.fields(one) if field.name not in ("record", "arrangement", "index")]
        assert all(getattr(one, name) == getattr(alone, name) for name in same)
        assert one.plain
        assert alone.plain


def test_what_lies_otherwise_is_read_again(found):
    reader, given = MapReader(), GivenLayout()
    reader.map_of_image(found[0], 4, given)
    places = found[1].places
    mixed = found[1]._replace(places=places._replace(queries=places.queries.flip(-1)))
    assert reader.map_of_image(mixed, 4, given) == map_of_image(mixed, 4, given)
    few = found[1]._replace(places=places._replace(keys=places.keys.roll(1, -1)))
    assert reader.map_of_image(few, 4, given) == "with other keys than queries"
    assert reader.map_of_image(found[1]._replace(no_map="of no map"), 4, given) == "of no map"
    assert reader.map_of_image(found[1], 2, given) == map_of_image(found[1], 2, given)


def test_no_map_is_kept(found):
    reader = MapReader()
    one = reader.map_of_image(found[0], 4, GivenLayout())
    assert one.record.a is found[0].a
    assert reader._found.record.a.numel() == 1
