//! Whether the kernel has killed a process of this cgroup for want of memory.
//!
//! The kernel counts such kills for each memory cgroup: `oom_kill` in `memory.events`
//! (version 2) or `memory.oom_control` (version 1). A count that has grown when a
//! child ended by SIGKILL names the killer.

use std::fs;
use std::path::{Path, PathBuf};

/// The counter of this process's cgroup.
#[derive(Debug)]
pub(super) struct OomCounter {
    file: Option<PathBuf>,
    last: u64,
}

impl OomCounter {
    /// Finds the counter and notes its present value.
    pub(super) fn of_process() -> Self {
        let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::find(&membership, Path::new("/sys/fs/cgroup"))
    }

    /// Finds the counter of a cgroup: `membership` is the text of `/proc/PID/cgroup`,
    /// `root` is where the cgroup file systems are mounted.
    fn find(membership: &str, root: &Path) -> Self {
        let file = candidates(membership, root)
            .into_iter()
            .find(|file| read(file).is_some());
        let last = file.as_deref().and_then(read).unwrap_or(0);
        Self { file, last }
    }

    /// Whether there were kills since the last call; `false` where nobody counts.
    pub(super) fn has_grown(&mut self) -> bool {
        let Some(count) = self.file.as_deref().and_then(read) else {
            return false;
        };
        let before = std::mem::replace(&mut self.last, count);
        count > before
    }
}

/// The files that may hold the counter, the most precise first. In a container the
/// path of the membership may be that of the host and so lead nowhere; the root of
/// what is mounted is then the container's own cgroup.
fn candidates(membership: &str, root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let (mount, file) = if controllers.is_empty() {
            (root.to_owned(), "memory.events")
        } else if controllers.split(',').any(|name| name == "memory") {
            (root.join("memory"), "memory.oom_control")
        } else {
            continue;
        };
        files.push(mount.join(path.trim_start_matches('/')).join(file));
        files.push(mount.join(file));
    }
    files
}

fn read(file: &Path) -> Option<u64> {
    fs::read_to_string(file)
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn version_2_is_read_from_memory_events() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("system.slice/app.service/memory.events");
        write(&file, "low 0\noom 4\noom_kill 2\noom_group_kill 0\n");
        let mut counter = OomCounter::find("0::/system.slice/app.service\n", root.path());
        assert!(!counter.has_grown());
        write(&file, "low 0\noom 5\noom_kill 3\n");
        assert!(counter.has_grown());
        assert!(!counter.has_grown());
    }

    #[test]
    fn version_1_is_read_from_oom_control() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("memory/docker/abc/memory.oom_control");
        write(&file, "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n");
        let membership = "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/docker/abc\n";
        let mut counter = OomCounter::find(membership, root.path());
        write(&file, "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n");
        assert!(counter.has_grown());
    }

    #[test]
    fn a_container_without_its_own_namespace_falls_back_to_the_root() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("memory.events");
        write(&file, "oom_kill 7\n");
        let mut counter = OomCounter::find("0::/kubepods/pod1/c1\n", root.path());
        write(&file, "oom_kill 8\n");
        assert!(counter.has_grown());
    }

    #[test]
    fn without_a_counter_nothing_is_claimed() {
        let root = tempfile::tempdir().unwrap();
        assert!(!OomCounter::find("0::/\n", root.path()).has_grown());
    }
}
