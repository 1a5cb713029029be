//! Agreeing on `permessage-deflate` (RFC 7692, 5 and 7.1).

use std::fmt;

/// The window that the server asks for in both directions, if the client lets it:
/// 4 KiB instead of 32, which costs little compression and saves most of the memory.
const WINDOW_BITS: u8 = 12;

/// The compression that both sides use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// The server begins every message with an empty window.
    pub server_no_context_takeover: bool,
    /// So does the client.
    pub client_no_context_takeover: bool,
    /// Size of the server's window, 9 to 15.
    pub server_window_bits: u8,
    /// Size of the client's window, 8 to 15.
    pub client_window_bits: u8,
    /// The client understands being told its window.
    pub names_client_window: bool,
}

#[cfg(test)]
impl Agreement {
    /// One that binds both sides to the same.
    pub(crate) fn alike(window_bits: u8, no_context_takeover: bool) -> Self {
        Self {
            server_no_context_takeover: no_context_takeover,
            client_no_context_takeover: no_context_takeover,
            server_window_bits: window_bits,
            client_window_bits: window_bits,
            names_client_window: true,
        }
    }
}

/// The field is not what RFC 6455, 9.1 describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed Sec-WebSocket-Extensions")]
pub struct Malformed;

/// One element of the field: a name and parameters.
struct Offer<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, Option<&'a str>)>,
}

/// Accepts the first offer of compression that can be met; `None` if there is none.
///
/// # Errors
/// [`Malformed`] for a field that cannot be read.
pub fn negotiate<'a>(
    fields: impl IntoIterator<Item = &'a str>,
) -> Result<Option<Agreement>, Malformed> {
    let mut agreed = None;
    for field in fields {
        for element in split(field, ',')? {
            if element.is_empty() {
                continue;
            }
            let offer = Offer::read(element)?;
            if agreed.is_none() && offer.name.eq_ignore_ascii_case("permessage-deflate") {
                agreed = offer.accept();
            }
        }
    }
    Ok(agreed)
}

/// Splits at a separator that is not inside a quoted value.
fn split(text: &str, separator: char) -> Result<Vec<&str>, Malformed> {
    let mut quoted = false;
    let parts = text
        .split(|character| {
            quoted ^= character == '"';
            character == separator && !quoted
        })
        .map(|part| part.trim_matches([' ', '\t']))
        .collect();
    if quoted { Err(Malformed) } else { Ok(parts) }
}

impl<'a> Offer<'a> {
    fn read(element: &'a str) -> Result<Self, Malformed> {
        let mut parts = split(element, ';')?.into_iter();
        let name = parts.next().filter(|name| is_token(name));
        let parameters = parts.map(|part| {
            let (key, value) = match part.split_once('=') {
                None => (part.trim_end(), None),
                Some((key, value)) => {
                    let value = value.trim_start();
                    let inner = value
                        .strip_prefix('"')
                        .and_then(|rest| rest.strip_suffix('"'));
                    (key.trim_end(), Some(inner.unwrap_or(value)))
                }
            };
            if is_token(key) && value.is_none_or(is_token) {
                Ok((key, value))
            } else {
                Err(Malformed)
            }
        });
        Ok(Self {
            name: name.ok_or(Malformed)?,
            parameters: parameters.collect::<Result<_, _>>()?,
        })
    }

    /// What comes of this offer; `None` when it has parameters that RFC 7692 does not
    /// know or allow, or a window that the compressor does not have.
    fn accept(&self) -> Option<Agreement> {
        let mut agreement = Agreement {
            server_no_context_takeover: false,
            client_no_context_takeover: false,
            server_window_bits: WINDOW_BITS,
            client_window_bits: 15,
            names_client_window: false,
        };
        for (index, (key, value)) in self.parameters.iter().enumerate() {
            let earlier = &self.parameters[..index];
            if earlier.iter().any(|(other, _)| other == key) {
                return None;
            }
            match (*key, *value) {
                ("server_no_context_takeover", None) => agreement.server_no_context_takeover = true,
                ("client_no_context_takeover", None) => agreement.client_no_context_takeover = true,
                ("server_max_window_bits", Some(value)) => {
                    let most = bits(value)?;
                    if most < 9 {
                        return None;
                    }
                    agreement.server_window_bits = WINDOW_BITS.min(most);
                }
                ("client_max_window_bits", value) => {
                    let most = value.map_or(Some(15), bits)?;
                    agreement.client_window_bits = WINDOW_BITS.min(most);
                    agreement.names_client_window = true;
                }
                _ => return None,
            }
        }
        Some(agreement)
    }
}

fn bits(value: &str) -> Option<u8> {
    let bits = value.parse().ok().filter(|bits| (8..=15).contains(bits))?;
    (!value.starts_with(['0', '+'])).then_some(bits)
}

/// Whether it is a token of RFC 9110, 5.6.2.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// The value of `Sec-WebSocket-Extensions` in the answer.
impl fmt::Display for Agreement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("permessage-deflate")?;
        if self.server_no_context_takeover {
            formatter.write_str("; server_no_context_takeover")?;
        }
        if self.client_no_context_takeover {
            formatter.write_str("; client_no_context_takeover")?;
        }
        write!(
            formatter,
            "; server_max_window_bits={}",
            self.server_window_bits
        )?;
        if self.names_client_window {
            write!(
                formatter,
                "; client_max_window_bits={}",
                self.client_window_bits
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(field: &str) -> Option<String> {
        negotiate([field])
            .unwrap()
            .map(|agreement| agreement.to_string())
    }

    #[test]
    fn offers_are_met() {
        let cases = [
            (
                "permessage-deflate",
                "permessage-deflate; server_max_window_bits=12",
            ),
            (
                "permessage-deflate; client_max_window_bits",
                "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
            ),
            (
                "x-webkit-deflate-frame, permessage-deflate; client_max_window_bits=\"10\"",
                "permessage-deflate; server_max_window_bits=12; client_max_window_bits=10",
            ),
            (
                "permessage-deflate; server_no_context_takeover; server_max_window_bits=9",
                "permessage-deflate; server_no_context_takeover; server_max_window_bits=9",
            ),
            (
                "permessage-deflate;server_max_window_bits=8,PerMessage-Deflate;\
                 client_no_context_takeover",
                "permessage-deflate; client_no_context_takeover; server_max_window_bits=12",
            ),
        ];
        for (field, expected) in cases {
            assert_eq!(answer(field).as_deref(), Some(expected), "{field}");
        }
    }

    #[test]
    fn offers_that_cannot_be_met_are_declined() {
        for field in [
            "",
            "mux",
            "permessage-deflate; unknown",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; client_max_window_bits=07",
            "permessage-deflate; client_max_window_bits; client_max_window_bits",
        ] {
            assert_eq!(answer(field), None, "{field}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for field in [
            ";",
            "permessage deflate",
            "permessage-deflate;",
            "permessage-deflate; =1",
            "permessage-deflate; x=\"1",
            "permessage-deflate; x=",
        ] {
            assert_eq!(negotiate([field]), Err(Malformed), "{field}");
        }
    }
}
