"""The explainer: Python's numbers in a real browser, from disk, with the network off."""

import base64
import gzip
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser

from maedfer_lab.attention.maps import capture_attention
from maedfer_lab.checkpoints.loading import load_checkpoint
from maedfer_lab.config import preset
from maedfer_lab.cost.formula import macs
from maedfer_lab.data.faces import detect_faces, frame_square
from maedfer_lab.data.folder import sample_clip
from maedfer_lab.data.readers import open_video
from maedfer_lab.data.writing import write_video
from maedfer_lab.drawn.faces import SyntheticFaces
from maedfer_lab.method.models import MaskedAutoencoder, model_mask
from maedfer_lab.method.reconstruction import reconstruct_clip
from maedfer_lab.viewers.explain import runtime_files
from maedfer_lab.weights import shipped

from .pages import PICTURES, Watched, open_page, wait_until

# What one pass gives, as text: large arrays as base64 of float32.
RUN = """async ([bytes, mask]) => {
    const { engine } = maedfer;
    const clip = Float32Array.from(atob(bytes), letter => letter.charCodeAt(0) / 255);
    const found = await engine.run(clip, Uint8Array.from(mask));
    const text = ({ buffer, byteOffset, byteLength }) => {
        let out = "";
        const all = new Uint8Array(buffer, byteOffset, byteLength);
        for (let i = 0; i < all.length; i += 8192) {
            out += String.fromCharCode(...all.subarray(i, i + 8192));
        }
        return btoa(out);
    };
    const maps = Object.entries(found.maps).map(([name, map]) => [name, map.dims, text(map.data)]);
    const { reconstruction, interpolation, error, losses } = found;
    const arrays = Object.entries({ reconstruction, interpolation, error });
    return { losses, maps, arrays: arrays.map(([name, data]) => [name, text(data)]) };
}"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Path:
    try:
        runtime_files()
    except OSError as error:  # no network; continuous integration has one
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))
    path = tmp_path_factory.mktemp("page") / "page.html"
    # Outside of pytest, whose checks of shapes would pin the sizes that an export leaves free.
    order = [sys.executable, "-m", "maedfer_lab", "explain", "--out", str(path)]
    done = subprocess.run(order, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "no network is needed" in done.stdout, done.stderr
    return path


@pytest.fixture(scope="module")
def watched(page_file: Path, browser: Browser) -> Iterator[Watched]:
    watched = open_offline(page_file, browser)
    yield watched
    assert watched.complaints == []  # among them any request, which would leave this machine
    watched.page.context.close()


def open_offline(path: Path, browser: Browser, width: int = 1400, dark: bool = False) -> Watched:
    watched = open_page(browser, width, dark)
    watched.page.context.set_offline(True)
    watched.page.goto(path.as_uri())
    watched.page.wait_for_selector("body[data-passes]")
    return watched


def passes(watched: Watched) -> int:
    return int(watched.page.locator("body").get_attribute("data-passes") or 0)


def after(watched: Watched, action: Callable[[], Any]) -> str:
    """The verdict once the model has run again."""
    before = passes(watched)
    action()
    assert wait_until(watched.page, lambda: passes(watched) > before)
    viewer = watched.viewer("page")
    viewer.settle()
    return watched.page.locator("#verdict").inner_text()


def test_it_is_one_small_file(page_file: Path) -> None:
    content = page_file.read_bytes()
    assert len(content) < 20e6 and len(gzip.compress(content, 6)) < 14e6
    head = content[:2000].decode()
    policy = head.split('Content-Security-Policy" content="')[1].split('"')[0]
    assert policy.startswith("default-src 'none'") and "connect-src" not in policy
    assert "http:" not in policy and "https:" not in policy


def test_numbers_are_pythons(watched: Watched) -> None:
    model = load_checkpoint(shipped("demo"), as_="autoencoder").model.eval()
    assert isinstance(model, MaskedAutoencoder)
    seed = torch.Generator().manual_seed(0)
    ratios = (0.5, 0.76, 0.9, 0.02, 0.98, 0.6, 0.7, 0.8, 0.84, 0.5)
    for i, ratio in enumerate(ratios):
        faces = SyntheticFaces(10, "test", difficulty=i / 10, seed=i)
        frames = faces[i].frames
        mask = model_mask(model, ratio, 1, seed)[0]
        places = mask[: model.grid.h * model.grid.w].int().tolist()
        data = [base64.b64encode(frames.tobytes()).decode(), places]
        found = watched.page.evaluate(RUN, data)
        clip = torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 255
        want = reconstruct_clip(model, clip, mask)
        for name, text in found["arrays"]:
            array = getattr(want, name)
            here = np.frombuffer(base64.b64decode(text), np.float32).reshape(array.shape)
            assert np.abs(here - array).max() < 1e-4 * max(1, np.abs(array).max()), (i, name)
        for name, losses in want.losses.items():
            assert found["losses"][name] == pytest.approx(losses, abs=1e-4), (i, name)
        index = model.split(mask[None]).visible[0]
        maps = capture_attention(model, clip, index=index, dtype=torch.float32)
        assert len(found["maps"]) == 3 * model.config.depth
        for name, dims, text in found["maps"]:
            stage, _, block = name.partition("_")
            array = maps.layers[int(block)][stage]
            here = np.frombuffer(base64.b64decode(text), np.float32).reshape(dims)
            assert np.abs(here.reshape(array.shape) - array.numpy()).max() < 1e-4, (i, name)


def test_cost_is_the_closed_formula(watched: Watched) -> None:
    for encoder, frames, size in itertools.product(("lgi", "vit"), (4, 16, 64), (80, 160, 240)):
        region = (2, 5, 5 if size % 160 else 10)
        config = replace(preset("base", encoder).model, frames=frames, size_px=size, region=region)
        plain = {**json.loads(json.dumps(config.__dict__))}
        for task, published in itertools.product(("classify", "pretrain"), (False, True)):
            ratio = 0.88
            here = watched.page.evaluate(
                "([c, t, r, p]) => maedfer.macs(c, t, { ratio: r, asPublished: p })",
                [plain, task, ratio, published],
            )
            assert here == macs(config, task, mask_ratio=ratio, as_published=published)  # type: ignore


def test_hiding_and_showing(watched: Watched) -> None:
    page = watched.page
    texts = {name: after(watched, page.locator(f"#do-{name}").click) for name in
            ("eyes", "mouth", "90", "50")}  # fmt: skip
    assert len({*texts.values()}) == 4 and all("Appearance: " in text for text in texts.values())
    viewer = watched.viewer("page")
    assert viewer.data("visible") == "400"
    after(watched, lambda: viewer.click_first_cube())
    assert viewer.data("visible") in ("384", "416")  # the cube, and one of the other half
    after(watched, page.locator("#do-undo").click)
    assert viewer.data("visible") == "400"
    page.locator("#ratio").focus()
    after(watched, lambda: page.keyboard.press("ArrowRight"))
    assert viewer.data("visible") == "384" and "52 %" in page.locator("#ratio-told").inner_text()
    assert after(watched, lambda: page.keyboard.press("ArrowLeft")) == texts["50"]
    assert after(watched, page.locator("#people label").nth(2).click) != texts["50"]
    after(watched, page.locator("#do-again").click)


def test_a_cube_is_followed_through_the_model(watched: Watched) -> None:
    how = watched.page.locator("#how")
    at = how.locator('[data-n="at"]')
    before, place = how.get_attribute("data-token"), at.inner_text()
    watched.page.locator("#how-hide").focus()
    for _ in range(3):
        watched.page.keyboard.press("ArrowDown")
    assert how.get_attribute("data-token") != before and at.inner_text() != place
    watched.page.locator("#how-block").select_option(index=3)
    watched.page.locator("#how-head").select_option(index=2)
    loss = float(how.locator('[data-n="total"]').inner_text())
    parts = [float(how.locator(f'[data-n="{name}"]').inner_text()) for name in ("la", "lm")]
    assert loss == pytest.approx(sum(parts) / 2, abs=1e-4)


def test_ones_own_picture_and_video(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    frames = SyntheticFaces(3, "test", 60, 160)[1].frames
    Image.fromarray(frames[0]).save(tmp_path / "face.png")
    write_video(tmp_path / "face.mp4", frames, 25)
    for name in ("face.png", "face.mp4"):
        page.locator("#own-file").set_input_files(tmp_path / name)
        page.wait_for_selector("#own-take", state="visible")
        wait_until(page, lambda name=name: page.locator("#own-name").inner_text() == name)
        assert page.locator("#own-start-row").is_visible() == (name == "face.mp4")
        verdict = after(watched, page.locator("#own-take").click)
        assert "lower loss" in verdict
        assert page.locator("#people input:checked").get_attribute("value") == name
    change = """name => {
        const clip = maedfer.kernel.clips.get(name), last = clip.length - clip.length / 16;
        return Math.max(...clip.subarray(0, 4800).map((x, i) => Math.abs(x - clip[last + i])));
    }"""
    still, moving = (page.evaluate(change, name) for name in ("face.png", "face.mp4"))
    assert still == 0 and moving > 0.1


def test_a_face_is_found_where_python_finds_it(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    frame = open_video(sample_clip()).read([0])[0]
    height, width = frame.shape[:2]
    Image.fromarray(frame).save(tmp_path / "man.png")
    page.locator("#own-file").set_input_files(tmp_path / "man.png")
    wait_until(page, lambda: "A face was found" in page.locator("#own-told").inner_text())
    top, left, side = frame_square(np.array(detect_faces(frame)[0][:4]), height, width)
    found = page.evaluate("maedfer.square")
    assert found["side"] * min(height, width) == pytest.approx(side, rel=0.15)
    assert found["x"] * width == pytest.approx(left + side / 2, abs=0.1 * side)
    assert found["y"] * height == pytest.approx(top + side / 2, abs=0.1 * side)
    Image.new("RGB", (320, 240), "teal").save(tmp_path / "none.png")
    page.locator("#own-file").set_input_files(tmp_path / "none.png")
    wait_until(page, lambda: "No face was found: drag" in page.locator("#own-told").inner_text())


def test_a_picture_is_saved_with_its_footer(watched: Watched, tmp_path: Path) -> None:
    with watched.page.expect_download() as download:
        watched.page.locator("#player [title=PNG]").click()
    assert download.value.suggested_filename.endswith(".png")
    download.value.save_as(tmp_path / "saved.png")
    saved = np.asarray(Image.open(tmp_path / "saved.png").convert("L"))
    assert saved[-20:].min() < 100 and saved.shape[1] > 4 * 160
    assert "demo, small model, not for judging people" in watched.viewer("page").root.inner_text()


def test_the_ledger_recomputes(watched: Watched) -> None:
    page = watched.page
    assert int(page.locator("#ledger").get_attribute("data-recomputed") or 0) > 170
    page.locator("#ledger-search").fill("dfew margin")
    page.locator("#ledger-status").select_option("recomputed")
    rows = page.locator("#ledger-body tr")
    assert 0 < rows.count() < 10 and "of 515 claims" in page.locator("#ledger-count").inner_text()
    printed, found, here = rows.first.locator("td").all_inner_texts()[:3]
    assert found == here and printed.startswith(here[:4])


def test_nothing_can_leave(page_file: Path, browser: Browser) -> None:
    """A server on this very machine hears nothing, though no network is off."""
    heard = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.path)

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    watched = open_offline(page_file, browser)
    watched.page.context.set_offline(False)
    address = f"http://127.0.0.1:{server.server_port}/"
    picture = "Object.assign(new Image(), { onload: a, onerror: b, src: url })"
    for way in ("fetch(url)", "import(url)", f"new Promise((a, b) => {picture})"):
        failed = watched.page.evaluate(f"url => {way}.then(() => 'sent', () => 'kept')", address)
        assert failed == "kept"
    assert heard == [] and any("Content Security Policy" in line for line in watched.complaints)
    server.shutdown()
    watched.page.context.close()


@pytest.mark.parametrize(("width", "dark"), [(360, False), (800, True), (1600, False)])
def test_it_fits(page_file: Path, browser: Browser, width: int, dark: bool) -> None:
    watched = open_offline(page_file, browser, width, dark)
    page = watched.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, select, canvas, [role=img]')].filter(e => "
        "!e.innerText && !e.labels?.length && !e.ariaLabel && !e.closest('label')).length"
    )
    assert unnamed == 0
    PICTURES.mkdir(exist_ok=True)
    shade = "dark" if dark else "light"
    page.screenshot(path=PICTURES / f"explain_{width}_{shade}.png", full_page=True)
    assert watched.complaints == []
    page.context.close()
