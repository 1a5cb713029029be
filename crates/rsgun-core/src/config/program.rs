//! Settings that a Python program gives as keyword arguments.
//!
//! They take the place of the command line: the same settings by the same names and
//! aliases, with `_` for `-`. [`layer`] turns them into a layer, [`Layer::to_arguments`]
//! that layer into a command line for a master of its own. A program that serves in its
//! own process has no master, and [`Layer::without_master`] refuses what only a master
//! can do.

use super::declaration::{Declaration, Kind};
use super::error::ConfigError;
use super::foreign::Foreign;
use super::layer::{Layer, Origin};
use super::python_file::Value;
use super::settings::DECLARATIONS;

/// The layer of a program that serves `app` with these arguments. Those that other servers
/// have are accepted if they ask for nothing.
///
/// # Errors
/// [`ConfigError::UnknownArgument`], `ForeignArgument`, `DuplicateArgument`, `WrongType`, or `Invalid`, each
/// of which names the argument.
pub fn layer(
    app: &str,
    given: impl IntoIterator<Item = (String, Value)>,
) -> Result<Layer, ConfigError> {
    let mut layer = Layer::default();
    for (name, value) in given {
        let Some(declaration) = find(&name) else {
            if let Some(foreign) = Foreign::find_argument(&name).or_else(|| Foreign::find(&name)) {
                if foreign.is_missed(&value) {
                    let advice = foreign.advice;
                    return Err(ConfigError::ForeignArgument { name, advice });
                }
                continue;
            }
            let nearest = Declaration::nearest(&name).map(|name| name.replace('-', "_"));
            return Err(ConfigError::UnknownArgument { name, nearest });
        };
        if layer.get(declaration.name).is_some() {
            return Err(ConfigError::DuplicateArgument {
                setting: declaration.name.replace('-', "_"),
                name,
            });
        }
        let origin = Origin::Argument { name };
        let texts = match texts(declaration.kind, value) {
            Ok(texts) => texts,
            Err(found) => {
                return Err(ConfigError::WrongType {
                    origin: Box::new(origin),
                    found,
                    wanted: wanted(declaration.kind),
                });
            }
        };
        (declaration.check)(&texts).map_err(|error| ConfigError::invalid(origin.clone(), error))?;
        layer.set(declaration, texts, origin);
    }
    if let Some(declaration) = DECLARATIONS.iter().find(|each| each.positional) {
        let name = declaration.name.to_owned();
        layer.set(declaration, vec![app.to_owned()], Origin::Argument { name });
    }
    Ok(layer)
}

/// Finds a setting by its name or one of its aliases, as Python writes them.
pub(super) fn find(name: &str) -> Option<&'static Declaration> {
    let name = name.replace('_', "-");
    DECLARATIONS
        .iter()
        .filter(|declaration| !declaration.positional)
        .find(|declaration| {
            declaration.name == name || declaration.aliases.contains(&name.as_str())
        })
}

/// The value as texts, or what it is if its type does not fit.
fn texts(kind: Kind, value: Value) -> Result<Vec<String>, String> {
    let found = match (kind, value) {
        (Kind::Switch, Value::Switch(on)) => return Ok(vec![on.to_string()]),
        (_, Value::Text(text))
        | (Kind::Number | Kind::Count | Kind::Decimal, Value::Number(text))
        | (Kind::Decimal, Value::Decimal(text)) => return Ok(vec![text]),
        (Kind::List, Value::List(list)) => return Ok(list),
        (_, Value::Nothing) => "None",
        (_, Value::Number(_)) => "a whole number",
        (_, Value::Decimal(_)) => "a number with a fraction",
        (_, Value::Switch(_)) => "true or false",
        (_, Value::List(_)) => "a list",
        (_, Value::Class(name)) => return Err(format!("the class {name}")),
        (_, Value::Other(kind)) => return Err(format!("an object of type {kind}")),
    };
    Err(found.to_owned())
}

fn wanted(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "a string",
        Kind::Mask => "a string, such as \"027\"",
        Kind::Number => "a whole number, such as 4",
        Kind::Count => "a whole number, such as 4, or a word",
        Kind::Decimal => "a number, such as 0.5",
        Kind::Switch => "True or False",
        Kind::List => "a string or a list of strings",
    }
}

impl Layer {
    /// The layer as arguments of the command, the name of the program left out.
    #[must_use]
    pub fn to_arguments(&self) -> Vec<String> {
        let mut options = Vec::new();
        let mut positional = Vec::new();
        for declaration in DECLARATIONS {
            let Some(given) = self.get(declaration.name) else {
                continue;
            };
            let name = declaration.name;
            match declaration.kind {
                _ if declaration.positional => positional.extend(given.texts.iter().cloned()),
                // It was read before, when the layer was made.
                Kind::Switch => {
                    let is_on = super::value::switch(&given.texts).unwrap_or_default();
                    options.push(format!("--{}{name}", if is_on { "" } else { "no-" }));
                }
                _ => options.extend(given.texts.iter().map(|text| format!("--{name}={text}"))),
            }
        }
        options.push("--".to_owned());
        options.extend(positional);
        options
    }

