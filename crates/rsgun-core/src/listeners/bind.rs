//! TCP sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::{Address, ListenError, Listener, Names, address::is_wildcard, local_address};

/// How often a free port is looked for that several addresses can share.
const SHARED_PORT_TRIES: usize = 16;

/// One TCP address of the list, and what the rest of the list means for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    /// The address as it was written.
    pub(super) asked: &'a Address,
    /// Its host; empty for every address.
    pub(super) host: &'a str,
    /// Its port; 0 lets the system pick one.
    pub(super) port: u16,
    /// Connections that may wait to be accepted.
    pub(super) backlog: u32,
    /// Sockets for each address, if others may listen there too.
    pub(super) reuse_port: Option<usize>,
    /// Leave IPv4 to another address of the list.
    pub(super) only_ipv6: bool,
    /// What was looked up already.
    pub(super) names: &'a Names,
}

/// Whether the IPv6 wildcard at `port` must leave IPv4 alone, since the list has an
/// address for IPv4 at the same port. Otherwise it takes both, as gunicorn's does.
pub(super) fn is_only_ipv6(list: &[Address], port: u16) -> bool {
    port != 0
        && list.iter().any(|other| match other {
            Address::Tcp { host, port: theirs } => {
                *theirs == port && host.parse::<Ipv4Addr>().is_ok()
            }
            _ => false,
        })
}

/// Opens all addresses that the host stands for.
///
/// A name may stand for several. Those that this machine does not have (IPv6 switched
/// off, say) are passed over as long as one is left; any other failure is final,
/// because listening on half of a name only would be found out much later.
pub(super) fn open(request: Request<'_>) -> Result<Vec<Listener>, ListenError> {
    let addresses = resolve(request)?;
    let mut tries = 1;
    loop {
        match open_each(request, &addresses) {
            // The port that was free for the first address is taken for the next one.
            Err(error)
                if request.port == 0 && error.is_address_in_use() && tries < SHARED_PORT_TRIES =>
            {
                tries += 1;
            }
            other => return other,
        }
    }
}

fn open_each(request: Request<'_>, addresses: &[SocketAddr]) -> Result<Vec<Listener>, ListenError> {
    let mut opened: Vec<Listener> = Vec::with_capacity(addresses.len());
    let mut passed_over = None;
    for address in addresses {
        let mut address = *address;
        if let Some(Address::Tcp { port, .. }) = opened.first().map(Listener::local) {
            address.set_port(*port);
        }
        match open_queues(request, address) {
            Ok(listeners) => opened.extend(listeners),
            Err(error) if is_absent(&error) => {
                tracing::debug!("passed over an address: {error}");
                passed_over = Some(error);
            }
            Err(error) => return Err(error),
        }
        // The wildcard has alternatives, not parts.
        if request.host.is_empty() && !opened.is_empty() {
            break;
        }
    }
    match passed_over {
        Some(error) if opened.is_empty() => Err(error),
        _ => Ok(opened),
    }
}

/// Whether the error only says that the machine lacks this address or its family.
fn is_absent(error: &ListenError) -> bool {
    match error {
        ListenError::NotOurs { .. } => true,
        ListenError::Io { source, .. } => {
            source.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32)
        }
        _ => false,
    }
}

fn resolve(request: Request<'_>) -> Result<Vec<SocketAddr>, ListenError> {
    let Request {
        asked, host, port, ..
    } = request;
    if host.is_empty() {
        let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let ipv4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        return Ok(vec![both, ipv4]);
    }
    if let Ok(literal) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(literal, port)]);
    }
    let unknown = |reason: String| ListenError::UnknownHost {
        address: asked.clone(),
        host: host.to_owned(),
        reason,
    };
    let mut addresses = request.names.of(host).map_err(unknown)?;
    for address in &mut addresses {
        address.set_port(port);
    }
    Ok(addresses)
}

