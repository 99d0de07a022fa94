"""`make app`: a page that takes a video and shows the small model's view of its faces.

Served by Voila for this machine only, behind a token, within limits; importing it changes the
event loop's policy, as importing Voila does. `python -m maedfer_lab.viewers.app` is `make app`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from jupyter_core.utils import ensure_async
from jupyter_server.auth.identity import PasswordIdentityProvider, User
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.ioloop import IOLoop
from tornado.web import ErrorHandler, HTTPError
from traitlets.config import Config
from voila.app import Voila

from maedfer_lab.config import keep_temporary_files_in

CELL = "from maedfer_lab.inference.page import FacePage\n\nFacePage()"
MAX_KERNELS = 4  # pages open at once; each holds a model
GRACE_S = 15  # a page may lose its connection for this long
IDLE_S = 1800  # a page's kernel ends after this time without activity

# What a page may load: only what this server gives it.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)


class BoundedKernels(AsyncMappingKernelManager):
    """Refuses a kernel beyond MAX_KERNELS, starting ones included; ends those without a page."""

    _starting = 0

    async def start_kernel(self, **options: Any) -> str:  # type: ignore[override]
        """Start one; HTTP 503 beyond the bound."""
        if len(self) + self._starting >= MAX_KERNELS:
            raise HTTPError(503, reason=f"{MAX_KERNELS} pages are open; close one, then reload")
        self._starting += 1
        try:
            return await super().start_kernel(**options)
        finally:
            self._starting -= 1

    def notify_disconnect(self, kernel_id: str) -> None:
        """Note that a page is gone; its kernel ends soon, with or without a proper close."""
        super().notify_disconnect(kernel_id)
        IOLoop.current().call_later(GRACE_S, self._end_if_left, kernel_id)

    async def _end_if_left(self, kernel_id: str) -> None:
        if kernel_id in self and not self._kernel_connections.get(kernel_id):
            await self.shutdown_kernel(kernel_id)


class OnlyWithToken(PasswordIdentityProvider):
    """Refuses requests without the printed token, where Jupyter would show a login page."""

    def get_handlers(self) -> list[Any]:
        """No login or logout pages."""
        return []

    async def get_user(self, handler: Any) -> User:  # type: ignore[override]
        """The user; HTTP 403 without the token or the cookie set by it."""
        user = await ensure_async(super().get_user(handler))
        if user is None:
            handler.current_user = handler._jupyter_current_user = None
            raise HTTPError(403, reason="open the address with its token that the terminal printed")
        return user


class Dashboard(Voila):
    """Voila whose pages load nothing from the web and which answers to this machine's names."""

    def setup_template_dirs(self) -> None:
        """Put our templates before Voila's."""
        super().setup_template_dirs()
        self.template_paths.insert(0, str(Path(__file__).parent / "static"))

    def init_handlers(self) -> Any:
        """Refuse foreign Host headers before anything else, and serve one page under one path."""
        # A foreign site's name can be made to point here; its pages must not read ours.
        self.app.add_handlers(
            r"(?!(127\.0\.0\.1|localhost)$).*$", [(r".*", ErrorHandler, {"status_code": 403})]
        )
        handlers: Any = super().init_handlers()
        *others, (_, *page) = handlers
        return [*others, ("/()", *page)]


def main() -> int:
    """Serve until interrupted and return the exit status; prints the address with its token.

    All temporary files, including uploads, are in one private folder that is deleted at the end.
    """
    parser = argparse.ArgumentParser(prog="app", description="Serve the viewers as a page.")
    parser.add_argument("--port", type=int, default=8866, help="another one if it is taken")
    port = parser.parse_args().port
    print(
        "Serves the page on this machine only, until Ctrl-C. The address follows; each page has "
        "its own kernel, which ends with it.",
        flush=True,
    )
    # If it was started in the background by a script, Ctrl-C would be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config = {
        "Voila": {
            "auto_token": True,
            "config_file_paths": [],
            "identity_provider_class": OnlyWithToken,
            "ip": "127.0.0.1",
            "open_browser": False,
            "port": port,
            "tornado_settings": {"headers": {"Content-Security-Policy": _POLICY}},
        },
        "VoilaConfiguration": {
            "allow_template_override": "NO",
            "allow_theme_override": "NO",
            "file_allowlist": [],
            "multi_kernel_manager_class": BoundedKernels,
        },
        # Errors show no traceback, which would reveal folders of this machine.
        "VoilaExecutor": {"cell_error_instruction": "The terminal of `make app` says why."},
        "MappingKernelManager": {
            "cull_busy": True,
            "cull_connected": True,
            "cull_idle_timeout": IDLE_S,
            "cull_interval": 60,
        },
    }
    with tempfile.TemporaryDirectory(prefix="maedfer-app-") as private:
        keep_temporary_files_in(private)
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
        path = Path(private) / "maedfer_lab.ipynb"
        nbformat.write(notebook, path)
        Dashboard.launch_instance([str(path)], config=Config(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
