#![no_main]
#[path = "../../tests/fuzz/targets.rs"]
mod targets;

use std::sync::LazyLock;

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::TempDir::new().unwrap());

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::settings(data, &FOLDER.path().join("settings")));
