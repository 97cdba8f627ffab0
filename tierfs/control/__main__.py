"""``python -m tierfs.control``: what the keeper starts. See `tierfs.control.main`."""

import sys

from tierfs.control.limits import calm_collector
from tierfs.control.main import main

if __name__ == "__main__":
    calm_collector()
    sys.exit(main(sys.argv[1:]))
