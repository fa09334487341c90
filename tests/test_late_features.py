"""What the first late block reads, kept on disk for other runs."""

import shutil
from pathlib import Path

import pytest
import torch
from late_cases import base_spec, photographs

from svda_analysis.converted import learned_of
from svda_analysis.errors import InputError
from svda_analysis.late_blocks import train_late_blocks
from svda_analysis.recipe import TrainConfig
from svda_analysis.specs import open_model


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("photographs"))


def trained(spec, data, out, *, seed=0, **how):
    recipe = TrainConfig(dataset=data, epochs=1, batch_size=4, probe_images=4, lr=1e-3, seed=seed)
    told = []
    train_late_blocks(spec, recipe, out, **{"blocks": 2, **how}, progress=lambda *at: told.append(at))
    return open_model(out).model.state_dict(), len(told)


@pytest.mark.parametrize("library", ["timm", "hf vit"])
def test_kept_features_give_the_same_run_and_are_read_once(library, data, tmp_path):
    spec, kept = base_spec(library, tmp_path), tmp_path / "kept"
    fresh, _ = trained(spec, data, tmp_path / "fresh.pt")
    first, read = trained(spec, data, tmp_path / "first.pt", features=kept)
    again, read_again = trained(spec, data, tmp_path / "again.pt", features=kept)
    assert (read > 0, read_again) == (True, 0)
    for other in (first, again):
        assert all(torch.equal(fresh[name], other[name]) for name in fresh)
    _, of_another = trained(spec, data, tmp_path / "dot.pt", features=kept, attention="dot", seed=1)
    assert of_another == 0
    assert [path.suffix for path in kept.iterdir()] == [".features"]


def test_another_base_other_blocks_and_other_images_are_read_for_themselves(data, tmp_path):
    spec, kept = base_spec("timm", tmp_path), tmp_path / "kept"
    trained(spec, data, tmp_path / "a.pt", features=kept)
    weights = torch.load(tmp_path / "weights.pt")
    weights["blocks.0.mlp.fc1.bias"] += 0.1
    torch.save(weights, tmp_path / "other.pt")
    other = spec.replace("weights.pt", "other.pt")
    assert trained(other, data, tmp_path / "b.pt", features=kept)[1] > 0
    assert trained(spec, data, tmp_path / "c.pt", features=kept, blocks=1)[1] > 0
    more = photographs(tmp_path / "more", train=15)
    assert trained(spec, more, tmp_path / "d.pt", features=kept)[1] > 0
    files = sorted((tmp_path / "more" / "train" / "red").iterdir())
    shutil.copy(files[0], files[-1])  # another image under an old name
    assert trained(spec, more, tmp_path / "e.pt", features=kept)[1] > 0
    assert len(list(kept.iterdir())) == 5


def test_the_same_weights_in_another_model_are_read_for_themselves(data, tmp_path):
    spec, kept = base_spec("timm", tmp_path), tmp_path / "kept"
    trained(spec, data, tmp_path / "a.pt", features=kept)
    assert trained(spec.replace("num_heads=2", "num_heads=4"), data, tmp_path / "b.pt", features=kept)[1] > 0


def test_a_kept_file_that_is_cut_off_is_made_anew(data, tmp_path):
    spec, kept = base_spec("timm", tmp_path), tmp_path / "kept"
    before, _ = trained(spec, data, tmp_path / "a.pt", features=kept)
    (file,) = kept.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    after, read = trained(spec, data, tmp_path / "b.pt", features=kept)
    assert read > 0
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_one_that_is_killed_leaves_nothing_that_counts(data, tmp_path):
    spec, kept = base_spec("timm", tmp_path), tmp_path / "kept"

    def stop(*_):
        raise KeyboardInterrupt

    recipe = TrainConfig(dataset=data, epochs=1, batch_size=4, probe_images=4)
    with pytest.raises(KeyboardInterrupt):
        train_late_blocks(spec, recipe, tmp_path / "late.pt", blocks=2, features=kept, progress=stop)
    assert list(kept.iterdir()) == []  # nor what was begun, which may be large
    assert trained(spec, data, tmp_path / "late.pt", features=kept)[1] > 0
    assert [path.suffix for path in kept.iterdir()] == [".features"]
    assert learned_of(open_model(tmp_path / "late.pt").model).epoch == 1


def test_a_folder_that_cannot_be_written_is_said_first(data, tmp_path):
    Path(tmp_path / "file").write_text("mine")
    recipe = TrainConfig(dataset=data, epochs=1, batch_size=4)
    with pytest.raises(InputError, match=r"features: the folder .* cannot be written"):
        train_late_blocks(
            base_spec("timm", tmp_path), recipe, tmp_path / "late.pt", features=tmp_path / "file" / "kept"
        )
