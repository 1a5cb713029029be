//! How many workers `auto` stands for: as many as there are processors to use.
//!
//! ```text
//!   workers = max(1, min(allowed, quota rounded down))
//! ```
//!
//! * *allowed*: the processors of this process's affinity mask, in which the kernel
//!   has taken the cpuset of the control group into account
//!   (`Cpus_allowed_list` of `/proc/self/status`);
//! * *quota*: processor time over period, the least of this process's control group and
//!   all groups above it (version 2 `cpu.max`; version 1 `cpu.cfs_quota_us` over
//!   `cpu.cfs_period_us`).
//!
//! It is rounded down since a group that has used up its time stands still until the
//! period is over, and with it all connections of all its workers.

use std::fs;
use std::path::Path;

use rsgun_core::config::WorkerCount;

use super::state::SLOTS_MAX;

/// How many workers a setting stands for in this process's surroundings.
pub(super) fn workers(setting: WorkerCount) -> u32 {
    if let WorkerCount::Fixed(number) = setting {
        return number;
    }
    let text = |path| fs::read_to_string(path).unwrap_or_default();
    count(
        &text("/proc/self/status"),
        &text("/proc/self/cgroup"),
        Path::new("/sys/fs/cgroup"),
    )
}

/// The same for the given texts of `/proc/PID/status` and `/proc/PID/cgroup`, where
/// `root` is where the control group file systems are mounted.
fn count(status: &str, membership: &str, root: &Path) -> u32 {
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .and_then(length_of_list)
        .unwrap_or(1);
    let quota = quota(membership, root).unwrap_or(u32::MAX);
    allowed.min(quota).clamp(1, SLOTS_MAX)
}

/// How many numbers a list such as `0-3,8,10-11` has.
fn length_of_list(list: &str) -> Option<u32> {
    list.trim().split(',').try_fold(0_u32, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// The whole processors that the tightest quota allows; `None` without a quota.
fn quota(membership: &str, root: &Path) -> Option<u32> {
    let mut least: Option<u64> = None;
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (mounts, read): (Vec<_>, fn(&Path) -> Option<u64>) = if controllers.is_empty() {
            (vec![root.to_owned()], version_2)
        } else if controllers.split(',').any(|name| name == "cpu") {
            (vec![root.join(controllers), root.join("cpu")], version_1)
        } else {
            continue;
        };
        // In a container the path may be that of the host and so lead nowhere; what is
        // mounted at the root is then the container's own group.
        for mount in mounts {
            let group = mount.join(path.trim_start_matches('/'));
            for group in group
                .ancestors()
                .take_while(|group| group.starts_with(&mount))
            {
                least = least.into_iter().chain(read(group)).min();
            }
        }
    }
    least.map(|processors| u32::try_from(processors).unwrap_or(u32::MAX))
}

/// `cpu.max` holds a quota, or `max`, and a period, both in microseconds.
fn version_2(group: &Path) -> Option<u64> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    quota.parse::<u64>().ok()?.checked_div(period.parse().ok()?)
}

/// A quota of -1 is none.
fn version_1(group: &Path) -> Option<u64> {
    let number = |file| -> Option<u64> {
        let text = fs::read_to_string(group.join(file)).ok()?;
        text.trim().parse().ok()
    };
    number("cpu.cfs_quota_us")?.checked_div(number("cpu.cfs_period_us")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EIGHT: &str = "Name:\trsgun\nCpus_allowed:\tff\nCpus_allowed_list:\t0-7\n";

    fn group(root: &Path, path: &str, files: &[(&str, &str)]) {
        let group = root.join(path);
        fs::create_dir_all(&group).unwrap();
        for (name, text) in files {
            fs::write(group.join(name), text).unwrap();
        }
    }

    #[test]
    fn without_a_quota_the_affinity_counts() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(count(EIGHT, "0::/\n", root.path()), 8);
        let some = "Cpus_allowed_list:\t1,4-6,9\n";
        assert_eq!(count(some, "0::/\n", root.path()), 5);
        assert_eq!(count("", "", root.path()), 1);
        assert_eq!(
            count("Cpus_allowed_list:\t0-4095\n", "", root.path()),
            SLOTS_MAX
        );
    }

    #[test]
    fn the_tightest_quota_on_the_way_up_counts() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let membership = "0::/a.slice/b.service\n";
        group(root, "a.slice/b.service", &[("cpu.max", "max 100000\n")]);
        assert_eq!(count(EIGHT, membership, root), 8);
        group(root, "a.slice", &[("cpu.max", "350000 100000\n")]);
        assert_eq!(count(EIGHT, membership, root), 3);
        group(root, "a.slice/b.service", &[("cpu.max", "50000 100000\n")]);
        assert_eq!(count(EIGHT, membership, root), 1);
    }

    #[test]
    fn a_container_has_its_quota_at_the_root() {
        let root = tempfile::tempdir().unwrap();
        group(root.path(), "", &[("cpu.max", "200000 100000\n")]);
        let membership = "0::/kubepods/pod1/c1\n";
        assert_eq!(count(EIGHT, membership, root.path()), 2);
    }

    #[test]
    fn version_1_counts_as_well() {
        let root = tempfile::tempdir().unwrap();
        let membership = "4:cpu,cpuacct:/docker/abc\n2:memory:/docker/abc\n";
        let files = |quota| {
            [
                ("cpu.cfs_quota_us", quota),
                ("cpu.cfs_period_us", "100000\n"),
            ]
        };
        group(root.path(), "cpu,cpuacct/docker/abc", &files("250000\n"));
        assert_eq!(count(EIGHT, membership, root.path()), 2);
        group(root.path(), "cpu,cpuacct/docker/abc", &files("-1\n"));
        assert_eq!(count(EIGHT, membership, root.path()), 8);
        group(root.path(), "cpu/docker/abc", &files("600000\n"));
        assert_eq!(count(EIGHT, membership, root.path()), 6);
    }

    #[test]
    fn nonsense_counts_as_no_quota() {
        let root = tempfile::tempdir().unwrap();
        for text in ["", "max", "x y", "100 0", "-5 100000"] {
            group(root.path(), "", &[("cpu.max", text)]);
            assert_eq!(count(EIGHT, "0::/\n", root.path()), 8, "{text:?}");
        }
        assert_eq!(length_of_list("3-1"), None);
        assert_eq!(length_of_list("0-4294967295"), None);
    }
}
