//! The XML of an answer, as far as it is plain: what Amazon and its likes send.
//!
//! Everything else (an element with a prefix, a document type, a comment, a field that is there
//! twice, what is not well-formed) is `None`, for the parser in Python, which reads XML as XML and
//! says what is wrong with it.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};

const USABLE_CHECKSUMS: [&str; 3] = ["CRC64NVME", "CRC32C", "CRC32"];
const DECLARATIONS: [&str; 4] = [
    r#"<?xml version="1.0" encoding="UTF-8"?>"#,
    r#"<?xml version="1.0" encoding="utf-8"?>"#,
    r"<?xml version='1.0' encoding='UTF-8'?>",
    r#"<?xml version="1.0"?>"#,
];
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// The fields of one object, as they are spelled.
#[derive(Default)]
pub(crate) struct Contents<'a> {
    pub(crate) key: Option<Cow<'a, str>>,
    pub(crate) size: Option<Cow<'a, str>>,
    pub(crate) modified: Option<Cow<'a, str>>,
    pub(crate) etag: Option<Cow<'a, str>>,
    pub(crate) class: Option<Cow<'a, str>>,
    pub(crate) kind: Option<Cow<'a, str>>,
    pub(crate) usable: bool,
}

/// The fields of the answer.
#[derive(Default)]
pub(crate) struct Answer<'a> {
    pub(crate) contents: Vec<Contents<'a>>,
    pub(crate) folded: Vec<Cow<'a, str>>,
    pub(crate) truncated: Option<Cow<'a, str>>,
    pub(crate) token: Option<Cow<'a, str>>,
    pub(crate) encoding: Option<Cow<'a, str>>,
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
    pub(crate) fn read(body: &'a str) -> Option<Self> {
        // What XML does not take in a text, or changes, is odd enough to be left. (No early end: so
        // all bytes are looked at many at a time.)
        let odd = |byte: u8| byte < b' ' && byte != b'\n' && byte != b'\t';
        let is_odd = body.bytes().fold(false, |found, byte| found | odd(byte));
        if is_odd || body.contains("]]>") {
            return None;
        }
        if !body.is_ascii() && body.contains(['\u{fffe}', '\u{ffff}']) {
            return None;
        }
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
