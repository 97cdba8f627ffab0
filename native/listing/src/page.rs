//! One page: the objects that an answer has, if it says plainly what they are.
//!
//! A time that is not in UTC, a size that is no number, a field that is missing, a key that is not
//! behind the root: these are for the parser in Python, as is what is not plain XML (`answer.rs`).

use std::borrow::Cow;
use std::ops::Range;

use percent_encoding::percent_decode_str;
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use time::{Date, Month};

use crate::answer::{Answer, Contents};
use crate::rows::Rows;

const ARCHIVE_CLASSES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];
const NAME_MAX: usize = 255;

/// One object. Keys and `ETags` are in `Page::text`.
pub(crate) struct Object {
    key: Range<usize>,
    etag: Range<usize>,
    pub(crate) size: u64,
    pub(crate) mtime_ns: i64,
    pub(crate) archived: bool,
    pub(crate) has_checksum: bool,
}

/// The objects of one page, in the order in which they came.
#[pyclass(frozen, module = "tierfs._listing")]
pub(crate) struct Page {
    text: Vec<u8>,
    pub(crate) objects: Vec<Object>,
    prefixes: Vec<Vec<u8>>,
    token: Option<Vec<u8>>,
}

impl Page {
    pub(crate) fn key(&self, object: &Object) -> &[u8] {
        &self.text[object.key.clone()]
    }

    /// The key behind *start* bytes of it.
    pub(crate) fn name(&self, object: &Object, start: usize) -> &[u8] {
        self.key(object).get(start..).unwrap_or_default()
    }

    pub(crate) fn etag(&self, object: &Object) -> &[u8] {
        &self.text[object.etag.clone()]
    }

    /// Whether a directory of the object's name would come after the key `last`.
    fn is_open(&self, object: &Object, last: &[u8]) -> bool {
        let key = self.key(object);
        key.iter().chain(b"/").gt(last.iter())
    }
}

#[pymethods]
impl Page {
    fn __len__(&self) -> usize {
        self.objects.len()
    }

    /// What the next page is asked for with, or None.
    #[getter]
    fn next_token(&self) -> Option<&[u8]> {
        self.token.as_deref()
    }

    /// Keys that were folded at the delimiter; each ends with it.
    #[getter]
    fn prefixes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.prefixes.iter().map(|prefix| PyBytes::new(py, prefix)))
    }

    /// Object *n*: `(key, size, mtime_ns, etag, archived, has_checksum)`.
    fn object<'py>(&self, py: Python<'py>, n: isize) -> PyResult<Bound<'py, PyTuple>> {
        let object = usize::try_from(n).ok().and_then(|n| self.objects.get(n));
        let object = object.ok_or_else(|| PyIndexError::new_err("no such object"))?;
        let key = PyBytes::new(py, self.key(object));
        let etag = PyBytes::new(py, self.etag(object));
        (key, object.size, object.mtime_ns, etag, object.archived, object.has_checksum)
            .into_pyobject(py)
    }

    /// The first and the last key; there is one.
    fn ends<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let (Some(first), Some(last)) = (self.objects.first(), self.objects.last()) else {
            return Err(PyIndexError::new_err("an empty page"));
        };
        Ok((PyBytes::new(py, self.key(first)), PyBytes::new(py, self.key(last))))
    }

    /// Whether every key is the name of an entry of the directory *prefix*, and they are in order.
    fn are_names(&self, prefix: &[u8]) -> bool {
        let ascending = self.objects.windows(2).all(|pair| self.key(&pair[0]) < self.key(&pair[1]));
        let is_entry = |object| self.key(object).strip_prefix(prefix).is_some_and(is_name);
        ascending && self.objects.iter().all(is_entry)
    }

    /// The names, in order.
    fn names<'py>(&self, py: Python<'py>, start: usize) -> PyResult<Bound<'py, PyList>> {
        let names = self.objects.iter().map(|object| self.name(object, start));
        PyList::new(py, names.map(|name| PyBytes::new(py, name)))
    }

    /// Which object has the key, if one has. The keys are in order.
    fn find(&self, key: &[u8]) -> Option<usize> {
        self.objects.binary_search_by(|object| self.key(object).cmp(key)).ok()
    }

    /// The objects that a directory may hide which comes after the key *last*.
    fn open(&self, last: &[u8]) -> Vec<usize> {
        (0..self.objects.len()).filter(|&n| self.is_open(&self.objects[n], last)).collect()
    }

    /// The rows of all objects but those of *without*, which is ascending, as new files of the
    /// directory *parent*. The files get numbers from *ino* on.
    fn rows(
        slf: Py<Self>,
        start: usize,
        parent: u64,
        ino: u64,
        checked_ns: i64,
        without: Vec<usize>,
    ) -> Rows {
        Rows { page: slf, start, parent, ino, checked_ns, without }
    }
}

/// `tierfs.namespace.keys.hidden_reason` is None.
fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name != b"."
        && name != b".."
        && !name.contains(&0)
        && !name.contains(&b'/')
}

/// The page that *body* is, an answer to `ListObjectsV2`, or None where it is not plain. Keys are
/// given behind *root*, with which all begin; *asked* is what the page was asked for with.
#[pyfunction]
#[pyo3(signature = (body, root, asked))]
pub(crate) fn parse(
    py: Python<'_>,
    body: &[u8],
    root: &[u8],
    asked: Option<&[u8]>,
) -> Option<Page> {
    py.detach(|| parse_plain(body, root, asked))
}

