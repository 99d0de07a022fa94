"""What all viewers share: one canvas that plays a sprite, and what it can leave behind.

A sprite holds all pictures of a viewer: a row for each picture over time, a column for each frame.
It is sent once; playing, scrubbing and numbers under the pointer need no kernel. What does need it
(a new mask, another clip) is computed beside the kernel's main thread, and only the last wish is.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import anywidget
import traitlets

from maedfer_lab.figures import draw_viewer
from maedfer_lab.figures.style import Page
from maedfer_lab.files import pack_picture
from maedfer_lab.viewers import export
from maedfer_lab.viewers.scene import View, as_sentence, encode_sprite

STATIC = Path(__file__).parent / "static"
MESSAGE_KEYS = frozenset({"name", "value", "serial"})
Wish = TypeVar("Wish")


class Player(anywidget.AnyWidget, Generic[Wish]):
    """A viewer: what is wished for (`wish`), and how it looks (`view`).

    In the browser: space plays, arrow keys go from frame to frame, Home and End to the first and
    last. A subclass says how a wish changes, how it looks and which controls it has.
    """

    _esm = STATIC / "player.js"
    _css = STATIC / "player.css"
    sprite = traitlets.Bytes().tag(sync=True)
    table = traitlets.Bytes().tag(sync=True)
    scene = traitlets.Dict().tag(sync=True)
    controls = traitlets.List().tag(sync=True)
    status = traitlets.Dict({"state": "idle", "serial": 0}).tag(sync=True)

    wish: Wish
    view: View

    def __init__(self, wish: Wish) -> None:
        super().__init__()
        self._lock = threading.Lock()  # of what is pending
        self._computing = threading.RLock()  # one picture at a time
        self._pending: tuple[Wish, int] | None = None
        self._thread: threading.Thread | None = None
        self._wanted = wish
        self._show(wish, 0)
        self.on_msg(self._receive)

    @abstractmethod
    def _changed(self, wish: Wish, name: str, value: Any) -> Wish:
        """`wish` with one thing changed; quick. ValueError for what cannot be."""

    @abstractmethod
    def _look(self, wish: Wish) -> View:
        """What is seen; may take a second."""

    def _controls_of(self, wish: Wish) -> list[dict[str, Any]]:
        return []

    # ------------------------------------------------------------------ wishes

    def set(self, **changes: Any) -> None:
        """Change what is shown, from Python: `viewer.set(ratio=0.8, seed=3)`. Waits for it."""
        with self._computing:
            with self._lock:
                self._pending = None
            wish = self.wish
            for name, value in changes.items():
                wish = self._changed(wish, name, value)
            self._wanted = wish
            self._show(wish, int(self.status["serial"]))

    def _receive(self, _: Any, content: Any, buffers: Any) -> None:
        """A wish from the browser: take it at once, compute it beside the main thread."""
        if not isinstance(content, dict) or content.keys() != MESSAGE_KEYS:
            return
        serial = content["serial"]
        try:
            wanted = self._changed(self._wanted, content["name"], content["value"])
        except Exception as error:
            self.status = _told(serial, error)
            return
        self._wanted = wanted
        self.status = {"state": "working", "serial": serial}
        with self._lock:
            self._pending = wanted, serial
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while True:
            with self._computing:
                with self._lock:
                    if self._pending is None:
                        self._thread = None
                        return
                    (wish, serial), self._pending = self._pending, None
                try:
                    self._show(wish, serial)
                except Exception as error:  # the old picture stays
                    with self._lock:
                        if self._pending is None:
                            self._wanted = self.wish
                    self.status = _told(serial, error)

    def wait(self, timeout_s: float = 60) -> None:
        """Return once everything that the browser asked for is shown."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
            if thread.is_alive():
                raise TimeoutError(f"the viewer is still at work after timeout_s={timeout_s}")

    def _show(self, wish: Wish, serial: int) -> None:
        view = self._look(wish)
        sprite, mime = encode_sprite([row.pictures for row in view.rows])
        number = self.scene.get("serial", 0) + 1
        with self.hold_sync():  # one message, so that picture and words belong together
            self.wish, self.view = wish, view
            self.sprite, self.table = sprite, view.table
            self.scene = view.scene(number, mime)
            self.controls = self._controls_of(wish)
            self.status = {"state": "idle", "serial": serial, "text": view.note}

    # ------------------------------------------------------------------ what it leaves behind

    def static(self, frames: Sequence[int] | None = None) -> Page:
        """A Matplotlib figure: all pictures at a few frames (five, spread evenly, by default)."""
        view = self.view
        shown = export.some_frames(view.num_frames, 5) if frames is None else list(frames)
        bad = [i for i in shown if not 0 <= i < view.num_frames]
        if bad or not shown:
            raise ValueError(
                f"frames={list(shown)} must name some of the {view.num_frames} frames, from 0: "
                f"try {export.some_frames(view.num_frames, 3)}"
            )
        rows = [
            {"label": row.label, "pictures": [pack_picture(row.drawn[i]) for i in shown]}
            for row in view.rows
        ]
        return draw_viewer(rows, [f"frame {i + 1}" for i in shown], self._caption())

    def _caption(self) -> str:
        facts = [f"{c['label']}: {c['shown']}" for c in self.controls]
        return " ".join([f"{self.view.title}.", "; ".join(facts) + ".", *self.view.sentences])

    def save_html(self, path: Path | str) -> Path:
        """Write one file that plays and scrubs without a kernel and without a network."""
        values = {name: getattr(self, name) for name in ("sprite", "table", "scene", "controls")}
        code, style = ((STATIC / f"player.{kind}").read_text("utf-8") for kind in ("js", "css"))
        text = export.page(self.view.title, values, code, style)
        return export.write(path, (".html", ".htm"), lambda: text.encode())

    def save_png(self, path: Path | str, frame: int = 0) -> Path:
        """Write all pictures of one frame, with their labels."""
        if not 0 <= frame < self.view.num_frames:
            raise ValueError(f"frame={frame} must lie in 0 ... {self.view.num_frames - 1}; try 0")
        return export.write(path, (".png",), lambda: export.png(self.view, frame))

    def save_gif(self, path: Path | str) -> Path:
        """Write all pictures as a GIF that repeats."""
        return export.write(path, (".gif",), lambda: export.gif(self.view))

    def save_mp4(self, path: Path | str) -> Path:
        """Write all pictures as a video (H.264)."""
        return export.write(path, (".mp4",), lambda: export.mp4(self.view))


def _told(serial: int, error: Exception) -> dict[str, Any]:
    return {"state": "idle", "serial": serial, "text": as_sentence(error), "error": True}
