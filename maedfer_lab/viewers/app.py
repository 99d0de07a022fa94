"""`make app`: a page that takes a video and shows what the small model makes of its faces.

`python -m maedfer_lab.viewers.app` is what `make app` calls.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

CELL = """from maedfer_lab.inference.page import FacePage

FacePage()"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted and return the exit status."""
    parser = argparse.ArgumentParser(prog="app", description="Serve the viewers as a page.")
    parser.add_argument("--port", type=int, default=8866, help="another one where it is taken")
    chosen = parser.parse_args(arguments)
    print(
        "Serves the page on this machine alone, until Ctrl-C. The address follows; each page has "
        "a kernel of its own, which ends with it.",
        flush=True,
    )
    # Where it was started in the background of a script, Ctrl-C would be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Imported late: it changes the event loop's policy.
    from maedfer_lab.viewers.server import serve

    serve(CELL, chosen.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
