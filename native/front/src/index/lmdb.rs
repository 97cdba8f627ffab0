//! LMDB environments: read in snapshots, and written, if at all, in transactions.
//!
//! A thin layer over the C library, with what this front needs of it and no more. `names/` is
//! another process's and opened read-only; of `cache/` this process is the writer.
//!
//! A snapshot is a read transaction of a `Reader`, which each thread has for itself; the
//! transaction is kept and renewed, which costs 0.2 us. A damaged database gives wrong answers or
//! errors of LMDB's: for a snapshot these are "not here" to the caller (`Snapshot::get`), who then
//! asks elsewhere, and are counted. A `WriteTransaction` hands errors on, for what it is to change
//! must be known for sure.

use std::ffi::{CString, c_int, c_uint};
use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lmdb_sys as ffi;

use crate::sys::file;

/// As in `tierfs/index/environments.py`: far larger than any index, so that it never has to grow.
const MAP_SIZE: usize = 64 << 30;
const MAX_DATABASES: c_uint = 16;
/// The file that readers are entered in has this many places, whoever opens it first.
const MAX_READERS: c_uint = 512;
/// Less than this free, and a failed write is put down to it. Commits are of this order of size.
const DISK_FULL_BYTES: u64 = 8 << 20;

/// What LMDB said.
#[derive(Debug)]
pub struct Error {
    pub doing: &'static str,
    /// LMDB's own, or an errno.
    pub code: c_int,
    /// The disk had hardly any room when this happened.
    disk_full: bool,
}

impl Error {
    pub fn new(doing: &'static str, code: c_int) -> Self {
        Self { doing, code, disk_full: false }
    }

    /// A record that is not what its table says.
    pub fn record(doing: &'static str) -> Self {
        Self::new(doing, ffi::MDB_CORRUPTED)
    }

    /// Whether there was no room: on the disk, in a quota, or in the map. A commit that a full
    /// disk cut short is an input/output error to LMDB, so the disk is asked then.
    pub fn is_full(&self) -> bool {
        matches!(self.code, ffi::MDB_MAP_FULL | libc::ENOSPC | libc::EDQUOT)
            || self.disk_full && !self.is_damage()
    }

    /// Whether the environment can be used no more until it is opened anew: the disk failed in the
    /// middle of a commit.
    pub fn is_final(&self) -> bool {
        self.code == ffi::MDB_PANIC
    }

    /// Whether the environment is damaged, as opposed to a failing disk or a mistake of ours.
    pub fn is_damage(&self) -> bool {
        matches!(
            self.code,
            ffi::MDB_CORRUPTED
                | ffi::MDB_PAGE_NOTFOUND
                | ffi::MDB_INVALID
                | ffi::MDB_VERSION_MISMATCH
        )
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // SAFETY: mdb_strerror returns a constant, or strerror's text, for any code.
        let text = unsafe { std::ffi::CStr::from_ptr(ffi::mdb_strerror(self.code)) };
        write!(f, "{}: {}", self.doing, text.to_string_lossy())
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    /// Of kind `StorageFull` if there was no room.
    fn from(error: Error) -> Self {
        let full = error.is_full();
        Self::new(if full { io::ErrorKind::StorageFull } else { io::ErrorKind::Other }, error)
    }
}

fn check(doing: &'static str, code: c_int) -> Result<(), Error> {
    if code == 0 { Ok(()) } else { Err(Error::new(doing, code)) }
}

/// The version of the library that is linked in.
pub fn library_version() -> (i32, i32, i32) {
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    // SAFETY: three valid pointers to integers.
    unsafe { ffi::mdb_version(&raw mut major, &raw mut minor, &raw mut patch) };
    (major, minor, patch)
}

/// One environment. LMDB forbids opening one twice in a process; whoever opens it keeps it.
pub struct Environment {
    env: *mut ffi::MDB_env,
    path: PathBuf,
    errors: AtomicU64,
}

// SAFETY: an MDB_env may be used from several threads; read transactions stay in their
// `Reader`, and write transactions in the thread that began them.
unsafe impl Send for Environment {}
// SAFETY: as above.
unsafe impl Sync for Environment {}

/// A database in an environment.
#[derive(Clone, Copy)]
pub struct Database(ffi::MDB_dbi);

impl Environment {
    /// Open what is in the directory `path`, which must be there, to read it only.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, ffi::MDB_RDONLY)
    }

