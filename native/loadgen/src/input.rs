//! Sizes with suffixes, and the lines of standard input.

use std::io::{BufRead, Read};
use std::time::Duration;

use crate::failure::Failure;

/// `4096`, `64K`, `1M`, `2G`: powers of two.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is no size (4096, 64K, 1M)"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text} is too large"))
}

/// A size that is not zero: of a block, a part.
pub fn parse_unit(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("must not be zero".into()),
        size => Ok(size),
    }
}

/// A time of the command line in seconds; a negative one is a usage error.
pub fn duration(seconds: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(seconds).map_err(|error| Failure::Usage(error.to_string()))
}

/// All of standard input.
pub fn standard_input() -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    std::io::stdin().lock().read_to_end(&mut text).map_err(unreadable)?;
    Ok(text)
}

/// The lines of `input` up to an empty one, or to its end; none if it has ended.
pub fn pass(input: &mut impl BufRead) -> Result<Option<Vec<u8>>, Failure> {
    let mut text = Vec::new();
    loop {
        let before = text.len();
        let length = input.read_until(b'\n', &mut text).map_err(unreadable)?;
        if text[before..] == *b"\n" {
            return Ok(Some(text));
        }
        if length == 0 {
            return Ok((before > 0).then_some(text));
        }
    }
}

fn unreadable(error: std::io::Error) -> Failure {
    Failure::Io { path: "standard input".into(), error }
}

/// The lines of `text`, without their ends; paths are bytes, so lines are.
pub fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty())
}

/// One number of a line.
pub fn number(line: &[u8], field: &[u8]) -> Result<u64, Failure> {
    std::str::from_utf8(field)
        .map_err(|_| "not a size".to_owned())
        .and_then(parse_size)
        .map_err(|why| Failure::Usage(format!("line {:?}: {why}", String::from_utf8_lossy(line))))
}

/// A field that may be empty: a number, with a fraction or without.
pub fn optional(field: &[u8]) -> Result<Option<f64>, Failure> {
    if field.is_empty() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(field);
    text.parse().map(Some).map_err(|_| Failure::Usage(format!("{text:?} is no number")))
}

/// Exactly `N` fields of a line, separated by tabs; the last one may hold further tabs.
pub fn fields<const N: usize>(line: &[u8]) -> Result<[&[u8]; N], Failure> {
    let mut parts = line.splitn(N, |&byte| byte == b'\t');
    let mut fields: [&[u8]; N] = [b""; N];
    for field in &mut fields {
        *field = parts.next().ok_or_else(|| {
            let line = String::from_utf8_lossy(line);
            Failure::Usage(format!("line {line:?}: {N} fields separated by tabs expected"))
        })?;
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_powers_of_two() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("64K"), Ok(65_536));
        assert_eq!(parse_size("3M"), Ok(3 << 20));
        assert_eq!(parse_size("2G"), Ok(2 << 30));
        for wrong in ["", "K", "1T", "-1", "1.5M", "99999999999G"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        assert!(parse_unit("0").is_err());
    }

    #[test]
    fn lines_are_bytes_and_fields_are_counted() {
        let text = b"1K\ta\xff b\n\n2\tc\td";
        let found: Vec<_> = lines(text).map(|line| fields::<2>(line).unwrap()).collect();
        assert_eq!(found, [[b"1K" as &[u8], b"a\xff b"], [b"2", b"c\td"]]);
        assert!(fields::<3>(b"1\t2").is_err());
        assert!(number(b"x\ta", b"x").is_err());
    }

    #[test]
    fn a_field_may_be_empty() {
        assert_eq!(optional(b"").unwrap(), None);
        assert_eq!(optional(b"2.5").unwrap(), Some(2.5));
        assert!(optional(b"x").is_err());
    }

    #[test]
    fn a_pass_ends_with_an_empty_line() {
        let mut text: &[u8] = b"1\ta\n2\tb\n\n\n3\tc";
        let mut next = || pass(&mut text).unwrap();
        assert_eq!(next().unwrap(), b"1\ta\n2\tb\n\n");
        assert_eq!(next().unwrap(), b"\n");
        assert_eq!(next().unwrap(), b"3\tc");
        assert_eq!(next(), None);
    }
}
