//! Settings from a `gunicorn.conf.py`.
//!
//! The file is Python, so a fork server evaluates it and sends what it has set
//! ([`Assigned`]); here that becomes a [`Layer`]. Names are gunicorn's, as each
//! declaration knows them. With `rsgun_` before it the file may also set what only rsgun
//! has, and stays a file that gunicorn can use: that ignores what it does not know. So
//! does rsgun, since a file of Python has variables of its own.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::declaration::{Declaration, Kind};
use super::error::ConfigError;
use super::file;
use super::foreign::{Consequence, Foreign};
use super::layer::{Layer, Origin};
use super::settings::DECLARATIONS;
use crate::hooks::HookSet;

/// What comes before the name of a setting that gunicorn does not have.
pub const OWN_PREFIX: &str = "rsgun_";

/// What is to be evaluated. A file is written down as its path alone, as programs before
/// this one do that it may have to follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PythonSource {
    /// A file.
    File(PathBuf),
    /// A module, by its dotted name: only the interpreter knows where it is.
    Module {
        /// The name.
        module: String,
    },
}

impl fmt::Display for PythonSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(formatter),
            Self::Module { module } => write!(formatter, "{MODULE}{module}"),
        }
    }
}

/// What stands before the name of a module in the place of a file.
pub(super) const MODULE: &str = "python:";

/// A configuration file that was evaluated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PythonFile {
    /// How it was named.
    pub source: PythonSource,
    /// The file.
    pub path: PathBuf,
    /// What it has set, of what is a setting.
    pub assigned: Vec<Assigned>,
    /// The hooks that it has.
    pub hooks: HookSet,
}

/// One setting of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assigned {
    /// The name in the file.
    pub name: String,
    /// The last line that assigns it; `None` if no line does.
    pub line: Option<u32>,
    /// Its value at the end of the file.
    pub value: Value,
}

/// A value of Python, as far as it can be one of a setting. Numbers are texts, which have
/// no bounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// `None`.
    Nothing,
    /// `True` or `False`.
    Switch(bool),
    /// A whole number, in decimal digits.
    Number(String),
    /// Another number.
    Decimal(String),
    /// A string or a path.
    Text(String),
    /// A list, tuple or set of these.
    List(Vec<String>),
    /// A class: its module and name, with dots.
    Class(String),
    /// Something else: the name of its type.
    Other(String),
}

/// The names that a file may set and that mean something.
pub fn names() -> impl Iterator<Item = &'static str> {
    let declared = DECLARATIONS.iter().map(|declaration| declaration.gunicorn);
    let foreign = Foreign::all().map(|foreign| foreign.name);
    declared.chain(foreign).filter(|name| !name.is_empty())
}

/// What the file says about the settings, and warnings about what it says in vain.
pub(super) fn layer(file: &PythonFile) -> Result<(Layer, Vec<String>), ConfigError> {
    let mut layer = Layer::default();
    let mut warnings = Vec::new();
    for assigned in &file.assigned {
        let name = assigned.name.as_str();
        let origin = || origin(&file.path, assigned);
        if let Some(declaration) = declaration(file, assigned)? {
            if let Some(texts) = texts(declaration, &assigned.value, &origin)? {
                layer.set(declaration, texts, origin());
            }
        } else if let Some(foreign) = Foreign::find(name)
            && foreign.is_missed(&assigned.value)
        {
            match foreign.consequence {
                Consequence::Refusal => {
                    return Err(ConfigError::Foreign {
                        origin: Box::new(origin()),
                        advice: foreign.advice,
                    });
                }
                Consequence::Warning | Consequence::Nothing => {
                    let origin = origin();
                    let advice = foreign.advice;
                    warnings.push(format!(
                        "{origin} is a setting of gunicorn that has no effect: {advice}"
                    ));
                }
            }
        }
    }
    Ok((layer, warnings))
}

fn origin(path: &Path, assigned: &Assigned) -> Origin {
    Origin::Module {
        path: path.to_owned(),
        line: assigned.line,
        name: assigned.name.clone(),
    }
}

