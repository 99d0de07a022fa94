"""JupyterLab and Voila on loopback, over a copy of the notebooks, ended whatever happens."""

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # else cells out of sight lack a DOM
    "docmanager-extension/plugin": {"autosave": False},
}
# Read by every Python of a workplace, servers and kernels: notes who is asked beyond this machine.
WATCH = """import sys
def note(event, values):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        host = values[0] if event == "socket.getaddrinfo" else values[1]
        host = host[0] if isinstance(host, tuple) else host
        if host and str(host).strip("b'") not in ("127.0.0.1", "::1", "localhost", "0.0.0.0"):
            if event == "socket.getaddrinfo" or isinstance(values[1], tuple):
                open({path!r}, "a").write(f"{{event}} {{values}} {{sys.argv}}\\n")
sys.addaudithook(note)
"""


@dataclass
class Workplace:
    """A folder like a checkout, with settings of its own, for servers and their kernels."""

    folder: Path
    environment: dict[str, str] = field(init=False)
    process: int = field(init=False, default=0)  # of the server that was started last
    asked: Path = field(init=False)  # exists if somebody beyond this machine was asked

    def __post_init__(self) -> None:
        for name in ("notebooks", "figures"):
            shutil.copytree(
                ROOT / name, self.folder / name, ignore=shutil.ignore_patterns("smoke", "own", ".*")
            )
        (self.folder / "maedfer_lab").mkdir()  # what tells a checkout from any folder
        self.asked = self.folder / "asked.txt"
        (self.folder / "watch").mkdir()
        (self.folder / "watch" / "sitecustomize.py").write_text(WATCH.format(path=str(self.asked)))
        settings = self.folder / "settings"
        for name, values in SETTINGS.items():
            path = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        own = {
            "JUPYTER_CONFIG_DIR": self.folder / "config",
            "JUPYTER_DATA_DIR": self.folder / "data",
            "JUPYTER_RUNTIME_DIR": self.folder / "runtime",
            "JUPYTER_TOKEN": secrets.token_hex(16),
            "JUPYTERLAB_SETTINGS_DIR": settings,
            "JUPYTERLAB_WORKSPACES_DIR": self.folder / "workspaces",
            "IPYTHONDIR": self.folder / "ipython",
            "PYTHONPATH": os.pathsep.join(
                [str(self.folder / "watch"), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
            "MAEDFER_OUTPUT": self.folder / "output",
            "MAEDFER_PROFILE": "smoke",
            # The machine is shared by a kernel, a server and a browser.
            "OMP_NUM_THREADS": "1",
        }
        kept = {name: value for name, value in os.environ.items() if name != "MAEDFER_DATA"}
        self.environment = kept | {name: str(value) for name, value in own.items()}

    @contextlib.contextmanager
    def lab(self) -> Iterator[str]:
        """JupyterLab on the copy; yields its address, with the token that opens it."""
        port = free_port()
        options = [
            "--no-browser",
            "--allow-root",
            "--ip=127.0.0.1",
            f"--port={port}",
            "--ServerApp.port_retries=0",
            f"--ServerApp.root_dir={self.folder}",
            "--LabApp.expose_app_in_browser=True",
            *re.findall(r"--\S*(?:news|updates|manager)\S*", (ROOT / "Makefile").read_text()),
        ]
        with self.serve(["-m", "jupyterlab", *options], f"http://127.0.0.1:{port}/lab") as url:
            yield f"{url}?token={self.environment['JUPYTER_TOKEN']}"

    @contextlib.contextmanager
    def app(self) -> Iterator[str]:
        """What `make app` starts; yields its address with the token."""
        port = free_port()
        module = ["-m", "maedfer_lab.viewers.app", f"--port={port}"]
        with self.serve(module, f"http://127.0.0.1:{port}/") as url:
            yield f"{url}?token={self.environment['JUPYTER_TOKEN']}"

    @contextlib.contextmanager
    def serve(self, arguments: list[str], url: str, start_s: float = 120) -> Iterator[str]:
        """Run Python with `arguments` until the block is left; yield `url` once it answers."""
        log = self.folder / f"{arguments[1]}.log"
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            end = time.monotonic() + start_s
            while not answers(url):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{arguments[1]} did not start:\n{log.read_text()[-3000:]}")
                time.sleep(0.1)
            self.process = process.pid
            yield url
        finally:
            stop(process)


def num_kernels(process: int) -> int:
    """Kernels that a server has started and that still run."""
    listed = subprocess.run(["ps", "--ppid", str(process), "-o", "args="], capture_output=True)
    return listed.stdout.count(b"ipykernel")


def notebook_name(number: str) -> str:
    """File name of a numbered notebook."""
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    return path.name


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:  # the app refuses whoever has no token
        return True
    except (urllib.error.URLError, OSError):
        return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, which ends its kernels; kernels also end when their parent is gone."""
    for sign, patience_s in ((signal.SIGTERM, 15), (signal.SIGKILL, 10)):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
