"""What all viewers share: one canvas that plays a sprite, and what it can leave behind.

A sprite holds all pictures of a viewer: a row for each picture over time, a column for each frame.
It is sent once; playing, scrubbing and numbers under the pointer need no kernel. What does need it
(a new mask, another clip) is computed beside the kernel's main thread, and only the last one is.
"""

from __future__ import annotations

import re
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import anywidget
import traitlets

from maedfer_lab.figures import draw_viewer
from maedfer_lab.figures.style import Page
from maedfer_lab.files import pack_picture, text_bytes
from maedfer_lab.viewers import export
from maedfer_lab.viewers.scene import View, as_sentence, encode_sprite, plain

STATIC = Path(__file__).parent / "static"
MAX_SEED = 2**31 - 1
MAX_UNDO = 200
HISTORY = {"undo": "undo", "reset": "reset"}
MESSAGE_KEYS = frozenset({"name", "value", "serial"})
Settings = TypeVar("Settings")


class Player(anywidget.AnyWidget, Generic[Settings]):
    """A viewer: its `settings`, and how it looks (`view`).

    In the browser: space plays, arrow keys go from frame to frame, Home and End to the first and
    last; shift with arrow keys goes from cube to cube, Enter does what a click does. A subclass
    says how a settings changes, how it looks and which controls it has.

    fps: frames of the clips in a second, for playing in real time; where it is not known, ten
        frames are shown in a second.
    """

    _esm = STATIC / "player.js"
    _css = STATIC / "player.css"
    sprite = traitlets.Bytes().tag(sync=True)
    table = traitlets.Bytes().tag(sync=True)
    scene = traitlets.Dict().tag(sync=True)
    controls = traitlets.List().tag(sync=True)
    status = traitlets.Dict({"state": "idle", "serial": 0}).tag(sync=True)

    settings: Settings
    view: View

    def __init__(self, settings: Settings, fps: float | None = None) -> None:
        super().__init__()
        self.fps = fps
        self._opening = settings
        self._past: deque[Settings] = deque(maxlen=MAX_UNDO)
        self._stroke: Any = None
        self._lock = threading.Lock()  # of what is pending
        self._computing = threading.RLock()  # one picture at a time
        self._pending: tuple[Settings, int] | None = None
        self._thread: threading.Thread | None = None
        self._wanted = settings
        self._show(settings, 0)
        self.on_msg(self._receive)

    @abstractmethod
    def _changed(self, settings: Settings, name: str, value: Any) -> Settings:
        """`settings` with one thing changed; quick. ValueError for what cannot be."""

    @abstractmethod
    def _look(self, settings: Settings) -> View:
        """What is seen; may take a second."""

    def _controls_of(self, settings: Settings) -> list[dict[str, Any]]:
        return []

    # ------------------------------------------------------------------ changes

    def set(self, **changes: Any) -> None:
        """Change what is shown, from Python: `viewer.set(ratio=0.8, seed=3)`. Waits for it."""
        with self._computing:
            with self._lock:
                self._pending = None
            settings = self.settings
            for name, value in changes.items():
                settings = self._changed(settings, name, value)
            self._past.append(self.settings)
            self._wanted = settings
            self._show(settings, int(self.status["serial"]))

    def _receive(self, _: Any, content: Any, buffers: Any) -> None:
        """A settings from the browser: take it at once, compute it beside the main thread."""
        if not isinstance(content, dict) or content.keys() != MESSAGE_KEYS:
            return
        name, value, serial = content["name"], content["value"], content["serial"]
        try:
            if name == "save":
                return self._hand_over(value, serial)
            wanted = self._next(name, value)
        except Exception as error:
            self.status = _failure(serial, error)
            return
        self._wanted = wanted
        self.status = {"state": "working", "serial": serial}
        with self._lock:
            self._pending = wanted, serial
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()

    def _next(self, name: str, value: Any) -> Settings:
        """What the browser wants; what was wanted before is kept, once for a stroke of the hand."""
        is_history = name == "history" and pick(name, value, HISTORY)
        if is_history == "undo":
            if not self._past:
                raise ValueError("nothing is left to be undone")
            return self._past.pop()
        now = self._wanted
        wanted = self._opening if is_history else self._changed(now, name, value)
        stroke = value.get("stroke") if isinstance(value, dict) else None
        if wanted != now and (stroke is None or stroke != self._stroke):
            self._past.append(now)
        self._stroke = stroke
        return wanted

    def _hand_over(self, kind: str, serial: int) -> None:
        """Send what the viewer shows to the browser as a file, made beside the main thread."""
        pick("save", kind, export.SUFFIXES)
        self.status = {"state": "working", "serial": serial}

        def work() -> None:
            try:
                with self._computing:
                    content = self._export(kind)
                name = re.sub(r"[^\w.-]+", "_", self.view.title).strip("._")[:80]
                self.send({"file": f"{name}.{kind}"}, [content])
                self.status = {"state": "idle", "serial": serial, "text": ""}
            except Exception as error:
                self.status = _failure(serial, error)

        threading.Thread(target=work, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._computing:
                with self._lock:
                    if self._pending is None:
                        self._thread = None
                        return
                    (settings, serial), self._pending = self._pending, None
                try:
                    self._show(settings, serial)
                except Exception as error:  # the old picture stays
                    with self._lock:
                        if self._pending is None:
                            self._wanted = self.settings
                    self.status = _failure(serial, error)

    def wait(self, timeout_s: float = 60) -> None:
        """Return once everything that the browser asked for is shown."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
            if thread.is_alive():
                raise TimeoutError(f"the viewer is still at work after timeout_s={timeout_s}")

    def _show(self, settings: Settings, serial: int) -> None:
        view = replace(self._look(settings), fps=self.fps)
        sprite, mime = encode_sprite(view.strips)
        number = self.scene.get("serial", 0) + 1
        with self.hold_sync():  # one message, so that picture and words belong together
            self.settings, self.view = settings, view
            self.sprite, self.table = sprite, view.table
            self.scene = view.scene(number, mime)
            self.controls = [*self._controls_of(settings), buttons("history", "", HISTORY)]
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
        facts = [f"{c['label']}: {c['shown']}" for c in self.controls if c["kind"] != "buttons"]
        said = ["; ".join(facts) + ".", *self.view.sentences, f"{self.view.footer}."]
        return " ".join([f"{self.view.title}.", *said])

    def _export(self, kind: str, frame: int = 0) -> bytes:
        if kind == "html":
            values = {n: getattr(self, n) for n in ("sprite", "table", "scene", "controls")}
            code, style = ((STATIC / f"player.{kind}").read_text("utf-8") for kind in ("js", "css"))
            return text_bytes(export.page(self.view.title, values, code, style))
        if kind == "png":
            return export.png(self.view, frame)
        return {"gif": export.gif, "mp4": export.mp4}[kind](self.view)

    def save_html(self, path: Path | str) -> Path:
        """Write one file that plays and scrubs without a kernel and without a network."""
        return export.write(path, "html", lambda: self._export("html"))

    def save_png(self, path: Path | str, frame: int = 0) -> Path:
        """Write all pictures of one frame, with their labels."""
        if not 0 <= frame < self.view.num_frames:
            raise ValueError(f"frame={frame} must lie in 0 ... {self.view.num_frames - 1}; try 0")
        return export.write(path, "png", lambda: self._export("png", frame))

    def save_gif(self, path: Path | str) -> Path:
        """Write all pictures as a GIF that repeats."""
        return export.write(path, "gif", lambda: self._export("gif"))

    def save_mp4(self, path: Path | str) -> Path:
        """Write all pictures as a video (H.264)."""
        return export.write(path, "mp4", lambda: self._export("mp4"))


def _failure(serial: int, error: Exception) -> dict[str, Any]:
    return {"state": "idle", "serial": serial, "text": as_sentence(error), "error": True}


# ---------------------------------------------------------------------- controls of player.js


def select(
    name: str,
    label: str,
    value: str,
    options: Mapping[str, str],
    note: str = "",
    disabled: bool = False,
) -> dict[str, Any]:
    """A control that picks one of `options` (value -> what is read)."""
    return {
        "name": name,
        "label": label,
        "kind": "select",
        "value": value,
        "shown": options[value],
        "options": [{"value": v, "label": text} for v, text in options.items()],
        "note": note,
        "disabled": disabled,
    }


def buttons(
    name: str, label: str, options: Mapping[str, str], pressed: str | None = None
) -> dict[str, Any]:
    """A control of buttons (value -> what is read); each asks for `name` to become its value."""
    return {
        "name": name,
        "label": label,
        "kind": "buttons",
        "value": pressed,
        "options": [{"value": v, "label": text} for v, text in options.items()],
    }


def ratio_steps(value: float, ratios: Sequence[float]) -> dict[str, Any]:
    """A control that goes through the mask ratios."""
    return {
        "name": "ratio",
        "label": "mask ratio",
        "kind": "steps",
        "value": value,
        "options": [{"value": r, "label": f"{r:.4g} hidden"} for r in ratios],
        "shown": f"{value:.4g} hidden",
    }


def seed_number(value: int, shown: str = "", note: str = "") -> dict[str, Any]:
    """A control that takes the seed of a mask."""
    return {
        "name": "seed",
        "label": "mask seed",
        "kind": "number",
        "value": value,
        "low": 0,
        "high": MAX_SEED,
        "shown": shown or str(value),
        "note": note,
    }


def check_seed(value: Any) -> int:
    """A seed that a generator takes."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= MAX_SEED or value != int(value):
        raise ValueError(f"seed={value} must be a whole number from 0 to {MAX_SEED}; try 0")
    return int(value)


def pick(name: str, value: Any, known: Mapping[str, Any] | Sequence[str]) -> Any:
    """`value` if it is one of `known`; an error that names the first of them otherwise."""
    if not isinstance(value, str) or value not in known:
        some = ", ".join(plain(k) for k in list(known)[:10])
        raise ValueError(f"{name}={plain(value)!r} is not known; choose one of {some}")
    return value


def number_below(name: str, value: Any, count: int) -> int:
    """`value` as a whole number from 0 to `count` - 1; an error that names it otherwise."""
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if not count:
        raise ValueError(f"{name}={value}: only their mean was kept, to save memory; use None")
    if not 0 <= number < count:
        raise ValueError(f"{name}={value} must lie in 0 ... {count - 1}; try 0")
    return number
