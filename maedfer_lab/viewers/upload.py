"""A place to drop a video on, in notebooks and in the app."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from maedfer_lab.config import is_in_app
from maedfer_lab.viewers.player import STATIC
from maedfer_lab.viewers.scene import as_sentence, plain

MAX_UPLOAD_BYTES = 200 * 2**20


class VideoUpload(anywidget.AnyWidget):
    """Choose a video: drop one (up to 200 MiB), type a path, or keep the default.

    The uploaded file keeps its name. It is in a private temporary folder of this session and is
    deleted with it. In `make app`, whose visitor may not own the machine's files, no path can be
    typed. Trait `file`: the last file uploaded or typed, once it is complete.
    """

    _esm = STATIC / "upload.js"
    _css = STATIC / "player.css"
    label = traitlets.Unicode("Drop a video here, or").tag(sync=True)
    typable = traitlets.Bool().tag(sync=True)
    progress = traitlets.Dict({"name": "", "size": 0, "received": 0, "text": ""}).tag(sync=True)
    file: Any = traitlets.Instance(Path, allow_none=True)

    def __init__(self, default: Path | None = None) -> None:
        text = f"empty: {default.name}" if default else ""
        super().__init__(typable=not is_in_app(), progress=self._said(text))
        self.default = default
        self._folder = tempfile.TemporaryDirectory(prefix="maedfer-upload-")
        self._part: Path | None = None
        self.on_msg(self._receive)

    @property
    def path(self) -> Path:
        """The last file uploaded or typed, else the default."""
        chosen = self.file or self.default
        if chosen is None:
            raise ValueError("no video was given; drop one on the field above")
        return chosen

    @staticmethod
    def _said(text: str, name: str = "", size: int = 0, received: int = 0) -> dict[str, Any]:
        return {"name": name, "size": size, "received": received, "text": text}

    def _receive(self, _: Any, content: Any, buffers: Any) -> None:
        """A piece of a file, or a path, from the browser."""
        try:
            if "path" in content and self.typable:
                typed = str(content["path"]).strip()
                self.file = Path(typed).expanduser() if typed else None
                self.progress = self._said(plain(typed))
            else:
                self._take(content["name"], content["size"], content["offset"], bytes(buffers[0]))
        except (ValueError, OSError, LookupError, TypeError) as error:
            self.progress = self._said(as_sentence(error))

    def _take(self, given_name: str, size: int, offset: int, piece: bytes) -> None:
        if not 0 < size <= MAX_UPLOAD_BYTES:
            raise ValueError(
                f"the file of {size:,} bytes must have 1 to at most {MAX_UPLOAD_BYTES:,}; cut it"
            )
        # A browser may send any text as a name: the last part, of harmless characters.
        name = re.split(r"[/\\]", str(given_name))[-1]
        name = re.sub(r"[^\w .-]", "_", name, flags=re.ASCII).lstrip(". ")[-100:] or "video"
        if offset == 0:
            if self._part is not None:  # begun and never ended
                self._part.unlink(missing_ok=True)
            self._part = Path(tempfile.mkdtemp(dir=self._folder.name)) / name
            self._part.touch()
        received = offset + len(piece)
        if self._part is None or self._part.stat().st_size != offset or received > size:
            raise ValueError("pieces of the file came in a wrong order; upload it again")
        with self._part.open("ab") as file:
            file.write(piece)
        text = f"{plain(name)}: {received / 2**20:.1f} of {size / 2**20:.1f} MiB"
        self.progress = self._said(text, str(given_name), size, received)
        if received == size:
            before, self.file, self._part = self.file, self._part, None
            if before is not None and Path(self._folder.name) in before.parents:
                before.unlink(missing_ok=True)
