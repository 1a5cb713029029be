//! Configurations for tests: a command line, variables and a file that never were.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use super::layer::{Layer, Origin};
use super::python_file::{Assigned, PythonFile, PythonSource, Value};
use super::{ConfigError, Declaration, Settings, Source};
use crate::hooks::HookSet;

/// The setting that nothing resolves without.
pub(super) const APP: (&str, &str) = ("app", "main:app");

/// A source of flags (`name=text`, repeatable), variables and a file.
pub(super) struct Case {
    flags: Vec<(&'static str, &'static str)>,
    variables: Vec<(&'static str, &'static str)>,
    file: Option<&'static str>,
}

pub(super) fn case<const F: usize, const V: usize>(
    flags: [(&'static str, &'static str); F],
    variables: [(&'static str, &'static str); V],
    file: Option<&'static str>,
) -> Case {
    Case {
        flags: flags.to_vec(),
        variables: variables.to_vec(),
        file,
    }
}

impl Case {
    pub(super) fn resolve(&self) -> Result<Settings, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let mut flags = self.flags.clone();
        if let Some(text) = self.file {
            std::fs::write(directory.path().join("rsgun.toml"), text).unwrap();
            flags.push(("config", "rsgun.toml"));
        }
        let variables: BTreeMap<String, OsString> = self
            .variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), OsString::from(value)))
            .collect();
        let directory = directory.path().to_owned();
        resolve(&Source::new(command_line(&flags), variables, directory))
    }

    pub(super) fn settings(&self) -> Settings {
        self.resolve().unwrap_or_else(|error| panic!("{error}"))
    }

    pub(super) fn error(&self) -> String {
        self.resolve().unwrap_err().to_string()
    }

    pub(super) fn bind(&self) -> Vec<String> {
        self.settings()
            .bind
            .iter()
            .map(ToString::to_string)
            .collect()
    }
}

/// What a command line says that gives each setting by its own name, some perhaps
/// repeatedly.
pub(super) fn command_line(given: &[(&str, &str)]) -> Layer {
    let mut flags: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, text) in given {
        flags.entry(name).or_default().push((*text).to_owned());
    }
    let mut layer = Layer::default();
    for (name, texts) in flags {
        let option = format!("--{name}");
        let declaration = Declaration::find(name).unwrap();
        layer.set(declaration, texts, Origin::CommandLine { option });
    }
    layer
}

/// A source of these flags alone, in the directory `/`.
pub(super) fn flags(given: &[(&str, &str)]) -> Source {
    Source::new(command_line(given), BTreeMap::new(), PathBuf::from("/"))
}

/// The settings, of which no file of Python is a part.
pub(super) fn resolve(source: &Source) -> Result<Settings, ConfigError> {
    Ok(source.look()?.without_python()?.0)
}

/// The settings with what a file of Python has set.
pub(super) fn completed(
    source: &Source,
    assigned: &[(&str, Value)],
) -> Result<Settings, ConfigError> {
    let assigned = assigned.iter().map(|(name, value)| Assigned {
        name: (*name).to_owned(),
        line: Some(1),
        value: value.clone(),
    });
    let path = PathBuf::from("/srv/gunicorn.conf.py");
    let file = PythonFile {
        source: PythonSource::File(path.clone()),
        path,
        assigned: assigned.collect(),
        hooks: HookSet::default(),
    };
    source.complete(&file).map(|(settings, _)| settings)
}
