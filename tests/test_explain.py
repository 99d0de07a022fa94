"""Where the page's runtime comes from, and what is said where it cannot be had.

The page itself is tested in a browser: tests/browser/test_explain.py.
"""

import io
import tarfile
from pathlib import Path

import pytest

from maedfer_lab import cli
from maedfer_lab.viewers import explain


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)


def package(path: Path, content: bytes) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name in explain.RUNTIME_FILES:
            about = tarfile.TarInfo(f"package/dist/{name}")
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


def test_a_file_that_is_no_page_is_refused(capsys, tmp_path):
    assert cli.main(["explain", "--out", str(tmp_path / "page.txt")]) == 2
    assert "end it in .html, such as page.html" in capsys.readouterr().err


def test_the_runtime_is_the_tested_one_or_none(monkeypatch, tmp_path):
    ours = package(tmp_path / "ort.tgz", b"code")
    with pytest.raises(ValueError, match=r"not that of onnxruntime-web (?s:.*)npm pack"):
        explain.runtime_files(ours)
    digest = "5694d08a2e53ffcae0c3103e5ad6f6076abd960eb1f8a56577040bc1028f702b"  # of b"code"
    monkeypatch.setattr(explain, "RUNTIME_FILES", dict.fromkeys(explain.RUNTIME_FILES, digest))
    paths = explain.runtime_files(ours)
    monkeypatch.setattr(explain, "_fetch", None)
    assert explain.runtime_files() == paths  # from the cache
    paths[0].write_bytes(b"changed")
    with pytest.raises(ValueError, match="is deleted; run this again"):
        explain.runtime_files()
    assert not paths[0].exists()


def test_without_npm_or_network_it_is_said_what_to_do(monkeypatch, tmp_path):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no route to the registry >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(explain.shutil, "which", lambda name, path=None: str(npm))
    with pytest.raises(OSError, match=r"no route .* --runtime onnxruntime-web-1\.30\.0\.tgz"):
        explain.runtime_files()
    monkeypatch.setattr(explain.shutil, "which", lambda name, path=None: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'maedfer-lab\[page\]'"):
        explain.runtime_files()
