"""How soon a viewer answers, with the demo model: printed, not asserted (the machine may be busy).

Run alone: pytest tests/browser/test_latency.py
"""

from collections.abc import Callable
from statistics import median

import nbformat
from playwright.sync_api import Browser

from .pages import HASH, Viewer, open_page, run_in_lab
from .servers import Workplace

NAME = "90_latency.ipynb"
SETUP = """import torch
from maedfer_lab.config import demo
from maedfer_lab.method.models import build_autoencoder
from maedfer_lab.training.stream import example_clips
from maedfer_lab.viewers import AttentionViewer, ReconstructionViewer

config = demo()
model = build_autoencoder(config.model, config.target)
clips = example_clips(2, config.model, None)"""
VIEWERS = {
    "reconstruction": "ReconstructionViewer(model, clips)",
    "attention": "AttentionViewer({'LGI-Former': model}, clips)",
}
KEYS, MASKS = 50, 10

# Two times for each event, from its own time stamp: until the canvas holds other pixels, and until
# the end of the frame of the screen (60 a second) that shows them.
LISTEN = """(root, [hash, type]) => {
    const pixels = new Function('canvas', `return (${hash})(canvas)`);
    const canvas = root.querySelector('canvas');
    const times = window.maedferTimes = [];
    let before = pixels(canvas);
    const soon = task => {
        const {port1, port2} = new MessageChannel();
        port1.onmessage = task;
        port2.postMessage(null);
    };
    root.addEventListener(type, event => {
        const since = () => performance.now() - event.timeStamp;
        const look = () => {
            const drawn = since();
            const after = pixels(canvas);
            if (after === before) return setTimeout(look);
            before = after;
            requestAnimationFrame(() => soon(() => times.push([drawn, since()])));
        };
        soon(look);
    }, true);
}"""


def test_latency(
    workplace: Workplace, lab: str, browser: Browser, tell: Callable[[str], None]
) -> None:
    cells = [nbformat.v4.new_code_cell(text) for text in (SETUP, *VIEWERS.values())]
    # Without a kernel named, JupyterLab asks for one.
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, workplace.folder / "notebooks" / NAME)
    watched = open_page(browser)
    run_in_lab(watched, lab, NAME)
    for kind in VIEWERS:
        viewer = watched.viewer(kind)
        keys = ["ArrowRight" if i % 10 < 5 else "ArrowLeft" for i in range(KEYS)]
        tell(f"{kind} viewer, key to pixel: {summary(times(viewer, 'keydown', keys))}")
    viewer = watched.viewer("reconstruction")
    viewer.root.locator("input[name=ratio]").focus()
    keys = ["ArrowLeft" if i % 4 < 2 else "ArrowRight" for i in range(MASKS)]
    tell(f"new mask to pixel, demo model: {summary(times(viewer, 'input', keys))}")
    watched.page.context.close()


def times(viewer: Viewer, event: str, keys: list[str]) -> list[tuple[float, float]]:
    """Milliseconds from each key's event to other pixels, and to those on the screen."""
    if event == "keydown":
        viewer.canvas.focus()
    viewer.root.evaluate(LISTEN, [HASH, event])
    for number, key in enumerate(keys, start=1):
        viewer.page.keyboard.press(key)
        viewer.page.wait_for_function("n => window.maedferTimes.length >= n", arg=number)
        # A hand does not press in step with the frames of the screen, as the line above ends.
        viewer.page.wait_for_timeout(30 + 7 * (number % 5))
    return viewer.page.evaluate("() => window.maedferTimes")


def summary(times_ms: list[tuple[float, float]]) -> str:
    drawn, shown = zip(*times_ms, strict=True)
    return (
        f"median {median(drawn):.0f} ms, worst of {len(drawn)} {max(drawn):.0f} ms "
        f"(at the end of that frame of the screen {median(shown):.0f} and {max(shown):.0f} ms)"
    )
