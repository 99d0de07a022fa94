"""The dashboard: self-contained copies of notebooks, served on this machine alone."""

import asyncio
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.parse
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


def ask(address: str, path: str = "", host: str = "") -> tuple[int, str]:
    """Status and body; redirects are not followed, `path` is sent as it is."""
    parts = urllib.parse.urlsplit(address)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    connection.request("GET", f"/{path}?{parts.query}", headers={"Host": host or parts.netloc})
    reply = connection.getresponse()
    return reply.status, reply.read().decode(errors="replace")


def test_it_serves_its_owner_alone_until_interrupted(project: Path, tmp_path: Path) -> None:
    code = [nbformat.v4.new_code_cell("open('/no/such/place/secret.mp4')")]
    nbformat.write(nbformat.v4.new_notebook(cells=code), project / "notebooks" / "07_fails.ipynb")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    kept = {name: value for name, value in os.environ.items() if name != "JUPYTER_TOKEN"}
    command = [sys.executable, "-m", "maedfer_lab.viewers.app", "05", "06", "07", "--port=8877"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, env=kept | {"TMPDIR": str(temporary)},
    ) as process:  # fmt: skip
        try:
            assert process.stdout
            told = ""
            while "http://" not in told:
                line = process.stdout.readline()
                assert line, told
                told += line
            assert "05_faces, 06_maps, 07_fails at the smoke profile" in told and "Ctrl-C" in told
            threading.Thread(target=process.stdout.read, daemon=True).start()
            address = told[told.index("http://") :].strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=\w{20,}", address)

            (private,) = temporary.iterdir()
            assert private.stat().st_mode & 0o777 == 0o700
            status, page = ask(address)
            assert status == 200 and "05_faces.ipynb" in page and "https:" not in page
            for stranger in (address.partition("?")[0], address[:-1]):
                assert ask(stranger)[0] == ask(stranger, "voila/render/05_faces.ipynb")[0] == 302
            assert ask(address, host="evil.example")[0] == 403
            assert ask(address, "voila/static/voila.js", host="evil.example")[0] == 403
            for path in (
                "voila/files/../../../figures/05_faces.png",
                "voila/files/..%2f..%2f..%2ffigures%2f05_faces.png",
                "voila/render/..%2f..%2fnotebooks%2f05_faces.ipynb",
                "voila/tree/..%2f..",
                "voila/api/contents/..%2f..",
                "voila/static/..%2f..%2fapp.py",
            ):
                status, page = ask(address, path)
                assert status in (403, 404) and str(project) not in page, path
            status, page = ask(address, "voila/render/07_fails.ipynb")
            assert "There was an error when executing cell" in page
            assert "secret" not in page and str(project) not in page and 'href="https:' not in page
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert list(temporary.iterdir()) == []
        finally:
            process.kill()


def test_kernels_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager

    from maedfer_lab.viewers.server import MAX_KERNELS, BoundedKernels

    async def slow(self: object, **options: object) -> str:
        await asyncio.sleep(0)
        return "started"

    async def start_many() -> list[object]:
        starts = (BoundedKernels.start_kernel(kernels) for _ in range(MAX_KERNELS + 1))
        return await asyncio.gather(*starts, return_exceptions=True)

    monkeypatch.setattr(AsyncMappingKernelManager, "start_kernel", slow)
    kernels = BoundedKernels()
    *started, refused = asyncio.run(start_many())
    assert started == ["started"] * MAX_KERNELS and "503" in str(refused)
