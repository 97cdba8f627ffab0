"""On the PYTHONPATH of a mount that is to die at a named step: see `tests.crash.steps`."""

from tests.crash import steps

steps.install()
