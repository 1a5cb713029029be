//! What is wrong with a configuration.

use std::io;
use std::path::PathBuf;

use super::layer::Origin;
use super::python_file::PythonSource;
use super::value::ValueError;

/// Why the settings cannot be resolved. The message names the option, variable or
/// line, and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Nothing says what to serve.
    #[error(
        "no application given\n\nUsage: rsgun [OPTIONS] MODULE:ATTRIBUTE\n\n\
         For a file main.py with `app = FastAPI()` in it:\n\n    rsgun -w 4 main:app\n\n\
         A Django project needs none if DJANGO_SETTINGS_MODULE names its settings.\n\n\
         `rsgun --help` lists all options."
    )]
    NoApplication,
    /// A text is not a value of its setting.
    #[error("{origin}: {error}")]
    Invalid {
        /// Where it stands.
        origin: Box<Origin>,
        /// What is wrong with it.
        error: ValueError,
    },
    /// A variable is not valid UTF-8.
    #[error("the environment variable {variable} is not valid UTF-8")]
    NotText {
        /// The variable.
        variable: String,
    },
    /// Two settings answer the question where to listen.
    #[error(
        "{first} and {second} contradict each other: both say where to listen; keep one of them, \
         or list every address with --bind"
    )]
    Contradiction {
        /// One of them.
        first: Box<Origin>,
        /// The other one.
        second: Box<Origin>,
    },
    /// The bounds for the number of workers leave none.
    #[error("{origin}: {min} workers at least are more than the {max} that --max-workers allows")]
    NoWorkers {
        /// Who says how few there may be.
        origin: Box<Origin>,
        /// How few.
        min: u32,
        /// How many there may be.
        max: u32,
    },
    /// A worker class names another interface than `interface`.
    #[error(
        "{origin}: means --interface {class}, but the interface is set to {stated}; keep one of them"
    )]
    InterfaceConflict {
        /// Where the class stands.
        origin: Box<Origin>,
        /// The interface of that class.
        class: &'static str,
        /// What `interface` says.
        stated: &'static str,
    },
    /// The interface leaves no lifespan, and `lifespan` asks for one.
    #[error("{origin}: means --lifespan off, but the lifespan is set to on; keep one of them")]
    LifespanConflict {
        /// Where the interface stands.
        origin: Box<Origin>,
    },
    /// A daemon is to keep the streams that it was started with.
    #[error(
        "{origin}: a daemon holds on to no terminal: name a file with --error-logfile, where all \
         output goes then, or stay in the foreground"
    )]
    DaemonWithStreams {
        /// Where that stands.
        origin: Box<Origin>,
    },
    /// A list of addresses has nothing in it.
    #[error("{origin}: is an empty list; name at least one address or leave it out")]
    NoAddress {
        /// Where it stands.
        origin: Box<Origin>,
    },
    /// The file cannot be read.
    #[error("{origin}: cannot read the configuration file {}: {source}", path.display())]
    FileUnreadable {
        /// Who names it.
        origin: Box<Origin>,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{}, line {line}: not valid TOML: {message}", path.display())]
    FileSyntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser said.
        message: String,
    },
    /// The file has a key that is no setting.
    #[error("{}, line {line}: unknown key `{key}`{}", path.display(), suggestion(*nearest))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// The setting that may have been meant.
        nearest: Option<&'static str>,
    },
    /// The file has a setting twice, with `-` and with `_`.
    #[error("{}, line {line}: `{key}` sets the same as a key above; keep one of them", path.display())]
    DuplicateKey {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
    },
    /// The file has a value of the wrong type.
    #[error("{origin} is {found}, but must be {wanted}")]
    WrongType {
        /// Where it stands.
        origin: Box<Origin>,
        /// What it is.
        found: String,
        /// What it must be, with an example.
        wanted: &'static str,
    },
    /// A Python program gives an argument that is no setting.
    #[error("unexpected keyword argument `{name}`{}", suggestion(nearest.as_deref()))]
    UnknownArgument {
        /// The argument.
        name: String,
        /// The setting that may have been meant, as Python writes it.
        nearest: Option<String>,
    },
    /// A Python program gives an argument that only other servers have.
    #[error("unexpected keyword argument `{name}`: {advice}")]
    ForeignArgument {
        /// The argument.
        name: String,
        /// Why it is not there, and what to do.
        advice: &'static str,
    },
    /// A Python program gives a setting twice, by its name and by another one.
    #[error("the argument {name} sets the same as another one, {setting}; keep one of them")]
    DuplicateArgument {
        /// The second one.
        name: String,
        /// The setting, as Python writes it.
        setting: String,
    },
    /// A Python program that serves in its own process asks for what a master does.
    #[error(
        "{origin} needs the process manager, which has to import the application itself: pass an \
         import string to rsgun.run(), such as \"MODULE:ATTRIBUTE\", or leave it out"
    )]
    NeedsMaster {
        /// Where it stands.
        origin: Box<Origin>,
    },
    /// A Python program that serves in its own process is to use a file that a fork server
    /// evaluates.
    #[error(
        "the configuration file {file} needs the process manager: pass an import string to \
         rsgun.run(), such as \"MODULE:ATTRIBUTE\", or use a .toml file"
    )]
    FileNeedsMaster {
        /// The file.
        file: PythonSource,
    },
    /// The file has a setting of another server that rsgun does not have.
    #[error("{origin} is a setting that rsgun does not have: {advice}")]
    Foreign {
        /// Where it stands.
        origin: Box<Origin>,
        /// Why, and what to do.
        advice: &'static str,
    },
    /// The file has a name that looks like a setting of rsgun and is none.
    #[error("{origin}: there is no setting of this name{}", suggestion(*nearest))]
    UnknownName {
        /// Where it stands.
        origin: Box<Origin>,
        /// The setting that may have been meant.
        nearest: Option<&'static str>,
    },
    /// The interpreter that evaluates the file was started as another user already.
    #[error(
        "{origin}: user, group and initgroups must all be given in the configuration file, or all \
         on the command line and in the environment: the file is evaluated by whom these name"
    )]
    SplitUser {
        /// Who names the user or group first.
        origin: Box<Origin>,
    },
    /// The process lacks the right to become somebody else.
    #[error("{origin}: {}", not_permitted(*uid))]
    NotPermitted {
        /// Who names the user or group.
        origin: Box<Origin>,
        /// Who this process is.
        uid: u32,
    },
    /// The directory that the server was started in is not there any more.
    #[error(
        "the directory {} does not exist any more, in which this server was started\n\
         Code, configuration and all relative paths are looked for there, by that name: make it \
         again, or start the server anew in another one.", path.display()
    )]
    StartDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// A directory is not there.
    #[error("{origin}: {} is not a directory", path.display())]
    NotADirectory {
        /// Where it stands.
        origin: Box<Origin>,
        /// The directory.
        path: PathBuf,
    },
}

impl ConfigError {
    pub(super) fn invalid(origin: Origin, error: ValueError) -> Self {
        Self::Invalid {
            origin: Box::new(origin),
            error,
        }
    }

    /// The exit code of the master: 2 when the command line lacks something, as for
    /// an unknown flag, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoApplication => 2,
            _ => 1,
        }
    }
}

fn not_permitted(uid: u32) -> String {
    format!(
        "only root (or a process with CAP_SETUID and CAP_SETGID) can run the application as \
         somebody else, and rsgun was started with the user id {uid}; start it as root, or leave \
         the option out"
    )
}

fn suggestion(nearest: Option<&str>) -> String {
    match nearest {
        Some(name) => format!("; did you mean `{name}`?"),
        None => "; docs/settings.md lists all settings".to_owned(),
    }
}
