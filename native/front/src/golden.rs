//! Golden bytes, which the tests of both languages are held to: `tests/golden`.

/// A file below `tests/golden`, parsed.
pub(crate) fn file(name: &str) -> serde_json::Value {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/");
    let text = std::fs::read_to_string(format!("{directory}{name}")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The bytes of its entry `name` in `section`, which are spelled in hexadecimal.
pub(crate) fn bytes(file: &serde_json::Value, section: &str, name: &str) -> Vec<u8> {
    let text = file[section][name].as_str().unwrap_or_else(|| panic!("no {name}"));
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}