/// The setting that a name stands for, if rsgun has it.
fn declaration(
    file: &PythonFile,
    assigned: &Assigned,
) -> Result<Option<&'static Declaration>, ConfigError> {
    let Some(own) = assigned.name.strip_prefix(OWN_PREFIX) else {
        return Ok(Declaration::find_for_gunicorn(&assigned.name));
    };
    let known = Declaration::find(own).filter(|declaration| declaration.in_file);
    match known {
        // It is running already.
        Some(declaration) if declaration.name == "python" => Err(ConfigError::Foreign {
            origin: Box::new(origin(&file.path, assigned)),
            advice: "the interpreter that evaluates the file is the one that serves; name it with \
                     --python or RSGUN_PYTHON",
        }),
        Some(declaration) => Ok(Some(declaration)),
        None => Err(ConfigError::UnknownName {
            origin: Box::new(origin(&file.path, assigned)),
            nearest: Declaration::nearest(own),
        }),
    }
}

/// A value as the texts of its setting. `None` stands for the default, as in gunicorn: for
/// the access log that is to have none, which is not the default here.
fn texts(
    declaration: &Declaration,
    value: &Value,
    origin: &impl Fn() -> Origin,
) -> Result<Option<Vec<String>>, ConfigError> {
    let wrong_type = |found: &str| {
        Err(ConfigError::WrongType {
            origin: Box::new(origin()),
            found: found.to_owned(),
            wanted: file::wanted(declaration.kind),
        })
    };
    let one = |text: String| Ok(Some(vec![text]));
    match (declaration.kind, value) {
        // No texts are not the default.
        (_, Value::Nothing) if declaration.name == "access-logfile" => Ok(Some(Vec::new())),
        (_, Value::Nothing) => Ok(None),
        (_, Value::Class(name)) if declaration.name == "worker-class" => one(name.clone()),
        (Kind::Mask, Value::Number(digits)) => match digits.parse::<u32>() {
            Ok(mask) => one(format!("{mask:o}")),
            Err(_) => wrong_type(&format!("the number {digits}")),
        },
        (Kind::List, Value::List(list)) => Ok(Some(list.clone())),
        (Kind::Switch, Value::Switch(on)) => one(on.to_string()),
        (Kind::Decimal, Value::Decimal(text))
        | (_, Value::Text(text))
        // Users and groups may be numbers.
        | (Kind::Text | Kind::Number | Kind::Count | Kind::Decimal, Value::Number(text)) => {
            one(text.clone())
        }
        (_, Value::Number(_)) => wrong_type("a whole number"),
        (_, Value::Decimal(_)) => wrong_type("a number with a fraction"),
        (_, Value::Switch(_)) => wrong_type("True or False"),
        (_, Value::List(_)) => wrong_type("a list"),
        (_, Value::Class(name)) => wrong_type(&format!("the class {name}")),
        (_, Value::Other(kind)) => wrong_type(&format!("an object of type {kind}")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn file(assigned: &[(&str, Value)]) -> PythonFile {
        let assigned = assigned
            .iter()
            .enumerate()
            .map(|(index, (name, value))| Assigned {
                name: (*name).to_owned(),
                line: u32::try_from(index + 1).ok(),
                value: value.clone(),
            })
            .collect();
        let path = PathBuf::from("/srv/gunicorn.conf.py");
        PythonFile {
            source: PythonSource::File(path.clone()),
            path,
            assigned,
            hooks: HookSet::default(),
        }
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    fn number(text: &str) -> Value {
        Value::Number(text.to_owned())
    }

    #[track_caller]
    fn error(name: &str, value: Value) -> String {
        layer(&file(&[(name, value)])).unwrap_err().to_string()
    }

    #[test]
    fn gunicorn_s_names_and_values_are_understood() {
        let (layer, warnings) = layer(&file(&[
            ("bind", text("0.0.0.0:8000")),
            ("workers", number("4")),
            ("timeout", text("60")),
            ("preload_app", Value::Switch(true)),
            ("umask", number("23")),
            ("user", number("1000")),
            (
                "raw_env",
                Value::List(vec!["A=1".to_owned(), "B=2".to_owned()]),
            ),
            ("keepalive", Value::Nothing),
            ("rsgun_max_rss", text("512M")),
            ("worker_class", text("uvicorn.workers.UvicornWorker")),
        ]))
        .unwrap();
        let texts = |name: &str| layer.get(name).map(|given| given.texts.clone());
        let one = |text: &str| Some(vec![text.to_owned()]);
        assert_eq!(texts("bind"), one("0.0.0.0:8000"));
        assert_eq!((texts("workers"), texts("timeout")), (one("4"), one("60")));
        assert_eq!((texts("preload"), texts("umask")), (one("true"), one("27")));
        assert_eq!(
            (texts("user"), texts("max-rss")),
            (one("1000"), one("512M"))
        );
        assert_eq!(texts("env"), Some(vec!["A=1".to_owned(), "B=2".to_owned()]));
        assert_eq!(texts("keep-alive"), None);
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn a_class_is_the_worker_class_of_its_name() {
        let class = |name: &str| Value::Class(name.to_owned());
        let (layer, _) = layer(&file(&[
            ("worker_class", class("uvicorn.workers.UvicornWorker")),
            ("logger_class", class("gunicorn.glogging.Logger")),
        ]))
        .unwrap();
        let given = layer.get("worker-class").map(|given| given.texts.clone());
        assert_eq!(
            given,
            Some(vec!["uvicorn.workers.UvicornWorker".to_owned()])
        );
        assert!(error("pidfile", class("builtins.int")).contains("is the class builtins.int"));
    }

    #[test]
    fn a_file_is_written_down_as_its_path_alone() {
        for (source, text) in [
            (
                PythonSource::File("/srv/conf.py".into()),
                "\"/srv/conf.py\"",
            ),
            (
                PythonSource::Module {
                    module: "site.conf".to_owned(),
                },
                "{\"module\":\"site.conf\"}",
            ),
        ] {
            assert_eq!(serde_json::to_string(&source).unwrap(), text);
            assert_eq!(serde_json::from_str::<PythonSource>(text).unwrap(), source);
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        assert_eq!(
            error("preload_app", number("1")),
            "/srv/gunicorn.conf.py, line 1: preload_app is a whole number, but must be true or \
             false without quotes"
        );
        assert_eq!(
            error("workers", Value::Other("dict".to_owned())),
            "/srv/gunicorn.conf.py, line 1: workers is an object of type dict, but must be a whole \
             number without quotes, such as 4, or a word in quotes"
        );
        assert!(error("umask", number("-1")).contains("is the number -1"));
        assert_eq!(
            error("rsgun_max_rs", text("1G")),
            "/srv/gunicorn.conf.py, line 1: rsgun_max_rs: there is no setting of this name; did \
             you mean `max-rss`?"
        );
        assert!(error("rsgun_python", text("python3")).contains("--python"));
        assert!(error("rsgun_config", text("x")).contains("no setting"));
    }

    #[test]
    fn what_is_not_there_is_refused_or_warned_of() {
        for (name, value, words) in [
            ("keyfile", text("/etc/key.pem"), "nginx"),
            ("ssl_context", Value::Other("function".to_owned()), "Python"),
            ("spew", Value::Switch(true), "python -m trace"),
            ("proxy_protocol", text("v1"), "PROXY"),
        ] {
            let message = error(name, value);
            assert!(
                message.contains(words) && message.contains(name),
                "{message}"
            );
        }
        let (_, warnings) = layer(&file(&[
            ("statsd_host", text("localhost:8125")),
            ("forwarded_allow_ips", text("127.0.0.1")),
            ("tmp_upload_dir", text("/data")),
            ("worker_connections", number("1000")),
            ("spew", Value::Switch(false)),
            ("certfile", Value::Nothing),
            ("reload", Value::Switch(false)),
            ("protocol", text("http")),
        ]))
        .unwrap();
        let expected = [
            ("statsd_host", "no statistics are sent"),
            ("forwarded_allow_ips", "ProxyHeadersMiddleware for ASGI"),
            ("tmp_upload_dir", "set TMPDIR"),
        ];
        assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
        for ((name, words), (line, warning)) in expected.iter().zip((1..).zip(&warnings)) {
            let start = format!(
                "/srv/gunicorn.conf.py, line {line}: {name} is a setting of gunicorn that has no \
                 effect: "
            );
            assert!(
                warning.starts_with(&start) && warning.contains(words),
                "{warning}"
            );
        }
    }

    #[test]
    fn every_setting_has_one_place() {
        let mut seen = HashSet::new();
        for name in names() {
            assert!(seen.insert(name), "{name} is there twice");
        }
        // Of the 100 settings of gunicorn 27, and its hook for TLS.
        assert_eq!(seen.len(), 101);
    }
}
