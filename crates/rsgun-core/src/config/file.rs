//! Settings from a TOML file.

use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::declaration::{Declaration, Kind};
use super::error::ConfigError;
use super::foreign::Foreign;
use super::layer::{Layer, Origin};

/// Reads the file that `named_by` names.
pub(super) fn read(path: &Path, named_by: &Origin) -> Result<Layer, ConfigError> {
    let named_by = || Box::new(named_by.clone());
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::FileUnreadable {
        origin: named_by(),
        path: path.to_owned(),
        source,
    })?;
    parse(path, &text)
}

/// Reads the text of the file at `path`.
pub(super) fn parse(path: &Path, text: &str) -> Result<Layer, ConfigError> {
    let line_of = |span: Range<usize>| {
        let before = text.get(..span.start).unwrap_or(text);
        before.bytes().filter(|byte| *byte == b'\n').count() + 1
    };
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, &line_of);
        let hint = text
            .lines()
            .nth(line - 1)
            .and_then(hint)
            .unwrap_or_default();
        ConfigError::FileSyntax {
            path: path.to_owned(),
            line,
            message: format!("{}{hint}", error.message()),
        }
    })?;
    let mut layer = Layer::default();
    // The table is sorted by key; errors come in the order of the file.
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in entries {
        let line = line_of(key.span());
        let path = path.to_owned();
        let key = key.get_ref().to_string();
        let declaration = match Declaration::find(&key) {
            Some(declaration) if declaration.in_file => declaration,
            _ => {
                if let Some(foreign) = Foreign::find_argument(&key) {
                    return Err(ConfigError::Foreign {
                        origin: Box::new(Origin::File { path, line, key }),
                        advice: foreign.advice,
                    });
                }
                let nearest = Declaration::nearest(&key);
                return Err(ConfigError::UnknownKey {
                    path,
                    line,
                    key,
                    nearest,
                });
            }
        };
        if layer.get(declaration.name).is_some() {
            return Err(ConfigError::DuplicateKey { path, line, key });
        }
        let origin = Origin::File { path, line, key };
        match texts(declaration.kind, value.get_ref()) {
            Some(texts) => layer.set(declaration, texts, origin),
            None => {
                return Err(ConfigError::WrongType {
                    origin: Box::new(origin),
                    found: type_name(value.get_ref()).to_owned(),
                    wanted: wanted(declaration.kind),
                });
            }
        }
    }
    Ok(layer)
}

/// What a line that is not TOML should have had after its key, which the parser cannot know.
fn hint(line: &str) -> Option<String> {
    let (key, _) = line.split_once('=')?;
    let declaration = Declaration::find(key.trim())?;
    let wanted = wanted(declaration.kind);
    Some(format!("; {} must be {wanted}", declaration.name))
}

/// The value as texts, or `None` if its type does not fit.
fn texts(kind: Kind, value: &DeValue<'_>) -> Option<Vec<String>> {
    match (kind, value) {
        (Kind::Text | Kind::Mask | Kind::List | Kind::Count, DeValue::String(text)) => {
            Some(vec![text.to_string()])
        }
        (Kind::Decimal, DeValue::Float(number)) => Some(vec![number.as_str().to_owned()]),
        (Kind::Number | Kind::Count | Kind::Decimal, DeValue::Integer(number)) => {
            // Hexadecimal and its like mean the same number.
            let number = i64::from_str_radix(number.as_str(), number.radix()).ok()?;
            Some(vec![number.to_string()])
        }
        (Kind::Switch, DeValue::Boolean(on)) => Some(vec![on.to_string()]),
        (Kind::List, DeValue::Array(list)) => list
            .iter()
            .map(|item| item.get_ref().as_str().map(str::to_owned))
            .collect(),
        _ => None,
    }
}

pub(super) fn wanted(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "a string in quotes",
        Kind::Mask => "a string in quotes, such as \"027\"",
        Kind::Number => "a whole number without quotes, such as 4",
        Kind::Count => "a whole number without quotes, such as 4, or a word in quotes",
        Kind::Decimal => "a number without quotes, such as 0.5",
        Kind::Switch => "true or false without quotes",
        Kind::List => "a string or a list of strings, such as [\"127.0.0.1:8000\"]",
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reading_never_panics(text in "([a-z_-]{1,12} ?= ?.{0,12}\n){0,3}.{0,20}") {
            let _ = parse(Path::new("rsgun.toml"), &text);
        }
    }

    fn message(text: &str) -> String {
        parse(Path::new("/etc/rsgun.toml"), text)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn both_spellings_of_a_key_are_understood() {
        let layer = parse(
            Path::new("rsgun.toml"),
            "log-level = \"debug\"\nroot_path = \"/api\"\nbind = [\":80\", \"unix:/x\"]\nport = 0x50\n",
        )
        .unwrap();
        assert_eq!(layer.get("log-level").unwrap().texts, ["debug"]);
        assert_eq!(layer.get("root-path").unwrap().texts, ["/api"]);
        assert_eq!(layer.get("bind").unwrap().texts, [":80", "unix:/x"]);
        assert_eq!(layer.get("port").unwrap().texts, ["80"]);
    }

    #[test]
    fn errors_name_the_line_and_say_what_to_do() {
        for (text, expected) in [
            (
                "\nworkres = 4",
                "/etc/rsgun.toml, line 2: unknown key `workres`; did you mean `workers`?",
            ),
            (
                "preload_app = true",
                "/etc/rsgun.toml, line 1: unknown key `preload_app`; did you mean `preload`?",
            ),
            (
                "keepalive = 5",
                "/etc/rsgun.toml, line 1: unknown key `keepalive`; did you mean `keep-alive`?",
            ),
            (
                "timeot = 5",
                "/etc/rsgun.toml, line 1: unknown key `timeot`; did you mean `timeout`?",
            ),
            (
                "zzz = 1",
                "/etc/rsgun.toml, line 1: unknown key `zzz`; docs/settings.md lists all settings",
            ),
            (
                "# comment\n\nbacklog = \"4\"",
                "/etc/rsgun.toml, line 3: backlog is a string, but must be a whole number \
                 without quotes, such as 4",
            ),
            (
                "workers = true",
                "/etc/rsgun.toml, line 1: workers is true or false, but must be a whole number \
                 without quotes, such as 4, or a word in quotes",
            ),
            (
                "bind = [8000]",
                "/etc/rsgun.toml, line 1: bind is a list, but must be a string or a list of \
                 strings, such as [\"127.0.0.1:8000\"]",
            ),
            (
                "log-level = \"info\"\nlog_level = \"debug\"",
                "/etc/rsgun.toml, line 2: `log_level` sets the same as a key above; keep one \
                 of them",
            ),
            (
                "config = \"other.toml\"",
                "/etc/rsgun.toml, line 1: unknown key `config`; docs/settings.md lists all settings",
            ),
        ] {
            assert_eq!(message(text), expected, "{text}");
        }
        assert_eq!(
            message("# comment\nbind = 127.0.0.1\n").split_once("; "),
            Some((
                "/etc/rsgun.toml, line 2: not valid TOML: invalid float, expected nothing",
                "bind must be a string or a list of strings, such as [\"127.0.0.1:8000\"]"
            ))
        );
        let reload = message("reload = true");
        assert!(
            reload.contains("line 1: reload is a setting that rsgun does not have: files are"),
            "{reload}"
        );
        let syntax = message("app = \"main:app\"\nworkers = \n");
        assert!(
            syntax.starts_with("/etc/rsgun.toml, line 2: not valid TOML: "),
            "{syntax}"
        );
    }
}
