#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tierfs_front::fuzzing::answer(data));
