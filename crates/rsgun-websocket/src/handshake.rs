//! The opening handshake (RFC 6455, 4.2).

use base64::engine::general_purpose::{GeneralPurpose, PAD, STANDARD};
use base64::{Engine as _, alphabet};
use http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use sha1::{Digest, Sha1};

use crate::extension::{self, Agreement, is_token};

/// What is hashed together with the key of the client.
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Takes keys whose last character has more bits than the 16 bytes need, such as the one
/// in the text of RFC 6455, 4.1; clients draw 22 characters at random.
const KEYS: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    PAD.with_decode_allow_trailing_bits(true),
);
/// The version of the protocol.
const VERSION: &str = "13";

/// A handshake that can be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// The value of `Sec-WebSocket-Accept`.
    accept: HeaderValue,
    /// What the client offers, in its order.
    pub subprotocols: Vec<String>,
    /// The compression that both sides can use.
    pub compression: Option<Agreement>,
}

/// Why a request that wants a WebSocket does not get one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The method must be GET.
    #[error("a WebSocket handshake must be a GET request")]
    Method,
    /// `Connection` does not name `Upgrade`.
    #[error(
        "a WebSocket handshake needs \"Connection: Upgrade\" (a proxy in between must pass it on)"
    )]
    Connection,
    /// `Upgrade` is missing.
    #[error(
        "a WebSocket handshake needs \"Upgrade: websocket\" (a proxy in between must pass it on)"
    )]
    Upgrade,
    /// Another version of the protocol.
    #[error("only version 13 of the WebSocket protocol is supported")]
    WebSocketVersion,
    /// The key is missing, there twice, or not 16 bytes in base64.
    #[error("Sec-WebSocket-Key must be 16 bytes in base64")]
    Key,
    /// An offered subprotocol is not a token.
    #[error("Sec-WebSocket-Protocol must be a list of tokens")]
    Subprotocol,
    /// The extensions cannot be read.
    #[error("malformed Sec-WebSocket-Extensions")]
    Extensions,
    /// The request has a body.
    #[error("a WebSocket handshake has no body")]
    Body,
}

impl Refusal {
    /// The status of the answer.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::WebSocketVersion => StatusCode::UPGRADE_REQUIRED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The header fields that the answer must have, besides those of any answer.
    #[must_use]
    pub fn headers(self) -> Vec<(HeaderName, HeaderValue)> {
        match self {
            Self::Method => vec![(ALLOW, HeaderValue::from_static("GET"))],
            Self::WebSocketVersion => vec![
                (SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION)),
                (UPGRADE, HeaderValue::from_static("websocket")),
            ],
            _ => Vec::new(),
        }
    }
}

/// Looks whether a request wants a WebSocket; `None` when it is an ordinary one, as is any
/// of HTTP/1.0 ([`is_too_old`]).
///
/// # Errors
/// Why it does not get one.
pub fn examine(parts: &Parts, with_compression: bool) -> Option<Result<Handshake, Refusal>> {
    if parts.version < Version::HTTP_11 {
        return None;
    }
    let upgrades = upgrades(&parts.headers);
    (upgrades || has_fields(&parts.headers)).then(|| check(parts, upgrades, with_compression))
}

/// Whether a request wants a WebSocket in HTTP/1.0, where a server must ignore that (RFC
/// 9110, 7.8). A client does not do so, but a proxy in between.
#[must_use]
pub fn is_too_old(parts: &Parts) -> bool {
    parts.version < Version::HTTP_11 && (upgrades(&parts.headers) || has_fields(&parts.headers))
}

fn upgrades(headers: &HeaderMap) -> bool {
    has_word(headers, &UPGRADE, "websocket")
}

/// Whether there is what only a WebSocket's client sends.
fn has_fields(headers: &HeaderMap) -> bool {
    // A client that sends both of these means a WebSocket even if a proxy has dropped
    // the rest.
    headers.contains_key(SEC_WEBSOCKET_KEY) && headers.contains_key(SEC_WEBSOCKET_VERSION)
}

