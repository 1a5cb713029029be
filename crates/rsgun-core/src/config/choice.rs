//! The settings that are one of several things, and the types of others that have a name.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::python_file::PythonSource;

/// `--config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigFile {
    /// A file of TOML.
    Toml(PathBuf),
    /// One of Python.
    Python(PythonSource),
}

/// `--workers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerCount {
    /// So many.
    Fixed(u32),
    /// As many as there are processors to use.
    Auto,
}

/// `--reload-strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReloadStrategy {
    /// One worker after the other.
    Rolling,
    /// All at once, after the first one.
    Parallel,
}

/// `--interface`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interface {
    /// What the application looks like.
    Auto,
    /// Either version of ASGI.
    Asgi,
    /// `app(scope, receive, send)`.
    Asgi3,
    /// `app(scope)(receive, send)`.
    Asgi2,
    /// `app(scope, protocol)`, the interface of granian.
    Rsgi,
    /// `app(environ, start_response)`, PEP 3333.
    Wsgi,
}

impl Interface {
    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Asgi => "asgi",
            Self::Asgi3 => "asgi3",
            Self::Asgi2 => "asgi2",
            Self::Rsgi => "rsgi",
            Self::Wsgi => "wsgi",
        }
    }
}

/// `--access-logfile` and `--error-logfile`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogTarget {
    /// The standard stream.
    Standard,
    /// A file; a relative path starts at the directory where rsgun was started.
    File(PathBuf),
}

impl LogTarget {
    /// Whether it is a file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        matches!(self, Self::File(_))
    }
}

/// A time that is given in seconds, with or without a fraction.
pub type Milliseconds = u64;

/// `--lifespan`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifespan {
    /// Use it if the application knows it.
    Auto,
    /// The application must know it.
    On,
    /// Do not use it.
    Off,
}

/// `--ws`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WebSockets {
    /// They are served.
    Auto,
    /// A handshake is an ordinary request.
    None,
}
