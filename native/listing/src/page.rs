//! One page: what the answer says, if it says it plainly.
//!
//! Plain is what Amazon and its likes send. Everything else (an element with a prefix, a document
//! type, a comment, a time that is not in UTC, a field that is missing or there twice, an error) is
//! for the parser in Python, which reads XML as XML and says what is wrong with it.

use std::borrow::Cow;
use std::ops::Range;

use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};

use crate::rows;

const USABLE_CHECKSUMS: [&str; 3] = ["CRC64NVME", "CRC32C", "CRC32"];
const ARCHIVE_CLASSES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];
const DECLARATIONS: [&str; 4] = [
    r#"<?xml version="1.0" encoding="UTF-8"?>"#,
    r#"<?xml version="1.0" encoding="utf-8"?>"#,
    r"<?xml version='1.0' encoding='UTF-8'?>",
    r#"<?xml version="1.0"?>"#,
];
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";
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
    objects: Vec<Object>,
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
    /// directory *parent*: four lists of keys and values, each in the order of its keys, for
    /// `inodes`, `dentries`, `children` and `objects`. The files get numbers from *ino* on.
    #[pyo3(signature = (start, parent, ino, checked_ns, without))]
    fn rows<'py>(
        &self,
        py: Python<'py>,
        start: usize,
        parent: u64,
        ino: u64,
        checked_ns: i64,
        without: Vec<usize>,
    ) -> PyResult<[Bound<'py, PyList>; 4]> {
        let mut left = without.into_iter().peekable();
        let new = (0..self.objects.len()).filter(|n| left.next_if_eq(n).is_none());
        rows::pack(py, self, new.map(|n| &self.objects[n]), start, parent, ino, checked_ns)
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
    let body = std::str::from_utf8(body).ok()?;
    // What XML does not take in a text, or changes, is odd enough to be left. (No early end: so all
    // bytes are looked at many at a time.)
    let odd = |byte: u8| byte < b' ' && byte != b'\n' && byte != b'\t';
    let is_odd = body.bytes().fold(false, |found, byte| found | odd(byte));
    if is_odd || body.contains("]]>") {
        return None;
    }
    if !body.is_ascii() && body.contains(['\u{fffe}', '\u{ffff}']) {
        return None;
    }
    let answer = Answer::read(body)?;
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
    let mut rest = raw.as_bytes();
    if !encoded || !rest.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return rest.strip_prefix(root).map(Cow::Borrowed);
    }
    let mut key = Vec::with_capacity(raw.len());
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        key.push(match byte {
            b'+' if encoded => b' ',
            b'%' if encoded => match after.get(..2).and_then(hexadecimal) {
                Some(value) => {
                    rest = &after[2..];
                    value
                }
                None => b'%',
            },
            other => other,
        });
    }
    key.strip_prefix(root).map(|key| key.to_vec().into())
}

fn hexadecimal(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()
}

/// Seconds since the epoch of such as `2024-05-06T07:08:09.000Z`, cut to whole ones.
fn seconds(text: &str) -> Option<i64> {
    let text = text.strip_suffix('Z')?.as_bytes();
    let (whole, fraction) = text.split_at_checked(19)?;
    let number = |range: Range<usize>| -> Option<i64> {
        whole[range].iter().try_fold(0, |value, byte| {
            byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0'))
        })
    };
    let fixed = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    let digits = fraction.strip_prefix(b".").unwrap_or(fraction);
    let fraction_is_good = fraction.is_empty()
        || (matches!(digits.len(), 3 | 6) && digits.iter().all(u8::is_ascii_digit))
            && fraction.len() == digits.len() + 1;
    if fixed.iter().any(|&(at, byte)| whole[at] != byte) || !fraction_is_good {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let days_in_month = *days_of.get(usize::try_from(month).ok()?.checked_sub(1)?)?;
    if year == 0 || !(1..=days_in_month).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some(days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar: years begin in March here, so that a
/// leap day is the last of its year.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

// ---- XML -----------------------------------------------------------------------------------------

/// The fields of one object, as they are spelled.
#[derive(Default)]
struct Contents<'a> {
    key: Option<Cow<'a, str>>,
    size: Option<Cow<'a, str>>,
    modified: Option<Cow<'a, str>>,
    etag: Option<Cow<'a, str>>,
    class: Option<Cow<'a, str>>,
    kind: Option<Cow<'a, str>>,
    usable: bool,
}

/// The fields of the answer.
#[derive(Default)]
struct Answer<'a> {
    contents: Vec<Contents<'a>>,
    folded: Vec<Cow<'a, str>>,
    truncated: Option<Cow<'a, str>>,
    token: Option<Cow<'a, str>>,
    encoding: Option<Cow<'a, str>>,
}

/// What can be plainly said in an answer: elements and text.
enum Piece<'a> {
    Start(BytesStart<'a>),
    /// An element without content.
    Empty(BytesStart<'a>),
    End,
    Text(Cow<'a, str>),
    Eof,
}

struct Pieces<'a>(Reader<&'a [u8]>);

impl<'a> Pieces<'a> {
    /// The next one; None where it is not plain.
    fn next(&mut self) -> Option<Piece<'a>> {
        match self.0.read_event().ok()? {
            Event::Start(start) => Some(Piece::Start(start)),
            Event::Empty(empty) => Some(Piece::Empty(empty)),
            Event::End(_) => Some(Piece::End),
            Event::Text(text) => Some(Piece::Text(text.into_inner())),
            Event::GeneralRef(name) => match name.resolve_char_ref().ok()? {
                // Which of them XML takes is the other parser's knowledge.
                Some(char) => {
                    (' '..'\u{fffe}').contains(&char).then(|| Piece::Text(char.to_string().into()))
                }
                None => resolve_predefined_entity(&name).map(|text| Piece::Text(text.into())),
            },
            Event::Eof => Some(Piece::Eof),
            _ => None,
        }
    }

    /// The text of the element that has just begun, to its end; None where there is more in it.
    fn text(&mut self) -> Option<Cow<'a, str>> {
        let mut found = Cow::Borrowed("");
        loop {
            match self.next()? {
                Piece::Text(text) if found.is_empty() => found = text,
                Piece::Text(text) => found.to_mut().push_str(&text),
                Piece::End => return Some(found),
                _ => return None,
            }
        }
    }

    /// To the end of the element that has just begun, whatever is in it.
    fn skip(&mut self) -> Option<()> {
        let mut depth = 1;
        while depth > 0 {
            match self.next()? {
                Piece::Start(_) => depth += 1,
                Piece::End => depth -= 1,
                Piece::Eof => return None,
                _ => {}
            }
        }
        Some(())
    }

    /// The elements in the one that has just begun, in turn: *field* reads each to its end. An
    /// empty one has nothing to be read.
    fn each(&mut self, mut field: impl FnMut(&mut Self, &str, bool) -> Option<()>) -> Option<()> {
        loop {
            match self.next()? {
                Piece::Start(start) => field(self, plain(&start)?, false)?,
                Piece::Empty(empty) => field(self, plain(&empty)?, true)?,
                Piece::End => return Some(()),
                Piece::Text(text) => is_space(&text).then_some(())?,
                Piece::Eof => return None,
            }
        }
    }

    /// As `text`, for a field that may be there once.
    fn once(&mut self, field: &mut Option<Cow<'a, str>>, empty: bool) -> Option<()> {
        let text = if empty { Cow::default() } else { self.text()? };
        field.replace(text).is_none().then_some(())
    }

    /// As `skip`, for what may be empty.
    fn pass(&mut self, empty: bool) -> Option<()> {
        if empty { Some(()) } else { self.skip() }
    }
}

