//! One source's settings, and the pile of all of them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::declaration::Declaration;
use super::error::ConfigError;
use super::value::ValueError;

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// On the command line.
    CommandLine {
        /// The flag, with its dashes, or the name of the argument.
        option: String,
    },
    /// Among the keyword arguments that a Python program gives.
    Argument {
        /// The argument as it is written there.
        name: String,
    },
    /// In the environment.
    Environment {
        /// The variable.
        variable: String,
    },
    /// In a configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key as it is written there.
        key: String,
    },
    /// In a configuration file of gunicorn, which is a Python module.
    Module {
        /// The file.
        path: PathBuf,
        /// The line that assigns it last, from 1; `None` if it came from elsewhere.
        line: Option<u32>,
        /// The name as it is written there.
        name: String,
    },
    /// Nowhere: it is the default.
    Default {
        /// The setting.
        name: &'static str,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine { option } => formatter.write_str(option),
            Self::Argument { name } => write!(formatter, "the argument {name}"),
            Self::Environment { variable } => {
                write!(formatter, "the environment variable {variable}")
            }
            Self::File { path, line, key } => {
                write!(formatter, "{}, line {line}: {key}", path.display())
            }
            Self::Module {
                path,
                line: Some(line),
                name,
            } => {
                write!(formatter, "{}, line {line}: {name}", path.display())
            }
            Self::Module { path, name, .. } => write!(formatter, "{}: {name}", path.display()),
            Self::Default { name } => write!(formatter, "the default of {name}"),
        }
    }
}

/// The settings that one source has.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    given: BTreeMap<&'static str, Given>,
}

/// The texts of one setting in one source.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) texts: Vec<String>,
    pub(super) origin: Origin,
}

impl Layer {
    /// Notes what the source says about a setting, replacing what it said before.
    pub fn set(&mut self, declaration: &'static Declaration, texts: Vec<String>, origin: Origin) {
        self.given.insert(declaration.name, Given { texts, origin });
    }

    /// What the source says about the setting of this name.
    pub(super) fn get(&self, name: &str) -> Option<&Given> {
        self.given.get(name)
    }
}

/// All layers, the strongest first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layers<'a>(pub(super) &'a [&'a Layer]);

impl<'a> Layers<'a> {
    /// Reads a value from the strongest layer that has it, else from the default.
    pub(super) fn value<T>(
        self,
        declaration: &Declaration,
        read: fn(&[String]) -> Result<T, ValueError>,
    ) -> Result<T, ConfigError> {
        if let Some(given) = self.get(declaration.name) {
            return read(&given.texts)
                .map_err(|error| ConfigError::invalid(given.origin.clone(), error));
        }
        let default: Vec<String> = declaration.default.map(str::to_owned).into_iter().collect();
        read(&default).map_err(|error| {
            ConfigError::invalid(
                Origin::Default {
                    name: declaration.name,
                },
                error,
            )
        })
    }

    /// What the strongest layer says that has the setting.
    pub(super) fn get(self, name: &str) -> Option<&'a Given> {
        self.0.iter().find_map(|layer| layer.get(name))
    }
}
