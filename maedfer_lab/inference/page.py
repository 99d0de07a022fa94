"""The page of `make app`: open a video, choose a face, explore it in the viewers."""

from __future__ import annotations

import html
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import ipywidgets as widgets
import torch

from maedfer_lab.data.faces import FRAMINGS, FaceTrack, FaceVideo
from maedfer_lab.data.folder import sample_clip
from maedfer_lab.data.writing import drawn_video
from maedfer_lab.files import png_bytes
from maedfer_lab.inference.faces import Faces, open_faces, steps_for
from maedfer_lab.inference.known_model import known_model, need_autoencoder
from maedfer_lab.method.reconstruction import as_bytes
from maedfer_lab.viewers import AttentionViewer, ReconstructionViewer
from maedfer_lab.viewers.scene import as_sentence, plain
from maedfer_lab.viewers.upload import VideoUpload

MOST_FACES = 8
WELCOME = (
    "<h2>What does a masked autoencoder make of a face?</h2>"
    "<p>Nine of ten cubes are hidden; a small model reconstructs them. Nothing leaves this "
    "machine, and an uploaded file is deleted when the page is closed. The model is small and not "
    "for assessing people.</p>"
)


class FacePage(widgets.VBox):
    """A video upload, the faces found in it, and the viewers of the chosen one.

    Work runs outside the kernel's main thread; of several videos the last is shown.
    """

    def __init__(self) -> None:
        self.known = known_model()
        self.model = need_autoencoder(self.known, "reconstruct")
        self.upload = VideoUpload()
        self.upload.label = "Drop a video here (up to 200 MiB), or"
        self.upload.observe(lambda change: self._start(lambda: change["new"]), "file")
        self._folder = tempfile.TemporaryDirectory(prefix="maedfer-drawn-")
        drawn = {f"drawn person {i + 1}": partial(
            drawn_video, Path(self._folder.name) / f"drawn_person_{i + 1}.mp4", person=i)
            for i in range(2)}  # fmt: skip
        self.samples = []
        for name, make in {"a man in a car": sample_clip, **drawn}.items():
            self.samples.append(widgets.Button(description=name))
            self.samples[-1].on_click(lambda _, make=make: self._start(make))
        self.said, self.found, self.shown = widgets.HTML(), widgets.HBox(), widgets.VBox()
        self.found.layout.flex_flow = "row wrap"
        self._turn = 0
        super().__init__([
            widgets.HTML(WELCOME), self.upload,
            widgets.HBox([widgets.Label("or try one of these:"), *self.samples]),
            self.said, self.found, self.shown,
        ])  # fmt: skip

    def _start(self, make: Callable[[], Path]) -> None:
        """Find the faces of a video and show the largest; returns at once, work goes on."""
        self._turn += 1
        threading.Thread(target=self._work, args=(make, self._turn), daemon=True).start()

    def _say(self, text: str) -> None:
        self.said.value = f"<p role='status'>{html.escape(text)}</p>"

    def _work(self, make: Callable[[], Path], turn: int) -> None:
        try:
            self._say("Opening the video ...")
            path = make()
            self._say(f"Looking for faces in {plain(path.name)} ...")
            size = self.model.config.size_px
            every = open_faces(path, size, progress=False)
            ranked = sorted(every.tracks.tracks, key=lambda track: -track.size_px * len(track))
            faces = [
                Faces(path, every.tracks, (FaceVideo(every.tracks, track, size, FRAMINGS["wide"]),))
                for track in ranked[:MOST_FACES]
            ]
            if turn != self._turn:
                return
            self.found.children = [self._offer(*pair) for pair in zip(ranked, faces, strict=False)]
            self._show(faces[0], turn)
            more = f"; choose among the {MOST_FACES} largest" if len(ranked) > MOST_FACES else ""
            self._say(f"{plain(path.name)}: {len(ranked)} face(s) found{more}.")
        except Exception as error:  # the page goes on
            if turn == self._turn:
                self._say(as_sentence(error))

    def _clip(self, face: Faces) -> torch.Tensor:
        return face.clip(face.middle(self.model.config, steps_for(self.known.stride, face.fps)))

    def _offer(self, track: FaceTrack, face: Faces) -> widgets.VBox:
        """A picture of a face, and a button that shows it."""
        frame = as_bytes(self._clip(face)[:, 0].permute(1, 2, 0).numpy())
        start, end = face.tracks.second(track.first), face.tracks.second(track.stop)
        button = widgets.Button(description=f"{start:.1f} to {end:.1f} s")
        button.on_click(lambda _: self._show(face, self._turn))
        return widgets.VBox([widgets.Image(value=png_bytes(frame), format="png", width=80), button])

    def _show(self, face: Faces, turn: int) -> None:
        """Put viewers of a face in place of those before."""
        clips = {face.path.name: self._clip(face)}
        fps = face.fps / steps_for(self.known.stride, face.fps)
        viewers = [
            kind({self.known.name: self.model}, clips, fps=fps)
            for kind in (ReconstructionViewer, AttentionViewer)
        ]
        if turn == self._turn:
            before, self.shown.children = self.shown.children, viewers
            for old in before:
                old.close()
