"""The dashboard: self-contained copies of notebooks, served on this machine alone."""

import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

from maedfer_lab.viewers.app import copy_notebooks, main


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with notebooks 05 and 06, the first of which shows a picture."""
    for folder in ("maedfer_lab", "notebooks", "figures"):
        (tmp_path / folder).mkdir()
    (tmp_path / "figures" / "05_faces.png").write_bytes(b"a picture")
    for name, text in (("05_faces", "![some faces](../figures/05_faces.png)"), ("06_maps", "Maps")):
        cells = [nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell("1 + 1")]
        nbformat.write(
            nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / f"{name}.ipynb"
        )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAEDFER_PROFILE", "smoke")
    return tmp_path


def test_copies_carry_their_pictures_and_replace_older_ones(project: Path) -> None:
    folder = project / "copies"
    copy_notebooks(["06"], project, folder)
    (path,) = copy_notebooks(["05"], project, folder)
    assert [copy.name for copy in folder.iterdir()] == ["05_faces.ipynb"]
    text, code = nbformat.read(path, as_version=4).cells
    assert text.source == "![some faces](attachment:05_faces.png)"
    assert text.attachments["05_faces.png"]["image/png"] == "YSBwaWN0dXJl"
    assert code.source == "1 + 1"
    assert "../figures" in (project / "notebooks" / "05_faces.ipynb").read_text()


def test_a_number_without_a_notebook_is_refused(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["04"]) == 2
    assert "no notebook is numbered 04; there are 05, 06" in capsys.readouterr().err


def test_it_serves_on_loopback_until_interrupted(project: Path) -> None:
    command = [sys.executable, "-m", "maedfer_lab.viewers.app", "--port=8877"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout
            told = ""
            while "http://" not in told:
                line = process.stdout.readline()
                assert line, told
                told += line
            assert "05_faces, 06_maps at the smoke profile" in told and "Ctrl-C" in told
            address = told[told.index("http://") :].strip()
            assert address.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(address, timeout=30) as page:
                assert b"05_faces.ipynb" in page.read()
            process.send_signal(signal.SIGINT)
            end = time.monotonic() + 30
            while process.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
            assert process.returncode == 0
        finally:
            process.kill()
