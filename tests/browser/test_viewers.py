"""The notebooks' viewers in a real JupyterLab and in the app: played, scrubbed, clicked, asked."""

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser

from maedfer_lab.config import demo
from maedfer_lab.data.folder import sample_clip
from maedfer_lab.method.models import build_autoencoder
from maedfer_lab.training.stream import example_clips
from maedfer_lab.viewers import ReconstructionViewer

from .pages import PICTURES, Viewer, Watched, end_kernel, open_page, wait_until
from .servers import Workplace, num_kernels

Open = Callable[[str, str], Watched]
HOSTS = ("lab", "app")
KIND = {"02": "masking", "05": "reconstruction", "06": "attention"}

PLACES = [("lab", "02"), *((host, number) for host in HOSTS for number in ("05", "06"))]

everywhere = pytest.mark.parametrize("host", HOSTS)
every_viewer = pytest.mark.parametrize(("host", "number"), PLACES)


@every_viewer
def test_notebook_runs_and_its_viewer_appears(host: str, number: str, opened: Open) -> None:
    """Opening raises where a cell did not run or failed."""
    watched = opened(host, number)
    viewer = watched.viewer(KIND[number])
    assert viewer.data("frame") == "0"
    if host == "lab":
        heights = "[...document.querySelectorAll('.jp-Notebook .jp-Cell')].map(x => x.offsetHeight)"
        assert sum(watched.page.evaluate(heights)) < 6000  # px
    viewer.keep_picture(f"{number}_{KIND[number]}_{host}")


@every_viewer
def test_arrow_keys_change_the_canvas(host: str, number: str, opened: Open) -> None:
    viewer = opened(host, number).viewer(KIND[number])
    viewer.press("Home")
    first = viewer.pixels()
    viewer.press("ArrowRight")
    assert viewer.data("frame") == "1" and viewer.pixels() != first
    viewer.press("End")
    assert viewer.data("frame") == str(viewer.num_frames - 1)
    viewer.press("ArrowRight")
    assert viewer.data("frame") == str(viewer.num_frames - 1)
    viewer.press("Home")
    assert viewer.pixels() == first


@every_viewer
def test_playing_shows_many_frames(host: str, number: str, opened: Open) -> None:
    viewer = opened(host, number).viewer(KIND[number])
    # A machine that is busy with other things may need a second look.
    assert any(plays_well(viewer) for _ in range(3))
    assert viewer.data("playing") == "false"


def plays_well(viewer: Viewer) -> bool:
    """Whether two seconds of playing show ten different pictures, or all of a shorter clip."""
    button = viewer.root.locator("button.maedfer-play")
    viewer.watch()
    button.click()
    viewer.page.wait_for_timeout(2000)
    button.click()
    seen = viewer.seen()
    turned = sum(a["frame"] != b["frame"] for a, b in pairwise(seen))
    return turned >= 10 and len({look["pixels"] for look in seen}) >= min(10, viewer.num_frames)


@everywhere
def test_a_click_on_a_cube_changes_what_is_visible(host: str, opened: Open) -> None:
    viewer = opened(host, "05").viewer("reconstruction")
    before, readout = viewer.data("visible"), viewer.readout()
    viewer.click_first_cube()
    assert wait_until(viewer.page, lambda: viewer.data("visible") != before)
    viewer.settle()
    after = viewer.readout()
    assert after != readout and f"Visible: {viewer.data('visible')} of" in after
    viewer.click_first_cube()
    assert wait_until(viewer.page, lambda: viewer.data("visible") == before)
    viewer.settle()


@everywhere
def test_a_stroke_paints_cubes_and_one_undo_takes_it_back(host: str, opened: Open) -> None:
    viewer = opened(host, "05").viewer("reconstruction")
    viewer.settle()
    first = viewer.data("visible")
    viewer.root.locator("button[name='preset-eyes']").click()
    assert wait_until(viewer.page, lambda: viewer.data("visible") != first)
    viewer.settle()
    before = viewer.data("visible")
    box = viewer.canvas.bounding_box()
    label = viewer.root.locator(".maedfer-label").first.bounding_box()
    assert box and label
    top, side = label["y"] + label["height"] + 7, label["width"]
    viewer.page.mouse.move(label["x"] + 5, top)
    viewer.page.mouse.down()
    viewer.page.mouse.move(label["x"] + 0.35 * side, top, steps=12)
    viewer.page.mouse.up()
    viewer.settle()
    four = 8 * 2 * 4  # cubes of the first row, at eight times, in two regions
    assert wait_until(
        viewer.page, lambda: int(before or 0) - int(viewer.data("visible") or 0) == four
    )
    viewer.root.locator("button[name='history-undo']").click()
    assert wait_until(viewer.page, lambda: viewer.data("visible") == before)


@everywhere
def test_the_keyboard_reaches_every_cube(host: str, opened: Open) -> None:
    viewer = opened(host, "05").viewer("reconstruction")
    viewer.settle()
    before = viewer.data("visible")
    viewer.press("Shift+ArrowRight")
    hover = viewer.root.locator(".maedfer-hover")
    first = hover.inner_text()
    viewer.press("Shift+ArrowLeft")
    assert "column" in first and hover.inner_text() != first
    assert hover.get_attribute("aria-live") == "polite"
    viewer.press("Enter")
    assert wait_until(viewer.page, lambda: viewer.data("visible") != before)
    viewer.settle()


