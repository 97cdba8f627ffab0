//! The checksums that S3 knows: computing, comparing and combining them.
//!
//! An object carries one checksum: of the algorithm that the client named, else CRC64NVME. It is
//! of the whole object (`FULL_OBJECT`) or, for a multipart upload that asked for it, of its parts'
//! checksums (`COMPOSITE`).

use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Sha1, Sha256};
use s3s::dto::{ChecksumAlgorithm, ChecksumType};
use s3s::{S3Result, s3_error};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    pub(crate) const ALL: [Self; 5] =
        [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Crc32 => ChecksumAlgorithm::CRC32,
            Self::Crc32c => ChecksumAlgorithm::CRC32C,
            Self::Crc64Nvme => ChecksumAlgorithm::CRC64NVME,
            Self::Sha1 => ChecksumAlgorithm::SHA1,
            Self::Sha256 => ChecksumAlgorithm::SHA256,
        }
    }

    /// The header, or trailer, that carries this checksum.
    pub(crate) fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    pub(crate) fn parse(name: &ChecksumAlgorithm) -> S3Result<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name.as_str()))
            .ok_or_else(|| s3_error!(InvalidRequest, "Checksum algorithm provided is unsupported."))
    }

    /// Which checksum types a multipart upload with this algorithm may have; the first is the
    /// default.
    pub(crate) fn types(self) -> &'static [Kind] {
        match self {
            Self::Crc64Nvme => &[Kind::FullObject],
            Self::Crc32 | Self::Crc32c => &[Kind::Composite, Kind::FullObject],
            Self::Sha1 | Self::Sha256 => &[Kind::Composite],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    FullObject,
    Composite,
}

impl Kind {
    pub(crate) fn parse(name: &ChecksumType) -> S3Result<Self> {
        match name.as_str() {
            ChecksumType::FULL_OBJECT => Ok(Self::FullObject),
            ChecksumType::COMPOSITE => Ok(Self::Composite),
            _ => Err(s3_error!(InvalidRequest, "Value for x-amz-checksum-type header is invalid.")),
        }
    }

    pub(crate) fn dto(self) -> ChecksumType {
        ChecksumType::from_static(match self {
            Self::FullObject => ChecksumType::FULL_OBJECT,
            Self::Composite => ChecksumType::COMPOSITE,
        })
    }
}

/// A computed checksum: its bytes, most significant first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) algorithm: Algorithm,
    pub(crate) bytes: Box<[u8]>,
}

impl Sum {
    pub(crate) fn of(algorithm: Algorithm, data: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(data);
        hasher.finish()
    }

    pub(crate) fn base64(&self) -> String {
        base64_simd::STANDARD.encode_to_string(&self.bytes)
    }

    /// Compares with what the client says it is.
    pub(crate) fn check(&self, sent: &str) -> S3Result<()> {
        if sent == self.base64() {
            return Ok(());
        }
        Err(s3_error!(
            BadDigest,
            "The {} you specified did not match the calculated checksum.",
            self.algorithm.name()
        ))
    }
}

/// What an object answers when it is asked for its checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectChecksum {
    pub(crate) algorithm: Algorithm,
    pub(crate) kind: Kind,
    /// Base64, and `-N` behind it for a composite of N parts.
    pub(crate) text: String,
}

impl From<Sum> for ObjectChecksum {
    fn from(sum: Sum) -> Self {
        Self { algorithm: sum.algorithm, kind: Kind::FullObject, text: sum.base64() }
    }
}

/// The checksum of checksums of a multipart upload's parts.
pub(crate) fn composite<'a>(
    algorithm: Algorithm,
    parts: impl ExactSizeIterator<Item = &'a Sum>,
) -> ObjectChecksum {
    let count = parts.len();
    let joined = parts.flat_map(|part| part.bytes.iter().copied()).collect::<Vec<u8>>();
    let text = format!("{}-{count}", Sum::of(algorithm, &joined).base64());
    ObjectChecksum { algorithm, kind: Kind::Composite, text }
}

/// The checksum of the whole from those of its parts, each with its length in bytes. Only for CRCs.
pub(crate) fn combine<'a>(
    algorithm: Algorithm,
    parts: impl IntoIterator<Item = (&'a Sum, u64)>,
) -> ObjectChecksum {
    let (crc, width) = match algorithm {
        Algorithm::Crc32 => (crc_fast::CrcAlgorithm::Crc32IsoHdlc, 4),
        Algorithm::Crc32c => (crc_fast::CrcAlgorithm::Crc32Iscsi, 4),
        Algorithm::Crc64Nvme => (crc_fast::CrcAlgorithm::Crc64Nvme, 8),
        Algorithm::Sha1 | Algorithm::Sha256 => unreachable!("hashes are never FULL_OBJECT"),
    };
    let number = |sum: &Sum| sum.bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    let whole = parts
        .into_iter()
        .map(|(sum, length)| (number(sum), length))
        .reduce(|(so_far, before), (next, length)| {
            (crc_fast::checksum_combine(crc, so_far, next, length), before + length)
        })
        .map_or(0, |(value, _)| value);
    Sum { algorithm, bytes: whole.to_be_bytes()[8 - width..].into() }.into()
}

