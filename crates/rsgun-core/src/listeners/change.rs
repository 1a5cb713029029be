//! From a list of addresses to open sockets, at boot and at a reload.

use std::collections::HashSet;

use super::bind::{self, Request};
use super::{Address, ListenError, Listener, Manner, Names, inherited, unix};

/// Opens every address of the list; an address that is there twice is opened once.
///
/// Either all are open afterwards or none: what was opened before a failure is closed
/// again and its files are removed. A descriptor of `fd://N` is taken last, so that a
/// failed call may be repeated.
///
/// # Errors
/// [`ListenError`], which names the address.
pub fn open_all(
    addresses: &[Address],
    manner: impl Into<Manner>,
) -> Result<Vec<Listener>, ListenError> {
    let (listeners, _) = prepare(&[], addresses, manner)?.apply(Vec::new());
    Ok(listeners)
}

/// Opens what a new list of addresses needs beyond the sockets that are open already.
///
/// An open socket is kept for the address that once asked for it, without looking at
/// it again: the same queue, also when a host name stands for something else by now.
///
/// # Errors
/// [`ListenError`]; nothing has changed then, as in [`open_all`].
pub fn prepare(
    current: &[Listener],
    wanted: &[Address],
    manner: impl Into<Manner>,
) -> Result<Change, ListenError> {
    prepare_with(current, wanted, manner, &Names::default())
}

/// As [`prepare`], with names of hosts that were looked up before.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_with(
    current: &[Listener],
    wanted: &[Address],
    manner: impl Into<Manner>,
    names: &Names,
) -> Result<Change, ListenError> {
    let mut seen = HashSet::new();
    let wanted: Vec<Address> = wanted
        .iter()
        .filter(|address| seen.insert(*address))
        .cloned()
        .collect();
    let missing: Vec<&Address> = wanted
        .iter()
        .filter(|address| {
            !current
                .iter()
                .any(|listener| listener.requested() == *address)
        })
        .collect();
    let mut change = Change {
        wanted: Vec::new(),
        opened: Vec::new(),
    };
    let result = open_missing(&missing, &wanted, manner.into(), names, &mut change.opened);
    if let Err(error) = result {
        change.abandon();
        return Err(error);
    }
    change.wanted = wanted;
    Ok(change)
}

fn open_missing(
    missing: &[&Address],
    list: &[Address],
    manner: Manner,
    names: &Names,
    opened: &mut Vec<Listener>,
) -> Result<(), ListenError> {
    let mut candidates = Vec::new();
    for asked in missing {
        match asked {
            Address::Tcp { host, port } => {
                let only_ipv6 = bind::is_only_ipv6(list, *port);
                let port = *port;
                opened.extend(bind::open(Request {
                    asked,
                    host,
                    port,
                    backlog: manner.backlog,
                    reuse_port: manner.reuse_port,
                    only_ipv6,
                    names,
                })?);
            }
            Address::Unix(path) => opened.push(unix::open(path, manner)?),
            Address::Abstract(name) => opened.push(unix::open_abstract(name, manner.backlog)?),
            Address::Fd(number) => candidates.push(inherited::check(*number)?),
        }
    }
    for candidate in candidates {
        opened.push(inherited::take(candidate)?);
    }
    Ok(())
}

/// A change of the listeners that is prepared but not yet decided.
///
/// Give [`Self::listeners`] to the new workers; when they serve, [`Self::apply`], and
/// when they fail, [`Self::abandon`].
#[derive(Debug)]
#[must_use = "either apply the change or abandon it"]
pub struct Change {
    pub(super) wanted: Vec<Address>,
    pub(super) opened: Vec<Listener>,
}

impl Change {
    /// The listeners after the change, in the order of the addresses, where `current`
    /// are those that [`prepare`] was given.
    #[must_use]
    pub fn listeners<'a>(&'a self, current: &'a [Listener]) -> Vec<&'a Listener> {
        self.wanted
            .iter()
            .flat_map(|address| {
                current
                    .iter()
                    .chain(&self.opened)
                    .filter(move |listener| listener.requested() == address)
            })
            .collect()
    }

