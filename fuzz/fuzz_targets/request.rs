#![no_main]
#[path = "../../tests/fuzz/targets.rs"]
mod targets;

use std::sync::LazyLock;

static WORLD: LazyLock<targets::World> = LazyLock::new(targets::World::start);

libfuzzer_sys::fuzz_target!(|data: &[u8]| WORLD.request(data));