    /// Open what is in the directory `path`, which must be there, to read and write it.
    ///
    /// Commits are synced, but for the meta page (`MDB_NOMETASYNC`): a power cut may take back the
    /// last one, and damages nothing. This process must then be the only one that writes it for
    /// what it remembers to stay true; LMDB itself would let writers take turns.
    pub fn open_writable(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, ffi::MDB_NOMETASYNC)
    }

    fn open_with(path: &Path, flags: c_uint) -> Result<Self, Error> {
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| Error::new("open an index", libc::EINVAL))?;
        let mut env = ptr::null_mut();
        // SAFETY: a valid place for the handle.
        check("make an environment", unsafe { ffi::mdb_env_create(&raw mut env) })?;
        // From here on dropping it closes it.
        let opened = Self { env, path: path.to_owned(), errors: AtomicU64::new(0) };
        // SAFETY: the handle is valid and not open yet; the path is a C string.
        unsafe {
            check("set the map size", ffi::mdb_env_set_mapsize(env, MAP_SIZE))?;
            check("set the number of databases", ffi::mdb_env_set_maxdbs(env, MAX_DATABASES))?;
            check("set the number of readers", ffi::mdb_env_set_maxreaders(env, MAX_READERS))?;
            let flags = flags | ffi::MDB_NORDAHEAD;
            check("open an index", ffi::mdb_env_open(env, name.as_ptr(), flags, 0o600))?;
            // Pages that a dead process was reading would be kept for it, and its place.
            check("reap readers", ffi::mdb_reader_check(env, ptr::null_mut()))?;
        }
        Ok(opened)
    }

    /// The databases called `names`, in that order. To be called once, before any `Reader`.
    pub fn databases<const N: usize>(&self, names: [&str; N]) -> Result<[Database; N], Error> {
        let mut found = [Database(0); N];
        let mut txn = ptr::null_mut();
        // SAFETY: the environment is open; the transaction is ended on each path. A commit, even
        // of a reader, keeps the handles that it opened.
        unsafe {
            let begun =
                ffi::mdb_txn_begin(self.env, ptr::null_mut(), ffi::MDB_RDONLY, &raw mut txn);
            check("read an index", begun)?;
            for (database, name) in found.iter_mut().zip(names) {
                let name = CString::new(name).unwrap_or_default();
                let opened = ffi::mdb_dbi_open(txn, name.as_ptr(), 0, &raw mut database.0);
                if let Err(error) = check("open a database", opened) {
                    ffi::mdb_txn_abort(txn);
                    return Err(error);
                }
            }
            check("open the databases", ffi::mdb_txn_commit(txn))?;
        }
        Ok(found)
    }

    /// Begin to write, once the writer before has ended. One at a time in each thread.
    ///
    /// `MDB_PANIC` means that the disk failed in the middle of a commit: what is on it is sound,
    /// but this environment can be used only after it was opened anew.
    pub fn write(&self) -> Result<WriteTransaction<'_>, Error> {
        let mut txn = ptr::null_mut();
        // SAFETY: the environment is open, and outlives the transaction, which borrows it.
        let code = unsafe { ffi::mdb_txn_begin(self.env, ptr::null_mut(), 0, &raw mut txn) };
        self.check_write("begin to write an index", code)?;
        Ok(WriteTransaction { env: self, txn })
    }

    /// Errors so far: each was answered as if nothing were there.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    fn check_write(&self, doing: &'static str, code: c_int) -> Result<(), Error> {
        check(doing, code).map_err(|error| {
            let disk_full =
                file::space(&self.path).is_ok_and(|space| space.free_bytes < DISK_FULL_BYTES);
            Error { disk_full, ..error }
        })
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        // SAFETY: readers hold an `Arc` of this, so none is left.
        unsafe { ffi::mdb_env_close(self.env) };
    }
}