fn check(parts: &Parts, upgrades: bool, with_compression: bool) -> Result<Handshake, Refusal> {
    let headers = &parts.headers;
    if parts.method != Method::GET {
        return Err(Refusal::Method);
    }
    if !upgrades {
        return Err(Refusal::Upgrade);
    }
    if !has_word(headers, &CONNECTION, "upgrade") {
        return Err(Refusal::Connection);
    }
    let length = headers.get(CONTENT_LENGTH);
    if headers.contains_key(TRANSFER_ENCODING) || length.is_some_and(|length| length != "0") {
        return Err(Refusal::Body);
    }
    if single(headers, &SEC_WEBSOCKET_VERSION).is_none_or(|version| version != VERSION) {
        return Err(Refusal::WebSocketVersion);
    }
    let key = single(headers, &SEC_WEBSOCKET_KEY).ok_or(Refusal::Key)?;
    let accept = accept(key.as_bytes()).ok_or(Refusal::Key)?;
    let subprotocols = subprotocols(headers)?;
    let fields = texts(headers, &SEC_WEBSOCKET_EXTENSIONS).ok_or(Refusal::Extensions)?;
    let compression = extension::negotiate(fields).map_err(|_| Refusal::Extensions)?;
    Ok(Handshake {
        accept,
        subprotocols,
        compression: compression.filter(|_| with_compression),
    })
}

impl Handshake {
    /// Adds the fields that accept this handshake to those of the application.
    pub fn answer(&self, headers: &mut HeaderMap, subprotocol: Option<&HeaderValue>) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept.clone());
        if let Some(subprotocol) = subprotocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, subprotocol.clone());
        }
        let extension = self
            .compression
            .and_then(|agreement| HeaderValue::try_from(agreement.to_string()).ok());
        if let Some(extension) = extension {
            headers.insert(SEC_WEBSOCKET_EXTENSIONS, extension);
        }
    }
}

/// The value of `Sec-WebSocket-Accept` for a key.
fn accept(key: &[u8]) -> Option<HeaderValue> {
    if KEYS.decode(key).ok()?.len() != 16 {
        return None;
    }
    let digest = Sha1::new().chain_update(key).chain_update(MAGIC).finalize();
    HeaderValue::try_from(STANDARD.encode(digest)).ok()
}

fn subprotocols(headers: &HeaderMap) -> Result<Vec<String>, Refusal> {
    let fields = texts(headers, &SEC_WEBSOCKET_PROTOCOL).ok_or(Refusal::Subprotocol)?;
    let names = fields.into_iter().flat_map(|field| field.split(','));
    names
        .map(|name| name.trim_matches([' ', '\t']))
        // RFC 9110, 5.6.1.2.
        .filter(|name| !name.is_empty())
        .map(|name| {
            is_token(name)
                .then(|| name.to_owned())
                .ok_or(Refusal::Subprotocol)
        })
        .collect()
}

/// All values of a field; `None` if one of them is not ASCII.
fn texts<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Vec<&'a str>> {
    let values = headers.get_all(name).iter();
    values.map(|value| value.to_str().ok()).collect()
}

