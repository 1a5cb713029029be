//! Settings of other servers that rsgun does not have.
//!
//! What rsgun has is known from its declarations. For everything else somebody who comes
//! from gunicorn, uvicorn or granian is told what to do instead, wherever it stands. How
//! much it matters depends on the place: a `gunicorn.conf.py` may well be read by gunicorn
//! too, so what the server can do without is a warning there, and an error where going on
//! would serve something else than was meant. A flag or a keyword argument is meant for
//! rsgun alone: it is an error as soon as something is missing. What asks for nothing is
//! accepted everywhere.

mod granian;
mod gunicorn;
mod uvicorn;
pub(super) mod variables;

use super::python_file::Value;

/// A setting of another server without an equivalent.
#[derive(Debug, Clone, Copy)]
pub struct Foreign {
    /// Its name in gunicorn's configuration file; empty if gunicorn does not have it.
    pub name: &'static str,
    /// Its flags on the command lines of all servers, without the dashes; one of a single
    /// letter is a short one.
    pub flags: &'static [&'static str],
    /// Its flags take no value; those that begin with `no-` turn it off.
    pub is_switch: bool,
    /// Its names as a keyword argument, besides those that follow from name and flags.
    pub arguments: &'static [&'static str],
    /// What becomes of a configuration file that sets it.
    pub consequence: Consequence,
    /// Values that ask for nothing, besides `None`, `False`, and what is empty.
    pub harmless: &'static [&'static str],
    /// It is always on here: turning it off asks for something, turning it on does not.
    pub is_on: bool,
    /// Why it is not there, and what to do.
    pub advice: &'static str,
}

/// What becomes of a configuration file that uses a foreign setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// It is not used.
    Refusal,
    /// It is, with a warning.
    Warning,
    /// It is: nothing is missing.
    Nothing,
}

impl Foreign {
    const BASE: Self = Self {
        name: "",
        flags: &[],
        is_switch: false,
        arguments: &[],
        consequence: Consequence::Warning,
        harmless: &[],
        is_on: false,
        advice: "",
    };

    /// All of them.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        let tables = [gunicorn::SETTINGS, uvicorn::SETTINGS, granian::SETTINGS];
        tables.into_iter().flatten()
    }

    /// Finds one by its name in gunicorn's configuration file.
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        Self::all().find(|foreign| !name.is_empty() && foreign.name == name)
    }

    /// Finds one by what a keyword argument, or a key of a file, calls it.
    pub(super) fn find_argument(name: &str) -> Option<&'static Self> {
        let flag = name.replace('_', "-");
        Self::all().find(|foreign| {
            foreign.flags.contains(&flag.as_str()) || foreign.arguments.contains(&name)
        })
    }

    /// Whether a server that goes on as if this value were not there lacks something.
    #[must_use]
    pub fn is_missed(&self, value: &Value) -> bool {
        self.consequence != Consequence::Nothing && self.asks_for_something(value)
    }

    fn asks_for_something(&self, value: &Value) -> bool {
        let is_usual = |text: &str| text.is_empty() || self.harmless.contains(&text);
        match value {
            Value::Nothing => false,
            Value::Switch(on) => *on != self.is_on,
            Value::Number(text) | Value::Decimal(text) | Value::Text(text) | Value::Class(text) => {
                !is_usual(text)
            }
            Value::List(list) => !list.is_empty(),
            Value::Other(_) => true,
        }
    }
}

/// What to do about the headers of proxies.
pub(super) const PROXIES: &str = "X-Forwarded-Proto and X-Forwarded-For are not evaluated yet, so the application sees http \
     and the proxy's address; wrap it in a middleware: uvicorn's ProxyHeadersMiddleware for ASGI; \
     werkzeug's ProxyFix, or Django's SECURE_PROXY_SSL_HEADER, for WSGI";
const RELOAD: &str = "files are not watched yet; when the code has changed, `kill -HUP` the process id of the \
     master, which --pid writes to a file, or let `watchfiles 'rsgun main:app'` restart it";
const TLS: &str = "connections are not encrypted by Python here, and not by rsgun yet: let nginx, Caddy or \
     HAProxy do it in front of it";
const NO_HTTP2: &str =
    "HTTP/1.1 is spoken; for HTTP/2 let nginx, Caddy or HAProxy speak it in front";
const LIMITS: &str = "the limits of rsgun hold: 100 headers, and about 64 KiB for all of them";
const LOGGING: &str = "rsgun writes its log itself: see --error-logfile, --access-logfile and --log-level; for the \
     application's own logging call logging.config.dictConfig in the application";

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::config::DECLARATIONS;

    #[test]
    fn entries_are_complete_and_do_not_collide() {
        let own = DECLARATIONS
            .iter()
            .flat_map(|each| each.aliases.iter().chain([&each.name]));
        let mut flags: HashSet<&str> = own.copied().collect();
        for foreign in Foreign::all() {
            assert!(!foreign.advice.is_empty(), "{foreign:?}");
            let names = [&[foreign.name], foreign.flags, foreign.arguments].concat();
            assert!(names.iter().any(|name| !name.is_empty()), "{foreign:?}");
            for name in foreign.flags {
                assert!(flags.insert(name), "--{name} is there twice");
            }
            for name in foreign.arguments {
                assert!(flags.insert(name), "{name} is there twice");
            }
        }
    }

    #[test]
    fn what_is_always_on_is_missed_when_it_is_turned_off() {
        let date = Foreign::find_argument("date_header").unwrap();
        assert!(date.is_missed(&Value::Switch(false)));
        assert!(!date.is_missed(&Value::Switch(true)));
        let reload = Foreign::find_argument("reload").unwrap();
        assert!(reload.is_missed(&Value::Switch(true)));
        assert!(!reload.is_missed(&Value::Switch(false)));
    }
}
