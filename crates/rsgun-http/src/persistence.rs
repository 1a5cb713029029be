//! Whether a connection is kept after a message (RFC 9112, 9.3).

use http::header::CONNECTION;
use http::{HeaderMap, Version};

/// Whether the client of this request may send another one on its connection.
#[must_use]
pub fn is_kept(version: Version, headers: &HeaderMap) -> bool {
    if version == Version::HTTP_11 {
        !is_closed(headers)
    } else {
        has_option(headers, "keep-alive")
    }
}

/// Whether a message announces the end of its connection.
#[must_use]
pub fn is_closed(headers: &HeaderMap) -> bool {
    has_option(headers, "close")
}

fn has_option(headers: &HeaderMap, option: &str) -> bool {
    let values = headers.get_all(CONNECTION).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|given| given.trim().eq_ignore_ascii_case(option))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn connection(values: &[&'static str]) -> HeaderMap {
        let values = values.iter().copied().map(HeaderValue::from_static);
        values.map(|value| (CONNECTION, value)).collect()
    }

    #[test]
    fn since_http_1_1_it_is_kept_unless_somebody_objects() {
        for (values, kept) in [
            (&[][..], true),
            (&["keep-alive"], true),
            (&["Close"], false),
            (&["upgrade", "te , close"], false),
            (&["closed"], true),
        ] {
            assert_eq!(is_kept(Version::HTTP_11, &connection(values)), kept);
        }
    }

    #[test]
    fn before_it_is_kept_if_that_is_asked_for() {
        for (values, kept) in [(&[][..], false), (&["Keep-Alive"], true), (&["te"], false)] {
            assert_eq!(is_kept(Version::HTTP_10, &connection(values)), kept);
        }
    }
}
