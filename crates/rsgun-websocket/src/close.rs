//! How connections end: the codes of RFC 6455, 7.4, and the payload of a close frame.

/// All is done.
pub const NORMAL: u16 = 1000;
/// The server stops, or the browser has left the page.
pub const GOING_AWAY: u16 = 1001;
/// The other side has broken the protocol.
pub const PROTOCOL_ERROR: u16 = 1002;
/// Never on the wire: the close frame had no code.
pub const NO_STATUS: u16 = 1005;
/// Never on the wire: the connection was lost without a close frame.
pub const ABNORMAL: u16 = 1006;
/// The data do not fit their kind, such as text that is not UTF-8.
pub const INVALID_DATA: u16 = 1007;
/// The message breaks a rule of the receiver, whichever.
pub const POLICY_VIOLATION: u16 = 1008;
/// A message was larger than allowed.
pub const TOO_BIG: u16 = 1009;
/// The application has failed.
pub const INTERNAL_ERROR: u16 = 1011;
/// Another worker takes over: connect again.
pub const SERVICE_RESTART: u16 = 1012;

/// The longest reason that fits a close frame, bytes.
const REASON_MAX: usize = 123;

/// Why the connection was failed (RFC 6455, 7.1.7): what the close frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason} ({code})")]
pub struct Violation {
    /// The code of the close frame.
    pub code: u16,
    /// Its reason.
    pub reason: &'static str,
}

impl Violation {
    pub(crate) const fn protocol(reason: &'static str) -> Self {
        Self {
            code: PROTOCOL_ERROR,
            reason,
        }
    }

    pub(crate) const TEXT: Self = Self {
        code: INVALID_DATA,
        reason: "text is not UTF-8",
    };

    pub(crate) const BIG: Self = Self {
        code: TOO_BIG,
        reason: "message too big",
    };

    pub(crate) const COMPRESSED: Self = Self {
        code: INVALID_DATA,
        reason: "compressed data are invalid",
    };
}

/// Whether a close frame may carry this code: those that RFC 6455 and the registry
/// of IANA define, and those for libraries and applications.
#[must_use]
pub fn is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// The payload of a close frame. [`NO_STATUS`] gives an empty one; a reason that is
/// too long is cut.
#[must_use]
pub fn payload(code: u16, reason: &str) -> Vec<u8> {
    if code == NO_STATUS {
        return Vec::new();
    }
    let mut end = reason.len().min(REASON_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    payload
}

/// Reads the payload of a close frame; one without a code says [`NO_STATUS`].
///
/// # Errors
/// A code that may not be sent, half a code, a reason that is not UTF-8.
pub fn read(payload: &[u8]) -> Result<(u16, String), Violation> {
    match payload {
        [] => Ok((NO_STATUS, String::new())),
        [_] => Err(Violation::protocol("close frame with half a code")),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !is_sendable(code) {
                return Err(Violation::protocol("illegal close code"));
            }
            match std::str::from_utf8(reason) {
                Ok(reason) => Ok((code, reason.to_owned())),
                Err(_) => Err(Violation {
                    code: INVALID_DATA,
                    reason: "close reason is not UTF-8",
                }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_codes_that_mean_something_are_sendable() {
        for code in [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1014, 3000, 4999] {
            assert!(is_sendable(code), "{code}");
        }
        for code in [
            0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535,
        ] {
            assert!(!is_sendable(code), "{code}");
        }
    }

    #[test]
    fn a_payload_is_read_as_it_was_made() {
        assert_eq!(
            read(&payload(4001, "tschüß")),
            Ok((4001, "tschüß".to_owned()))
        );
        assert_eq!(
            read(&payload(NO_STATUS, "x")),
            Ok((NO_STATUS, String::new()))
        );
        assert_eq!(read(b"\x03").unwrap_err().code, PROTOCOL_ERROR);
        assert_eq!(read(b"\x03\xee").unwrap_err().code, PROTOCOL_ERROR);
        assert_eq!(read(b"\x03\xe8\xff").unwrap_err().code, INVALID_DATA);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let cut = payload(1000, &"ü".repeat(100));
        assert_eq!(cut.len(), 2 + 122);
        assert!(read(&cut).is_ok());
    }
}
