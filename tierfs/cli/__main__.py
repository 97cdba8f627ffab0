"""``python -m tierfs.cli``: the same as the ``tierfs`` script."""

import sys

from tierfs.cli import main

sys.exit(main())
