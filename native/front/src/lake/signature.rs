//! Requests as they go out: targets percent-encoded, heads signed (AWS Signature Version 4, without
//! a body, in headers).
//!
//! Rules: <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>. The crate
//! `aws-sigv4` signs as well, and brings 52 crates for it.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use time::UtcDateTime;

use super::source::Source;

/// SHA-256 of nothing.
const EMPTY_BODY: &[u8] = b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A header: its name in lower case, and its value.
pub(super) type Header<'a> = (&'a str, &'a [u8]);

/// One set of credentials, with the last signing key that was derived of it.
pub(super) struct Signer {
    access_key: String,
    secret_key: String,
    token: String,
    region: String,
    /// Holds for a day: the date, and the key.
    derived: Mutex<Option<(String, Hmac<Sha256>)>>,
}

impl Signer {
    /// `None`: anonymous.
    pub(super) fn new(source: &Source) -> Option<Self> {
        (!source.access_key.is_empty()).then(|| Self {
            access_key: source.access_key.clone(),
            secret_key: source.secret_key.clone(),
            token: source.token.clone(),
            region: source.region.clone(),
            derived: Mutex::new(None),
        })
    }

    /// Append what proves at `now` who GETs `target` with these `headers`, all of which are signed:
    /// more lines of the head.
    pub(super) fn sign(
        &self,
        head: &mut Vec<u8>,
        target: &[u8],
        headers: &[Header<'_>],
        now: UtcDateTime,
    ) {
        let moment = moment(now);
        let date = &moment[..8];
        let mut signed = headers.to_vec();
        signed.push(("x-amz-content-sha256", EMPTY_BODY));
        signed.push(("x-amz-date", moment.as_bytes()));
        if !self.token.is_empty() {
            signed.push(("x-amz-security-token", self.token.as_bytes()));
        }
        for (name, value) in &signed[headers.len()..] {
            push_header(head, name, value);
        }
        signed.sort_unstable_by_key(|(name, _)| *name);
        let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let scope = format!("{date}/{}/s3/aws4_request", self.region);
        let digest = hexadecimal(&Sha256::digest(canonical(target, &signed, &names)));
        let mut key = self.signing_key(date);
        key.update(format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}").as_bytes());
        let signature = hexadecimal(&key.finalize().into_bytes());
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.access_key
        );
        push_header(head, "authorization", authorization.as_bytes());
    }

    fn signing_key(&self, date: &str) -> Hmac<Sha256> {
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, key)) = &*derived
            && of == date
        {
            return key.clone();
        }
        let mut key = keyed(format!("AWS4{}", self.secret_key).as_bytes());
        for part in [date, &self.region, "s3", "aws4_request"] {
            key.update(part.as_bytes());
            key = keyed(&key.finalize().into_bytes());
        }
        *derived = Some((date.to_owned(), key.clone()));
        key
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("a key may have any length")
}

/// What is signed: the request in its canonical form.
fn canonical(target: &[u8], headers: &[Header<'_>], names: &str) -> Vec<u8> {
    let mut text = [b"GET\n", target, b"\n\n"].concat();
    for (name, value) in headers {
        text.extend_from_slice(name.as_bytes());
        text.push(b':');
        let words = value.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        for (number, word) in words.enumerate() {
            if number > 0 {
                text.push(b' ');
            }
            text.extend_from_slice(word);
        }
        text.push(b'\n');
    }
    text.push(b'\n');
    text.extend_from_slice(names.as_bytes());
    text.push(b'\n');
    text.extend_from_slice(EMPTY_BODY);
    text
}

pub(super) fn push_header(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        head.extend_from_slice(part);
    }
}

/// `path` and `key` as a request's target: every byte of the key but unreserved ones and `/`
/// percent-encoded, nothing resolved.
pub(super) fn target(path: &[u8], key: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut target = Vec::with_capacity(path.len() + key.len() + 16);
    target.extend_from_slice(path);
    for &byte in key {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            target.push(byte);
        } else {
            let (high, low) = (DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]);
            target.extend_from_slice(&[b'%', high, low]);
        }
    }
    target
}

fn moment(now: UtcDateTime) -> String {
    let (date, time) = (now.date(), now.time());
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = Vec::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use time::{Date, Month, Time};

    use super::*;

    fn source(fields: &[&str]) -> Source {
        let [scheme, host, port, region, access_key, secret_key, token] = fields else { panic!() };
        let fields =
            [scheme, host, port, "/", region, access_key, secret_key, token, "", "", "1", "1000"];
        Source::parse(&crate::lake::tests::tail(&fields)).unwrap()
    }

    fn at(moment: &str) -> UtcDateTime {
        let number = |from: usize, to: usize| moment[from..to].parse::<u8>().unwrap();
        let month = Month::try_from(number(4, 6)).unwrap();
        let date = Date::from_calendar_date(moment[..4].parse().unwrap(), month, number(6, 8));
        let time = Time::from_hms(number(9, 11), number(11, 13), number(13, 15));
        UtcDateTime::new(date.unwrap(), time.unwrap())
    }

    fn signed(signer: &Signer, target: &[u8], headers: &[Header<'_>], moment: &str) -> String {
        let mut head = Vec::new();
        signer.sign(&mut head, target, headers, at(moment));
        let head = String::from_utf8(head).unwrap();
        assert!(head.contains(&format!("x-amz-date: {moment}\r\n")));
        let line = head.lines().find_map(|line| line.strip_prefix("authorization: "));
        line.unwrap().to_owned()
    }

    #[test]
    fn the_signature_that_is_published_as_an_example() {
        let source = source(&[
            "https",
            "examplebucket.s3.amazonaws.com",
            "443",
            "us-east-1",
            "AKIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "",
        ]);
        let headers: [Header<'_>; 2] =
            [("range", b"bytes=0-9"), ("host", b"examplebucket.s3.amazonaws.com")];
        let signer = Signer::new(&source).unwrap();
        let found = signed(&signer, b"/test.txt", &headers, "20130524T000000Z");
        let expected = "AWS4-HMAC-SHA256 \
            Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
            SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, \
            Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        assert_eq!(found, expected);
    }

    #[test]
    fn the_signatures_of_botocore() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/sigv4/signatures.json");
        let text = std::fs::read_to_string(path).unwrap();
        let cases: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        assert!(cases.len() > 3);
        for case in cases {
            let text = |name: &str| case[name].as_str().unwrap();
            let source = source(&[
                text("scheme"),
                text("host"),
                &case["port"].to_string(),
                text("region"),
                "AKIDEXAMPLE",
                "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
                text("token"),
            ]);
            let digits = text("key");
            let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
            let key: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
            let target = target(text("path").as_bytes(), &key);
            assert_eq!(target, text("target").as_bytes());
            let authority = source.authority();
            let mut headers: Vec<Header<'_>> = vec![("host", authority.as_bytes())];
            for header in case["headers"].as_array().unwrap() {
                let value = header[1].as_str().unwrap().as_bytes();
                headers.push((header[0].as_str().unwrap(), value));
            }
            let signer = Signer::new(&source).unwrap();
            // Of another day, first: a key is kept for its day only.
            signed(&signer, &target, &headers, "20240102T030405Z");
            for _ in 0..2 {
                let found = signed(&signer, &target, &headers, text("moment"));
                assert_eq!(found, text("authorization"), "{}", text("name"));
            }
        }
    }
}
