"""Serve notebooks as a dashboard: their text, pictures and viewers, without their code.

`python -m maedfer_lab.viewers.app` is what `make app` calls.
"""

from __future__ import annotations

import argparse
import base64
import re
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat

from maedfer_lab.config import profile, project_folder
from maedfer_lab.notebooks import find_notebooks

SHOWN = ("05", "06")
_PICTURE = re.compile(r"(?<=\]\()\.\./figures/(\w+\.png)(?=\))")


def copy_notebooks(numbers: Sequence[str], project: Path, folder: Path) -> list[Path]:
    """Put self-contained copies of the numbered notebooks of `project` in an emptied `folder`.

    Pictures ../figures/NAME.png of their text become attachments: Voila refuses a page whose text
    names a file outside the folder that it serves.

    Raises FileNotFoundError for a number without a notebook.
    """
    known = {path.name[:2]: path for path in find_notebooks(project / "notebooks")}
    if missing := sorted(set(numbers) - known.keys()):
        raise FileNotFoundError(
            f"no notebook is numbered {missing[0]}; there are {', '.join(sorted(known))}"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return [_copy(known[number], folder) for number in numbers]


def _copy(path: Path, folder: Path) -> Path:
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (names := _PICTURE.findall(cell.source)):
            cell.source = _PICTURE.sub(r"attachment:\1", cell.source)
            cell.attachments = {
                name: {"image/png": base64.b64encode(picture.read_bytes()).decode()}
                for name in names
                if (picture := path.parents[1] / "figures" / name).is_file()
            }
    nbformat.write(notebook, folder / path.name)
    return folder / path.name


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted and return the exit status; 2: a setting is wrong."""
    parser = argparse.ArgumentParser(prog="app", description="Serve notebooks as a dashboard.")
    parser.add_argument("numbers", nargs="*", default=SHOWN, metavar="NN", help="default: 05 06")
    parser.add_argument("--port", type=int, default=8866, help="another one where it is taken")
    chosen = parser.parse_args(arguments)
    project = project_folder()
    # Within the project, where kernels find it from their working folder.
    folder = project / "runs" / "app"
    try:
        current = profile()
        shown = copy_notebooks(chosen.numbers, project, folder)
    except (ValueError, OSError) as error:
        print(f"app: {error}", file=sys.stderr)
        return 2
    print(
        f"Serves {', '.join(path.stem for path in shown)} at the {current.name} profile, on this "
        "machine alone, until Ctrl-C. The address follows; a page runs its notebook anew.",
        flush=True,
    )
    # Where it was started in the background of a script, Ctrl-C would be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Imported late: it changes the event loop's policy.
    from maedfer_lab.viewers.server import serve

    serve(folder, chosen.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
