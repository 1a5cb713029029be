//! What a request must be to get to the application, beyond what hyper asks for.

use http::header::{HOST, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, Version};

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// No tunnel begins here (RFC 9110, 9.3.6).
    #[error("the method CONNECT is for proxies")]
    Tunnel,
    /// RFC 9112, 3.2.
    #[error("the target is neither a path nor an address")]
    Target,
    /// RFC 9112, 3.2: a client must send one.
    #[error("there is no Host header")]
    NoHost,
    /// The same.
    #[error("there is more than one Host header")]
    ManyHosts,
    /// The same: what follows a name and a port could be taken for a path.
    #[error("the Host header is not a name with or without a port")]
    Host,
    /// RFC 9112, 6.1.
    #[error("the transfer coding is not just \"chunked\"")]
    Coding,
}

impl Unfit {
    /// The status of the answer.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Tunnel | Self::Coding => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// Checks a request that hyper has parsed; its `Host` becomes that of an absolute target, which is the one that
/// counts (RFC 9112, 3.2.2).
///
/// # Errors
/// What is wrong with it.
pub fn check(parts: &mut Parts) -> Result<(), Unfit> {
    if parts.method == Method::CONNECT {
        return Err(Unfit::Tunnel);
    }
    check_coding(&parts.headers)?;
    check_host(parts.version, &parts.headers)?;
    let target = &parts.uri;
    match (target.scheme(), target.authority()) {
        (Some(_), Some(authority)) => {
            let host = authority.as_str();
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            let host = HeaderValue::from_str(host).map_err(|_| Unfit::Target)?;
            parts.headers.insert(HOST, host);
            Ok(())
        }
        (None, None) if target.path().starts_with('/') => Ok(()),
        (None, None) if target.path() == "*" && parts.method == Method::OPTIONS => Ok(()),
        _ => Err(Unfit::Target),
    }
}

fn check_coding(headers: &HeaderMap) -> Result<(), Unfit> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_chunked = |value: &HeaderValue| {
        value
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"chunked")
    };
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if is_chunked(coding) => Ok(()),
        _ => Err(Unfit::Coding),
    }
}

fn check_host(version: Version, headers: &HeaderMap) -> Result<(), Unfit> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if version == Version::HTTP_10 => Ok(()),
        (None, _) => Err(Unfit::NoHost),
        (Some(_), Some(_)) => Err(Unfit::ManyHosts),
        (Some(host), None) if is_host(host.as_bytes()) => Ok(()),
        (Some(_), None) => Err(Unfit::Host),
    }
}

/// Whether the bytes are a host with or without a port (RFC 9110, 7.2; RFC 3986, 3.2.2). An
/// empty one is allowed; the characters are not looked at closer than for what they may be.
fn is_host(host: &[u8]) -> bool {
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte);
    let in_address = |byte: u8| in_name(byte) || byte == b':';
    let (name, port) = match host.strip_prefix(b"[") {
        Some(rest) => match rest.iter().position(|byte| *byte == b']') {
            Some(end) if rest[..end].iter().all(|byte| in_address(*byte)) => {
                (&b""[..], &rest[end + 1..])
            }
            _ => return false,
        },
        None => {
            let colon = host.iter().position(|byte| *byte == b':');
            host.split_at(colon.unwrap_or(host.len()))
        }
    };
    let port_is_right = match port.split_first() {
        None => true,
        Some((b':', digits)) => digits.iter().all(u8::is_ascii_digit),
        Some(_) => false,
    };
    port_is_right && name.iter().all(|byte| in_name(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn checked(request: http::request::Builder) -> (Result<(), Unfit>, Parts) {
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        (check(&mut parts), parts)
    }

    #[test]
    fn hosts() {
        for right in [
            "a",
            "a.b:80",
            "A-b_c",
            "127.0.0.1:8000",
            "[::1]",
            "[fe80::1%25x]:80",
            "",
            "a:",
        ] {
            assert!(is_host(right.as_bytes()), "{right}");
        }
        for wrong in [
            "a/b", "a?b", "a b", "a@b", "a:b", "[::1", "[::1]x", "a#b", "a:80:90", "\\", "é",
        ] {
            assert!(!is_host(wrong.as_bytes()), "{wrong}");
        }
    }

    #[test]
    fn an_absolute_target_names_the_host() {
        let request = Request::get("http://user@there:81/x").header("host", "here");
        let (result, parts) = checked(request);
        assert_eq!(result, Ok(()));
        assert_eq!(parts.headers[HOST], "there:81");
    }

    #[test]
    fn targets() {
        let with = |method: &str, target: &str| {
            checked(
                Request::builder()
                    .method(method)
                    .uri(target)
                    .header("host", "a"),
            )
            .0
        };
        assert_eq!(with("GET", "/x?y"), Ok(()));
        assert_eq!(with("OPTIONS", "*"), Ok(()));
        assert_eq!(with("GET", "*"), Err(Unfit::Target));
        assert_eq!(with("GET", "a:80"), Err(Unfit::Target));
        assert_eq!(with("CONNECT", "a:80"), Err(Unfit::Tunnel));
    }

    #[test]
    fn there_must_be_one_host() {
        assert_eq!(checked(Request::get("/")).0, Err(Unfit::NoHost));
        assert_eq!(
            checked(Request::get("/").version(Version::HTTP_10)).0,
            Ok(())
        );
        let two = Request::get("/").header("host", "a").header("host", "a");
        assert_eq!(checked(two).0, Err(Unfit::ManyHosts));
    }

    #[test]
    fn codings() {
        let with = |codings: &[&str]| {
            let request = Request::post("/").header("host", "a");
            let request = codings.iter().fold(request, |request, coding| {
                request.header("transfer-encoding", *coding)
            });
            checked(request).0
        };
        assert_eq!(with(&["Chunked "]), Ok(()));
        for wrong in [
            &["gzip, chunked"][..],
            &["chunked, chunked"],
            &["chunked", "chunked"],
            &["gzip"],
        ] {
            assert_eq!(with(wrong), Err(Unfit::Coding), "{wrong:?}");
        }
    }
}
