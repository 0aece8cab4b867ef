//! Pages that are generated from the code or from tables beside it. A test fails when one is outdated; with the
//! environment variable `CONDUIT_BLESS=1` it brings it up to date instead.

use std::{fs, path::PathBuf};

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file)
}

/// Asserts that the project's file `file` holds `text`.
pub fn assert_file(file: &str, text: &str) {
    let found = fs::read_to_string(path(file)).unwrap_or_default();
    if found == text {
        return;
    }
    if std::env::var_os("CONDUIT_BLESS").is_some_and(|value| value == "1") {
        fs::write(path(file), text).unwrap();
        return;
    }
    let differs = text.lines().zip(found.lines().chain(std::iter::repeat(""))).find(|(wanted, found)| wanted != found);
    panic!(
        "{file} is outdated: run the tests with CONDUIT_BLESS=1 and look at what changed. First difference: {differs:?}"
    );
}

/// Asserts that between the lines `<!-- {part} -->` and `<!-- /{part} -->` of `file` stands `text`.
pub fn assert_part(file: &str, part: &str, text: &str) {
    let whole = fs::read_to_string(path(file)).unwrap();
    let (begin, end) = (format!("<!-- {part} -->\n"), format!("<!-- /{part} -->\n"));
    let (before, rest) = whole.split_once(&begin).unwrap_or_else(|| panic!("{file} has no line {begin}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{file} has no line {end}"));
    assert_file(file, &format!("{before}{begin}{text}{end}{after}"));
}
