"""A saved page opens from the disk, with the network off and no kernel, plays and scrubs."""

from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser

from maedfer_lab.config import demo
from maedfer_lab.method.models import build_autoencoder
from maedfer_lab.training.stream import example_clips
from maedfer_lab.viewers import ReconstructionViewer

from .pages import PICTURES, open_page

HOSTILE = '</script><script>document.title="taken"</script>"\'\n<img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = demo()
    torch.manual_seed(0)
    model = build_autoencoder(config.model, config.target)
    viewer = ReconstructionViewer(model, {HOSTILE: example_clips(1, config.model, None)[0]})
    return viewer.save_html(tmp_path_factory.mktemp("saved") / "viewer.html")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [600, 1600])
def test_saved_page_plays_alone(saved: Path, browser: Browser, width: int, dark: bool) -> None:
    watched = open_page(browser, width, dark)
    page = watched.page
    page.context.set_offline(True)
    page.goto(saved.as_uri())
    viewer = watched.viewer("reconstruction")
    first = viewer.pixels()
    viewer.press("ArrowRight")
    assert viewer.data("frame") == "1" and viewer.pixels() != first
    viewer.press(" ")
    assert viewer.changes(viewer.pixels())
    viewer.press(" ")
    viewer.press("Home")
    assert viewer.pixels() == first
    assert viewer.root.locator(".maedfer-controls select").count() == 0, (
        "what needs a kernel is told, not offered"
    )
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert page.title() != "taken" and page.locator("img").count() == 0
    PICTURES.mkdir(exist_ok=True)
    page.screenshot(
        path=PICTURES / f"saved_{width}_{'dark' if dark else 'light'}.png", full_page=True
    )
    assert watched.complaints == []
    page.context.close()
