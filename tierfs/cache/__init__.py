"""The read-through cache: whole versions of objects, kept in sparse files, verified on every read.

Who does what::

    reader.Reader ---- verified read of a cache file, or from the lake      "give me [lo, hi)"
      |- hot.HotBlocks          a few verified blocks in memory
      |- table.ObjectTable      the objects in use, one `CachedObject` for each inode
      |- store.Store            cache files: open, create, read, write, punch (holes), unlink; in
      |                         workers.Workers, after some patience.Patience with the page cache
      `- fetch.Fetcher          single flight: one GET for each missing block, then file, then index
           |- space.Capacity    room on disk, reserved before a fetch; evicts through a callback
           |                    (eviction.Evictor: whole files, or extents of incomplete ones), if
           |                    what is to come is worth that
           |- budget.Budget     room in memory; demand before read-ahead before warm-up before fill
           |- completion.Completion  the whole compared with the lake's checksum
           `- recorder.Recorder what changed in the objects in use, committed to the index in groups

Invariants (each names who keeps it):

C1. No byte leaves a cache file unverified: a whole block is read and compared with its record
    (`Reader.block_now`, `Reader._from_file`); only blocks that passed, or came from the lake, are
    in `HotBlocks`.
C2. A block is recorded after its bytes were written to the file, never before (`Fetcher._keep`,
    `Recorder`). A process killed at any instant therefore leaves records of right bytes only; a
    machine that loses power may leave wrong bytes, which C1 finds.
C3. Every file under ``objects/`` has a record in ``cache/files``: the record is committed before
    the file is created (`Recorder.announce`), and dropped after the file is unlinked
    (`Evictor.evict`). So start-up never walks ``objects/`` and nothing is orphaned; an index
    that starts empty has the old files put aside and deleted (`Store.start_over`).
C4. All bytes of a cache file belong to one version. The record carries the identity of (key, etag,
    version id); another identity drops the copy (`ObjectTable.acquire`), each GET names the
    version, and after a 412 the object is stale: nothing more is read from it unless all is there
    (`Reader.guard`).
C5. Bytes on disk plus reservations never exceed the capacity (`Capacity.try_reserve`).
C6. What is in use (open, being fetched, being recorded, pinned) is never evicted
    (`ObjectTable.in_use`).
C7. One GET at a time for a block; whoever asks meanwhile shares its outcome, and a waiter that is
    cancelled takes nothing from the others (`Fetcher`). What a smaller read has under way at an end
    of a block is not sent for again with it.
C8. Trouble with the cache disk (full, failing, read-only, hanging) never reaches a reader: it
    streams from the lake (`Health`, `Fetcher._keep`, `Reader._from_file`).
C9. An object is complete only if its full-object checksum, where the lake has one, was compared
    (`completion.Completion`).
C10. Bytes leave a file that stays after their records did, never before, so that no record speaks
    of a hole; and no hole is ever punched in a file of which all is present (`Evictor`).
"""
