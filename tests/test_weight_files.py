"""Files of weights: what is read, what is told of them, and the digest of tensors. Hostile ones: test_checkpoint.py."""

import hashlib
from fractions import Fraction

import pytest
import torch

from svda_analysis.errors import InputError
from svda_analysis.weight_files import check_torch_file, is_plain, read_safetensors, read_weights_only, tensor_digest

STATE = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(3, dtype=torch.int64)}


def same_as_state(found):
    return found.keys() == STATE.keys() and all(torch.equal(found[name], x) for name, x in STATE.items())


def test_what_torch_and_safetensors_wrote_is_read(tmp_path):
    for name, zipped in (("new.pt", True), ("old.pt", False)):
        torch.save(STATE, tmp_path / name, _use_new_zipfile_serialization=zipped)
        check_torch_file(tmp_path / name)
        assert same_as_state(read_weights_only(tmp_path / name))
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors comes with timm")
    safetensors.save_file(STATE, tmp_path / "w.safetensors")
    assert same_as_state(read_safetensors(tmp_path / "w.safetensors"))


def test_a_member_that_rotted_is_named(tmp_path):
    torch.save(STATE, tmp_path / "w.pt")
    data = bytearray((tmp_path / "w.pt").read_bytes())
    data[data.index(STATE["b"].numpy().tobytes()) + 7] ^= 64
    (tmp_path / "w.pt").write_bytes(data)
    with pytest.raises(InputError, match=r"w\.pt is damaged: the checksum of its member w/data/\d does not fit$"):
        read_weights_only(tmp_path / "w.pt")


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}"])
def test_a_safetensors_file_that_is_none_is_one_line(tmp_path, content):
    pytest.importorskip("safetensors", reason="safetensors comes with timm")
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"w\.safetensors is [^\n]+$"):
        read_safetensors(tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="no such file"):
        read_safetensors(tmp_path / "none.safetensors")


def test_the_digest_is_sha256_over_names_dtypes_shapes_and_bytes_whatever_the_order():
    expected = hashlib.sha256(b"a torch.int64 ()\n" + STATE["a"].numpy().tobytes())
    expected.update(b"b torch.float32 (2, 3)\n" + STATE["b"].numpy().tobytes())
    assert tensor_digest(STATE) == expected.hexdigest()
    assert tensor_digest(dict(reversed(STATE.items()))) == tensor_digest(STATE)
    assert tensor_digest({**STATE, "b": STATE["b"].t().contiguous().t()}) == tensor_digest(STATE)
    others = (STATE["b"] + 1, STATE["b"].double(), STATE["b"].reshape(3, 2), -0.0 * STATE["b"])
    assert len({tensor_digest({**STATE, "b": other}) for other in (STATE["b"], *others)}) == 5
    assert tensor_digest({"b": STATE["b"].bfloat16()}) != tensor_digest({"b": STATE["b"].half()})


def test_a_plain_tensor_holds_its_own_numbers():
    assert all(map(is_plain, (torch.ones(2), torch.ones(()), torch.ones(0), torch.ones(4, 4)[1:, ::2])))
    broken = (3, None, torch.ones(2).to_sparse(), torch.ones(2, device="meta"), torch.ones(1).expand(10**9))
    assert not any(map(is_plain, broken))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_refused_file_does_not_spoil_the_next(tmp_path, zipped):
    """torch keeps a list of sparse tensors to look at, and keeps it when a load fails."""
    content = {"a": torch.eye(3).to_sparse(), "b": Fraction(1)}
    torch.save(content, tmp_path / "refused.pt", _use_new_zipfile_serialization=zipped)
    torch.save({"a": torch.ones(2)}, tmp_path / "sound.pt")
    with pytest.raises(InputError, match="it holds sparse tensors"):
        read_weights_only(tmp_path / "refused.pt")
    assert torch.equal(read_weights_only(tmp_path / "sound.pt")["a"], torch.ones(2))