/// One thread's way to read an environment.
pub struct Reader {
    env: Arc<Environment>,
    /// Reset between snapshots; null until the first.
    txn: *mut ffi::MDB_txn,
}

// A Reader must not change threads, because LMDB ties a reader's slot to its thread: the raw
// pointer keeps it from being Send.

impl Reader {
    pub fn new(env: Arc<Environment>) -> Self {
        Self { env, txn: ptr::null_mut() }
    }

    /// Everything that was committed before.
    pub fn snapshot(&mut self) -> Result<Snapshot<'_>, Error> {
        // SAFETY: the transaction, if there is one, is this thread's own, and was reset when its
        // last snapshot was dropped.
        let code = unsafe {
            if self.txn.is_null() {
                let parent = ptr::null_mut();
                ffi::mdb_txn_begin(self.env.env, parent, ffi::MDB_RDONLY, &raw mut self.txn)
            } else {
                ffi::mdb_txn_renew(self.txn)
            }
        };
        if code != 0 {
            self.env.errors.fetch_add(1, Ordering::Relaxed);
            // SAFETY: a transaction that cannot be renewed can still be aborted.
            if !self.txn.is_null() {
                unsafe { ffi::mdb_txn_abort(self.txn) };
                self.txn = ptr::null_mut();
            }
            return Err(Error::new("read an index", code));
        }
        Ok(Snapshot { env: &self.env, txn: self.txn, life: PhantomData })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.txn.is_null() {
            // SAFETY: it is this thread's, and no snapshot is left.
            unsafe { ffi::mdb_txn_abort(self.txn) };
        }
    }
}

/// A consistent view of one environment. Values live as long as it does.
pub struct Snapshot<'r> {
    env: &'r Environment,
    txn: *mut ffi::MDB_txn,
    life: PhantomData<&'r mut Reader>,
}

impl Snapshot<'_> {
    /// The value of `key`, or `None`.
    pub fn get(&self, database: Database, key: &[u8]) -> Option<&[u8]> {
        // SAFETY: the transaction is live and reads only; the value's life is bound to it.
        self.counted(unsafe { get(self.txn, database, key) })?
    }

    /// How many entries a database has.
    pub fn entries(&self, database: Database) -> u64 {
        let mut stat = std::mem::MaybeUninit::<ffi::MDB_stat>::zeroed();
        // SAFETY: the transaction is live, and the struct is all integers.
        unsafe {
            let code = ffi::mdb_stat(self.txn, database.0, stat.as_mut_ptr());
            if code == 0 { stat.assume_init().ms_entries as u64 } else { 0 }
        }
    }

    /// Entries from the first key that is not less than `key` on.
    pub fn from(&self, database: Database, key: &[u8]) -> Option<Entries<'_>> {
        let cursor = self.cursor(database)?;
        Some(Entries { snapshot: self, cursor, start: Some(key.to_vec()) })
    }

    /// The last key that is less than `key`, and the first that is not.
    pub fn around(&self, database: Database, key: &[u8]) -> Option<[Option<&[u8]>; 2]> {
        let mut cursor = self.cursor(database)?;
        let after = self.counted(cursor.go(ffi::MDB_SET_RANGE, key))?;
        let back = if after.is_some() { ffi::MDB_PREV } else { ffi::MDB_LAST };
        let before = self.counted(cursor.go(back, &[]))?;
        Some([before, after].map(|entry| entry.map(|(key, _)| key)))
    }

    fn cursor(&self, database: Database) -> Option<Cursor<'_>> {
        // SAFETY: the transaction is live and reads only; the cursor borrows it.
        self.counted(unsafe { Cursor::open(self.txn, database) })
    }

    fn counted<T>(&self, found: Result<T, Error>) -> Option<T> {
        if found.is_err() {
            self.env.errors.fetch_add(1, Ordering::Relaxed);
        }
        found.ok()
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        // SAFETY: the transaction is live, and nothing borrowed from it is left.
        unsafe { ffi::mdb_txn_reset(self.txn) };
    }
}

