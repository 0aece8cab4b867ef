//! The memory that this process may have, from which the default of `memory_budget` is derived.
//!
//! The number of processors plays no part: a small board can have many cores and little memory.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The bounds of the default: what a database needs to work well, and what a server for people can make use of.
const SMALLEST: u64 = 64 << 20;
const LARGEST: u64 = 1 << 30;

/// A quarter of the memory that this process may have, within bounds. Files are read below `root`, which is `/`.
pub(super) fn default_budget(root: &Path) -> u64 {
    let machine = machine_memory(root).unwrap_or(u64::MAX);
    let group = group_limit(root).unwrap_or(u64::MAX);
    (machine.min(group) / 4).clamp(SMALLEST, LARGEST)
}

/// The memory of the machine: the line `MemTotal: 1234 kB`.
fn machine_memory(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The least limit of the control groups around this process, of version 2 or 1.
///
/// `/proc/self/cgroup` has a line `0::/path` for version 2 and `number:memory:/path` for version 1. In a container the
/// path may be one of the host's that is not visible inside; the root of the hierarchy is then the container's own.
fn group_limit(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    text.lines()
        .filter_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            match controllers {
                "" => least(root.join("sys/fs/cgroup"), path, &["memory.max", "memory.high"]),
                _ if controllers.split(',').any(|name| name == "memory") => {
                    least(root.join("sys/fs/cgroup/memory"), path, &["memory.limit_in_bytes"])
                }
                _ => None,
            }
        })
        .min()
}

/// The least number in files of these names, from the group at `path` up to the root of the hierarchy.
fn least(hierarchy: PathBuf, path: &str, names: &[&str]) -> Option<u64> {
    let group = hierarchy.join(path.trim_start_matches('/'));
    group
        .ancestors()
        .take_while(|group| group.starts_with(&hierarchy))
        .flat_map(|group| names.iter().map(move |name| group.join(name)))
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok())
        .min()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::default_budget;

    fn write(root: &Path, name: &str, text: &str) -> std::io::Result<()> {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap_or(root))?;
        fs::write(path, text)
    }

    #[test]
    fn takes_a_quarter_of_the_least_limit() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let root = dir.path();
        assert_eq!(default_budget(root), 1 << 30, "nothing is known");
        write(root, "proc/meminfo", "MemTotal:        2097152 kB\nMemFree: 1 kB\n")?;
        assert_eq!(default_budget(root), 512 << 20, "memory of the machine");
        write(root, "proc/self/cgroup", "0::/system.slice/conduit.service\n")?;
        write(root, "sys/fs/cgroup/system.slice/conduit.service/memory.max", "max\n")?;
        assert_eq!(default_budget(root), 512 << 20, "no limit");
        write(root, "sys/fs/cgroup/system.slice/memory.max", "1073741824\n")?;
        assert_eq!(default_budget(root), 256 << 20, "limit of a group further up");
        write(root, "sys/fs/cgroup/system.slice/conduit.service/memory.high", "134217728\n")?;
        assert_eq!(default_budget(root), 64 << 20, "never too little");
        Ok(())
    }

    #[test]
    fn knows_control_groups_of_version_1() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        write(dir.path(), "proc/self/cgroup", "5:cpu,cpuacct:/\n3:memory:/docker/abc\n")?;
        write(dir.path(), "sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n")?;
        assert_eq!(default_budget(dir.path()), 128 << 20);
        Ok(())
    }
}