    /// Checks that nothing here needs a master, but for a value that is the default.
    ///
    /// # Errors
    /// [`ConfigError::NeedsMaster`].
    pub fn without_master(&self) -> Result<(), ConfigError> {
        for declaration in DECLARATIONS.iter().filter(|each| each.needs_master) {
            if let Some(given) = self.get(declaration.name)
                && given.texts.first().map(String::as_str) != declaration.default
            {
                return Err(ConfigError::NeedsMaster {
                    origin: Box::new(given.origin.clone()),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments<const N: usize>(given: [(&str, Value); N]) -> Result<Layer, ConfigError> {
        layer(
            "main:app",
            given.map(|(name, value)| (name.to_owned(), value)),
        )
    }

    fn error<const N: usize>(given: [(&str, Value); N]) -> String {
        arguments(given).unwrap_err().to_string()
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn arguments_become_a_command_line() {
        let layer = arguments([
            ("port", Value::Number("5000".to_owned())),
            ("timeout_keep_alive", Value::Number("9".to_owned())),
            ("access_log", Value::Switch(false)),
            ("factory", Value::Switch(true)),
            ("env", Value::List(vec!["A=1".to_owned(), "B=2".to_owned()])),
            ("log_level", text("info")),
        ])
        .unwrap();
        let mut line = layer.to_arguments();
        assert_eq!(line.split_off(line.len() - 2), ["--", "main:app"]);
        line.sort_unstable();
        assert_eq!(
            line,
            [
                "--env=A=1",
                "--env=B=2",
                "--factory",
                "--keep-alive=9",
                "--log-level=info",
                "--no-access-log",
                "--port=5000",
            ]
        );
    }

    #[test]
    fn a_wrong_argument_is_named() {
        assert_eq!(
            error([("wrokers", Value::Number("4".to_owned()))]),
            "unexpected keyword argument `wrokers`; did you mean `workers`?"
        );
        assert!(error([("app", text("x:y"))]).starts_with("unexpected keyword argument `app`"));
        assert_eq!(
            error([("workers", Value::Switch(true))]),
            "the argument workers is true or false, but must be a whole number, such as 4, or a \
             word"
        );
        assert_eq!(
            error([("umask", Value::Number("23".to_owned()))]),
            "the argument umask is a whole number, but must be a string, such as \"027\""
        );
        assert_eq!(
            error([("log_level", text("loud"))])
                .split(" is none")
                .next(),
            Some("the argument log_level: `loud`")
        );
        let twice = [
            ("keep_alive", Value::Number("1".to_owned())),
            ("timeout_keep_alive", Value::Number("2".to_owned())),
        ];
        assert_eq!(
            error(twice),
            "the argument timeout_keep_alive sets the same as another one, keep_alive; keep one \
             of them"
        );
    }

    #[test]
    fn what_other_servers_have_is_refused_if_it_asks_for_something() {
        let strange = || Value::Other("dict".to_owned());
        for (name, value, words) in [
            ("reload", Value::Switch(true), "kill -HUP"),
            ("reload_dirs", Value::List(vec!["src".to_owned()]), "HUP"),
            ("proxy_headers", Value::Switch(true), "ProxyFix"),
            ("ssl_keyfile", text("key.pem"), "Caddy"),
            ("http", text("zttp"), "HTTP/2"),
            ("headers", Value::Other("list".to_owned()), "middleware"),
            (
                "limit_concurrency",
                Value::Number("9".to_owned()),
                "limit_conn",
            ),
            ("log_config", strange(), "dictConfig"),
            ("logconfig_dict", strange(), "dictConfig"),
            ("env_file", text(".env"), "dotenv"),
            ("date_header", Value::Switch(false), "always"),
        ] {
            let message = error([(name, value)]);
            assert!(
                message.starts_with(&format!("unexpected keyword argument `{name}`: "))
                    && message.contains(words),
                "{message}"
            );
        }
        let nothing = arguments([
            ("reload", Value::Switch(false)),
            ("reload_dirs", Value::List(Vec::new())),
            ("http", text("auto")),
            ("date_header", Value::Switch(true)),
            ("server_header", Value::Switch(false)),
            ("use_colors", Value::Switch(true)),
            ("timeout_worker_healthcheck", Value::Number("5".to_owned())),
        ]);
        assert_eq!(nothing.unwrap().to_arguments(), ["--", "main:app"]);
        assert_eq!(
            error([("workers", strange())]),
            "the argument workers is an object of type dict, but must be a whole number, such as \
             4, or a word"
        );
    }

    #[test]
    fn what_needs_a_master_is_refused_without_one() {
        let one = arguments([("workers", Value::Number("1".to_owned()))]).unwrap();
        assert!(one.without_master().is_ok());
        let four = arguments([("workers", Value::Number("4".to_owned()))]).unwrap();
        let text = four.without_master().unwrap_err().to_string();
        assert!(
            text.contains("workers") && text.contains("MODULE:ATTRIBUTE"),
            "{text}"
        );
        let plain = arguments([("port", Value::Number("1".to_owned()))]).unwrap();
        assert!(plain.without_master().is_ok());
    }
}
