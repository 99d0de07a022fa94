"""Notebooks are thin and stripped, and each runs top to bottom at the smoke profile."""

import ast
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest

from maedfer_lab.files import figures_folder
from maedfer_lab.notebooks import NotebookError, find_notebooks, main, run_notebook

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
MOST_CELLS, MOST_LINES = 12, 10
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


@pytest.fixture(scope="module")
def shared_output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all notebooks, so that a later one loads what an earlier one trained."""
    return tmp_path_factory.mktemp("output")


def write_notebook(path: Path, *sources: str, kernel: str = "python3") -> Path:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
    notebook.metadata.kernelspec = {"name": kernel, "display_name": kernel, "language": "python"}
    nbformat.write(notebook, path)
    return path


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


@every_notebook
def test_notebook_is_stripped_and_thin(path):
    assert "widgets" not in nbformat.read(path, 4).metadata
    cells = code_cells(path)
    assert 0 < len(cells) <= MOST_CELLS
    for cell in cells:
        assert not cell.outputs and cell.execution_count is None, "run nbstripout on it"
        assert len(cell.source.splitlines()) <= MOST_LINES, cell.source
    nodes = list(ast.walk(ast.parse("\n".join(cell.source for cell in cells))))
    assert not any(isinstance(node, DEFINITIONS) for node in nodes), "it belongs in the library"
    imported = {
        name.partition(".")[0]
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
    }
    assert not imported & {"matplotlib", "seaborn"}, "drawing belongs in figures"
    assert any(isinstance(node, ast.Assert) for node in nodes), "it asserts its own claim"
    text = "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")
    shown = re.findall(rf"\.\./figures/{path.name[:2]}_\w+\.png", text)
    assert shown and all((path.parent / picture).is_file() for picture in shown), shown


@every_notebook
def test_notebook_runs_and_leaves_its_figure(path, shared_output, monkeypatch):
    monkeypatch.setenv("MAEDFER_PROFILE", "smoke")
    monkeypatch.setenv("MAEDFER_OUTPUT", str(shared_output))
    monkeypatch.delenv("MAEDFER_DATA", raising=False)
    run_notebook(path, shared_output / "executed", timeout_s=300)
    for suffix in (".json", ".png"):
        assert list(figures_folder("smoke").glob(f"{path.name[:2]}_*{suffix}"))
    assert all(cell.execution_count for cell in code_cells(shared_output / "executed" / path.name))


def test_kernel_is_this_interpreter_whatever_the_notebook_names(tmp_path):
    path = write_notebook(
        tmp_path / "01_where.ipynb", "import os, sys\n[sys.prefix, os.getcwd()]", kernel="julia"
    )
    before = path.read_bytes()
    run_notebook(path, tmp_path / "executed", timeout_s=60)
    (cell,) = code_cells(tmp_path / "executed" / path.name)
    places = [Path(place) for place in ast.literal_eval(cell.outputs[0].data["text/plain"])]
    assert [place.resolve() for place in places] == [Path(sys.prefix).resolve(), tmp_path.resolve()]
    assert path.read_bytes() == before


def test_a_failing_cell_stops_the_run(tmp_path, capsys):
    path = write_notebook(tmp_path / "02_bad.ipynb", "print('so far')", "{}['absent']", "print(3)")
    with pytest.raises(NotebookError, match=r"02_bad\.ipynb") as stop:
        run_notebook(path, tmp_path / "executed", timeout_s=60, report_every_s=0.1)
    assert "{}['absent']" in str(stop.value) and "KeyError: 'absent'" in str(stop.value)
    assert "\x1b" not in str(stop.value) and "02_bad" in capsys.readouterr().out
    first, _, last = code_cells(tmp_path / "executed" / "02_bad.ipynb")
    assert "so far" in first.outputs[0].text and not last.outputs


def test_make_runs_notebooks_side_by_side_but_none_before_what_it_needs():
    """By what `make` says it would do; the order of 06, 08 and 10 is that of its dependencies."""
    root = Path(__file__).parents[1]
    done = subprocess.run(
        ["make", "-n", "-o", ".venv/.ready", *(path.stem for path in reversed(NOTEBOOKS))],
        cwd=root, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    order = re.findall(r"maedfer_lab\.notebooks (\d\d)_", done.stdout)
    assert sorted(order) == [path.name[:2] for path in NOTEBOOKS]
    for first, then in (("04", "09"), ("06", "08"), ("06", "10"), ("08", "10")):
        assert order.index(first) < order.index(then)


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to oneself alone")
def test_ctrl_c_interrupts_the_kernels_and_is_raised(tmp_path):
    ready = tmp_path / "ready"
    source = f"import time; open({str(ready)!r}, 'w').close()\ntry:\n    time.sleep(60)\n"
    path = write_notebook(tmp_path / "01.ipynb", source + "finally:\n    print('kept')", "1")

    def interrupt() -> None:
        while not ready.exists():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_notebook(path, tmp_path / "executed", timeout_s=90)
    finally:
        signal.signal(signal.SIGINT, before)
    first, second = code_cells(tmp_path / "executed" / "01.ipynb")
    assert first.outputs[0].text == "kept\n" and second.execution_count is None


def test_reproduce_says_what_it_does_and_where_the_results_are(tmp_path, monkeypatch, capsys):
    for folder in ("maedfer_lab", "notebooks"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setenv("MAEDFER_PROFILE", "smoke")
    monkeypatch.setenv("MAEDFER_OUTPUT", str(tmp_path / "output"))
    write_notebook(Path("01_good.ipynb"), "1 + 1")
    assert main(["plan"]) == main(["01_good"]) == main(["end"]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert "smoke profile: about 1 min" in first
    assert all(str(tmp_path / "output" / name) in last for name in ("figures", "runs"))
    assert (tmp_path / "output/runs/notebooks/smoke/01_good.ipynb").is_file()

    write_notebook(Path("01_good.ipynb"), "1 / 0")
    for what, profile, status, words in (
        ("02_other", "smoke", 2, "01_good"),
        ("01_good", "smoke", 1, "ZeroDivisionError"),
        ("plan", "fast", 2, "smoke, quick, study, full"),
    ):
        monkeypatch.setenv("MAEDFER_PROFILE", profile)
        assert main([what]) == status and words in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="holds no notebook"):
        find_notebooks(tmp_path)
