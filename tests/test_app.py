"""The app: served on this machine alone."""

import asyncio
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.parse
import uuid
from typing import Any

import pytest


@pytest.fixture
def app() -> Any:
    from maedfer_lab.viewers import app  # importing Voila changes the event loop's policy

    return app


def ask(address: str, path: str = "", host: str = "") -> tuple[int, str]:
    """Status and body; redirects are not followed, `path` is sent as it is."""
    parts = urllib.parse.urlsplit(address)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    connection.request("GET", f"/{path}?{parts.query}", headers={"Host": host or parts.netloc})
    reply = connection.getresponse()
    return reply.status, reply.read().decode(errors="replace")


def test_it_serves_its_owner_alone_until_interrupted(tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    kept = {name: value for name, value in os.environ.items() if name != "JUPYTER_TOKEN"}
    command = [sys.executable, "-m", "maedfer_lab.viewers.app", "--port=8877"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, env=kept | {"TMPDIR": str(temporary)},
    ) as process:  # fmt: skip
        try:
            assert process.stdout
            printed = ""
            while "http://" not in printed:
                line = process.stdout.readline()
                assert line, printed
                printed += line
            assert "this machine only" in printed and "Ctrl-C" in printed
            threading.Thread(target=process.stdout.read, daemon=True).start()
            address = printed[printed.index("http://") :].strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=\w{20,}", address)

            (private,) = temporary.iterdir()
            assert private.stat().st_mode & 0o777 == 0o700
            for stranger in (address.partition("?")[0], address[:-1]):
                assert ask(stranger)[0] == ask(stranger, f"api/kernels/{uuid.uuid4()}")[0] == 403
                assert ask(stranger, "voila/render/maedfer_lab.ipynb")[0] == 404
            assert ask(address, host="evil.example")[0] == 403
            assert ask(address, "voila/static/voila.js", host="evil.example")[0] == 403
            for path in (
                "login", "voila/files/../../../etc/passwd", "voila/files/maedfer_lab.ipynb",
                "voila/files/..%2f..%2f..%2fetc%2fpasswd", "voila/tree/..%2f..",
                "voila/api/contents/..%2f..", "voila/static/..%2f..%2fapp.py",
            ):  # fmt: skip
                status, page = ask(address, path)
                assert status in (403, 404) and str(tmp_path) not in page, path
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert list(temporary.iterdir()) == []
        finally:
            process.kill()


def test_kernels_are_bounded(app, monkeypatch):
    async def slow(self: object, **options: object) -> str:
        await asyncio.sleep(0)
        return "started"

    async def start_many() -> list[object]:
        starts = (app.BoundedKernels.start_kernel(kernels) for _ in range(app.MAX_KERNELS + 1))
        return await asyncio.gather(*starts, return_exceptions=True)

    monkeypatch.setattr(app.AsyncMappingKernelManager, "start_kernel", slow)
    kernels = app.BoundedKernels()
    *started, refused = asyncio.run(start_many())
    assert started == ["started"] * app.MAX_KERNELS and "503" in str(refused)


def test_a_kernel_ends_with_its_page(app, monkeypatch):
    ended: list[str] = []

    async def end(self: object, kernel_id: str) -> None:
        ended.append(kernel_id)

    async def leave() -> None:
        kernels = app.BoundedKernels()
        kernels._kernels.update(left=object(), reloaded=object())
        for kernel_id in ("left", "reloaded"):
            kernels._kernel_connections[kernel_id] = 1
            kernels.notify_disconnect(kernel_id)
        kernels.notify_connect("reloaded")
        await asyncio.sleep(0.2)

    monkeypatch.setattr(app, "GRACE_S", 0.05)
    monkeypatch.setattr(app.BoundedKernels, "shutdown_kernel", end)
    asyncio.run(leave())
    assert ended == ["left"]
