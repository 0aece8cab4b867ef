//! Nothing that was acknowledged is lost when the process is killed or the power fails (`kill.rs`, `power.rs`).
//! `docs/durability.md` says how this is tested.
//!
//! The environment variable `CONDUIT_CRASH_ROUNDS` makes it crash more often than the few times of a usual test run.

mod delivery;
mod joins;
mod kill;
mod power;

use std::{fs, path::Path};

use conduit::{check, media::files::Files, store::Store};

fn rounds(usual: usize) -> usize {
    std::env::var("CONDUIT_CRASH_ROUNDS").map_or(usual, |rounds| rounds.parse().unwrap())
}

/// A random number below `end`.
fn below(end: u64) -> u64 {
    u64::from_be_bytes(conduit::clock::random_bytes().unwrap()) % end
}

fn assert_sound(store: &Store, media: &Path) {
    let report = check::run(&store.read(), &Files::existing(media.to_owned())).unwrap();
    assert!(report.is_clean(), "{report}");
}

/// Copies a folder without those inside it.
fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
