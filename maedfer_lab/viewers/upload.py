"""A button that takes a video from the reader's computer, and a path until one is given."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import ipywidgets


class VideoUpload(ipywidgets.VBox):
    """Choose a video: upload one, type a path, or keep the default.

    The uploaded file stays in a temporary folder of this session and is deleted with it.
    """

    def __init__(self, default: Path) -> None:
        self.default = default
        self._folder = tempfile.TemporaryDirectory(prefix="maedfer-upload-")
        self.button: Any = ipywidgets.FileUpload(
            accept="video/*,image/*", multiple=False, description="Upload a video"
        )
        self.box: Any = ipywidgets.Text(
            placeholder=f"or type a path; empty: {default.name}", layout={"width": "30em"}
        )
        super().__init__([self.button, self.box])

    @property
    def path(self) -> Path:
        """The typed path, else the uploaded file, else the default."""
        if self.box.value.strip():
            return Path(self.box.value.strip()).expanduser()
        if not self.button.value:
            return self.default
        upload = self.button.value[0]
        # Only the last part of the name: a browser may send any text.
        name = Path(str(upload["name"]).replace("\\", "/")).name or "video"
        path = Path(self._folder.name) / name
        path.write_bytes(bytes(upload["content"]))
        return path
