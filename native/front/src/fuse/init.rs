//! INIT: what the kernel offers, what is wanted of it, and what may be switched off to see how it
//! is without (`--fuse-mask`).

use super::abi::{InitOut, KERNEL_MINOR_VERSION, KERNEL_VERSION, OLDEST_MINOR_VERSION, init_flag};

/// The largest READ: 256 pages, the kernel's `fs.fuse.max_pages_limit`.
pub const MAX_PAGES: u16 = 256;
/// The least that the kernel takes. Nothing is written through this front: what can be written
/// passes through. A request buffer has to hold one WRITE.
pub const MAX_WRITE_BYTES: u32 = 4096;
/// Buffered reads under way at once; `MAX_BACKGROUND` of the keeper says why so many.
const MAX_BACKGROUND: u16 = 512;
/// A backing file may itself lie on a stacked file system (overlayfs).
const MAX_STACK_DEPTH: u32 = 2;

/// Something that the kernel may be asked for, and its name in `--fuse-mask` and in `status`.
struct Feature {
    name: &'static str,
    flags: u64,
}

const FEATURES: &[Feature] = &[
    Feature { name: "passthrough", flags: init_flag::PASSTHROUGH },
    Feature { name: "readdirplus", flags: init_flag::DO_READDIRPLUS | init_flag::READDIRPLUS_AUTO },
    Feature { name: "parallel_dirops", flags: init_flag::PARALLEL_DIROPS },
    Feature { name: "async_read", flags: init_flag::ASYNC_READ },
    Feature { name: "async_dio", flags: init_flag::ASYNC_DIO },
    Feature { name: "max_pages", flags: init_flag::MAX_PAGES },
    Feature { name: "handle_killpriv_v2", flags: init_flag::HANDLE_KILLPRIV_V2 },
];
/// Taken wherever they are offered.
const ALWAYS: u64 = init_flag::BIG_WRITES | init_flag::EXPORT_SUPPORT | init_flag::ATOMIC_O_TRUNC;

/// The INIT flags that `--fuse-mask NAME,...` takes away. The error is the unknown name.
pub fn mask(names: &str) -> Result<u64, String> {
    let mut masked = 0;
    for name in names.split(',').filter(|name| !name.is_empty()) {
        let feature = FEATURES.iter().find(|feature| feature.name == name);
        masked |= feature.ok_or_else(|| name.to_owned())?.flags;
    }
    Ok(masked)
}

/// The names of the features among `flags`, with commas between.
pub fn names(flags: u64) -> String {
    let on = FEATURES.iter().filter(|feature| flags & feature.flags == feature.flags);
    on.map(|feature| feature.name).collect::<Vec<_>>().join(",")
}

/// The answer to INIT, and the flags that are in force; `None` if the kernel is too old.
pub fn answer(minor: u32, max_readahead: u32, offered: u64, masked: u64) -> Option<(InitOut, u64)> {
    if minor < OLDEST_MINOR_VERSION {
        return None;
    }
    let wanted = FEATURES.iter().fold(ALWAYS, |flags, feature| flags | feature.flags) & !masked;
    let mut agreed = wanted & offered;
    if offered & init_flag::INIT_EXT == 0 {
        agreed &= u64::from(u32::MAX);
    } else {
        agreed |= init_flag::INIT_EXT;
    }
    let out = InitOut {
        major: KERNEL_VERSION,
        minor: minor.min(KERNEL_MINOR_VERSION),
        max_readahead,
        flags: low(agreed),
        max_background: MAX_BACKGROUND,
        congestion_threshold: MAX_BACKGROUND / 4 * 3,
        max_write: MAX_WRITE_BYTES,
        time_gran: 1,
        max_pages: MAX_PAGES,
        flags2: low(agreed >> 32),
        max_stack_depth: if agreed & init_flag::PASSTHROUGH == 0 { 0 } else { MAX_STACK_DEPTH },
        ..Default::default()
    };
    Some((out, agreed))
}

#[allow(clippy::cast_possible_truncation)] // The low half is what is asked for.
fn low(flags: u64) -> u32 {
    flags as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_offered_is_taken() {
        let (out, agreed) = answer(31, 1 << 17, init_flag::ASYNC_READ, 0).unwrap();
        assert_eq!(agreed, init_flag::ASYNC_READ);
        assert_eq!((out.flags, out.flags2, out.max_stack_depth, out.minor), (1, 0, 0, 31));
    }

    #[test]
    fn passthrough_needs_the_second_half_of_the_flags() {
        let (out, _) = answer(40, 0, init_flag::PASSTHROUGH, 0).unwrap();
        assert_eq!(out.flags2, 0);
        let (out, _) = answer(99, 0, init_flag::PASSTHROUGH | init_flag::INIT_EXT, 0).unwrap();
        assert_eq!((out.flags2, out.max_stack_depth, out.minor), (1 << 5, 2, 45));
    }

    #[test]
    fn a_mask_takes_away() {
        let masked = mask("passthrough,readdirplus").unwrap();
        let (out, agreed) = answer(45, 0, u64::MAX, masked).unwrap();
        assert_eq!((out.flags2, out.max_stack_depth), (0, 0));
        assert_eq!(
            names(agreed),
            "parallel_dirops,async_read,async_dio,max_pages,handle_killpriv_v2"
        );
        assert_eq!(mask("passthru"), Err("passthru".to_owned()));
    }

    #[test]
    fn too_old() {
        assert!(answer(30, 0, u64::MAX, 0).is_none());
    }
}
