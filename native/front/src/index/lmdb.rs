//! LMDB environments that another process writes: opened read-only, read in snapshots.
//!
//! A thin layer over the C library, with what this front needs of it and no more. A snapshot is a
//! read transaction of a `Reader`, which each thread has for itself; the transaction is kept and
//! renewed, which costs 0.2 us.
//!
//! A damaged database gives wrong answers or errors of LMDB's: these are "not here" to the caller
//! (`Snapshot::get`), who then asks the control plane, and are counted.

use std::ffi::{CString, c_int, c_uint};
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lmdb_sys as ffi;

/// As in `tierfs/index/environments.py`: far larger than any index, so that it never has to grow.
const MAP_SIZE: usize = 64 << 30;
const MAX_DATABASES: c_uint = 16;

/// What LMDB said.
#[derive(Debug)]
pub struct Error {
    pub doing: &'static str,
    pub code: c_int,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // SAFETY: mdb_strerror returns a constant, or strerror's text, for any code.
        let text = unsafe { std::ffi::CStr::from_ptr(ffi::mdb_strerror(self.code)) };
        write!(f, "{}: {}", self.doing, text.to_string_lossy())
    }
}

impl std::error::Error for Error {}

fn check(doing: &'static str, code: c_int) -> Result<(), Error> {
    if code == 0 { Ok(()) } else { Err(Error { doing, code }) }
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
    errors: AtomicU64,
}

// SAFETY: an MDB_env may be used from several threads; transactions stay in their `Reader`.
unsafe impl Send for Environment {}
// SAFETY: as above.
unsafe impl Sync for Environment {}

/// A database in an environment.
#[derive(Clone, Copy)]
pub struct Database(ffi::MDB_dbi);

impl Environment {
    /// Open what is in the directory `path`, which must be there.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let path = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| Error { doing: "open an index", code: libc::EINVAL })?;
        let mut env = ptr::null_mut();
        // SAFETY: a valid place for the handle.
        check("make an environment", unsafe { ffi::mdb_env_create(&raw mut env) })?;
        // From here on dropping it closes it.
        let opened = Self { env, errors: AtomicU64::new(0) };
        // SAFETY: the handle is valid and not open yet; the path is a C string.
        unsafe {
            check("set the map size", ffi::mdb_env_set_mapsize(env, MAP_SIZE))?;
            check("set the number of databases", ffi::mdb_env_set_maxdbs(env, MAX_DATABASES))?;
            let flags = ffi::MDB_RDONLY | ffi::MDB_NORDAHEAD;
            check("open an index", ffi::mdb_env_open(env, path.as_ptr(), flags, 0o600))?;
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

    /// Errors so far: each was answered as if nothing were there.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
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
            return Err(Error { doing: "read an index", code });
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
        let mut wanted = value_of(key);
        let mut found = ffi::MDB_val { mv_size: 0, mv_data: ptr::null_mut() };
        // SAFETY: the transaction is live, the key is read only. The value lies in the map, which
        // does not change under a live read transaction; its life is bound to the snapshot's.
        unsafe {
            let code = ffi::mdb_get(self.txn, database.0, &raw mut wanted, &raw mut found);
            if code == 0 { Some(bytes_of(&found)) } else { self.failed(code) }
        }
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
        let mut cursor = ptr::null_mut();
        // SAFETY: the transaction is live; the cursor is closed before it ends, for it borrows it.
        let code = unsafe { ffi::mdb_cursor_open(self.txn, database.0, &raw mut cursor) };
        if code != 0 {
            return self.failed(code);
        }
        Some(Entries { snapshot: self, cursor, start: Some(key.to_vec()) })
    }

    fn failed<T>(&self, code: c_int) -> Option<T> {
        if code != ffi::MDB_NOTFOUND {
            self.env.errors.fetch_add(1, Ordering::Relaxed);
        }
        None
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
    cursor: *mut ffi::MDB_cursor,
    /// Where it begins, before the first entry was asked for.
    start: Option<Vec<u8>>,
}

impl<'s> Iterator for Entries<'s> {
    type Item = (&'s [u8], &'s [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.start.take();
        let operation = if start.is_some() { ffi::MDB_SET_RANGE } else { ffi::MDB_NEXT };
        let mut key = value_of(start.as_deref().unwrap_or_default());
        let mut value = ffi::MDB_val { mv_size: 0, mv_data: ptr::null_mut() };
        // SAFETY: as in `Snapshot::get`; the key that comes back lies in the map, too.
        unsafe {
            let code = ffi::mdb_cursor_get(self.cursor, &raw mut key, &raw mut value, operation);
            if code == 0 {
                Some((bytes_of(&key), bytes_of(&value)))
            } else {
                self.snapshot.failed(code)
            }
        }
    }
}

impl Drop for Entries<'_> {
    fn drop(&mut self) {
        // SAFETY: it is open, and its transaction still lives.
        unsafe { ffi::mdb_cursor_close(self.cursor) };
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
