//! `If-Match` and its relatives, for reads and for writes.

use std::sync::Arc;
use std::time::SystemTime;

use hyper::HeaderMap;
use hyper::header::{ETAG, LAST_MODIFIED};
use hyper::http::Extensions;
use s3s::dto::{ETag, ETagCondition, Timestamp, TimestampFormat};
use s3s::{S3Error, S3Result, s3_error};

use super::object::Object;
use crate::exchange::Exchange;
use crate::faults::FaultKind;

/// Whether the server is to behave like one that knows no conditions.
fn are_ignored(extensions: &Extensions) -> bool {
    Exchange::has_fault(extensions, FaultKind::IgnoreConditions)
}

/// The conditions of a read, or of the source of a copy.
#[derive(Default)]
#[expect(clippy::struct_field_names)] // the headers' names
pub(crate) struct ReadConditions {
    pub(crate) if_match: Option<ETagCondition>,
    pub(crate) if_none_match: Option<ETagCondition>,
    pub(crate) if_modified_since: Option<Timestamp>,
    pub(crate) if_unmodified_since: Option<Timestamp>,
}

impl ReadConditions {
    pub(crate) fn unless_ignored(self, extensions: &Extensions) -> Self {
        if are_ignored(extensions) { Self::default() } else { self }
    }

    /// In the order of RFC 9110, 13.2.2: a tag, where one is given, makes the date count no more.
    pub(crate) fn check(&self, object: &Object, modified: SystemTime) -> S3Result<()> {
        let changed_since = |date: &Timestamp| Timestamp::from(modified) > *date;
        let failed = match (&self.if_match, &self.if_unmodified_since) {
            (Some(condition), _) => !matches(condition, object),
            (None, Some(date)) => changed_since(date),
            (None, None) => false,
        };
        if failed {
            return Err(s3_error!(PreconditionFailed));
        }
        let unchanged = match (&self.if_none_match, &self.if_modified_since) {
            (Some(condition), _) => matches(condition, object),
            (None, Some(date)) => !changed_since(date),
            (None, None) => false,
        };
        if unchanged { Err(not_modified(object, modified)) } else { Ok(()) }
    }
}

/// The conditions of a write, to be looked at under the lock that the write is made under.
#[derive(Default)]
pub(crate) struct WriteConditions {
    pub(crate) if_match: Option<ETagCondition>,
    pub(crate) if_none_match: Option<ETagCondition>,
}

impl WriteConditions {
    pub(crate) fn unless_ignored(self, extensions: &Extensions) -> Self {
        if are_ignored(extensions) { Self::default() } else { self }
    }

    /// From headers, where the operation has no fields for them.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        let parse =
            |name: &str| ETagCondition::parse_http_header(headers.get(name)?.as_bytes()).ok();
        Self { if_match: parse("if-match"), if_none_match: parse("if-none-match") }
    }

    pub(crate) fn check(&self, current: Option<&Arc<Object>>) -> S3Result<()> {
        match (&self.if_match, current) {
            (Some(_), None) => return Err(s3_error!(NoSuchKey)),
            (Some(condition), Some(object)) if !matches(condition, object) => {
                return Err(s3_error!(PreconditionFailed));
            }
            _ => {}
        }
        match (&self.if_none_match, current) {
            (Some(condition), Some(object)) if matches(condition, object) => {
                Err(s3_error!(PreconditionFailed))
            }
            _ => Ok(()),
        }
    }
}

fn matches(condition: &ETagCondition, object: &Object) -> bool {
    condition.as_etag().is_none_or(|etag| etag.value() == object.etag)
}

/// A 304 says which version it is that has not been modified.
fn not_modified(object: &Object, modified: SystemTime) -> S3Error {
    let mut headers = HeaderMap::new();
    if let Ok(etag) = ETag::Strong(object.etag.clone()).to_http_header() {
        headers.insert(ETAG, etag);
    }
    let mut date = Vec::new();
    if Timestamp::from(modified).format(TimestampFormat::HttpDate, &mut date).is_ok()
        && let Ok(value) = date.as_slice().try_into()
    {
        headers.insert(LAST_MODIFIED, value);
    }
    let mut error = s3_error!(NotModified);
    error.set_headers(headers);
    error
}
