"""``python -m minirtmdet``."""

import sys

from minirtmdet.cli import main

if __name__ == "__main__":
    sys.exit(main())
