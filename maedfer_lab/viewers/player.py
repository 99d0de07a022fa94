"""What all viewers share: one canvas that plays a sprite, and its export to files.

A sprite, sent once, has one row per picture and one column per frame; playing it and reading
numbers under the pointer need no kernel. New masks or clips are computed outside its main thread.
"""

from __future__ import annotations

import re
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import anywidget
import traitlets

from maedfer_lab.files import text_bytes, write_aside
from maedfer_lab.viewers import export
from maedfer_lab.viewers.export import STATIC
from maedfer_lab.viewers.scene import View, as_sentence, plain

MAX_SEED = 2**31 - 1
MAX_UNDO = 200
HISTORY = {"undo": "undo", "reset": "reset"}
Settings = TypeVar("Settings")


class Player(anywidget.AnyWidget, Generic[Settings]):
    """A viewer: its `settings`, and what it shows (`view`).

    In the browser: space plays, arrow keys go from frame to frame, Home and End to the first and
    last; shift with arrow keys goes from cube to cube, Enter acts like a click.

    fps: frames of the clips per second, for playing in real time; 10 if unknown.
    """

    _esm = STATIC / "player.js"
    _css = STATIC / "player.css"
    sprite = traitlets.Bytes().tag(sync=True)
    table = traitlets.Bytes().tag(sync=True)
    scene = traitlets.Dict().tag(sync=True)
    controls = traitlets.List().tag(sync=True)
    status = traitlets.Dict({"state": "idle", "serial": 0}).tag(sync=True)

    kind: str
    settings: Settings
    view: View

    def __init__(self, settings: Settings, fps: float | None = None) -> None:
        super().__init__()
        self.fps = fps
        self._opening = self._wanted = settings
        self._past: deque[Settings] = deque(maxlen=MAX_UNDO)
        self._stroke: Any = None
        self._beside = ThreadPoolExecutor(1)
        self._computing = threading.RLock()  # one picture at a time
        self._show(settings, 0)
        self.on_msg(self._receive)

    @abstractmethod
    def _changed(self, settings: Settings, name: str, value: Any) -> Settings:
        """`settings` with one thing changed; quick. ValueError for what cannot be."""

    @abstractmethod
    def _look(self, settings: Settings) -> View:
        """The view; may take a second."""

    @abstractmethod
    def _controls_of(self, settings: Settings) -> list[dict[str, Any]]:
        """The controls, each by `control`."""

    # ------------------------------------------------------------------ changes

    def set(self, **changes: Any) -> None:
        """Change what is shown, from Python: `viewer.set(ratio=0.8, seed=3)`. Waits for it."""
        with self._computing:
            settings = self.settings
            for name, value in changes.items():
                settings = self._changed(settings, name, value)
            self._past.append(self.settings)
            self._wanted = settings
            self._show(settings, int(self.status["serial"]))

    def _receive(self, _: Any, content: Any, buffers: Any) -> None:
        """A request from the browser: checked at once, computed outside the main thread."""
        if not isinstance(content, dict) or content.keys() != {"name", "value", "serial"}:
            return
        name, value, serial = content["name"], content["value"], content["serial"]
        try:
            if name == "save":
                work = partial(self._hand_over, pick(name, value, export.KINDS))
            else:
                self._wanted = self._next(name, value)
                work = partial(self._show_if_last, self._wanted)
        except Exception as error:
            self._fail(serial, error)
        else:
            self.status = {"state": "working", "serial": serial}
            self._beside.submit(self._work, work, serial)

    def _next(self, name: str, value: Any) -> Settings:
        """The requested settings; the previous ones are kept for undo, once per stroke."""
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

    def _work(self, work: Callable[[int], None], serial: int) -> None:
        try:
            with self._computing:
                work(serial)
        except Exception as error:
            self._fail(serial, error)

    def _show_if_last(self, wanted: Settings, serial: int) -> None:
        if wanted is self._wanted:
            try:
                self._show(wanted, serial)
            except Exception:  # the old picture stays
                self._wanted = self.settings if wanted is self._wanted else self._wanted
                raise

    def _hand_over(self, kind: str, serial: int) -> None:
        """Send what the viewer shows to the browser as a file."""
        name = re.sub(r"[^\w.-]+", "_", self.view.title).strip("._")[:80]
        self.send({"file": f"{name}.{kind}"}, [self._export(kind)])
        self.status = {"state": "idle", "serial": serial, "text": ""}

    def _fail(self, serial: int, error: Exception) -> None:
        self.status = {"state": "idle", "serial": serial, "text": as_sentence(error), "error": True}

    def wait(self, timeout_s: float = 60) -> None:
        """Return once all requests from the browser are shown, else raise TimeoutError."""
        if wait([self._beside.submit(int)], timeout_s).not_done:
            raise TimeoutError(f"the viewer is still at work after timeout_s={timeout_s}")

    def _show(self, settings: Settings, serial: int) -> None:
        view = replace(self._look(settings), fps=self.fps)
        sprite, number = view.sprite(), self.scene.get("serial", 0) + 1
        with self.hold_sync():  # one message, so that picture and words belong together
            self.settings, self.view = settings, view
            self.sprite, self.table = sprite, view.table
            self.scene = {"viewer": self.kind, "serial": number, **view.scene()}
            history = control("buttons", "history", "", options=HISTORY)
            self.controls = [*self._controls_of(settings), history]
            self.status = {"state": "idle", "serial": serial, "text": view.note}

    # ------------------------------------------------------------------ export

    def _export(self, kind: str, frame: int = 0) -> bytes:
        if kind != "html":
            return export.encode(self.view, kind, frame)
        values = {n: getattr(self, n) for n in ("sprite", "table", "scene", "controls")}
        code, style = ((STATIC / f"player.{kind}").read_text("utf-8") for kind in ("js", "css"))
        return text_bytes(export.page(self.view.title, values, code, style))

    def _save(self, path: Path | str, kind: str, frame: int = 0) -> Path:
        path = Path(path)
        if path.suffix.lower() not in (f".{kind}", f".{kind}"[:4]):  # .htm as well
            raise ValueError(f"path={str(path)!r} must end in .{kind}; try {path.stem}.{kind}")
        write_aside(path, self._export(kind, frame))
        return path

    def save_html(self, path: Path | str) -> Path:
        """Write one file that plays and scrubs without a kernel and without a network."""
        return self._save(path, "html")

    def save_png(self, path: Path | str, frame: int = 0) -> Path:
        """Write all pictures of one frame, with their labels."""
        return self._save(path, "png", whole_number("frame", frame, self.view.num_frames))

    def save_gif(self, path: Path | str) -> Path:
        """Write all pictures as a GIF that repeats."""
        return self._save(path, "gif")

    def save_mp4(self, path: Path | str) -> Path:
        """Write all pictures as a video (H.264)."""
        return self._save(path, "mp4")


