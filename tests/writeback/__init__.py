"""Judges of write-back directories that know nothing of how they are made.

* `posix`: random operations, on a directory under test and on a local one; they must agree.
* `machine`: the same as a Hypothesis state machine, which finds the shortest example.
* `history`: what a writer was told and what the lake showed: in order, once, nothing lost.
* `writers`: the system calls of real checkpoint writers.
"""