/// Whether there is nothing but what XML takes for space.
fn is_space(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_whitespace())
}

/// The name of an element without attributes, which is letters alone.
fn plain<'e>(element: &'e BytesStart<'_>) -> Option<&'e str> {
    let name = element.name().into_inner();
    let good = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphabetic());
    (good && element.attributes_raw().is_empty()).then_some(name)
}

impl<'a> Answer<'a> {
    fn read(body: &'a str) -> Option<Self> {
        // A declaration that is none of these is left, as is one that does not come first.
        let body = DECLARATIONS.iter().find_map(|&said| body.strip_prefix(said)).unwrap_or(body);
        let mut pieces = Pieces(Reader::from_str(body));
        let mut answer = Self::default();
        loop {
            match pieces.next()? {
                Piece::Text(text) if is_space(&text) => {}
                Piece::Start(root) => {
                    if root.name().into_inner() != "ListBucketResult" || !is_namespace(&root) {
                        return None;
                    }
                    break;
                }
                _ => return None,
            }
        }
        pieces.each(|pieces, name, empty| match name {
            "Contents" if !empty => {
                let contents = read_contents(pieces)?;
                answer.contents.push(contents);
                Some(())
            }
            "CommonPrefixes" if !empty => pieces.each(|pieces, name, empty| match name {
                "Prefix" if !empty => {
                    answer.folded.push(pieces.text()?);
                    Some(())
                }
                _ => None,
            }),
            "Contents" | "CommonPrefixes" => None,
            "IsTruncated" => pieces.once(&mut answer.truncated, empty),
            "NextContinuationToken" => pieces.once(&mut answer.token, empty),
            "EncodingType" => pieces.once(&mut answer.encoding, empty),
            _ => pieces.pass(empty),
        })?;
        loop {
            match pieces.next()? {
                Piece::Text(text) if is_space(&text) => {}
                Piece::Eof => return Some(answer),
                _ => return None,
            }
        }
    }
}

/// Whether an element has no attribute but S3's namespace.
fn is_namespace(element: &BytesStart<'_>) -> bool {
    let mut attributes = element.attributes();
    match (attributes.next(), attributes.next()) {
        (None, _) => true,
        (Some(Ok(only)), None) => only.key.into_inner() == "xmlns" && *only.value == *NAMESPACE,
        _ => false,
    }
}

fn read_contents<'a>(pieces: &mut Pieces<'a>) -> Option<Contents<'a>> {
    let mut found = Contents::default();
    pieces.each(|pieces, name, empty| match name {
        "Key" => pieces.once(&mut found.key, empty),
        "Size" => pieces.once(&mut found.size, empty),
        "LastModified" => pieces.once(&mut found.modified, empty),
        "ETag" => pieces.once(&mut found.etag, empty),
        "StorageClass" => pieces.once(&mut found.class, empty),
        "ChecksumType" => pieces.once(&mut found.kind, empty),
        "ChecksumAlgorithm" if !empty => {
            found.usable |= USABLE_CHECKSUMS.contains(&&*pieces.text()?);
            Some(())
        }
        _ => pieces.pass(empty),
    })?;
    Some(found)
}
