"""`python -m maedfer_lab` is `maedfer`."""

import sys

from maedfer_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