/// Keys and values in order.
pub struct Entries<'s> {
    snapshot: &'s Snapshot<'s>,
    cursor: Cursor<'s>,
    /// Where it begins, before the first entry was asked for.
    start: Option<Vec<u8>>,
}

impl<'s> Iterator for Entries<'s> {
    type Item = Entry<'s>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.cursor.next(&mut self.start);
        self.snapshot.counted(found)?
    }
}

/// Changes that become true together, in `commit`, or not at all. Dropped, it undoes them.
pub struct WriteTransaction<'e> {
    env: &'e Environment,
    txn: *mut ffi::MDB_txn,
}

// A WriteTransaction holds a lock of its thread's; the raw pointer keeps it from being Send.

impl WriteTransaction<'_> {
    /// The value of `key` as it is now; until the next change, which may move it.
    pub fn get(&self, database: Database, key: &[u8]) -> Result<Option<&[u8]>, Error> {
        // SAFETY: the transaction is live; the value's life is bound to a borrow of it, and
        // changes need it for themselves.
        unsafe { get(self.txn, database, key) }
    }

    pub fn put(&mut self, database: Database, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let (mut key, mut value) = (value_of(key), value_of(value));
        // SAFETY: the transaction is live, nothing borrows it, and both are read only.
        let code = unsafe { ffi::mdb_put(self.txn, database.0, &raw mut key, &raw mut value, 0) };
        self.env.check_write("write to an index", code)
    }

    /// Remove `key`; false if it was not there.
    pub fn delete(&mut self, database: Database, key: &[u8]) -> Result<bool, Error> {
        let mut key = value_of(key);
        // SAFETY: the transaction is live, nothing borrows it, and the key is read only.
        match unsafe { ffi::mdb_del(self.txn, database.0, &raw mut key, ptr::null_mut()) } {
            ffi::MDB_NOTFOUND => Ok(false),
            code => self.env.check_write("write to an index", code).map(|()| true),
        }
    }

    /// The entries whose keys begin with `prefix`, in order.
    pub fn prefixed<'t>(
        &'t self,
        database: Database,
        prefix: &'t [u8],
    ) -> Result<Prefixed<'t>, Error> {
        // SAFETY: the transaction is live; the cursor borrows it, and changes need it for
        // themselves.
        let cursor = unsafe { Cursor::open(self.txn, database) }?;
        Ok(Prefixed { cursor, prefix, start: Some(prefix.to_vec()) })
    }

    /// Make it all true, and wait until it is on the disk.
    pub fn commit(self) -> Result<(), Error> {
        let transaction = ManuallyDrop::new(self);
        // SAFETY: the transaction is live and nothing borrows it. It has ended after this,
        // whatever comes of it, and is not dropped.
        let code = unsafe { ffi::mdb_txn_commit(transaction.txn) };
        transaction.env.check_write("commit to an index", code)
    }
}

impl Drop for WriteTransaction<'_> {
    fn drop(&mut self) {
        // SAFETY: the transaction is live, and nothing borrowed from it is left.
        unsafe { ffi::mdb_txn_abort(self.txn) };
    }
}

/// Keys that begin alike, and their values. An error ends it.
pub struct Prefixed<'t> {
    cursor: Cursor<'t>,
    prefix: &'t [u8],
    start: Option<Vec<u8>>,
}