/// Opens as many sockets for one address as are asked for.
fn open_queues(
    request: Request<'_>,
    mut address: SocketAddr,
) -> Result<Vec<Listener>, ListenError> {
    let mut opened = Vec::new();
    for _ in 0..request.reuse_port.unwrap_or(1).max(1) {
        let listener = open_one(request, address)?;
        if let Address::Tcp { port, .. } = listener.local() {
            address.set_port(*port);
        }
        opened.push(listener);
    }
    Ok(opened)
}

fn open_one(request: Request<'_>, address: SocketAddr) -> Result<Listener, ListenError> {
    let failed = |action: &'static str| {
        move |error: io::Error| ListenError::tcp(request.asked, address, action, error)
    };
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )
    .map_err(failed("making a socket"))?;
    // Connections of the previous server that linger in TIME_WAIT must not keep the
    // next one from starting.
    socket
        .set_reuse_address(true)
        .map_err(failed("SO_REUSEADDR"))?;
    if request.reuse_port.is_some() {
        socket
            .set_reuse_port(true)
            .map_err(failed("SO_REUSEPORT"))?;
    }
    if address.is_ipv6() {
        let both = is_wildcard(request.host) && !request.only_ipv6;
        socket.set_only_v6(!both).map_err(failed("IPV6_V6ONLY"))?;
    }
    socket.bind(&address.into()).map_err(failed("bind"))?;
    // The kernel takes what it can: net.core.somaxconn bounds the queue.
    let backlog = i32::try_from(request.backlog).unwrap_or(i32::MAX);
    socket.listen(backlog).map_err(failed("listen"))?;
    let local = local_address(socket.as_fd()).map_err(failed("getsockname"))?;
    Ok(Listener::created(
        socket.into(),
        request.asked.clone(),
        local,
        None,
    ))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
    use socket2::SockRef;

    use super::*;
    use crate::listeners::{Manner, Origin, open_all};

    fn open(text: &str) -> Result<Vec<Listener>, ListenError> {
        open_all(&[text.parse().unwrap()], 16)
    }

    fn port_of(listener: &Listener) -> u16 {
        match listener.local() {
            Address::Tcp { port, .. } => *port,
            other => panic!("{other} has no port"),
        }
    }

    fn has_ipv6() -> bool {
        TcpListener::bind("[::1]:0").is_ok()
    }

    #[test]
    fn a_free_port_is_picked_and_told() {
        let listeners = open("127.0.0.1:0").unwrap();
        let [listener] = &listeners[..] else {
            panic!("{listeners:?}")
        };
        let port = port_of(listener);
        assert_ne!(port, 0);
        assert_eq!(listener.url(), format!("http://127.0.0.1:{port}"));
        assert_eq!(listener.origin(), Origin::Created);
        TcpStream::connect(("127.0.0.1", port)).unwrap();
    }

    #[test]
    fn sockets_are_private_and_never_block() {
        let listeners = open("127.0.0.1:0").unwrap();
        let fd = listeners[0].as_fd();
        let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC));
        let status = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap());
        assert!(status.contains(OFlag::O_NONBLOCK));
        let socket = SockRef::from(&listeners[0]);
        assert!(socket.reuse_address().unwrap() && socket.is_listener().unwrap());
        assert_eq!(
            socket.accept().unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }

    #[test]
    fn every_address_means_both_families() {
        let listeners = open(":0").unwrap();
        let [listener] = &listeners[..] else {
            panic!("{listeners:?}")
        };
        let port = port_of(listener);
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        if has_ipv6() {
            TcpStream::connect(("::1", port)).unwrap();
            assert_eq!(listener.url(), format!("http://[::]:{port}"));
        }
    }

    #[test]
    fn both_wildcards_share_a_port() {
        if !has_ipv6() {
            return;
        }
        let port = port_of(&open("0.0.0.0:0").unwrap()[0]);
        let list = [format!("0.0.0.0:{port}"), format!("[::]:{port}")];
        let list: Vec<Address> = list.iter().map(|text| text.parse().unwrap()).collect();
        let listeners = open_all(&list, 16).unwrap();
        assert!(SockRef::from(&listeners[1]).only_v6().unwrap());
    }

    #[test]
    fn the_ipv6_wildcard_leaves_ipv4_only_to_the_same_port() {
        let list = |texts: &[&str]| -> Vec<Address> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        assert!(is_only_ipv6(&list(&["[::]:80", "0.0.0.0:80"]), 80));
        assert!(is_only_ipv6(&list(&["127.0.0.1:80", ":80"]), 80));
        assert!(!is_only_ipv6(&list(&["[::]:80", "0.0.0.0:81"]), 80));
        assert!(!is_only_ipv6(
            &list(&["[::]:80", "[::1]:80", "unix:/x", "fd://80"]),
            80
        ));
        assert!(!is_only_ipv6(&list(&["[::]:0", "0.0.0.0:0"]), 0));
    }

    #[test]
    fn a_name_with_several_addresses_gets_one_port() {
        let listeners = open("localhost:0").unwrap();
        assert!(!listeners.is_empty());
        let port = port_of(&listeners[0]);
        for listener in &listeners {
            assert_eq!(port_of(listener), port);
            assert_eq!(listener.requested().to_string(), "localhost:0");
        }
    }

    #[test]
    fn an_address_in_use_is_named_with_a_hint() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        let error = open(&address.to_string()).unwrap_err();
        assert!(error.is_address_in_use());
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("cannot listen on {address}: ")),
            "{text}"
        );
        assert!(
            text.contains(&format!("sport = :{}", address.port())),
            "{text}"
        );
    }

    #[test]
    fn a_shared_port_has_several_queues() {
        let manner = Manner {
            reuse_port: Some(3),
            ..Manner::from(16)
        };
        let listeners = open_all(&["127.0.0.1:0".parse().unwrap()], manner).unwrap();
        assert_eq!(listeners.len(), 3);
        let port = port_of(&listeners[0]);
        assert!(listeners.iter().all(|listener| port_of(listener) == port));
        for _ in 0..30 {
            TcpStream::connect(("127.0.0.1", port)).unwrap();
        }
        let waiting = |listener: &&Listener| SockRef::from(*listener).accept().is_ok();
        assert!(listeners.iter().filter(waiting).count() > 1);
        let other = [format!("127.0.0.1:{port}").parse().unwrap()];
        open_all(&other, manner).unwrap();
        assert!(open_all(&other, 16).unwrap_err().is_address_in_use());
    }

    #[test]
    fn a_connection_of_the_previous_server_does_not_hold_the_address() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = holder.accept().unwrap();
        // The side that closes first keeps the address in TIME_WAIT.
        drop(server);
        drop(client);
        drop(holder);
        open(&address.to_string()).unwrap();
    }

    #[test]
    fn a_foreign_address_and_an_unknown_host_are_told_apart() {
        let error = open("192.0.2.1:0").unwrap_err();
        assert!(matches!(error, ListenError::NotOurs { .. }), "{error}");
        assert!(!error.is_address_in_use());
        // A label of more than 63 letters is refused without asking a name server.
        let host = "x".repeat(64);
        let error = open(&format!("{host}:0")).unwrap_err();
        assert!(matches!(error, ListenError::UnknownHost { .. }), "{error}");
        assert!(
            error
                .to_string()
                .contains(&format!("the host `{host}` is unknown")),
            "{error}"
        );
    }

    #[test]
    fn a_refused_port_mentions_the_capability() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let asked = "127.0.0.1:80".parse().unwrap();
        let refused = io::Error::from_raw_os_error(libc::EACCES);
        let text = ListenError::tcp(&asked, address, "bind", refused).to_string();
        assert!(
            text.contains("127.0.0.1:80") && text.contains("CAP_NET_BIND_SERVICE"),
            "{text}"
        );
    }
}
