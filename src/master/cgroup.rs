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
//!
//! The process may be moved to another cgroup, and a cgroup may be made anew; so the
//! counter is looked up each time, and may drop.

use std::fs;
use std::path::{Path, PathBuf};

/// The counter of this process's cgroup.
#[derive(Debug)]
pub(super) struct OomCounter {
    /// A file like `/proc/self/cgroup`.
    membership: PathBuf,
    /// Where the cgroup file systems are mounted.
    root: PathBuf,
    file: Option<PathBuf>,
    /// How many kills are explained, or too old to explain anything.
    settled: u64,
    /// The count at the last look.
    seen: u64,
}

impl OomCounter {
    /// Finds the counter and notes its present value.
    pub(super) fn of_process() -> Self {
        Self::find("/proc/self/cgroup".into(), "/sys/fs/cgroup".into())
    }

    fn find(membership: PathBuf, root: PathBuf) -> Self {
        let mut counter = Self {
            membership,
            root,
            file: None,
            settled: 0,
            seen: 0,
        };
        counter.count();
        counter
    }

    /// Whether a kill explains that a child has ended by SIGKILL; it explains no other one
    /// then. `false` where nobody counts.
    pub(super) fn claim(&mut self) -> bool {
        let is_left = self.count().is_some_and(|count| count > self.settled);
        self.settled += u64::from(is_left);
        is_left
    }

    /// Forgets the kills that were there at the last look and that no death has claimed.
    pub(super) fn look(&mut self) {
        let count = self.count();
        self.settled = self.settled.max(self.seen);
        self.seen = count.unwrap_or(self.seen);
    }

    /// The present count, compared with which the others are right.
    ///
    /// In another cgroup, to which this process was moved, nothing is known of the kills so
    /// far: none of them counts. A count that has dropped has begun anew, so all of it is
    /// new.
    fn count(&mut self) -> Option<u64> {
        let membership = fs::read_to_string(&self.membership).unwrap_or_default();
        let found = candidates(&membership, &self.root)
            .into_iter()
            .find_map(|file| Some((read(&file)?, file)));
        let (count, file) = found?;
        if self.file.as_ref() != Some(&file) {
            self.file = Some(file);
            (self.settled, self.seen) = (count, count);
        } else if count < self.settled.max(self.seen) {
            (self.settled, self.seen) = (0, 0);
        }
        Some(count)
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

    /// A pretended system.
    struct System {
        folder: tempfile::TempDir,
    }

    impl System {
        fn new(membership: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let system = Self { folder };
            system.move_to(membership);
            system
        }

        fn move_to(&self, membership: &str) {
            fs::write(self.folder.path().join("membership"), membership).unwrap();
        }

        fn write(&self, file: &str, text: &str) {
            let path = self.folder.path().join("root").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn counter(&self) -> OomCounter {
            let path = |name| self.folder.path().join(name);
            OomCounter::find(path("membership"), path("root"))
        }
    }

    /// Each version's membership in two cgroups, and their files.
    const VERSIONS: [[(&str, &str); 2]; 2] = [
        [
            ("0::/a\n", "a/memory.events"),
            ("0::/b\n", "b/memory.events"),
        ],
        [
            (
                "5:cpu:/x\n4:memory:/a\n0::/\n",
                "memory/a/memory.oom_control",
            ),
            (
                "5:cpu:/x\n4:memory:/b\n0::/\n",
                "memory/b/memory.oom_control",
            ),
        ],
    ];

    #[test]
    fn version_2_is_read_from_memory_events() {
        let system = System::new("0::/system.slice/app.service\n");
        let file = "system.slice/app.service/memory.events";
        system.write(file, "low 0\noom 4\noom_kill 2\noom_group_kill 0\n");
        let mut counter = system.counter();
        assert!(!counter.claim());
        system.write(file, "low 0\noom 5\noom_kill 3\n");
        assert!(counter.claim());
        assert!(!counter.claim());
    }

    #[test]
    fn version_1_is_read_from_oom_control() {
        let system = System::new("5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/x\n");
        let file = "memory/docker/abc/memory.oom_control";
        system.write(file, "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n");
        let mut counter = system.counter();
        system.write(file, "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n");
        assert!(counter.claim());
    }

    #[test]
    fn each_kill_explains_one_death() {
        let system = System::new("0::/\n");
        system.write("memory.events", "oom_kill 0\n");
        let mut counter = system.counter();
        system.write("memory.events", "oom_kill 2\n");
        assert!(counter.claim());
        counter.look();
        assert!(counter.claim());
        assert!(!counter.claim());
    }

    #[test]
    fn a_kill_that_nobody_claims_is_forgotten() {
        let system = System::new("0::/\n");
        system.write("memory.events", "oom_kill 0\n");
        let mut counter = system.counter();
        system.write("memory.events", "oom_kill 1\n");
        counter.look();
        counter.look();
        assert!(!counter.claim());
        system.write("memory.events", "oom_kill 2\n");
        assert!(counter.claim(), "the next one counts");
    }

    #[test]
    fn a_count_that_begins_anew_explains_the_next_deaths() {
        for [(membership, file), _] in VERSIONS {
            let system = System::new(membership);
            system.write(file, "oom_kill 7\n");
            let mut counter = system.counter();
            system.write(file, "oom_kill 0\n");
            assert!(!counter.claim(), "{file}");
            system.write(file, "oom_kill 1\n");
            assert!(counter.claim(), "{file}");
            assert!(!counter.claim(), "{file}");
            // The drop and the kill lie between two looks.
            system.write(file, "oom_kill 5\n");
            counter.look();
            counter.look();
            system.write(file, "oom_kill 2\n");
            counter.look();
            assert!(counter.claim() && counter.claim(), "{file}");
            assert!(!counter.claim(), "{file}");
        }
    }

    #[test]
    fn another_cgroup_counts_from_the_move_on() {
        for [(membership, file), (other, its_file)] in VERSIONS {
            for its_count in [1, 3, 9] {
                let system = System::new(membership);
                system.write(file, "oom_kill 3\n");
                system.write(its_file, &format!("oom_kill {its_count}\n"));
                let mut counter = system.counter();
                system.move_to(other);
                assert!(!counter.claim(), "{its_file}: these kills were others'");
                system.write(file, "oom_kill 4\n");
                assert!(
                    !counter.claim(),
                    "{its_file}: nor is this one ours any more"
                );
                system.write(its_file, &format!("oom_kill {}\n", its_count + 1));
                assert!(counter.claim(), "{its_file}");
                assert!(!counter.claim(), "{its_file}");
            }
        }
    }

    #[test]
    fn a_counter_that_cannot_be_read_for_a_while_is_not_forgotten() {
        let system = System::new("0::/a\n");
        system.write("a/memory.events", "oom_kill 3\n");
        let mut counter = system.counter();
        system.move_to("");
        counter.look();
        assert!(!counter.claim());
        system.move_to("0::/a\n");
        assert!(!counter.claim());
        system.write("a/memory.events", "oom_kill 4\n");
        assert!(counter.claim());
    }

    #[test]
    fn a_container_without_its_own_namespace_falls_back_to_the_root() {
        let system = System::new("0::/kubepods/pod1/c1\n");
        system.write("memory.events", "oom_kill 7\n");
        let mut counter = system.counter();
        system.write("memory.events", "oom_kill 8\n");
        assert!(counter.claim());
    }

    #[test]
    fn without_a_counter_nothing_is_claimed() {
        assert!(!System::new("0::/\n").counter().claim());
    }
}
