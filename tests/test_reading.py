"""Files are read without executing anything in them; bad ones are refused, and named."""

import argparse
import gzip
import os
import pickle
import tarfile
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from maedfer_lab.checkpoints.reading import read_file

WEIGHTS = {"model": {"weight": torch.arange(6.0)}, "epoch": 3}


def save(content: object, path: Path, is_zip: bool = True, **how) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=is_zip, **how)
    return path


class Touch:
    """Unpickled by a trusting program, this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("is_zip", [True, False])
def test_plain_values_namespaces_and_numpy_scalars_are_read(is_zip, tmp_path):
    plain = {"lr": 0.5, "half": 2.0, "count": 3, "swapped": 5.0, "flag": True,
             "region": [2, 5, 10], "output": "saved/model"}  # fmt: skip
    odd = {"lr": np.float64(0.5), "half": np.float16(2), "count": np.int64(3),
           "swapped": np.array(5, ">f8")[()], "flag": np.bool_(True),
           "output": Path("saved") / "model", "kind": np.dtype("float32")}  # fmt: skip
    args = argparse.Namespace(**{**plain, **odd})
    content = read_file(save({**WEIGHTS, "args": args}, tmp_path / "a.pth", is_zip)).content
    assert torch.equal(content["model"]["weight"], WEIGHTS["model"]["weight"])
    read = vars(content["args"])
    assert read.pop("kind").dtype == np.float32 and read == plain


def test_scalars_of_both_numpy_versions_and_safetensors_are_read(tmp_path):
    path = save({**WEIGHTS, "x": np.float64(1.5)}, tmp_path / "a.pth", is_zip=False)
    written = path.read_bytes()
    new, old = b"numpy._core.multiarray", b"numpy.core.multiarray"
    assert (new in written) is not (old in written)
    for name in (new, old):
        path.write_bytes(written.replace(new if new in written else old, name))
        assert read_file(path).content["x"] == 1.5
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
        save(content, path, kind == "zip", pickle_protocol=protocol)
    with pytest.raises(ValueError, match=r"evil\.pth.*(posix|nt)\.system.*nothing of it was exec"):
        read_file(path)
    assert [p.name for p in tmp_path.iterdir()] == ["evil.pth"]


@pytest.mark.parametrize(
    ("value", "name"),
    [(Fraction(1, 2), "fractions"), (np.ones(3), "_reconstruct"), (np.dtype("O"), "'O8'")],
)
def test_other_types_are_refused_by_name(value, name, tmp_path):
    with pytest.raises(ValueError, match=name):
        read_file(save({**WEIGHTS, "extra": value}, tmp_path / "a.pth"))


def tuples_without_end(path: Path, is_zip: bool) -> None:
    """As a key it is hashed for ever: each level twice the one below."""
    tree: tuple = ()
    for _ in range(21):
        tree = (tree, tree)
    save({tree: WEIGHTS}, path, is_zip)


def bomb(path: Path) -> None:
    """A zip that claims to unpack to more than it holds."""
    sound = zipfile.ZipFile(save(WEIGHTS, path.with_name("sound.pth")))
    with sound, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sound.namelist():
            archive.writestr(name, bytes(10**7) if name.endswith("data/0") else sound.read(name))
    assert path.stat().st_size < 10**5


def archive(path: Path, is_tar: bool, holds: str = "readme.txt") -> None:
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr(holds, "hello")
    if is_tar:
        inside = path.rename(path.with_name("inside"))
        with tarfile.open(path, "w") as tar:
            tar.add(inside, "storages")


REFUSED = {
    "empty": (lambda path: path.touch(), "empty"),
    "text": (lambda path: path.write_text("Entry not found"), "a text.*'Entry not found'"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"weights")), "unpack it"),
    "model": (lambda path: torch.save(torch.nn.Linear(2, 2), path), r"state_dict\(\)"),
    "script": (lambda path: archive(path, False, "code/constants.pkl"), "exported program"),
    "arrays": (lambda path: np.savez(path.open("wb"), a=np.ones(2)), r"holds a\.npy"),
    "numpy": (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00"), "neither"),
    "pointer": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"
                                             "oid sha256:ab\nsize 412345\n"),
                "Git LFS pointer, not the file of 412,345 bytes"),
    "page": (lambda path: path.write_text("\n<!DOCTYPE html><html><title>Sign in</title>"),
             "saved web page"),
    "no zip": (lambda path: path.write_bytes(b"PK\x03\x04 not really a zip file"), "damaged"),
    "folder": (lambda path: path.mkdir(), "not a file"),
    "tuples": (lambda path: tuples_without_end(path, True), "holds tuples of tuples without end"),
    "old tuples": (lambda path: tuples_without_end(path, False), "tuples of tuples without end"),
    "bomb": (bomb, "claim to unpack to 10,000"),
    "claim": (lambda path: save({"weight": torch.ones(1).expand(10**12)}, path),
              "claims 4,000,000,000,000 bytes"),
    "zip": (lambda path: archive(path, False), r"no data\.pkl"),
    "tar": (lambda path: archive(path, True), "unpack it"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_checkpoint_is_refused(kind, tmp_path):
    make, message = REFUSED[kind]
    make(tmp_path / "a.pth")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_file(tmp_path / "a.pth")
