//! Sockets that systemd has opened for this process (`sd_listen_fds(3)`).
//!
//! They are used where `--fd` or `fd://` names them, and not otherwise: which of them is
//! meant for what is not to be guessed. But whoever has passed some means them, so those
//! that nobody names are told. The variables are for one process, and go no further.

use rsgun_core::listeners::Address;

/// What tells a process of its sockets.
pub(super) const VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// The number of the first one.
const FIRST: i32 = 3;

/// How many sockets were passed to this process.
pub(super) fn count() -> i32 {
    let number = |name: &str| std::env::var(name).ok();
    let pid = std::process::id();
    passed(
        number(VARIABLES[0]).as_deref(),
        number(VARIABLES[1]).as_deref(),
        pid,
    )
}

fn passed(to: Option<&str>, count: Option<&str>, pid: u32) -> i32 {
    if to.and_then(|to| to.parse().ok()) != Some(pid) {
        return 0;
    }
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// A warning about those of the passed sockets that the server does not listen on.
pub(super) fn overlooked(count: i32, bind: &[Address]) -> Option<String> {
    let unused: Vec<i32> = (FIRST..FIRST.saturating_add(count))
        .filter(|number| !bind.contains(&Address::Fd(*number)))
        .collect();
    let first = unused.first()?;
    let list: Vec<String> = unused.iter().map(ToString::to_string).collect();
    Some(format!(
        "systemd has passed sockets on that are not used, descriptor {}: name each with \
         --fd {first} or --bind fd://{first}",
        list.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_another_process_are_none() {
        assert_eq!(passed(Some("7"), Some("2"), 7), 2);
        assert_eq!(passed(Some("8"), Some("2"), 7), 0);
        assert_eq!(passed(None, Some("2"), 7), 0);
        assert_eq!(passed(Some("7"), Some("two"), 7), 0);
    }

    #[test]
    fn who_uses_all_of_them_is_not_warned() {
        let both = [Address::Fd(3), Address::Fd(4)];
        assert_eq!(overlooked(2, &both), None);
        assert_eq!(overlooked(0, &[]), None);
        assert_eq!(overlooked(-1, &[]), None);
        let text = overlooked(2, &both[..1]).unwrap();
        assert!(
            text.contains("descriptor 4: name each with --fd 4"),
            "{text}"
        );
    }
}
