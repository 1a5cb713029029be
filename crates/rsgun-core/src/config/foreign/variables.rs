//! Environment variables by which uvicorn and granian are set up.
//!
//! Both read each of their settings from a variable, which is left behind where only the
//! command was replaced. Here they are not read: whoever changes the server should find
//! its settings in one place. So they are named once, with what takes their place.

use super::super::declaration::Declaration;
use super::super::environment::{self, Environment};
use super::super::program;
use super::super::python_file::Value;
use super::super::settings::DECLARATIONS;
use super::Foreign;

/// What their variables begin with.
const PREFIXES: [&str; 2] = ["UVICORN_", "GRANIAN_"];
/// Variables of granian that are not called as its flags, and those flags.
const RENAMED: [(&str, &str); 5] = [
    ("websockets", "ws"),
    ("log_enabled", "log"),
    ("log_access_enabled", "access_log"),
    ("log_access_fmt", "access_log_fmt"),
    ("metrics_enabled", "metrics"),
];
/// Where to listen: one of them says it.
const PLACES: [&str; 5] = ["bind", "host", "port", "uds", "fd"];

/// Warnings of those that are set. `states` says whether a setting is given where it is
/// read, so that nothing is missing.
pub(in super::super) fn warnings(
    environment: &dyn Environment,
    states: &dyn Fn(&str) -> bool,
) -> Vec<String> {
    let mut names = environment.names();
    names.sort_unstable();
    let mut replaced: Vec<(String, String)> = Vec::new();
    let mut missed: Vec<(&str, Vec<String>)> = Vec::new();
    for variable in names {
        let Some((name, text)) = setting(environment, &variable) else {
            continue;
        };
        if let Some(own) = find(&name) {
            let alike: &[&str] = if PLACES.contains(&own.name) {
                &PLACES
            } else {
                &[own.name]
            };
            if !alike.iter().any(|name| states(name)) {
                replaced.push((variable, own.variable()));
            }
        } else if let Some(foreign) = Foreign::find_argument(&name)
            && foreign.is_missed(&value(foreign, text))
        {
            match missed
                .iter_mut()
                .find(|(advice, _)| *advice == foreign.advice)
            {
                Some((_, variables)) => variables.push(variable),
                None => missed.push((foreign.advice, vec![variable])),
            }
        }
    }
    let mut warnings = Vec::new();
    if !replaced.is_empty() {
        let (variables, own): (Vec<_>, Vec<_>) = replaced.into_iter().unzip();
        warnings.push(format!(
            "{} not read: set {} instead",
            list(&variables, "is", "are"),
            own.join(", ")
        ));
    }
    warnings.extend(missed.into_iter().map(|(advice, variables)| {
        format!("{} no effect: {advice}", list(&variables, "has", "have"))
    }));
    warnings
}

/// The name of the setting that a variable is of, as Python writes it, and its text.
fn setting(environment: &dyn Environment, variable: &str) -> Option<(String, String)> {
    let name = PREFIXES
        .into_iter()
        .find_map(|prefix| variable.strip_prefix(prefix))?
        .to_lowercase();
    let text = environment::read(environment, variable).ok()??;
    // Kubernetes tells the addresses of services that are called so by such ones.
    let is_service = name.starts_with("service_") || name.starts_with("port_");
    if is_service || (name == "port" && text.contains("://")) {
        return None;
    }
    let renamed = RENAMED.into_iter().find(|(theirs, _)| *theirs == name);
    Some((renamed.map_or(name, |(_, flag)| flag.to_owned()), text))
}

fn find(name: &str) -> Option<&'static Declaration> {
    let positional = DECLARATIONS.iter().find(|each| each.positional);
    program::find(name).or(positional.filter(|each| each.name == name))
}

/// The text as what a keyword argument would be.
fn value(foreign: &Foreign, text: String) -> Value {
    match text.to_lowercase().as_str() {
        "1" | "true" | "t" | "yes" | "y" | "on" if foreign.is_switch => Value::Switch(true),
        "0" | "false" | "f" | "no" | "n" | "off" if foreign.is_switch => Value::Switch(false),
        _ => Value::Text(text),
    }
}

fn list(variables: &[String], one: &str, several: &str) -> String {
    match variables {
        [variable] => format!("the environment variable {variable} {one}"),
        _ => format!(
            "the environment variables {} {several}",
            variables.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::OsString;

    use super::*;
    use crate::config::foreign::{PROXIES, TLS};

    fn of<const N: usize>(variables: [(&str, &str); N], stated: &[&str]) -> Vec<String> {
        let variables: BTreeMap<String, OsString> = variables
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        warnings(&variables, &|name| stated.contains(&name))
    }

    #[test]
    fn what_is_called_otherwise_here_is_named() {
        let variables = [
            ("UVICORN_APP", "main:app"),
            ("UVICORN_HOST", "0.0.0.0"),
            ("UVICORN_TIMEOUT_KEEP_ALIVE", "7"),
        ];
        assert_eq!(
            of(variables, &[]),
            ["the environment variables UVICORN_APP, UVICORN_HOST, \
                 UVICORN_TIMEOUT_KEEP_ALIVE are not read: set RSGUN_APP, RSGUN_HOST, \
                 RSGUN_KEEP_ALIVE instead"]
        );
        assert_eq!(
            of(variables, &["app", "bind"]),
            [
                "the environment variable UVICORN_TIMEOUT_KEEP_ALIVE is not read: set \
                 RSGUN_KEEP_ALIVE instead"
            ]
        );
        assert_eq!(
            of([("GRANIAN_LOG_ACCESS_ENABLED", "1")], &[]),
            [
                "the environment variable GRANIAN_LOG_ACCESS_ENABLED is not read: set \
                 RSGUN_ACCESS_LOG instead"
            ]
        );
    }

    #[test]
    fn what_is_not_here_comes_with_advice() {
        let variables = [
            ("UVICORN_PROXY_HEADERS", "true"),
            ("UVICORN_SSL_KEYFILE_PASSWORD", "x"),
            ("GRANIAN_SSL_KEYFILE_PASSWORD", "x"),
        ];
        assert_eq!(
            of(variables, &[]),
            [
                format!(
                    "the environment variables GRANIAN_SSL_KEYFILE_PASSWORD, \
                     UVICORN_SSL_KEYFILE_PASSWORD have no effect: {TLS}"
                ),
                format!("the environment variable UVICORN_PROXY_HEADERS has no effect: {PROXIES}"),
            ]
        );
    }

    #[test]
    fn what_asks_for_nothing_is_no_news() {
        let variables = [
            ("UVICORN_HTTP", "httptools"),
            ("UVICORN_PROXY_HEADERS", "0"),
            ("UVICORN_DATE_HEADER", "true"),
            ("UVICORN_USE_COLORS", "1"),
            ("UVICORN_WORKERS", ""),
            ("UVICORN_PORT", "tcp://10.0.0.1:80"),
            ("UVICORN_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("UVICORN_SERVICE_HOST", "10.0.0.1"),
            ("UVICORN_OF_SOMEBODY_ELSE", "1"),
            ("HOST", "0.0.0.0"),
        ];
        assert!(of(variables, &[]).is_empty(), "{:?}", of(variables, &[]));
    }
}
