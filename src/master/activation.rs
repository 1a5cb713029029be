//! Sockets that systemd has opened for this process (`sd_listen_fds(3)`).
//!
//! They are taken when no setting says where to listen, and where `--fd` or `fd://` names
//! them. Whoever has passed some means them, so those that nobody names are told.
//!
//! `LISTEN_PID` says whom they are for. When it is somebody else, the variables are taken
//! out of the environment; so a candidate or a successor, whose pid may be another one,
//! can trust what it inherits from its master. The fork server gets none of them.

use rsgun_core::config::FIRST_SOCKET;
use rsgun_core::listeners::Address;
use rsgun_core::sys::handover;

/// What tells a process of its sockets.
pub(super) const VARIABLES: [&str; 3] = [PID, COUNT, "LISTEN_FDNAMES"];
const PID: &str = "LISTEN_PID";
const COUNT: &str = "LISTEN_FDS";

/// How many sockets were passed to this process, or to the `heir` of the one that they
/// were passed to. Call it before any other thread exists.
pub(super) fn count(heir: bool) -> u16 {
    let text = |name: &str| std::env::var(name).ok();
    let whom = if heir {
        Whom::Inherited
    } else {
        Whom::Stated(text(PID), std::process::id())
    };
    let count = passed(&whom, text(COUNT).as_deref());
    if count == 0 {
        for name in VARIABLES {
            // Of no use to anybody.
            let _ = handover::take_variable(name);
        }
    }
    count
}

/// Whom the variables are for.
enum Whom {
    /// The process that this one goes on for; it has found that they are its own.
    Inherited,
    /// The one that `LISTEN_PID` names, beside our own pid.
    Stated(Option<String>, u32),
}

fn passed(whom: &Whom, count: Option<&str>) -> u16 {
    if let Whom::Stated(to, pid) = whom
        && to.as_deref().and_then(|to| to.parse().ok()) != Some(*pid)
    {
        return 0;
    }
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// A warning about those of the passed sockets that the server does not listen on.
pub(super) fn overlooked(count: u16, bind: &[Address]) -> Option<String> {
    let unused: Vec<i32> = (FIRST_SOCKET..)
        .take(usize::from(count))
        .filter(|number| !bind.contains(&Address::Fd(*number)))
        .collect();
    let first = unused.first()?;
    let list: Vec<String> = unused.iter().map(ToString::to_string).collect();
    Some(format!(
        "systemd has passed sockets on that are not used, descriptor {}: name each with \
         --fd {first} or --bind fd://{first}, or none at all and no other address",
        list.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_another_process_are_none() {
        let to = |pid: &str| Whom::Stated(Some(pid.to_owned()), 7);
        assert_eq!(passed(&to("7"), Some("2")), 2);
        assert_eq!(passed(&to("8"), Some("2")), 0);
        assert_eq!(passed(&Whom::Stated(None, 7), Some("2")), 0);
        assert_eq!(passed(&to("7"), Some("two")), 0);
        assert_eq!(passed(&to("7"), Some("-1")), 0);
        assert_eq!(passed(&Whom::Inherited, Some("2")), 2);
        assert_eq!(passed(&Whom::Inherited, None), 0);
    }

    #[test]
    fn who_uses_all_of_them_is_not_warned() {
        let both = [Address::Fd(3), Address::Fd(4)];
        assert_eq!(overlooked(2, &both), None);
        assert_eq!(overlooked(0, &[]), None);
        let text = overlooked(2, &both[..1]).unwrap();
        assert!(
            text.contains("descriptor 4: name each with --fd 4"),
            "{text}"
        );
    }
}
