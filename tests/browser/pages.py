"""What a test does with a page: run a notebook, watch a viewer, collect complaints."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page

PICTURES = Path(__file__).parent / "pictures"
PATIENCE_MS = 120_000
LOCAL = ("http://127.0.0.1:", "ws://127.0.0.1:", "file:", "data:", "blob:", "about:")
HARMLESS = ("favicon.ico",)  # a page without one is no fault


@dataclass
class Watched:
    """A page with its complaints: uncaught errors, errors on its console, requests to the web."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        self.page.on("console", self._note)
        self.page.on("request", lambda request: self._check(request.url))
        self.page.on("websocket", lambda socket: self._check(socket.url))

    def _check(self, url: str) -> None:
        if not url.startswith(LOCAL):
            self.complaints.append(f"leaves this machine: {url}")

    def _note(self, message: ConsoleMessage) -> None:
        text = f"{message.text} ({message.location.get('url', '')})"
        if message.type == "error" and not any(part in text for part in HARMLESS):
            self.complaints.append(text)

    def viewer(self, kind: str = "") -> "Viewer":
        """The first viewer of the page, or the first of one kind, once it shows a picture."""
        chosen = f'[data-viewer="{kind}"]' if kind else "[data-viewer]"
        root = self.page.locator(f".maedfer-viewer{chosen}").first
        root.scroll_into_view_if_needed()
        viewer = Viewer(self.page, root)
        wait_until(self.page, lambda: viewer.data("frame") is not None)
        return viewer


def open_page(browser: Browser, width: int = 1200, dark: bool = False) -> Watched:
    """An empty page, from which nothing but this machine can be reached."""
    context = browser.new_context(
        viewport={"width": width, "height": 1300}, color_scheme="dark" if dark else "light"
    )
    context.route(
        lambda url: not url.startswith(LOCAL), lambda route: route.abort("internetdisconnected")
    )
    return Watched(context.new_page())


# A canvas's size and pixels as one number (FNV-1a over 32-bit words).
HASH = """canvas => {
    const {width, height} = canvas;
    const words = new Uint32Array(
        canvas.getContext('2d').getImageData(0, 0, width, height).data.buffer);
    let hash = 0x811c9dc5 ^ width;
    for (let i = 0; i < words.length; i++) hash = Math.imul(hash ^ words[i], 0x01000193);
    return hash >>> 0;
}"""

# Notes what the viewer shows at every redrawn frame of the screen, until told to stop.
WATCH = """(root, hash) => {
    const pixels = new Function('canvas', `return (${hash})(canvas)`);
    const seen = window.maedferSeen = [];
    const look = () => {
        if (window.maedferSeen !== seen) return;
        const {serial, state, frame} = root.dataset;
        seen.push({serial, state, frame, pixels: pixels(root.querySelector('canvas'))});
        requestAnimationFrame(look);
    };
    look();
}"""


@dataclass
class Viewer:
    """One viewer on a page, by the hooks that its script leaves in the page."""

    page: Page
    root: Locator

    @property
    def canvas(self) -> Locator:
        return self.root.locator("canvas")

    @property
    def num_frames(self) -> int:
        return int(self.data("frames") or 0)

    def data(self, name: str) -> str | None:
        return self.root.get_attribute(f"data-{name}")

    def pixels(self) -> int:
        """A hash of what the canvas shows."""
        return self.canvas.evaluate(HASH)

    def press(self, key: str) -> None:
        self.canvas.focus()
        self.page.keyboard.press(key)

    def changes(self, before: int, timeout_s: float = 60) -> bool:
        """Whether the canvas comes to show something else than `before`."""
        return wait_until(self.page, lambda: self.pixels() != before, timeout_s)

    def settle(self) -> None:
        """Wait until no change is under way."""
        settled = wait_until(self.page, lambda: self.data("state") == "idle")
        assert settled, f"still {self.data('state')}: {self.root.inner_text()}"

    def watch(self) -> None:
        self.root.evaluate(WATCH, HASH)

    def seen(self) -> list[dict[str, Any]]:
        """What `watch` noted since; ends the watch."""
        return self.page.evaluate(
            "() => { const s = window.maedferSeen; window.maedferSeen = null; return s; }"
        )

    def click_first_cube(self, row: int = 0) -> None:
        """Click the top left cube of a picture, which lies below its label."""
        label = self.root.locator(".maedfer-label").nth(row).bounding_box()
        assert label
        self.page.mouse.click(label["x"] + 5, label["y"] + label["height"] + 7)

    def readout(self) -> str:
        """The readout's words."""
        return self.root.locator(".maedfer-readout").inner_text()

    def keep_picture(self, name: str) -> None:
        """Keep a picture of the viewer, for people to look at."""
        PICTURES.mkdir(exist_ok=True)
        self.root.screenshot(path=PICTURES / f"{name}.png")


def wait_until(page: Page, condition: Callable[[], bool], timeout_s: float = 60) -> bool:
    """Whether `condition` came true in time; looks again and again while the page lives on."""
    for _ in range(int(timeout_s / 0.05)):
        if condition():
            return True
        page.wait_for_timeout(50)
    return False


# Cells are run one after another; a cell that fails keeps the ones below it from running.
RUN_ALL = """async () => {
    const app = window.jupyterapp;
    const panel = app.shell.currentWidget;
    await panel.revealed;
    await panel.sessionContext.ready;
    const kernel = panel.sessionContext.session.kernel;
    await kernel.info;
    await kernel.requestKernelInfo();
    await app.commands.execute('notebook:run-all-cells');
    const cells = panel.content.model.sharedModel.cells.filter(cell => cell.cell_type === 'code');
    return cells.map(cell => ({
        count: cell.execution_count,
        errors: cell.outputs.filter(out => out.output_type === 'error').map(out => out.evalue),
    }));
}"""


def run_in_lab(watched: Watched, address: str, name: str) -> None:
    """Open a notebook in JupyterLab and run all its cells; raises where one did not run through."""
    watched.page.goto(address.replace("/lab?", f"/lab/tree/notebooks/{name}?reset&"))
    watched.page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]")
    cells = watched.page.evaluate(RUN_ALL)
    assert cells, f"{name} has no code"
    errors = [error for cell in cells for error in cell["errors"]]
    assert not errors and all(cell["count"] for cell in cells), f"{name}: {errors or cells}"


def run_in_app(watched: Watched, address: str) -> None:
    """Open the app's page and try a sample."""
    watched.page.goto(address)
    watched.page.get_by_role("button", name="a man in a car").click()
    watched.page.wait_for_selector(".maedfer-viewer[data-viewer=attention][data-frame]")


def end_kernel(page: Page) -> None:
    """End the kernel of the notebook that JupyterLab shows."""
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
