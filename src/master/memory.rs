//! The memory of other processes, as `/proc` shows it.

use std::fs;

use nix::unistd::{SysconfVar, sysconf};
use rsgun_core::config::Size;

/// The resident memory of a process, shared pages included; `None` when it is gone.
pub(super) fn resident(pid: i32) -> Option<Size> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let page_size = u64::try_from(sysconf(SysconfVar::PAGE_SIZE).ok()??).ok()?;
    Some(Size::from_bytes(pages * page_size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_some_memory_and_nobody_none() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(resident(pid).is_some_and(|size| size.bytes() > 100_000));
        assert_eq!(resident(-5), None);
    }
}