UNCUT = """() => [...document.querySelectorAll('.maedfer-label')].every((label) => {
    const text = document.createRange();
    text.selectNodeContents(label);
    return text.getBoundingClientRect().top >= label.getBoundingClientRect().top - 1;
})"""


@every_viewer
def test_it_fits_is_told_and_can_be_saved(host: str, number: str, opened: Open) -> None:
    """Controls above the pictures, all in 650 px; the readout is a live region, frames are none."""
    viewer = opened(host, number).viewer(KIND[number])
    box = viewer.root.bounding_box()
    controls = viewer.root.locator(".maedfer-controls").first.bounding_box()
    canvas = viewer.canvas.bounding_box()
    assert box and controls and canvas
    assert box["height"] <= 650 and controls["y"] + controls["height"] <= canvas["y"]
    assert viewer.page.evaluate(UNCUT)
    assert viewer.root.locator("output, [aria-live] .maedfer-count").count() == 0
    assert viewer.root.locator(".maedfer-readout[aria-live=polite]").count() == 1
    with viewer.page.expect_download() as download:
        viewer.root.get_by_role("button", name="GIF").click()
    assert download.value.suggested_filename.endswith(".gif")
    viewer.settle()


@everywhere
def test_a_new_ratio_brings_a_new_picture_and_the_old_one_stays_until_then(
    host: str, opened: Open
) -> None:
    viewer = opened(host, "05").viewer("reconstruction")
    viewer.press("Home")
    before, serial = viewer.pixels(), viewer.data("serial")
    viewer.watch()
    viewer.root.locator("input[name=ratio]").focus()
    viewer.page.keyboard.press("ArrowLeft")
    assert wait_until(viewer.page, lambda: viewer.data("serial") != serial)
    viewer.settle()
    seen = viewer.seen()
    assert {look["pixels"] for look in seen if look["serial"] == serial} == {before}
    assert viewer.pixels() != before
    assert "working" in {look["state"] for look in seen}
    assert viewer.root.locator("input[name=ratio]").evaluate("e => e === document.activeElement")


@every_viewer
def test_nothing_complained(host: str, number: str, opened: Open) -> None:
    """After all of the above; a request to another machine is a complaint."""
    assert opened(host, number).complaints == []


def test_nothing_asked_another_machine(workplace: Workplace, opened: Open) -> None:
    """Neither the servers, nor the kernels."""
    assert all(opened(host, number).page for host, number in PLACES)
    assert not workplace.asked.exists(), workplace.asked.read_text()


def test_an_upload_replaces_the_viewer_and_a_closed_page_leaves_no_kernel(
    workplace: Workplace, browser: Browser, tmp_path: Path
) -> None:
    """A file of more than 10 MiB, which no single message may hold in JupyterLab."""
    video = tmp_path / "my own face.mp4"
    video.write_bytes(sample_clip().read_bytes() + bytes(11 * 2**20))
    with workplace.app() as address:
        watched = open_page(browser)
        page = watched.page
        page.goto(address)
        page.wait_for_selector(".maedfer-drop")
        assert page.locator("canvas, img").count() == 0, "nothing is shown before a video is given"
        page.set_input_files("input[type=file]", str(video))
        title = page.locator(".maedfer-title").first
        assert wait_until(page, lambda: title.count() > 0 and video.name in title.inner_text(), 120)
        assert page.locator(".maedfer-viewer").count() == 2
        page.get_by_role("button", name="drawn person 1").click()
        assert wait_until(page, lambda: "drawn_person_1" in title.inner_text(), 120)
        assert page.locator(".maedfer-viewer").count() == 2, "in place of those before"
        PICTURES.mkdir(exist_ok=True)
        page.screenshot(path=PICTURES / "app.png", full_page=True)
        assert watched.complaints == [] and num_kernels(workplace.process) == 1
        page.close(run_before_unload=True)
        end = time.monotonic() + 60
        while num_kernels(workplace.process) and time.monotonic() < end:
            time.sleep(0.2)
        assert num_kernels(workplace.process) == 0


def test_without_a_kernel_the_last_pictures_still_play(opened: Open) -> None:
    viewer: Viewer = opened("lab", "05").viewer("reconstruction")
    end_kernel(viewer.page)
    viewer.press("Home")
    first = viewer.pixels()
    viewer.press("ArrowRight")
    assert viewer.pixels() != first
    viewer.click_first_cube()
    assert wait_until(viewer.page, lambda: "kernel does not answer" in viewer.root.inner_text())
    assert viewer.data("state") == "idle"


# --- a saved page opens from the disk, with the network off and no kernel ---

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
    assert page.evaluate(UNCUT), "labels above small pictures lost their first lines"
    assert page.title() != "taken" and page.locator("img").count() == 0
    PICTURES.mkdir(exist_ok=True)
    page.screenshot(
        path=PICTURES / f"saved_{width}_{'dark' if dark else 'light'}.png", full_page=True
    )
    assert watched.complaints == []
    page.context.close()
