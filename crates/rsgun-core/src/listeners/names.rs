//! Names of hosts. Looking one up waits for name servers, which may be slow or gone, so
//! somebody who must not wait has it done elsewhere before ([`Names`]).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use super::{Address, Listener};

/// What names stand for, as it was when they were looked up.
#[derive(Debug, Default)]
pub struct Names(BTreeMap<String, Result<Vec<SocketAddr>, String>>);

impl Names {
    /// Looks these up; waits for name servers.
    #[must_use]
    pub fn look_up(hosts: Vec<String>) -> Self {
        let found = hosts.into_iter().map(|host| {
            let found = look_up(&host);
            (host, found)
        });
        Self(found.collect())
    }

    /// The addresses of a host, without a port, or why there are none; waits for name
    /// servers if it was not looked up before.
    pub(super) fn of(&self, host: &str) -> Result<Vec<SocketAddr>, String> {
        match self.0.get(host) {
            Some(found) => found.clone(),
            None => look_up(host),
        }
    }

    /// The hosts that must be looked up before [`prepare_with`](super::prepare_with) can
    /// open these addresses without waiting.
    #[must_use]
    pub fn missing(&self, current: &[Listener], wanted: &[Address]) -> Vec<String> {
        let is_open = |address: &Address| {
            current
                .iter()
                .any(|listener| listener.requested() == address)
        };
        let mut hosts: Vec<String> = wanted
            .iter()
            .filter(|address| !is_open(address))
            .filter_map(|address| match address {
                Address::Tcp { host, .. } => Some(host.clone()),
                _ => None,
            })
            .filter(|host| !host.is_empty() && host.parse::<IpAddr>().is_err())
            .filter(|host| !self.0.contains_key(host))
            .collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    }
}

fn look_up(host: &str) -> Result<Vec<SocketAddr>, String> {
    let mut addresses = Vec::new();
    let found = (host, 0)
        .to_socket_addrs()
        .map_err(|error| error.to_string())?;
    for address in found {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err("it has no address".to_owned());
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listeners::open_all;

    #[test]
    fn only_names_of_what_is_not_open_are_looked_up() {
        let list = |texts: &[&str]| -> Vec<Address> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let open = list(&["localhost:0"]);
        let current = open_all(&open, 16).unwrap();
        let wanted = list(&[
            "localhost:0",
            "b.test:1",
            "a.test:1",
            "b.test:2",
            "127.0.0.1:0",
            "[::1]:0",
            ":0",
            "unix:/run/x",
        ]);
        let names = Names::default();
        assert_eq!(names.missing(&current, &wanted), ["a.test", "b.test"]);
        let names = Names::look_up(vec!["localhost".to_owned()]);
        assert!(names.missing(&[], &open).is_empty());
        assert_eq!(names.of("localhost"), look_up("localhost"));
    }
}
