//! Settings from environment variables.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Debug;
use std::os::fd::RawFd;

use super::declaration::Kind;
use super::error::ConfigError;
use super::layer::{Layer, Origin};
use super::settings::DECLARATIONS;

/// Something that has environment variables; a map in tests.
pub trait Environment: Debug + Send + Sync {
    /// The value of a variable.
    fn get(&self, name: &str) -> Option<OsString>;
    /// The names of all variables, as far as they are text.
    fn names(&self) -> Vec<String>;
    /// How many listening sockets, from descriptor [`FIRST_SOCKET`] on, were opened for
    /// this process (`sd_listen_fds(3)`). It does not change while the process lives.
    fn sockets(&self) -> u16 {
        0
    }
}

/// The descriptor of the first socket that was opened for a process.
pub const FIRST_SOCKET: RawFd = 3;

/// The environment of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnvironment {
    sockets: u16,
}

impl ProcessEnvironment {
    /// With so many sockets that were opened for this process.
    #[must_use]
    pub fn with_sockets(sockets: u16) -> Self {
        Self { sockets }
    }
}

impl Environment for ProcessEnvironment {
    fn get(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os()
            .filter_map(|(name, _)| name.into_string().ok())
            .collect()
    }

    fn sockets(&self) -> u16 {
        self.sockets
    }
}

impl Environment for BTreeMap<String, OsString> {
    fn get(&self, name: &str) -> Option<OsString> {
        Self::get(self, name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

/// A variable's text; an empty one counts as not set, as container platforms pass
/// variables that nobody has filled in.
pub(super) fn read(
    environment: &dyn Environment,
    variable: &str,
) -> Result<Option<String>, ConfigError> {
    let Some(value) = environment.get(variable) else {
        return Ok(None);
    };
    match value.into_string() {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(ConfigError::NotText {
            variable: variable.to_owned(),
        }),
    }
}

/// Set by supervisord for its programs.
const SUPERVISED: &str = "SUPERVISOR_ENABLED";
/// supervisord kills a program ten seconds after its stop signal (`stopwaitsecs`).
const GRACEFUL_SUPERVISED: &str = "8";

/// Defaults that depend on where the server runs.
pub(super) fn surroundings(environment: &dyn Environment) -> Result<Layer, ConfigError> {
    let mut layer = Layer::default();
    if read(environment, SUPERVISED)?.is_some()
        && let Some(declaration) = (DECLARATIONS.iter()).find(|one| one.name == "graceful-timeout")
    {
        let origin = Origin::Environment {
            variable: SUPERVISED.to_owned(),
        };
        layer.set(declaration, vec![GRACEFUL_SUPERVISED.to_owned()], origin);
    }
    Ok(layer)
}

/// What the environment says about the settings.
pub(super) fn layer(environment: &dyn Environment) -> Result<Layer, ConfigError> {
    let mut layer = Layer::default();
    for declaration in DECLARATIONS {
        let own = declaration.variable();
        for variable in std::iter::once(own.as_str()).chain(declaration.variables.iter().copied()) {
            let Some(text) = read(environment, variable)? else {
                continue;
            };
            let texts = match declaration.kind {
                Kind::List => text
                    .split(',')
                    .map(|part| part.trim().to_owned())
                    .filter(|part| !part.is_empty())
                    .collect(),
                Kind::Text
                | Kind::Number
                | Kind::Count
                | Kind::Decimal
                | Kind::Mask
                | Kind::Switch => vec![text],
            };
            layer.set(
                declaration,
                texts,
                Origin::Environment {
                    variable: variable.to_owned(),
                },
            );
            break;
        }
    }
    Ok(layer)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::ffi::OsStringExt;
    use std::path::PathBuf;

    use super::*;
    use crate::config::case::{APP, case, resolve};
    use crate::config::{Source, WorkerCount};

    #[test]
    fn supervisord_shortens_the_graceful_end_that_nobody_has_chosen() {
        let supervised = [("SUPERVISOR_ENABLED", "1")];
        assert_eq!(case([APP], [], None).settings().graceful_timeout, 30);
        assert_eq!(case([APP], supervised, None).settings().graceful_timeout, 8);
        let file = Some("app = \"filed:app\"\ngraceful-timeout = 20\n");
        assert_eq!(case([], supervised, file).settings().graceful_timeout, 20);
    }

    #[test]
    fn gunicorn_s_variables_count_after_our_own() {
        assert_eq!(
            case([APP], [("WEB_CONCURRENCY", "5")], None)
                .settings()
                .workers,
            WorkerCount::Fixed(5)
        );
        let both = [("WEB_CONCURRENCY", "5"), ("RSGUN_WORKERS", "6")];
        assert_eq!(
            case([APP], both, None).settings().workers,
            WorkerCount::Fixed(6)
        );
        assert_eq!(
            case([APP], [("WEB_CONCURRENCY", "")], None)
                .settings()
                .workers,
            WorkerCount::Fixed(1)
        );
    }

    #[test]
    fn a_variable_that_is_not_text_is_named() {
        let mut variables = BTreeMap::new();
        variables.insert("RSGUN_APP".to_owned(), OsString::from_vec(vec![0xff]));
        let source = Source::new(Layer::default(), variables, PathBuf::from("."));
        let error = resolve(&source).unwrap_err().to_string();
        assert_eq!(
            error,
            "the environment variable RSGUN_APP is not valid UTF-8"
        );
    }
}
