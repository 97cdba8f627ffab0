//! What the threads of a front share.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;

use crate::attributes::Rules;
use crate::copies::Copies;
use crate::fuse::abi::init_flag;
use crate::fuse::init;
use crate::index::cache::CacheIndex;
use crate::index::names::Names;
use crate::log;
use crate::opened::{Means, OpenInodes};
use crate::run::index_numbers;
use crate::serve::Then;
use crate::shared::{Opened, Shared};
use crate::stats::Stats;
use crate::sys::device::Device;
use crate::upcall::client::Client;

/// Everything that the threads share.
pub struct Front {
    pub device: Device,
    pub shared: Shared,
    pub client: Client<Then>,
    pub opened: OpenInodes,
    pub rules: Rules,
    pub names: Names,
    pub cache: CacheIndex,
    pub copies: Copies,
    pub stats: Stats,
    /// INIT flags that are switched off.
    pub masked: u64,
    /// Inodes whose copies are to be verified as a whole, beside requests (`Worker::verify`).
    pub unverified: SyncSender<u64>,
    /// Told once INIT has been answered.
    pub ready: OnceLock<()>,
    /// Handles of OPENs that the last front recorded and perhaps did not answer, by `unique`.
    pub pending_rows: HashMap<u64, Opened>,
    pub lake_directory: PathBuf,
    /// Of the index files that are open.
    index_numbers: Vec<Option<u64>>,
    refused_errno: AtomicU64,
}

impl Front {
    #[allow(clippy::too_many_arguments)] // Once, in `main`.
    pub fn new(
        device: Device,
        shared: Shared,
        client: Client<Then>,
        rows: &[Opened],
        pending_rows: HashMap<u64, Opened>,
        rules: Rules,
        lake_directory: PathBuf,
        masked: u64,
        unverified: SyncSender<u64>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let opened = OpenInodes::restore(rows, &shared, &device);
        Ok(Self {
            opened,
            rules,
            names: Names::open(&lake_directory)?,
            cache: CacheIndex::open(&lake_directory)?,
            copies: Copies::new(lake_directory.clone(), crate::sys::file::boot_id()?),
            stats: Stats::default(),
            device,
            shared,
            client,
            masked,
            unverified,
            ready: OnceLock::new(),
            pending_rows,
            index_numbers: index_numbers(&lake_directory),
            lake_directory,
            refused_errno: AtomicU64::new(0),
        })
    }

    /// Whether the index in the cache is the one that is open here: a damaged one is moved aside.
    pub fn index_is_the_same(&self) -> bool {
        self.index_numbers == index_numbers(&self.lake_directory)
    }

    /// What `opened` needs to open and close.
    pub fn means(&self) -> Means<'_, Then> {
        Means { shared: &self.shared, device: &self.device, client: &self.client }
    }

    pub fn passes_through(&self) -> bool {
        self.shared.init_flags().is_some_and(|flags| flags & init_flag::PASSTHROUGH != 0)
    }

    /// Tell the control plane which files this front keeps in use; it may be a new one.
    pub fn tell_what_is_open(&self) {
        self.opened.for_each(|ino| self.client.usage(ino, true));
    }

    pub fn open_backing(&self, file: &std::fs::File) -> i32 {
        match self.device.open_backing(file) {
            Ok(id) => {
                self.shared.saw_backing(id);
                id
            }
            Err(error) => {
                Stats::count(&self.stats.passthrough_refused);
                let code = error.raw_os_error().unwrap_or(libc::EIO).unsigned_abs().into();
                if self.refused_errno.swap(code, Ordering::Relaxed) != code {
                    log::warning(&format!(
                        "the kernel does not pass reads through: {error}; they are copied"
                    ));
                }
                0
            }
        }
    }

    /// Lines for `status`.
    pub fn status(&self) -> String {
        let waiting = self.client.waiting() as u64;
        let index_errors = self.names.errors() + self.cache.errors();
        let mut open = 0;
        self.opened.for_each(|_| open += 1);
        let features = init::names(self.shared.init_flags().unwrap_or(0));
        let counters = self.stats.text(&[
            ("waiting_upcalls", waiting),
            ("index_errors", index_errors),
            ("open_inodes", open),
            ("passthrough_errno", self.refused_errno.load(Ordering::Relaxed)),
        ]);
        format!("features {features}\n{counters}")
    }
}
