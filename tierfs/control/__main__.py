"""``python -m tierfs.control``: what the keeper starts. See `tierfs.control.main`."""

import sys

from tierfs.control.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