impl<'t> Iterator for Prefixed<'t> {
    type Item = Result<Entry<'t>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.cursor.next(&mut self.start).transpose()?;
        found.map(|(key, value)| key.starts_with(self.prefix).then_some((key, value))).transpose()
    }
}

/// A place among the entries of a database, in a transaction that is not changed during `'t`.
struct Cursor<'t> {
    cursor: *mut ffi::MDB_cursor,
    life: PhantomData<&'t ()>,
}

type Entry<'t> = (&'t [u8], &'t [u8]);

impl<'t> Cursor<'t> {
    /// # Safety
    ///
    /// `txn` is live, this thread's and unchanged during `'t`.
    unsafe fn open(txn: *mut ffi::MDB_txn, database: Database) -> Result<Self, Error> {
        let mut cursor = ptr::null_mut();
        // SAFETY: the caller's promise. The cursor is closed before the transaction ends.
        let code = unsafe { ffi::mdb_cursor_open(txn, database.0, &raw mut cursor) };
        check("read an index", code)?;
        Ok(Self { cursor, life: PhantomData })
    }

    /// The entry that `operation` leads to, from here or from `key`.
    fn go(&mut self, operation: c_uint, key: &[u8]) -> Result<Option<Entry<'t>>, Error> {
        let (mut key, mut value) = (value_of(key), value_of(&[]));
        // SAFETY: the cursor and its transaction are live. What comes back lies in pages that do
        // not change during `'t`.
        unsafe {
            match ffi::mdb_cursor_get(self.cursor, &raw mut key, &raw mut value, operation) {
                ffi::MDB_NOTFOUND => Ok(None),
                code => {
                    check("read an index", code).map(|()| Some((bytes_of(&key), bytes_of(&value))))
                }
            }
        }
    }

    /// The next entry; the first is the one at `start`, or the one behind that.
    fn next(&mut self, start: &mut Option<Vec<u8>>) -> Result<Option<Entry<'t>>, Error> {
        match start.take() {
            // LMDB has no empty keys, and does not look for one.
            Some(key) if key.is_empty() => self.go(ffi::MDB_FIRST, &[]),
            Some(key) => self.go(ffi::MDB_SET_RANGE, &key),
            None => self.go(ffi::MDB_NEXT, &[]),
        }
    }
}

impl Drop for Cursor<'_> {
    fn drop(&mut self) {
        // SAFETY: it is open, and its transaction still lives.
        unsafe { ffi::mdb_cursor_close(self.cursor) };
    }
}

/// # Safety
///
/// `txn` is live, this thread's and unchanged during `'t`.
unsafe fn get<'t>(
    txn: *mut ffi::MDB_txn,
    database: Database,
    key: &[u8],
) -> Result<Option<&'t [u8]>, Error> {
    let (mut key, mut value) = (value_of(key), value_of(&[]));
    // SAFETY: the caller's promise; the key is read only. The value lies in a page that does not
    // change during `'t`.
    unsafe {
        match ffi::mdb_get(txn, database.0, &raw mut key, &raw mut value) {
            ffi::MDB_NOTFOUND => Ok(None),
            code => check("read an index", code).map(|()| Some(bytes_of(&value))),
        }
    }
}

fn value_of(bytes: &[u8]) -> ffi::MDB_val {
    ffi::MDB_val { mv_size: bytes.len(), mv_data: bytes.as_ptr().cast_mut().cast() }
}

/// # Safety
///
/// `value` came from LMDB in a transaction that outlives what is returned.
unsafe fn bytes_of<'a>(value: &ffi::MDB_val) -> &'a [u8] {
    if value.mv_size == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(value.mv_data.cast::<u8>(), value.mv_size) }
}

