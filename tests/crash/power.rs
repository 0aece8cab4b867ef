//! A power cut: what the program wrote but did not sync is gone.
//!
//! A kill alone leaves everything that was written in the system's cache. So a small library stands before the program's
//! calls of `fsync` and `fdatasync` and notes what each made sure of (`synced.c`); [`Power::cut`] takes a random part of the
//! rest away, as file systems do: the file ends early, or goes on with zeros. What is not modelled: names of files, which
//! stay; file systems that lose them without a sync of the folder are rarer than the ones that keep them.

use std::{
    collections::HashMap,
    fs::{self, OpenOptions},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::below;

/// What stands between a program and its disk.
pub struct Power {
    directory: TempDir,
}

impl Power {
    /// Compiles the library.
    pub fn new() -> Self {
        let power = Self { directory: TempDir::new().unwrap() };
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/crash/synced.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(power.library()).arg(source).arg("-ldl");
        assert!(compiler.status().unwrap().success(), "synced.c does not compile");
        power
    }

    fn library(&self) -> PathBuf {
        self.directory.path().join("synced.so")
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// Has the syncs of the program that `command` starts noted.
    pub fn watch(&self, command: &mut Command) {
        command.env("LD_PRELOAD", self.library()).env("SYNCED_LOG", self.log());
    }

    /// Loses what was not synced of the files below `folder`.
    pub fn cut(&self, folder: &Path) {
        let log = fs::read_to_string(self.log()).unwrap();
        let synced: HashMap<u64, u64> = log
            .lines()
            .map(|line| line.split_once(' ').unwrap())
            .map(|(inode, size)| (inode.parse().unwrap(), size.parse().unwrap()))
            .collect();
        assert!(!synced.is_empty(), "nothing was ever synced");
        lose(folder, &synced);
    }
}

fn lose(folder: &Path, synced: &HashMap<u64, u64>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let file = entry.metadata().unwrap();
        if file.is_dir() {
            lose(&entry.path(), synced);
            continue;
        }
        let (size, safe) = (file.len(), synced.get(&file.ino()).copied().unwrap_or(0));
        if safe < size {
            let kept = [safe, safe + below(size - safe)][below(2) as usize];
            let file = OpenOptions::new().write(true).open(entry.path()).unwrap();
            file.set_len(kept).unwrap();
            if below(2) == 0 {
                file.set_len(size).unwrap();
            }
        }
    }
}
