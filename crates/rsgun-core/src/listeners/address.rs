//! Addresses as users write them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The port when an address names only a host.
pub const DEFAULT_PORT: u16 = 8000;

/// Where to listen, as `--bind` takes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Address {
    /// `HOST:PORT`; an empty host is every address of the machine.
    Tcp {
        /// Name or literal address, without brackets.
        host: String,
        /// 0: the system picks one.
        port: u16,
    },
    /// `unix:PATH`.
    Unix(PathBuf),
    /// `unix:@NAME`, without the `@`.
    Abstract(String),
    /// `fd://N`: inherited, listening already.
    Fd(RawFd),
}

/// A text that is no address. Each message says how to write it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing at all.
    #[error("is empty; write HOST:PORT, :PORT, unix:PATH, unix:@NAME or fd://N")]
    Empty,
    /// The part after the last colon is no port.
    #[error("has the port `{port}`, which is not a number from 0 to 65535")]
    Port {
        /// What stands where the port belongs.
        port: String,
    },
    /// Digits alone may be a host or a port.
    #[error("could be a port or a host; write `:{text}` or `127.0.0.1:{text}` for a port")]
    OnlyDigits {
        /// The text.
        text: String,
    },
    /// An IPv6 address without brackets: where does the port begin?
    #[error("looks like an IPv6 address; put it in brackets: `[{text}]:{DEFAULT_PORT}`")]
    NoBrackets {
        /// The text.
        text: String,
    },
    /// Brackets, but no IPv6 address in them.
    #[error("has `{text}` in brackets, which is not an IPv6 address")]
    Brackets {
        /// What the brackets hold.
        text: String,
    },
    /// A host with characters that no host name has.
    #[error("names the host `{host}`, which no host can be called")]
    Host {
        /// The host.
        host: String,
    },
    /// A scheme that is not one of ours.
    #[error("starts with `{scheme}://`; write only HOST:PORT")]
    Scheme {
        /// The scheme.
        scheme: String,
    },
    /// A path without `unix:`.
    #[error("looks like a path; write `unix:{text}` for a UNIX socket")]
    BarePath {
        /// The text.
        text: String,
    },
    /// `unix:` with nothing behind it.
    #[error("has no path; write unix:/run/app.sock or unix:@name")]
    NoPath,
    /// A NUL byte in a path or name.
    #[error("holds a NUL byte, which no path may")]
    Nul,
    /// `fd://` with something else than a number behind it.
    #[error("names the descriptor `{number}`, which is not a number from 0 up; write fd://3")]
    Descriptor {
        /// What stands where the number belongs.
        number: String,
    },
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        if text.contains('\0') {
            return Err(AddressError::Nul);
        }
        if let Some(rest) = text.strip_prefix("unix:") {
            return unix(rest.strip_prefix("//").unwrap_or(rest));
        }
        if let Some(number) = text.strip_prefix("fd://") {
            return descriptor(number);
        }
        tcp(text.strip_prefix("tcp://").unwrap_or(text))
    }
}

fn unix(mut path: &str) -> Result<Address, AddressError> {
    // Two slashes at the start would be taken for those of `unix://` when the
    // address is printed and read again.
    while path.starts_with("//") {
        path = &path[1..];
    }
    match path.strip_prefix('@') {
        Some("") => Err(AddressError::NoPath),
        Some(name) => Ok(Address::Abstract(name.to_owned())),
        None if path.is_empty() => Err(AddressError::NoPath),
        None => Ok(Address::Unix(PathBuf::from(path))),
    }
}

fn descriptor(number: &str) -> Result<Address, AddressError> {
    // `parse` alone would also take a sign.
    if number.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(fd) = number.parse()
    {
        return Ok(Address::Fd(fd));
    }
    Err(AddressError::Descriptor {
        number: number.to_owned(),
    })
}

fn tcp(text: &str) -> Result<Address, AddressError> {
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, after) = rest.split_once(']').ok_or_else(|| AddressError::Brackets {
            text: rest.to_owned(),
        })?;
        if !is_ipv6(inside) {
            return Err(AddressError::Brackets {
                text: inside.to_owned(),
            });
        }
        let port = match after.strip_prefix(':') {
            Some(digits) => port(digits)?,
            None if after.is_empty() => DEFAULT_PORT,
            None => {
                return Err(AddressError::Port {
                    port: after.to_owned(),
                });
            }
        };
        return Ok(Address::Tcp {
            host: inside.to_owned(),
            port,
        });
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(AddressError::Scheme {
            scheme: scheme.to_owned(),
        });
    }
    if text.contains('/') {
        return Err(AddressError::BarePath {
            text: text.to_owned(),
        });
    }
    if is_ipv6(text) {
        return Err(AddressError::NoBrackets {
            text: text.to_owned(),
        });
    }
    match text.rsplit_once(':') {
        Some((host, digits)) => Ok(Address::Tcp {
            host: host_name(host)?,
            port: port(digits)?,
        }),
        None if text.bytes().all(|byte| byte.is_ascii_digit()) => Err(AddressError::OnlyDigits {
            text: text.to_owned(),
        }),
        None => Ok(Address::Tcp {
            host: host_name(text)?,
            port: DEFAULT_PORT,
        }),
    }
}