# ---------------------------------------------------------------------- controls of player.js


def control(
    kind: str, name: str, label: str, value: Any = None, options: Mapping[Any, str] | None = None,
    **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """A control of setting `name`: a "select", "steps", "buttons" or a "number".

    options: value -> label. more: for player.js.
    """
    options = options or {}
    return {
        "kind": kind,
        "name": name,
        "label": label,
        "value": value,
        "shown": options.get(value, str(value)),
        "options": [{"value": v, "label": text} for v, text in options.items()],
        **more,
    }


def pick_clip(value: str, clips: Mapping[str, Any]) -> dict[str, Any]:
    """The control of a clip."""
    return control("select", "clip", "clip", value, {name: plain(name) for name in clips})


def pick_mask(ratio: float, ratios: Sequence[float], seed: int, **more: Any) -> list[Any]:
    """The controls of a mask; `more` are further options of its seed."""
    return [
        control("steps", "ratio", "mask ratio", ratio, {r: f"{r:.4g} hidden" for r in ratios}),
        control("number", "seed", "mask seed", seed, low=0, high=MAX_SEED, **more),
    ]


def pick(name: str, value: Any, known: Mapping[str, Any] | Sequence[str]) -> Any:
    """`value` if it is one of `known`; an error that names the first of them otherwise."""
    if not isinstance(value, str) or value not in known:
        some = ", ".join(plain(k) for k in list(known)[:10])
        raise ValueError(f"{name}={plain(value)!r} is not known; choose one of {some}")
    return value


def whole_number(name: str, value: Any, count: int = MAX_SEED + 1) -> int:
    """`value` as a whole number from 0 to `count` - 1; an error that names it otherwise."""
    try:
        number = int(value)
        is_whole = number == float(value) and not isinstance(value, bool)
    except (TypeError, ValueError, OverflowError):
        number, is_whole = -1, False
    if not is_whole or not 0 <= number < count:
        raise ValueError(f"{name}={value} must be a whole number from 0 to {count - 1}; try 0")
    return number
