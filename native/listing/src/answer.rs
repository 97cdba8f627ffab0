//! The XML of an answer, as far as it is plain: what Amazon and its likes send.
//!
//! Everything else (an attribute, an element with a prefix, a document type, a comment, a field that
//! is there twice, what is not well-formed) is `None`, for the parser in Python, which reads XML as
//! XML and says what is wrong with it. What is plain is read here and not by a library, because that
//! takes a third of the time: a key is some twenty tags.

use std::borrow::Cow;

use memchr::{memchr, memmem};
use quick_xml::escape::unescape;

const USABLE_CHECKSUMS: [&str; 3] = ["CRC64NVME", "CRC32C", "CRC32"];
const DECLARATIONS: [&str; 4] = [
    r#"<?xml version="1.0" encoding="UTF-8"?>"#,
    r#"<?xml version="1.0" encoding="utf-8"?>"#,
    r"<?xml version='1.0' encoding='UTF-8'?>",
    r#"<?xml version="1.0"?>"#,
];
const ROOT: &str = "ListBucketResult";
const ROOTS: [&str; 3] = [
    r#"<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">"#,
    r"<ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>",
    "<ListBucketResult>",
];
/// Elements in each other, of those that nobody asks for.
const DEEPEST: u32 = 8;

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

/// A tag without attributes, with the element's name, which is letters alone.
enum Tag<'a> {
    Start(&'a str),
    /// An element without content.
    Empty(&'a str),
    End(&'a str),
}

/// What is left of the document.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    /// Go on behind the next `bytes`.
    fn pass(&mut self, bytes: usize) -> Option<&'a str> {
        let (passed, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(passed)
    }

    fn pass_space(&mut self) {
        self.0 = self.0.trim_ascii_start();
    }

    /// The tag that comes next.
    fn tag(&mut self) -> Option<Tag<'a>> {
        let rest = self.0.strip_prefix('<')?;
        let (rest, is_end) = rest.strip_prefix('/').map_or((rest, false), |rest| (rest, true));
        let length = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (name, rest) = rest.split_at_checked(length).filter(|(name, _)| !name.is_empty())?;
        let (tag, rest) = match (rest.strip_prefix('>'), is_end) {
            (Some(rest), false) => (Tag::Start(name), rest),
            (Some(rest), true) => (Tag::End(name), rest),
            (None, false) => (Tag::Empty(name), rest.strip_prefix("/>")?),
            (None, true) => return None,
        };
        self.0 = rest;
        Some(tag)
    }

    /// What comes before the next tag.
    fn text(&mut self) -> Option<Cow<'a, str>> {
        let raw = self.pass(memchr(b'<', self.0.as_bytes())?)?;
        if memchr(b'&', raw.as_bytes()).is_none() {
            return Some(raw.into());
        }
        // Which characters XML takes, if they are spelled by number, is the other's knowledge.
        let text = unescape(raw).ok()?;
        text.chars().all(|char| (' '..'\u{fffe}').contains(&char)).then_some(text)
    }

    /// To the end of the element `name`, which has just begun, whatever is in it.
    fn skip(&mut self, name: &str, depth: u32) -> Option<()> {
        loop {
            self.text()?;
            match self.tag()? {
                Tag::Start(inner) if depth < DEEPEST => self.skip(inner, depth + 1)?,
                Tag::Start(_) => return None,
                Tag::Empty(_) => {}
                Tag::End(ended) => return (ended == name).then_some(()),
            }
        }
    }

    /// The elements in the element `name`, which has just begun, in turn: *field* reads each to its
    /// end.
    fn each(
        &mut self,
        name: &str,
        mut field: impl FnMut(&mut Self, Element<'a>) -> Option<()>,
    ) -> Option<()> {
        loop {
            self.pass_space();
            match self.tag()? {
                Tag::Start(name) => field(self, Element { name, is_empty: false })?,
                Tag::Empty(name) => field(self, Element { name, is_empty: true })?,
                Tag::End(ended) => return (ended == name).then_some(()),
            }
        }
    }

    /// The text of an element that has nothing else in it.
    fn text_of(&mut self, element: &Element<'_>) -> Option<Cow<'a, str>> {
        if element.is_empty {
            return Some(Cow::default());
        }
        let text = self.text()?;
        matches!(self.tag()?, Tag::End(ended) if ended == element.name).then_some(text)
    }

    /// As `text_of`, for a field that may be there once.
    fn once(&mut self, element: &Element<'_>, field: &mut Option<Cow<'a, str>>) -> Option<()> {
        field.replace(self.text_of(element)?).is_none().then_some(())
    }

    /// To the end of an element that nobody asks for.
    fn ignore(&mut self, element: &Element<'_>) -> Option<()> {
        if element.is_empty { Some(()) } else { self.skip(element.name, 0) }
    }
}

/// One that has just begun; an empty one has ended, too.
struct Element<'a> {
    name: &'a str,
    is_empty: bool,
}

impl<'a> Answer<'a> {
    pub(crate) fn read(body: &'a str) -> Option<Self> {
        // What XML does not take in a text, or changes, is odd enough to be left. (No early end: so
        // all bytes are looked at many at a time.)
        let odd = |byte: u8| byte < b' ' && byte != b'\n' && byte != b'\t';
        let is_odd = body.bytes().fold(false, |found, byte| found | odd(byte));
        if is_odd || memmem::find(body.as_bytes(), b"]]>").is_some() {
            return None;
        }
        if !body.is_ascii() && body.contains(['\u{fffe}', '\u{ffff}']) {
            return None;
        }
        // A declaration that is none of these is left, as is one that does not come first.
        let mut rest = Rest(body);
        if let Some(said) = DECLARATIONS.iter().find(|&&said| body.starts_with(said)) {
            rest.pass(said.len())?;
        }
        rest.pass_space();
        let root = ROOTS.iter().find(|&&root| rest.0.starts_with(root))?;
        rest.pass(root.len())?;
        let mut answer = Self::default();
        rest.each(ROOT, |rest, element| match element.name {
            "Contents" if !element.is_empty => {
                answer.contents.push(read_contents(rest)?);
                Some(())
            }
            "CommonPrefixes" if !element.is_empty => rest.each(element.name, |rest, element| {
                let is_prefix = element.name == "Prefix" && !element.is_empty;
                answer.folded.push(is_prefix.then(|| rest.text_of(&element))??);
                Some(())
            }),
            "Contents" | "CommonPrefixes" => None,
            "IsTruncated" => rest.once(&element, &mut answer.truncated),
            "NextContinuationToken" => rest.once(&element, &mut answer.token),
            "EncodingType" => rest.once(&element, &mut answer.encoding),
            _ => rest.ignore(&element),
        })?;
        rest.pass_space();
        rest.0.is_empty().then_some(answer)
    }
}

fn read_contents<'a>(rest: &mut Rest<'a>) -> Option<Contents<'a>> {
    let mut found = Contents::default();
    rest.each("Contents", |rest, element| match element.name {
        "Key" => rest.once(&element, &mut found.key),
        "Size" => rest.once(&element, &mut found.size),
        "LastModified" => rest.once(&element, &mut found.modified),
        "ETag" => rest.once(&element, &mut found.etag),
        "StorageClass" => rest.once(&element, &mut found.class),
        "ChecksumType" => rest.once(&element, &mut found.kind),
        "ChecksumAlgorithm" => {
            found.usable |= USABLE_CHECKSUMS.contains(&&*rest.text_of(&element)?);
            Some(())
        }
        _ => rest.ignore(&element),
    })?;
    Some(found)
}
