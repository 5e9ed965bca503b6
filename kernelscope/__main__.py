"""``python -m kernelscope``: the command line, also where nothing is installed."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
