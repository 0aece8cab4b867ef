//! The targets of `fuzz/` run here as well, a little: so they compile, and what was found once is not forgotten. Fuzzing
//! proper is described in `docs/fuzzing.md`.

mod targets;

use std::path::{Path, PathBuf};

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use tempfile::TempDir;

/// What a target does with the bytes it is given.
type Target = fn(&[u8]);

/// The targets by name, but for those that need a server.
const TARGETS: &[(&str, Target)] = &[
    ("key", targets::key),
    ("pdu", targets::pdu),
    ("multipart", targets::multipart),
    ("page", targets::page),
    ("picture", targets::picture),
    ("pattern", targets::pattern),
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

/// What fuzzing starts with, and what it found.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> =
        std::fs::read_dir(folder("seeds").join(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{target} has no seeds");
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Runs a target with its seeds, with some changed, and with any bytes.
fn run(target: &str, cases: usize, call: impl Fn(&[u8])) {
    let seeds = seeds(target);
    seeds.iter().for_each(|seed| call(seed));
    let changed = (prop::sample::select(seeds), any::<prop::sample::Index>(), any::<u8>(), any::<bool>());
    let changed = changed.prop_map(|(mut bytes, at, byte, cut)| {
        let at = at.index(bytes.len() + 1);
        match bytes.get_mut(at) {
            Some(old) if !cut => *old = byte,
            _ => bytes.truncate(at),
        }
        bytes
    });
    let strategy = prop_oneof![3 => changed, 1 => prop::collection::vec(any::<u8>(), 0..200)];
    let mut runner = TestRunner::deterministic();
    for _ in 0..cases {
        call(&strategy.new_tree(&mut runner).unwrap().current());
    }
}

#[test]
fn every_target_has_its_file() {
    let files = std::fs::read_dir(folder("fuzz_targets")).unwrap();
    let mut found: Vec<_> =
        files.map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    found.sort();
    let mut named: Vec<_> = TARGETS.iter().map(|(name, _)| *name).chain(["path", "request", "settings"]).collect();
    named.sort_unstable();
    assert_eq!(found, named);
}

#[test]
fn parsers_take_anything() {
    for (name, target) in TARGETS {
        run(name, 200, target);
    }
    let folder = TempDir::new().unwrap();
    run("settings", 200, |data| targets::settings(data, &folder.path().join("settings")));
}

#[test]
fn a_server_answers_anything() {
    let world = targets::World::start();
    run("path", 200, |data| world.path(data));
    run("request", 200, |data| world.request(data));
}
