import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from maedfer_lab import figures, files
from maedfer_lab.figures.style import together

LOG = [{"step": i + 1, "lr": 1e-3, "loss": 1 / (i + 1), "appearance": 1 / (i + 1), "motion": 0.1}
       for i in range(30)]  # fmt: skip
NUMBERS = {
    "name": "tiny",
    "log": [*LOG, LOG[-1] | {"step": 31, "held_out_appearance": 0.2, "held_out_motion": 0.1}],
    "baselines": {"zero": {"appearance": 0.7, "motion": 0.2},
                  "interpolation": {"appearance": 0.4, "motion": 0.2}},
    "parameters": 1000,
    "minutes": 0.1,
    "hidden": 0.9,
}  # fmt: skip


@pytest.fixture
def source(monkeypatch, tmp_path):
    monkeypatch.setenv("MAEDFER_OUTPUT", str(tmp_path))
    monkeypatch.delenv("MAEDFER_DATA", raising=False)
    return files.provenance(profile="quick", seed=0, device="cpu", seconds=1)


def test_figures_are_the_same_bytes_when_drawn_again_and_need_no_torch(source, tmp_path):
    figures.publish("04_pretrain", NUMBERS, source)
    origin = json.loads((tmp_path / "figures" / "04_pretrain.json").read_text())["provenance"]
    assert {"profile", "data", "seed", "device", "commit", "versions"} <= set(origin)
    formats = ("png", "svg", "pdf")
    figures.draw_figures(("04_pretrain",), formats=formats)
    paths = [tmp_path / "figures" / f"04_pretrain.{kind}" for kind in formats]
    first = [path.read_bytes() for path in paths]
    code = (
        "import sys; from maedfer_lab.figures import draw_figures;"
        f"print(draw_figures(formats={formats})); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and str(paths[0]) in done.stdout, done.stderr
    assert [path.read_bytes() for path in paths] == first


def test_smoke_and_own_videos_do_not_touch_the_shared_figures(source, monkeypatch, tmp_path):
    shared = files.figures_folder("quick")
    smoke = files.figures_folder("smoke")
    monkeypatch.setenv("MAEDFER_DATA", str(tmp_path))
    assert len({shared, smoke, files.figures_folder("quick")}) == 3


def test_unknown_figures_and_empty_folders_are_told(source, tmp_path):
    with pytest.raises(ValueError, match=r"99_nothing.*04_pretrain"):
        figures.draw_figures(("99_nothing",))
    with pytest.raises(FileNotFoundError, match="make reproduce"):
        figures.draw_figures(folder=tmp_path / "empty")


def test_the_commit_is_that_of_the_code_wherever_one_works(tmp_path, monkeypatch):
    here = files.commit()
    monkeypatch.chdir(tmp_path)
    assert files.commit() == here
    root = Path(__file__).parents[1]
    if (root / ".git").exists():
        git = ["git", "-C", str(root), "rev-parse", "HEAD"]
        head = subprocess.run(git, capture_output=True, text=True, check=True).stdout
        assert len(here.rstrip("+")) == 10 and head.startswith(here.rstrip("+"))
    monkeypatch.setattr(files, "LIBRARIES", ("numpy", "no-such-library"))
    source = files.provenance(profile="none", seed=0, device="cpu")
    assert source["versions"]["no-such-library"] == "not installed"


def test_a_class_has_its_colour_in_every_video(tmp_path):
    """And not that of its rank: the same face would change colour from one video to the next."""
    picture = files.pack_picture(np.zeros((4, 4, 3), np.uint8))
    data = {"title": "x.mp4", "model": "model: x", "classes": list("abcdefg"), "pieces": [0, 0],
            "footer": figures.footer({"x": 5}), "seconds": [0.0, 1.0],
            "scale": "score", "crops": [{"second": 0.0, "picture": picture}]}  # fmt: skip
    colours = []
    for values in (np.arange(7.0), np.arange(7.0)[::-1]):
        figure = figures.draw_timeline(data | {"probabilities": [(values / 21).tolist()] * 2})
        lines = {line.get_label(): line.get_color() for line in figure.axes[1].lines}
        colours.append(lines["d"])
        assert "x, small model, not for judging people" in figure.get_supxlabel()
    assert colours[0] == colours[1]
    odd = {"title": "\udcff.mp4", "classes": ["\udcff", *"abcdef"]}  # bytes that are no text
    figures.draw_timeline(
        data | odd | {"probabilities": [[1.0, *[0.0] * 6]] * 2}, tmp_path / "a.png"
    )
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_motion_is_drawn_as_strong_as_it_is_and_a_caption_ends_no_line_before_its_value():
    grey = np.full((8, 8, 3), 128, np.uint8)
    faint = grey.copy()
    faint[4] = 134  # a change by a fortieth of the range
    pictures = [files.pack_picture(p) for p in (grey, faint)]
    row = {"label": "motion", "kind": "motion", "pictures": pictures}
    figure = figures.draw_rows([row], ["a", "b"], "word " * 20)
    (most,) = {axis.images[0].norm.vmax for axis in figure.axes}
    assert most == pytest.approx(0.025, abs=0.004)
    assert len(textwrap.wrap(together("seed", 0), 3, break_long_words=False)) == 1
