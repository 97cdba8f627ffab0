"""Write-back directories: real files on the cache's disk, and in the lake later, in order.

What ``close``, ``rename`` or ``unlink`` has acknowledged is in the lake later, in that order,
exactly once, whatever process dies in between; a power cut costs at most what was not synced, and
never publishes a wrong file.

::

    fs/writing.py, a FUSE request in; or control/handed.py, one that a native front hands over
        `- directories.py   POSIX: names and attributes
             |- passed.py    the same where the kernel reads and writes the files by itself
             |- files.py     how they come to be open; the lake's are copied to be written to
             |- handles.py   what is open: bytes, commit points
             |- lending.py   what the publisher has of it: contents, kept and given up
             |- decisions.py   the journal asked and told, once; holds.py: who waits for whom
             |- reading.py   what is asked of whoever reads the lake's files; by_front.py: a native
             |               front
             |- rules.py     which paths, which root, which names are held; rule.py: one rule
             |- tree.py, renames.py   what a change does to the journal, in its writing thread
             |    |- history.py          what its log then says
             |    |    `- conflicts.py, giving_up.py   what another writer, or --skip, keeps out
             |    `- journal.py, records.py   LMDB: nodes, names, what the lake is to show
             |- staging.py   the bytes, and how closed ones are kept from those who write on
             |    `- room.py  what they take, and who waits for more; pace.py: how fast others go
             `- union.py     what a reader sees: the journal first, then the lake's part of the tree
        publisher.py         the log of each root: what is on its way into the lake, and what fails
             |- schedule.py  whose turn it is: one after the other, or by markers
             |- placer.py    one entry is made visible, once; labels.py: what goes with its bytes
             |- contents.py  its bytes: on the disk for sure, ahead of its turn where they are many
             |    `- uploads.py   in one request or in parts
             |- orphans.py   uploads of ours that nobody knows of are dropped
             `- adoption.py  what is durable becomes an ordinary, cached file
        watch.py             looks on: what status shows, the line of a checkpoint, the alarm
             |- episodes.py, survey.py   what that is made of
             `- on_durable.py   a command of the administrator's, for each checkpoint
        leaving.py           the end of a mount, which waits for the lake
             `- discard.py   or throws away what is not there
        recovery.py          after a death; backlog.py: when the rules have changed since
        fsck.py              by hand, after worse: checks.py finds it, README.md has the table

The life of a file's content (invariants J, T, D and P in the modules)::

    open --close: Tree.close--> closed(lsn) --Contents.get--> synced --Uploads--> parts sent
      ^                           |   |                                                  |
      | written on:               |   | name is held: no entry of the log                | its turn
      | Staging.freeze            |   `--rename: Tree.rename--> closed(lsn)              v
      +---------------------------+                                PUBLISHING --lake--> PUBLISHED
                                  |                                                      |
                                  | superseded while last: _collapse        Adopter.try_adopt
                                  `--> deleted                                           v
                                                                               durable: cached
"""
