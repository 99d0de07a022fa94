"""Files are read without executing anything in them; bad ones are refused, and named."""

import argparse
import os
import pickle
import tarfile
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from maedfer_lab.checkpoints.reading import read_file

WEIGHTS = {"model": {"weight": torch.arange(6.0)}, "epoch": 3}


class Touch:
    """Unpickled by a trusting program, this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("is_zip", [True, False])
def test_plain_values_namespaces_and_numpy_scalars_are_read(is_zip, tmp_path):
    args = argparse.Namespace(
        lr=np.float64(0.5),
        half=np.float16(2),
        count=np.int64(3),
        swapped=np.array(5, ">f8")[()],
        flag=np.bool_(True),
        kind=np.dtype("float32"),
        region=[2, 5, 10],
        output=Path("saved") / "model",
    )
    torch.save({**WEIGHTS, "args": args}, tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
    content = read_file(tmp_path / "a.pth").content
    assert torch.equal(content["model"]["weight"], WEIGHTS["model"]["weight"])
    read = vars(content["args"])
    assert read.pop("kind").dtype == np.float32
    assert read == {"lr": 0.5, "half": 2.0, "count": 3, "swapped": 5.0, "flag": True,
                    "region": [2, 5, 10], "output": "saved/model"}  # fmt: skip


def test_scalars_under_the_module_names_of_both_numpy_versions_are_read(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({**WEIGHTS, "x": np.float64(1.5)}, path, _use_new_zipfile_serialization=False)
    written = path.read_bytes()
    new, old = b"numpy._core.multiarray", b"numpy.core.multiarray"
    assert (new in written) is not (old in written)
    for name in (new, old):
        path.write_bytes(
            written.replace(new, name) if new in written else written.replace(old, name)
        )
        assert read_file(path).content["x"] == 1.5


def test_safetensors_are_read(tmp_path):
    save_file({"weight": torch.ones(3)}, tmp_path / "a.safetensors")
    assert read_file(tmp_path / "a.safetensors").format == "safetensors"


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_a_malicious_pickle_is_refused_by_name_and_does_nothing(kind, protocol, tmp_path):
    path, mark = tmp_path / "evil.pth", tmp_path / "created"
    content = {**WEIGHTS, "extra": Touch(mark)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    else:
        torch.save(content, path, pickle_protocol=protocol,
                   _use_new_zipfile_serialization=kind == "zip")  # fmt: skip
    with pytest.raises(ValueError, match=r"evil\.pth.*(posix|nt)\.system.*nothing of it was exec"):
        read_file(path)
    assert not mark.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["evil.pth"]


def test_a_tree_of_tuples_in_a_few_bytes_is_refused(tmp_path):
    """As a key it is hashed for ever: each level twice the one below."""
    tree: tuple = ()
    for _ in range(21):
        tree = (tree, tree)
    for is_zip in (True, False):
        torch.save({tree: WEIGHTS}, tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
        with pytest.raises(ValueError, match=r"a\.pth holds tuples of tuples without end"):
            read_file(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("value", "name"),
    [(Fraction(1, 2), "fractions"), (np.ones(3), "_reconstruct"), (np.dtype("O"), "'O8'")],
)
def test_other_types_are_refused_by_name(value, name, tmp_path):
    torch.save({**WEIGHTS, "extra": value}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=name):
        read_file(tmp_path / "a.pth")


@pytest.mark.parametrize("is_zip", [True, False])
@settings(deadline=None, max_examples=25)
@given(share=st.floats(0, 0.999))
def test_a_file_cut_anywhere_is_a_clear_error(is_zip, share, tmp_path_factory):
    path = tmp_path_factory.mktemp("cut") / "a.pth"
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=is_zip)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"a\.pth"):
        read_file(path)


@settings(deadline=None, max_examples=40)
@given(place=st.integers(16, 500), byte=st.integers(0, 255))
def test_a_spoilt_byte_never_ends_the_process(place, byte, tmp_path_factory):
    path = tmp_path_factory.mktemp("spoilt") / "a.pth"
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)
    content = bytearray(path.read_bytes())
    content[place % len(content)] = byte
    path.write_bytes(content)
    try:
        read_file(path)
    except ValueError as error:
        assert "a.pth" in str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"not a checkpoint, but text", "neither"), (b"\x93NUMPY\x01\x00", "neither"),
     (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 412345\n",
      "Git LFS pointer, not the file of 412,345 bytes"),
     (b"\n<!DOCTYPE html><html><title>Sign in</title>", "saved web page"),
     (b"PK\x03\x04 not really a zip file", "damaged")],
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused(content, message, tmp_path):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_file(tmp_path / "a.pth")
    with pytest.raises(FileNotFoundError, match="not a file"):
        read_file(tmp_path)


def test_a_zip_that_claims_to_unpack_to_more_than_it_holds_is_refused(tmp_path):
    torch.save(WEIGHTS, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as sound, zipfile.ZipFile(
        tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED
    ) as bomb:  # fmt: skip
        for name in sound.namelist():
            bomb.writestr(name, bytes(10**7) if name.endswith("data/0") else sound.read(name))
    assert (tmp_path / "bomb.pth").stat().st_size < 10**5
    with pytest.raises(ValueError, match="claim to unpack to 10,000"):
        read_file(tmp_path / "bomb.pth")


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path):
    torch.save({"weight": torch.ones(1).expand(10**12)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="claims 4,000,000,000,000 bytes"):
        read_file(tmp_path / "a.pth")


def test_other_archives_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"no data\.pkl"):
        read_file(tmp_path / "a.pth")
    with tarfile.open(tmp_path / "b.pth", "w") as archive:
        archive.add(tmp_path / "a.pth", "storages")
    with pytest.raises(ValueError, match="neither"):
        read_file(tmp_path / "b.pth")