/// The value of a field that is there once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Whether a list contains a word, in any case.
fn has_word(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn request(change: impl FnOnce(&mut Parts)) -> Parts {
        let request = http::Request::builder()
            .header("Upgrade", "WebSocket")
            .header("Connection", "keep-alive, Upgrade")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", KEY);
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        change(&mut parts);
        parts
    }

    fn refusal(change: impl FnOnce(&mut Parts)) -> Option<Refusal> {
        examine(&request(change), true).and_then(Result::err)
    }

    fn with(name: &'static str, value: &'static str) -> impl FnOnce(&mut Parts) {
        move |parts| {
            parts.headers.insert(name, HeaderValue::from_static(value));
        }
    }

    #[test]
    fn the_example_of_the_standard_is_accepted() {
        let parts = request(|parts| {
            with("sec-websocket-protocol", "chat, superchat")(parts);
            with("sec-websocket-extensions", "permessage-deflate")(parts);
        });
        let handshake = examine(&parts, true).unwrap().unwrap();
        assert_eq!(handshake.subprotocols, ["chat", "superchat"]);
        let mut headers = HeaderMap::new();
        handshake.answer(&mut headers, Some(&HeaderValue::from_static("chat")));
        assert_eq!(
            headers["sec-websocket-accept"],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert_eq!(headers["sec-websocket-protocol"], "chat");
        assert!(headers.contains_key("sec-websocket-extensions"));
        let without = examine(&parts, false).unwrap().unwrap();
        assert_eq!(without.compression, None);
    }

    #[test]
    fn what_is_only_unusual_is_accepted() {
        let parts = request(|parts| {
            with("sec-websocket-key", "AQIDBAUGBwgJCgsMDQ4PEC==")(parts);
            with("sec-websocket-protocol", "chat,, superchat,")(parts);
        });
        let handshake = examine(&parts, true).unwrap().unwrap();
        assert_eq!(handshake.subprotocols, ["chat", "superchat"]);
    }

    #[test]
    fn ordinary_requests_are_none() {
        let mut parts = request(|_| ());
        parts.headers.clear();
        assert_eq!(examine(&parts, true), None);
        parts
            .headers
            .insert("upgrade", HeaderValue::from_static("h2c"));
        assert_eq!(examine(&parts, true), None);
        assert!(!is_too_old(&parts));
        let parts = request(|parts| parts.version = Version::HTTP_10);
        assert_eq!(examine(&parts, true), None);
        assert!(is_too_old(&parts));
    }

    #[test]
    fn wrong_handshakes_are_refused() {
        let refused = [
            (
                refusal(|parts| parts.method = Method::POST),
                Refusal::Method,
            ),
            (
                refusal(|parts| drop(parts.headers.remove("upgrade"))),
                Refusal::Upgrade,
            ),
            (
                refusal(|parts| drop(parts.headers.remove("connection"))),
                Refusal::Connection,
            ),
            (
                refusal(with("connection", "keep-alive")),
                Refusal::Connection,
            ),
            (refusal(with("content-length", "1")), Refusal::Body),
            (refusal(with("transfer-encoding", "chunked")), Refusal::Body),
            (
                refusal(with("sec-websocket-version", "8")),
                Refusal::WebSocketVersion,
            ),
            (
                refusal(|parts| drop(parts.headers.remove("sec-websocket-version"))),
                Refusal::WebSocketVersion,
            ),
            (
                refusal(|parts| drop(parts.headers.remove("sec-websocket-key"))),
                Refusal::Key,
            ),
            (refusal(with("sec-websocket-key", "dGhl")), Refusal::Key),
            (refusal(with("sec-websocket-key", "!")), Refusal::Key),
            (
                refusal(|parts| {
                    let another = HeaderValue::from_static(KEY);
                    parts.headers.append("sec-websocket-key", another);
                }),
                Refusal::Key,
            ),
            (
                refusal(with("sec-websocket-protocol", "a,b/c")),
                Refusal::Subprotocol,
            ),
            (
                refusal(|parts| {
                    let value = HeaderValue::from_bytes(b"caf\xe9").unwrap();
                    parts.headers.insert("sec-websocket-protocol", value);
                }),
                Refusal::Subprotocol,
            ),
            (
                refusal(with("sec-websocket-extensions", ";")),
                Refusal::Extensions,
            ),
        ];
        for (found, expected) in refused {
            assert_eq!(found, Some(expected));
        }
        assert_eq!(Refusal::WebSocketVersion.status(), 426);
        assert_eq!(Refusal::Key.status(), 400);
    }
}