fn parse_plain(body: &[u8], root: &[u8], asked: Option<&[u8]>) -> Option<Page> {
    let answer = Answer::read(std::str::from_utf8(body).ok()?)?;
    let token = next_token(&answer, asked).ok()?;
    let encoded = match answer.encoding.as_deref() {
        None => false,
        Some(name) => name.trim().eq_ignore_ascii_case("url"),
    };
    let mut page = Page {
        text: Vec::with_capacity(body.len() / 3),
        objects: Vec::with_capacity(answer.contents.len()),
        prefixes: Vec::with_capacity(answer.folded.len()),
        token,
    };
    for contents in &answer.contents {
        page.add(contents, root, encoded)?;
    }
    for prefix in &answer.folded {
        page.prefixes.push(relative(prefix, root, encoded)?.into_owned());
    }
    Some(page)
}

impl Page {
    fn add(&mut self, contents: &Contents<'_>, root: &[u8], encoded: bool) -> Option<()> {
        let key = relative(contents.key.as_deref()?, root, encoded)?;
        let size = contents.size.as_deref()?.trim().parse().ok()?;
        let mtime_ns = seconds(contents.modified.as_deref()?.trim())?.checked_mul(1_000_000_000)?;
        let etag = contents.etag.as_deref()?.trim();
        if !etag.is_ascii() {
            return None;
        }
        // As long as a record may say that they are.
        if key.len().max(etag.len() + 2) > usize::from(u16::MAX) {
            return None;
        }
        if key.is_empty() {
            return Some(()); // The marker of the root itself: it has no name below it.
        }
        let class = contents.class.as_deref().unwrap_or_default();
        let key = self.put(&[&key]);
        let etag = etag.strip_prefix("W/").unwrap_or(etag).as_bytes();
        // One spelling: quoted, and strong.
        let quoted = etag.len() >= 2 && etag.starts_with(b"\"") && etag.ends_with(b"\"");
        let etag = if quoted { self.put(&[etag]) } else { self.put(&[b"\"", etag, b"\""]) };
        self.objects.push(Object {
            key,
            etag,
            size,
            mtime_ns,
            archived: ARCHIVE_CLASSES.contains(&class),
            has_checksum: contents.usable && contents.kind.as_deref() == Some("FULL_OBJECT"),
        });
        Some(())
    }

    fn put(&mut self, parts: &[&[u8]]) -> Range<usize> {
        let start = self.text.len();
        for part in parts {
            self.text.extend_from_slice(part);
        }
        start..self.text.len()
    }
}

/// What the next page is asked for with, if there is one. An error: the answer does not say.
fn next_token(answer: &Answer<'_>, asked: Option<&[u8]>) -> Result<Option<Vec<u8>>, ()> {
    let truncated = answer.truncated.as_deref().ok_or(())?.trim();
    if truncated.eq_ignore_ascii_case("false") {
        return Ok(None);
    }
    let token = answer.token.as_deref().filter(|_| truncated.eq_ignore_ascii_case("true"));
    let token = token.map(str::as_bytes).filter(|&token| !token.is_empty() && Some(token) != asked);
    token.map(|token| Some(token.to_vec())).ok_or(())
}

/// A key behind *root*; None where it is elsewhere.
fn relative<'a>(raw: &'a str, root: &[u8], encoded: bool) -> Option<Cow<'a, [u8]>> {
    if !encoded || !raw.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return raw.as_bytes().strip_prefix(root).map(Cow::Borrowed);
    }
    let key: Vec<u8> = percent_decode_str(&raw.replace('+', " ")).collect();
    key.strip_prefix(root).map(|key| key.to_vec().into())
}

/// Seconds since the epoch of such as `2024-05-06T07:08:09.000Z`, cut to whole ones.
fn seconds(text: &str) -> Option<i64> {
    let text = text.strip_suffix('Z')?.as_bytes();
    let (whole, fraction) = text.split_at_checked(19)?;
    let number = |range: Range<usize>| -> Option<u16> {
        whole[range].iter().try_fold(0, |value, byte| {
            byte.is_ascii_digit().then(|| value * 10 + u16::from(byte - b'0'))
        })
    };
    let small = |range| number(range).and_then(|value| u8::try_from(value).ok());
    let fixed = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    let digits = fraction.strip_prefix(b".").unwrap_or(fraction);
    let fraction_is_good = fraction.is_empty()
        || (matches!(digits.len(), 3 | 6) && digits.iter().all(u8::is_ascii_digit))
            && fraction.len() == digits.len() + 1;
    if fixed.iter().any(|&(at, byte)| whole[at] != byte) || !fraction_is_good {
        return None;
    }
    // Year 0 is none of Python's.
    let year = number(0..4).filter(|&year| year > 0)?;
    let month = Month::try_from(small(5..7)?).ok()?;
    let day = Date::from_calendar_date(year.into(), month, small(8..10)?).ok()?;
    let moment = day.with_hms(small(11..13)?, small(14..16)?, small(17..19)?).ok()?;
    Some(moment.assume_utc().unix_timestamp())
}
