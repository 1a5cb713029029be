//! Who the application's processes run as: names become numbers.
//!
//! Users and groups are looked up once, by the master, so that an unknown one is an
//! error of the configuration that names the option, and so that no other process has
//! to ask the system's data bases between fork and exec.

use std::ffi::CString;
use std::fs;

use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, getgrouplist};

use super::error::ConfigError;
use super::layer::{Layers, Origin};
use super::settings::Inputs;
use super::value::ValueError;
use crate::sys::credentials::Credentials;

/// Bits of the capabilities that changing user and group need.
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;

/// What `--user`, `--group` and `--initgroups` ask for; `None` when that is what this
/// process is already.
pub(super) fn credentials(layers: Layers<'_>) -> Result<Option<Credentials>, ConfigError> {
    let Inputs {
        user,
        group,
        initgroups,
        ..
    } = Inputs::read(layers)?;
    let Some(origin) = ["user", "group", "initgroups"]
        .into_iter()
        .find_map(|name| layers.get(name))
        .map(|given| given.origin.clone())
    else {
        return Ok(None);
    };
    let invalid = |name: &str, error: ValueError| {
        let origin = layers
            .get(name)
            .map_or_else(|| origin.clone(), |given| given.origin.clone());
        ConfigError::invalid(origin, error)
    };
    let account = match &user {
        Some(text) => find_user(text).map_err(|error| invalid("user", error))?,
        None => Account::of_process(),
    };
    let gid = match &group {
        Some(text) => find_group(text).map_err(|error| invalid("group", error))?,
        None => account.gid.ok_or_else(|| {
            let reason = "is the number of no known user, so its group is not known; name one \
                          with --group";
            invalid(
                "user",
                value_error(user.as_deref().unwrap_or_default(), reason),
            )
        })?,
    };
    let groups = match &account.name {
        Some(name) if initgroups => all_groups(name, gid),
        _ => vec![gid.as_raw()],
    };
    if user.is_none() && group.is_none() && !initgroups {
        return Ok(None);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if may_change(&status) {
        return Ok(Some(Credentials {
            uid: account.uid.as_raw(),
            gid: gid.as_raw(),
            groups,
        }));
    }
    if account.uid == geteuid() && gid == getegid() {
        // Nothing to change, and nothing that could be changed.
        return Ok(None);
    }
    Err(ConfigError::NotPermitted {
        origin: Box::new(origin_of(layers, &origin)),
        uid: geteuid().as_raw(),
    })
}

fn origin_of(layers: Layers<'_>, fallback: &Origin) -> Origin {
    layers
        .get("user")
        .map_or_else(|| fallback.clone(), |given| given.origin.clone())
}

/// A user, as far as it is known.
struct Account {
    uid: Uid,
    /// The primary group.
    gid: Option<Gid>,
    name: Option<String>,
}

impl Account {
    fn of_process() -> Self {
        let uid = geteuid();
        Self {
            uid,
            gid: Some(getegid()),
            name: User::from_uid(uid).ok().flatten().map(|user| user.name),
        }
    }
}

fn find_user(text: &str) -> Result<Account, ValueError> {
    let found = |user: User| Account {
        uid: user.uid,
        gid: Some(user.gid),
        name: Some(user.name),
    };
    if let Some(user) = User::from_name(text).ok().flatten() {
        return Ok(found(user));
    }
    let uid = number(text).map(Uid::from_raw).ok_or_else(|| {
        value_error(
            text,
            "is no user of this system (`getent passwd` lists them)",
        )
    })?;
    Ok(User::from_uid(uid).ok().flatten().map_or(
        Account {
            uid,
            gid: None,
            name: None,
        },
        found,
    ))
}

fn find_group(text: &str) -> Result<Gid, ValueError> {
    if let Some(group) = Group::from_name(text).ok().flatten() {
        return Ok(group.gid);
    }
    number(text).map(Gid::from_raw).ok_or_else(|| {
        value_error(
            text,
            "is no group of this system (`getent group` lists them)",
        )
    })
}

/// The last number stands for "no change" in the system calls.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number != u32::MAX)
}

fn all_groups(name: &str, gid: Gid) -> Vec<u32> {
    CString::new(name)
        .ok()
        .and_then(|name| getgrouplist(&name, gid).ok())
        .map_or_else(
            || vec![gid.as_raw()],
            |groups| groups.into_iter().map(Gid::as_raw).collect(),
        )
}

/// Whether a process, by its `/proc/PID/status`, may change user and groups.
fn may_change(status: &str) -> bool {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or(0);
    [CAP_SETGID, CAP_SETUID]
        .iter()
        .all(|bit| effective >> bit & 1 == 1)
}

fn value_error(text: &str, reason: &str) -> ValueError {
    ValueError {
        text: text.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::case::command_line;

    fn resolve(flags: &[(&str, &str)]) -> Result<Option<Credentials>, ConfigError> {
        credentials(Layers(&[&command_line(flags)]))
    }

    fn error(flags: &[(&str, &str)]) -> String {
        resolve(flags).unwrap_err().to_string()
    }

    #[test]
    fn whoever_is_unknown_is_named_with_the_option() {
        assert!(
            error(&[("user", "no-such-user")])
                .starts_with("--user: `no-such-user` is no user of this system")
        );
        assert!(
            error(&[("user", "0"), ("group", "no-such-group")])
                .starts_with("--group: `no-such-group` is no group of this system")
        );
        assert!(error(&[("user", "4000000000")]).contains("name one with --group"));
        assert!(error(&[("user", "4294967295")]).contains("is no user"));
    }

    #[test]
    fn without_the_options_nothing_changes() {
        assert_eq!(resolve(&[]).unwrap(), None);
        assert_eq!(resolve(&[("initgroups", "false")]).unwrap(), None);
    }

    #[test]
    fn root_may_become_anybody_by_number() {
        let asked = [("user", "4000000000"), ("group", "3000000000")];
        match resolve(&asked) {
            Ok(credentials) => assert_eq!(
                credentials,
                Some(Credentials {
                    uid: 4_000_000_000,
                    gid: 3_000_000_000,
                    groups: vec![3_000_000_000],
                })
            ),
            Err(error) => assert!(error.to_string().contains("only root"), "{error}"),
        }
    }

    #[test]
    fn capabilities_tell_who_may() {
        assert!(may_change("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(may_change("CapEff:\t00000000000000c0\n"));
        assert!(!may_change("CapEff:\t0000000000000080\n"));
        assert!(!may_change("CapEff:\t0000000000000000\n"));
        assert!(!may_change(""));
    }
}
