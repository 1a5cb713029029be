//! Whether the kernel has killed a process of this cgroup for want of memory.
//!
//! The kernel counts such kills for each memory cgroup: `oom_kill` in `memory.events`
//! (version 2) or `memory.oom_control` (version 1). A count that has grown when a
//! child ended by SIGKILL names the killer.
//!
//! Each kill explains one death. The victim may also be a process that is not ours, an
//! application's child say: a kill that no death has claimed between one look at the
//! workers and the next but one (it takes a large process a while to end) is not counted
//! any more, or it would explain the next SIGKILL of an operator.

use std::fs;
use std::path::{Path, PathBuf};

/// The counter of this process's cgroup.
#[derive(Debug)]
pub(super) struct OomCounter {
    file: Option<PathBuf>,
    /// How many kills are explained, or too old to explain anything.
    settled: u64,
    /// The count at the last look.
    seen: u64,
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
        let count = file.as_deref().and_then(read).unwrap_or(0);
        Self {
            file,
            settled: count,
            seen: count,
        }
    }

    /// Whether a kill explains that a child has ended by SIGKILL; it explains no other one
    /// then. `false` where nobody counts.
    pub(super) fn claim(&mut self) -> bool {
        let count = self.file.as_deref().and_then(read);
        let is_left = count.is_some_and(|count| count > self.settled);
        self.settled += u64::from(is_left);
        is_left
    }

    /// Forgets the kills that were there at the last look and that no death has claimed.
    pub(super) fn look(&mut self) {
        self.settled = self.settled.max(self.seen);
        self.seen = self.file.as_deref().and_then(read).unwrap_or(self.seen);
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
        assert!(!counter.claim());
        write(&file, "low 0\noom 5\noom_kill 3\n");
        assert!(counter.claim());
        assert!(!counter.claim());
    }

    #[test]
    fn each_kill_explains_one_death() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("memory.events");
        write(&file, "oom_kill 0\n");
        let mut counter = OomCounter::find("0::/\n", root.path());
        write(&file, "oom_kill 2\n");
        assert!(counter.claim());
        counter.look();
        assert!(counter.claim());
        assert!(!counter.claim());
    }

    #[test]
    fn a_kill_that_nobody_claims_is_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("memory.events");
        write(&file, "oom_kill 0\n");
        let mut counter = OomCounter::find("0::/\n", root.path());
        write(&file, "oom_kill 1\n");
        counter.look();
        counter.look();
        assert!(!counter.claim());
        write(&file, "oom_kill 2\n");
        assert!(counter.claim(), "the next one counts");
    }

    #[test]
    fn version_1_is_read_from_oom_control() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("memory/docker/abc/memory.oom_control");
        write(&file, "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n");
        let membership = "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/docker/abc\n";
        let mut counter = OomCounter::find(membership, root.path());
        write(&file, "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n");
        assert!(counter.claim());
    }

    #[test]
    fn a_container_without_its_own_namespace_falls_back_to_the_root() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("memory.events");
        write(&file, "oom_kill 7\n");
        let mut counter = OomCounter::find("0::/kubepods/pod1/c1\n", root.path());
        write(&file, "oom_kill 8\n");
        assert!(counter.claim());
    }

    #[test]
    fn without_a_counter_nothing_is_claimed() {
        let root = tempfile::tempdir().unwrap();
        assert!(!OomCounter::find("0::/\n", root.path()).claim());
    }
}