impl Address {
    /// The address of `--host` and `--port`: here an IPv6 literal needs no brackets,
    /// and an empty host is every address.
    ///
    /// # Errors
    /// [`AddressError`] when the host cannot be one.
    pub fn from_host_and_port(host: &str, port: u16) -> Result<Self, AddressError> {
        let bare = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(host);
        let host = if is_ipv6(bare) {
            bare.to_owned()
        } else {
            host_name(host)?
        };
        Ok(Self::Tcp { host, port })
    }

    /// The address of `--uds`: a path, or `@NAME`.
    ///
    /// # Errors
    /// [`AddressError`] when it is empty or holds a NUL byte.
    pub fn from_socket_path(path: &str) -> Result<Self, AddressError> {
        if path.contains('\0') {
            return Err(AddressError::Nul);
        }
        unix(path.strip_prefix("unix:").unwrap_or(path))
    }
}

fn port(digits: &str) -> Result<u16, AddressError> {
    let wrong = || AddressError::Port {
        port: digits.to_owned(),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    digits.parse().map_err(|_| wrong())
}

/// Accepts what a resolver may be asked; whether the host exists is found out when
/// the socket is opened.
fn host_name(host: &str) -> Result<String, AddressError> {
    let odd = |letter: char| {
        letter.is_whitespace() || letter.is_control() || "/:[]@?#%\\".contains(letter)
    };
    if host.contains(odd) {
        return Err(AddressError::Host {
            host: host.to_owned(),
        });
    }
    Ok(host.to_owned())
}

fn is_ipv6(text: &str) -> bool {
    let (address, zone) = text.split_once('%').unwrap_or((text, "0"));
    !zone.is_empty() && address.parse::<Ipv6Addr>().is_ok()
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => {
                write!(formatter, "[{host}]:{port}")
            }
            Self::Tcp { host, port } => write!(formatter, "{host}:{port}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
            Self::Abstract(name) => write!(formatter, "unix:@{name}"),
            Self::Fd(number) => write!(formatter, "fd://{number}"),
        }
    }
}

/// Whether the host means every address of one family or of both.
pub(super) fn is_wildcard(host: &str) -> bool {
    host.is_empty()
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp {
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn every_form_is_understood() {
        for (text, address) in [
            ("127.0.0.1:9000", tcp("127.0.0.1", 9000)),
            ("localhost:0", tcp("localhost", 0)),
            (":8080", tcp("", 8080)),
            ("[::1]:8000", tcp("::1", 8000)),
            ("[::]", tcp("::", 8000)),
            ("[fe80::1%eth0]:80", tcp("fe80::1%eth0", 80)),
            ("example.org", tcp("example.org", 8000)),
            ("tcp://0.0.0.0:80", tcp("0.0.0.0", 80)),
            ("unix:/run/app.sock", Address::Unix("/run/app.sock".into())),
            (
                "unix:///run/app.sock",
                Address::Unix("/run/app.sock".into()),
            ),
            ("unix:app.sock", Address::Unix("app.sock".into())),
            ("unix:@app", Address::Abstract("app".to_owned())),
            ("fd://0", Address::Fd(0)),
            ("fd://12", Address::Fd(12)),
        ] {
            assert_eq!(text.parse::<Address>().as_ref(), Ok(&address), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_advice() {
        for (text, advice) in [
            ("", "HOST:PORT"),
            ("8000", "`:8000`"),
            ("::1", "`[::1]:8000`"),
            ("::1:8000", "in brackets"),
            ("[::1", "in brackets"),
            ("[localhost]:80", "not an IPv6 address"),
            ("[::1]80", "port `80`"),
            ("host:", "port ``"),
            ("host:http", "port `http`"),
            ("host:65536", "65535"),
            ("host:+1", "port `+1`"),
            ("a b:80", "no host"),
            ("http://host:80", "`http://`"),
            ("/run/app.sock", "`unix:/run/app.sock`"),
            ("unix:", "no path"),
            ("unix:@", "no path"),
            ("unix:a\0b", "NUL"),
            ("fd://", "fd://3"),
            ("fd://-1", "`-1`"),
            ("fd://stdin", "`stdin`"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(advice), "{text}: {error}");
        }
    }

    #[test]
    fn a_host_option_takes_ipv6_with_and_without_brackets() {
        assert_eq!(Address::from_host_and_port("::1", 80), Ok(tcp("::1", 80)));
        assert_eq!(Address::from_host_and_port("[::1]", 80), Ok(tcp("::1", 80)));
        assert_eq!(Address::from_host_and_port("", 80), Ok(tcp("", 80)));
        assert!(Address::from_host_and_port("host:80", 80).is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,40}") {
            let _ = text.parse::<Address>();
        }

        #[test]
        fn what_was_parsed_prints_to_the_same_address(
            text in prop_oneof![
                "[a-z0-9.-]{1,20}:[0-9]{1,5}",
                r"\[[0-9a-f:]{2,20}\]:[0-9]{1,4}",
                "unix:[a-z/@]{1,20}",
                "fd://[0-9]{1,3}",
                ".{0,30}",
            ]
        ) {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address));
            }
        }
    }
}
