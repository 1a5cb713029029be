//! From a list of addresses to open sockets, at boot and at a reload.

use std::collections::HashSet;

use super::bind::{self, Request};
use super::{Address, ListenError, Listener, inherited, unix};

/// Opens every address of the list; an address that is there twice is opened once.
///
/// Either all are open afterwards or none: what was opened before a failure is closed
/// again and its files are removed. A descriptor of `fd://N` is taken last, so that a
/// failed call may be repeated.
///
/// # Errors
/// [`ListenError`], which names the address.
pub fn open_all(addresses: &[Address], backlog: u32) -> Result<Vec<Listener>, ListenError> {
    let (listeners, _) = prepare(&[], addresses, backlog)?.apply(Vec::new());
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
    backlog: u32,
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
    let result = open_missing(&missing, &wanted, backlog, &mut change.opened);
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
    backlog: u32,
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
                    backlog,
                    only_ipv6,
                })?);
            }
            Address::Unix(path) => opened.push(unix::open(path, backlog)?),
            Address::Abstract(name) => opened.push(unix::open_abstract(name, backlog)?),
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
    wanted: Vec<Address>,
    opened: Vec<Listener>,
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
