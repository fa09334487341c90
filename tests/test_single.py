"""One model measured by several processes together gives what it gives to one."""

import copy
import math

import numpy as np
import pytest
import torch
from teams import in_team
from torch.utils.data import DataLoader, TensorDataset

from svda_analysis.model import ViT, ViTConfig
from svda_analysis.options import Options
from svda_analysis.single import analyze_subject
from svda_analysis.soundness import NotFiniteError
from svda_analysis.sources import open_feed
from svda_analysis.specs import open_model
from svda_analysis.team import ALONE

IMAGES, LABELS = torch.randn(90, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.arange(90) % 10


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    made = ViT(ViTConfig(attention="svda", dim=24, depth=2, heads=2)).eval()
    torch.nn.init.normal_(made.head.weight)
    return made


def measured(model, team, data=None, progress=None, **options):
    subject = open_model(copy.deepcopy(model))
    feed = open_feed(TensorDataset(IMAGES, LABELS) if data is None else data, subject)
    given = Options(**{"examples": 0, "batch_size": 8, "costly_images": 20, **options})
    return analyze_subject(subject, feed, given, team=team, progress=progress)


def alike(found, wanted):
    """Whether two analyses hold the same numbers, but for rounding in float64."""
    for name in ("table", "spectra"):
        got, want = getattr(found, name), getattr(wanted, name)
        assert list(got["source"]) == list(want["source"])
        for column in want:
            if want[column].dtype == "float64":
                np.testing.assert_allclose(got[column], want[column], rtol=1e-12, atol=1e-15, err_msg=column)
            else:
                assert got[column].equals(want[column]), column
    assert found.warnings == wanted.warnings
    assert found.runs[0].images == wanted.runs[0].images
    assert found.runs[0].settings == wanted.runs[0].settings


@pytest.mark.parametrize(
    ("world", "options"),
    [
        (2, {"indicators": ["default", "source", "field", "ablation"], "examples": 2, "images": 30}),
        (3, {"batch_size": 25, "images": 60, "indicators": ["default", "field"]}),
        (4, {"batch_size": 64, "costly_images": None}),  # fewer batches than processes
        (2, {"memory": "1MB", "indicators": ["default", "field"], "images": 12, "batch_size": None}),
    ],
)
def test_several_processes_give_what_one_gives(world, options, model):
    wanted = measured(model, ALONE, **options)
    for found in in_team(world, lambda team: measured(model, team, **options)):
        alike(found, wanted)
        for name, shown in wanted.examples.items():
            np.testing.assert_array_equal(found.examples[name].maps, shown.maps)


@pytest.mark.parametrize("kind", ["tensor", "loader"])
def test_whatever_holds_the_images(kind, model):
    data = IMAGES if kind == "tensor" else DataLoader(TensorDataset(IMAGES, LABELS), batch_size=7)
    wanted = measured(model, ALONE, data, images=40)
    for found in in_team(2, lambda team: measured(model, team, data, images=40)):
        alike(found, wanted)


@pytest.mark.parametrize("world", [2, 3])
def test_with_precision_all_stop_at_the_first_round_that_is_known_well_enough(world, model):
    options = {"precision": 0.2, "indicators": ["attention_entropy", "mass_90"]}
    alone = measured(model, ALONE, IMAGES, **options).runs[0].images
    assert 64 <= alone < 90
    rounds = math.ceil(alone / 8 / world) * 8 * world
    for found in in_team(world, lambda team: measured(model, team, IMAGES, **options)):
        assert found.runs[0].images == min(rounds, 90)
        wanted = measured(model, ALONE, IMAGES, **{**options, "precision": None, "images": min(rounds, 90)})
        np.testing.assert_allclose(found.table["mean"], wanted.table["mean"], rtol=1e-12)
        assert found.table["n"].equals(wanted.table["n"])


def test_precision_that_is_never_reached_ends_with_the_images_of_all(model):
    options = {"precision": 1e-6, "indicators": ["attention_entropy"]}
    wanted = measured(model, ALONE, IMAGES, **options)
    for found in in_team(2, lambda team: measured(model, team, IMAGES, **options)):
        alike(found, wanted)


def test_a_batch_that_is_not_finite_in_one_process_is_the_end_of_all(model):
    def work(team):
        def ruined(module, given, output):
            return output * float("nan") if team.rank else output

        other = copy.deepcopy(model)
        other.blocks[0].register_forward_hook(ruined)
        said = pytest.raises(NotFiniteError, match=r"ViT has numbers .* the first are in the output of blocks\.0")
        with said, team.failing_together(NotFiniteError):
            measured(other, team, indicators=["attention_entropy"])
        return team.gather(team.rank)

    assert in_team(2, work) == [[0, 1]] * 2


def test_progress_is_where_the_process_is_in_the_whole_and_comes_to_its_end(model):
    def work(team):
        seen = []
        measured(model, team, progress=lambda *at: seen.append(at), indicators=["attention_entropy"], images=50)
        return seen

    first, second = in_team(2, work)
    assert first == [(8, 50), (24, 50), (40, 50), (50, 50), (50, 50)]
    assert second == [(16, 50), (32, 50), (48, 50), (50, 50)]