    /// The sockets that only the change has opened.
    #[must_use]
    pub fn opened(&self) -> &[Listener] {
        &self.opened
    }

    /// Makes the change: returns the listeners from now on, in the order of the
    /// addresses, and those that are no longer wanted. The latter still take
    /// connections; once their workers are gone, [`Listener::cleanup`] and drop them.
    #[must_use]
    pub fn apply(self, current: Vec<Listener>) -> (Vec<Listener>, Vec<Listener>) {
        let place = |listener: &Listener| {
            self.wanted
                .iter()
                .position(|address| address == listener.requested())
        };
        let (mut kept, retired): (Vec<_>, Vec<_>) = current
            .into_iter()
            .chain(self.opened)
            .partition(|listener| place(listener).is_some());
        // The sort is stable: the addresses of one host name stay in their order.
        kept.sort_by_key(place);
        (kept, retired)
    }

    /// Drops the change: closes what it opened and removes the files of that.
    pub fn abandon(self) {
        for listener in self.opened {
            if let Err(error) = listener.cleanup() {
                tracing::warn!("cannot remove the socket {}: {error}", listener.url());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::{AsFd, AsRawFd, RawFd};
    use std::path::Path;

    use super::*;

    fn unix(directory: &Path, name: &str) -> Address {
        Address::Unix(directory.join(name))
    }

    fn numbers<'a>(listeners: impl IntoIterator<Item = &'a Listener>) -> Vec<RawFd> {
        listeners
            .into_iter()
            .map(|listener| listener.as_fd().as_raw_fd())
            .collect()
    }

    #[test]
    fn a_failure_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken: Address = holder.local_addr().unwrap().to_string().parse().unwrap();
        let list = [
            unix(directory.path(), "a"),
            unix(directory.path(), "b"),
            taken,
        ];
        assert!(open_all(&list, 16).unwrap_err().is_address_in_use());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_order_is_kept_and_doubles_are_opened_once() {
        let directory = tempfile::tempdir().unwrap();
        let list = ["b", "a", "b"].map(|name| unix(directory.path(), name));
        let listeners = open_all(&list, 16).unwrap();
        let opened: Vec<&Address> = listeners.iter().map(Listener::requested).collect();
        assert_eq!(opened, [&list[0], &list[1]]);
    }

    #[test]
    fn a_reload_keeps_what_is_open() {
        let directory = tempfile::tempdir().unwrap();
        let tcp: Address = "127.0.0.1:0".parse().unwrap();
        let [a, b] = ["a", "b"].map(|name| unix(directory.path(), name));
        let current = open_all(&[tcp.clone(), a.clone()], 16).unwrap();
        let before = numbers(&current);

        let change = prepare(&current, &[b.clone(), tcp.clone()], 16).unwrap();
        assert_eq!(numbers(change.opened()).len(), 1);
        let shown = numbers(change.listeners(&current));
        assert_eq!(shown, [numbers(change.opened())[0], before[0]]);
        let (now, retired) = change.apply(current);
        assert_eq!(numbers(&now), shown);
        assert_eq!(numbers(&retired), [before[1]]);
        for listener in &retired {
            listener.cleanup().unwrap();
        }
        assert!(!directory.path().join("a").exists() && directory.path().join("b").exists());

        let unchanged = prepare(&now, &[b, tcp], 16).unwrap();
        assert!(unchanged.opened().is_empty());
        assert_eq!(numbers(unchanged.listeners(&now)), shown);
    }

    #[test]
    fn an_abandoned_change_never_was() {
        let directory = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| unix(directory.path(), name));
        let current = open_all(std::slice::from_ref(&a), 16).unwrap();
        prepare(&current, &[b], 16).unwrap().abandon();
        assert!(directory.path().join("a").exists() && !directory.path().join("b").exists());
        assert_eq!(current[0].requested(), &a);
    }
}