/// Computes one checksum as bytes arrive.
pub(crate) enum Hasher {
    Crc32(Crc32),
    Crc32c(Crc32c),
    Crc64Nvme(Crc64Nvme),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Hasher {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Crc32 => Self::Crc32(Crc32::new()),
            Algorithm::Crc32c => Self::Crc32c(Crc32c::new()),
            Algorithm::Crc64Nvme => Self::Crc64Nvme(Crc64Nvme::new()),
            Algorithm::Sha1 => Self::Sha1(Sha1::new()),
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
        }
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        match self {
            Self::Crc32(hasher) => hasher.update(data),
            Self::Crc32c(hasher) => hasher.update(data),
            Self::Crc64Nvme(hasher) => hasher.update(data),
            Self::Sha1(hasher) => hasher.update(data),
            Self::Sha256(hasher) => hasher.update(data),
        }
    }

    pub(crate) fn finish(self) -> Sum {
        let (algorithm, bytes): (_, Box<[u8]>) = match self {
            Self::Crc32(hasher) => (Algorithm::Crc32, hasher.finalize().into()),
            Self::Crc32c(hasher) => (Algorithm::Crc32c, hasher.finalize().into()),
            Self::Crc64Nvme(hasher) => (Algorithm::Crc64Nvme, hasher.finalize().into()),
            Self::Sha1(hasher) => (Algorithm::Sha1, hasher.finalize().into()),
            Self::Sha256(hasher) => (Algorithm::Sha256, hasher.finalize().into()),
        };
        Sum { algorithm, bytes }
    }
}

/// Sets the one of the five checksum fields of an S3 answer that `$algorithm` names.
macro_rules! set_checksum {
    ($answer:expr, $algorithm:expr, $text:expr) => {{
        let field = match $algorithm {
            $crate::backend::checksums::Algorithm::Crc32 => &mut $answer.checksum_crc32,
            $crate::backend::checksums::Algorithm::Crc32c => &mut $answer.checksum_crc32c,
            $crate::backend::checksums::Algorithm::Crc64Nvme => &mut $answer.checksum_crc64nvme,
            $crate::backend::checksums::Algorithm::Sha1 => &mut $answer.checksum_sha1,
            $crate::backend::checksums::Algorithm::Sha256 => &mut $answer.checksum_sha256,
        };
        *field = Some($text);
    }};
}
pub(crate) use set_checksum;

/// The checksums in an S3 request's five fields, in the order of `Algorithm::ALL`.
macro_rules! sent_checksums {
    ($request:expr) => {
        [
            $request.checksum_crc32.as_deref(),
            $request.checksum_crc32c.as_deref(),
            $request.checksum_crc64nvme.as_deref(),
            $request.checksum_sha1.as_deref(),
            $request.checksum_sha256.as_deref(),
        ]
    };
}
pub(crate) use sent_checksums;

/// The only checksum among those sent, if any.
pub(crate) fn only_one(sent: [Option<&str>; 5]) -> S3Result<Option<(Algorithm, &str)>> {
    let mut found = Algorithm::ALL.into_iter().zip(sent).filter_map(|(a, text)| Some((a, text?)));
    let first = found.next();
    if found.next().is_some() {
        return Err(s3_error!(
            InvalidRequest,
            "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
        ));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combining_parts_gives_the_checksum_of_the_whole() {
        let data = (0..100_000_u32).map(|n| (n * 7 % 251) as u8).collect::<Vec<_>>();
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            let whole = ObjectChecksum::from(Sum::of(algorithm, &data));
            for sizes in [vec![100_000], vec![1, 99_999], vec![40_000, 0, 40_000, 20_000]] {
                let (mut parts, mut rest) = (Vec::new(), &data[..]);
                for size in sizes {
                    let (part, after) = rest.split_at(size);
                    parts.push((Sum::of(algorithm, part), size as u64));
                    rest = after;
                }
                let combined = combine(algorithm, parts.iter().map(|(sum, size)| (sum, *size)));
                assert_eq!(combined, whole);
            }
        }
    }

    #[test]
    fn well_known_values() {
        // The check values of the CRC catalogue, of "123456789".
        let hex = |algorithm| {
            Sum::of(algorithm, b"123456789").bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b))
        };
        assert_eq!(hex(Algorithm::Crc32), 0xcbf4_3926);
        assert_eq!(hex(Algorithm::Crc32c), 0xe306_9283);
        assert_eq!(hex(Algorithm::Crc64Nvme), 0xae8b_1486_0a79_9888);
    }

    #[test]
    fn two_checksums_are_refused() {
        assert!(only_one([Some("a"), None, None, Some("b"), None]).is_err());
        assert_eq!(
            only_one([None, Some("a"), None, None, None]).unwrap(),
            Some((Algorithm::Crc32c, "a"))
        );
    }
}
