//! `tierfs._listing`: a page of a listing, read and packed without an object of Python's for each
//! key. `tierfs/lake/s3_listing.py` says what it is for, and reads the pages that this module
//! leaves to it.
//!
//! ```text
//! parse(body) -> answer.rs: XML -> page.rs: Page -> rows.rs: rows of the names environment
//!                 None: it is not plain               (tables in tierfs/index/schema.py)
//! ```

mod answer;
mod page;
mod rows;

use pyo3::prelude::*;

#[pymodule]
mod _listing {
    /// What `tierfs/lake/s3_listing.py` has to be written for. It counts the changes of what is in
    /// `tierfs/_listing.pyi`, and of the rows.
    #[pymodule_export]
    const INTERFACE: u32 = 2;
    #[pymodule_export]
    use crate::page::{Page, parse};
}
