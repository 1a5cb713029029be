//! TCP sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::{Address, ListenError, Listener, address::is_wildcard, local_address};

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
    /// Leave IPv4 to another address of the list.
    pub(super) only_ipv6: bool,
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
        match open_one(request, address) {
            Ok(listener) => opened.push(listener),
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
    let mut addresses = Vec::new();
    for address in (host, port)
        .to_socket_addrs()
        .map_err(|error| unknown(error.to_string()))?
    {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(unknown("it has no address".to_owned()));
    }
    Ok(addresses)
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
