"""``svda convert`` as a function: what is written, from which images."""

import pytest
import torch

from svda_analysis.checkpoint import load
from svda_analysis.convert_files import convert_file
from svda_analysis.converted import load_converted
from svda_analysis.errors import InputError


def test_a_checkpoint_converted_whole_stays_a_checkpoint(tiny, tmp_path):
    out = tmp_path / "svda.pt"
    steps = []
    found = convert_file(
        tiny["dot"],
        out,
        start="weights",
        data="sample",
        images=16,
        distill_steps=3,
        output_steps=2,
        progress=lambda *x: steps.append(x),
    )
    checkpoint = load(out)
    assert checkpoint.config.attention == "svda"
    assert checkpoint.config.sigma_form == "linear"
    assert checkpoint.optimizer is None
    assert checkpoint.epoch == load(tiny["dot"]).epoch
    assert checkpoint.history.empty  # it was another model's
    assert checkpoint.trace is None
    assert len(found.divergence) == 3
    assert len(found.apart) == 2
    assert steps == [(1, 3), (2, 3), (3, 3), (1, 2), (2, 2)]
    assert "sample" in found.images
    assert len(found.sites) == checkpoint.config.depth


def test_converted_in_part_it_is_a_file_of_its_own_kind(tiny, tmp_path):
    out = tmp_path / "late.pt"
    found = convert_file(tiny["dot"], out, blocks="last:1")
    assert found.images == ""
    model = load_converted(out)
    kinds = [layer.kind for layer in model.attention_layers()]
    assert (kinds[0], kinds[-1]) == ("dot", "svda")


def test_the_same_seed_gives_the_same_file(tiny, tmp_path):
    for name in "ab":
        convert_file(
            tiny["dot"], tmp_path / name, start="weights", blocks="last:1", data="sample", images=8, distill_steps=2
        )
    one, other = (load_converted(tmp_path / name).state_dict() for name in "ab")
    assert all(torch.equal(x, other[name]) for name, x in one.items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"images": 0}, "images must be a whole number of at least 1"),
        ({"distill_steps": -1}, "distill must be at least 0 steps"),
        ({"output_steps": -1}, "distill_output must be at least 0 steps"),
        ({"norm_row": -1.0}, "norm_row must be at least 0"),
        ({"to": "tanh"}, "attention must be one of"),
        ({"blocks": "last:9"}, "blocks must be all"),
        ({"start": "weights", "data": "nothing"}, "nothing"),
    ],
)
def test_bad_input_leaves_no_file(options, words, tiny, tmp_path):
    with pytest.raises(InputError, match=words):
        convert_file(tiny["dot"], tmp_path / "a.pt", **options)
    assert not list(tmp_path.iterdir())


def test_a_model_from_elsewhere_needs_to_be_told_its_images(tmp_path):
    with pytest.raises(InputError, match="data must be given"):
        convert_file("dot:vit_tiny?depth=1", tmp_path / "a.pt", start="weights")


def test_files_that_exist_are_kept(tiny, tmp_path):
    (tmp_path / "a.pt").write_text("mine")
    with pytest.raises(InputError, match="out already exists"):
        convert_file(tiny["dot"], tmp_path / "a.pt")
    convert_file(tiny["dot"], tmp_path / "a.pt", force=True)
    with pytest.raises(InputError, match="must not be what it is made from"):
        convert_file(tiny["dot"], tiny["dot"], force=True)
