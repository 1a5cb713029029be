//! The settings: what they are, where they come from, and what they resolve to.
//!
//! # Theory of operation
//!
//! Each setting is declared once, in [`settings`]: the field of [`Settings`], its
//! name, flags, variables, default, help, and the function that reads its text. From
//! this the command line is built, the environment and the file are read, and
//! `docs/settings.md` and `config/rsgun.toml` are checked by the tests.
//!
//! Every source yields a [`Layer`]: texts by setting, each with its [`Origin`]. A
//! value is taken from the highest layer that has it: command line, environment,
//! file, default. Only then is the text read, so that an error can name where it
//! stands. The addresses are one question with several answers (`--bind`, `--host`
//! and `--port`, `--uds`, `--fd`) and are merged by [`listen`]; user and group become
//! numbers in [`run_as`]; what settings mean only together is found in [`agreement`].
//!
//! A [`Source`] keeps the command line and reads the other layers anew each time it
//! is resolved, which is what a reload needs. A file that is Python is evaluated by a fork
//! server in between: [`Source::look`] tells what is known without it, and
//! [`Source::complete`] adds what it has set.

mod agreement;
mod bystanders;
#[cfg(test)]
mod case;
mod choice;
mod declaration;
mod declare;
mod directories;
#[cfg(test)]
mod document;
mod environment;
mod error;
mod file;
mod foreign;
mod layer;
mod listen;
#[cfg(test)]
mod migration;
pub mod program;
mod python_file;
mod run_as;
mod settings;
mod size;
mod source;
mod value;

pub use choice::{
    ConfigFile, Interface, Lifespan, LogTarget, Milliseconds, ReloadStrategy, WebSockets,
    WorkerCount,
};
pub use declaration::{Declaration, Kind, Section, are_alike};
pub use environment::{Environment, FIRST_SOCKET, ProcessEnvironment};
pub use error::ConfigError;
pub use foreign::{Consequence, Foreign};
pub use layer::{Layer, Origin};
pub use python_file::{Assigned, OWN_PREFIX, PythonFile, PythonSource, Value, names};
pub use settings::{DECLARATIONS, Settings};
pub use size::Size;
pub use source::{Configured, Source};
pub use value::ValueError;