#[cfg(test)]
pub(super) mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// Make an environment with `databases` in it, as the control plane does before this front
    /// starts.
    pub(in crate::index) fn create(path: &Path, databases: &[&str]) {
        std::fs::create_dir_all(path).unwrap();
        let env = Environment::open_writable(path).unwrap();
        let txn = env.write().unwrap();
        for name in databases {
            let name = CString::new(*name).unwrap();
            let mut handle = 0;
            // SAFETY: the transaction is live; the name is a C string.
            let code = unsafe {
                ffi::mdb_dbi_open(txn.txn, name.as_ptr(), ffi::MDB_CREATE, &raw mut handle)
            };
            check("make a database", code).unwrap();
        }
        txn.commit().unwrap();
    }

    fn opened(directory: &Path) -> (Arc<Environment>, Database) {
        create(directory, &["one", "two"]);
        let env = Environment::open_writable(directory).unwrap();
        let [one, _] = env.databases(["one", "two"]).unwrap();
        (Arc::new(env), one)
    }

    fn keys(txn: &WriteTransaction<'_>, database: Database, prefix: &[u8]) -> Vec<Vec<u8>> {
        let entries = txn.prefixed(database, prefix).unwrap();
        entries.map(|entry| entry.unwrap().0.to_vec()).collect()
    }

    #[test]
    fn what_is_committed_is_there_and_what_is_not_never_was() {
        let directory = tempfile::tempdir().unwrap();
        let (env, one) = opened(directory.path());
        let mut reader = Reader::new(env.clone());
        let mut txn = env.write().unwrap();
        txn.put(one, b"a", b"1").unwrap();
        txn.put(one, b"empty", b"").unwrap();
        assert_eq!(txn.get(one, b"a").unwrap(), Some(&b"1"[..]));
        assert_eq!(txn.get(one, b"empty").unwrap(), Some(&b""[..]));
        // In the same thread, beside the writer.
        assert_eq!(reader.snapshot().unwrap().get(one, b"a"), None);
        txn.commit().unwrap();
        assert_eq!(reader.snapshot().unwrap().get(one, b"a"), Some(&b"1"[..]));
        let mut txn = env.write().unwrap();
        assert!(txn.delete(one, b"a").unwrap());
        assert!(!txn.delete(one, b"a").unwrap());
        assert_eq!(txn.get(one, b"a").unwrap(), None);
        drop(txn);
        assert_eq!(reader.snapshot().unwrap().get(one, b"a"), Some(&b"1"[..]));
        assert_eq!(env.errors(), 0);
    }

    #[test]
    fn entries_of_a_prefix() {
        let directory = tempfile::tempdir().unwrap();
        let (env, one) = opened(directory.path());
        let mut txn = env.write().unwrap();
        assert!(keys(&txn, one, b"b").is_empty());
        for key in [&b"a9"[..], b"b", b"b1", b"b2", b"c", b"\xff", b"\xff\xff"] {
            txn.put(one, key, key).unwrap();
        }
        assert_eq!(keys(&txn, one, b"b"), [&b"b"[..], b"b1", b"b2"]);
        assert_eq!(keys(&txn, one, b"\xff"), [&b"\xff"[..], b"\xff\xff"]);
        assert!(keys(&txn, one, b"d").is_empty());
    }

    #[test]
    fn keys_around_a_place() {
        let directory = tempfile::tempdir().unwrap();
        let (env, one) = opened(directory.path());
        let mut reader = Reader::new(env.clone());
        assert_eq!(reader.snapshot().unwrap().around(one, b"x"), Some([None, None]));
        let mut txn = env.write().unwrap();
        txn.put(one, b"b", b"").unwrap();
        txn.put(one, b"d", b"").unwrap();
        txn.commit().unwrap();
        let snapshot = reader.snapshot().unwrap();
        let (b, d) = (Some(&b"b"[..]), Some(&b"d"[..]));
        for (key, expected) in [("a", [None, b]), ("b", [None, b]), ("c", [b, d]), ("e", [d, None])]
        {
            assert_eq!(snapshot.around(one, key.as_bytes()), Some(expected), "{key}");
        }
        assert_eq!(env.errors(), 0);
    }

    #[test]
    fn what_is_not_allowed_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        create(directory.path(), &["one"]);
        let env = Environment::open(directory.path()).unwrap();
        assert_eq!(env.write().map(drop).unwrap_err().code, libc::EACCES);
        drop(env);
        let env = Environment::open_writable(directory.path()).unwrap();
        let [one] = env.databases(["one"]).unwrap();
        let error = env.write().unwrap().put(one, &[0; 512], b"").unwrap_err();
        assert_eq!(
            (error.code, error.is_full(), error.is_damage()),
            (ffi::MDB_BAD_VALSIZE, false, false)
        );
        assert!(Environment::open_writable(&directory.path().join("none")).is_err());
    }

    #[test]
    fn a_full_disk_and_damage_are_told_apart() {
        let with = |code, disk_full| Error { disk_full, ..Error::new("", code) };
        for code in [ffi::MDB_MAP_FULL, libc::ENOSPC, libc::EDQUOT] {
            assert!(with(code, false).is_full());
        }
        assert!(!with(libc::EIO, false).is_full());
        assert!(with(libc::EIO, true).is_full());
        assert_eq!(io::Error::from(with(libc::EIO, true)).kind(), io::ErrorKind::StorageFull);
        assert_eq!(io::Error::from(with(libc::EIO, false)).kind(), io::ErrorKind::Other);
        let damage = Error { disk_full: true, ..Error::record("") };
        assert!(damage.is_damage() && !damage.is_full());
    }

    #[test]
    fn a_map_that_is_full_takes_nothing_and_stays_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let (env, one) = opened(directory.path());
        // SAFETY: no transaction is live.
        unsafe { assert_eq!(ffi::mdb_env_set_mapsize(env.env, 1 << 20), 0) };
        let mut txn = env.write().unwrap();
        let full = (0..1000u32).find_map(|n| txn.put(one, &n.to_be_bytes(), &[7; 4000]).err());
        assert!(full.unwrap().is_full());
        drop(txn);
        let mut txn = env.write().unwrap();
        assert!(keys(&txn, one, b"").is_empty());
        txn.put(one, b"a", b"1").unwrap();
        txn.commit().unwrap();
    }

    /// Beside py-lmdb, where there is one: both sides count up one number, in turns.
    #[test]
    fn writers_of_two_libraries_take_turns() {
        const COUNTER: &str = "\
import lmdb, sys
env = lmdb.Environment(sys.argv[1], map_size=64 << 30, metasync=False, readahead=False, max_dbs=16)
one = env.open_db(b'one')
print(flush=True)
for _ in range(200):
    with env.begin(write=True, db=one) as txn:
        n = int.from_bytes(txn.get(b'n') or b'', 'little') + 1
        txn.put(b'n', n.to_bytes(8, 'little'))
";
        let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
        let known =
            Command::new(&python).args(["-c", "import lmdb"]).stderr(Stdio::null()).status();
        if !known.is_ok_and(|status| status.success()) {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let (env, one) = opened(directory.path());
        let mut other = Command::new(&python)
            .args(["-c", COUNTER])
            .arg(directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut begun = [0];
        std::io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut begun).unwrap();
        for _ in 0..200 {
            let mut txn = env.write().unwrap();
            let n = txn
                .get(one, b"n")
                .unwrap()
                .map_or(0, |value| u64::from_le_bytes(value.try_into().unwrap()));
            txn.put(one, b"n", &(n + 1).to_le_bytes()).unwrap();
            txn.commit().unwrap();
        }
        assert!(other.wait().unwrap().success());
        let mut reader = Reader::new(env);
        let snapshot = reader.snapshot().unwrap();
        assert_eq!(snapshot.get(one, b"n"), Some(&400u64.to_le_bytes()[..]));
    }
}
