//! What other servers read and rsgun does not: told once at the start, since somebody may
//! rely on it.

use std::path::Path;

use super::declaration::Declaration;
use super::environment::Environment;
use super::foreign::{PROXIES, variables};
use super::settings::DECLARATIONS;

/// What the variables of settings begin with.
const PREFIX: &str = "RSGUN_";
/// Kubernetes tells the addresses of a service that is called `rsgun` by these.
const SERVICE: [&str; 2] = ["RSGUN_SERVICE_", "RSGUN_PORT_"];

/// The file that gunicorn reads without being told to.
const GUNICORN_FILE: &str = "gunicorn.conf.py";

/// Warnings of variables, and of a file in `directory`, that are not read. `states` says
/// whether the command line or the environment gives a setting: gunicorn looks for that
/// file only if no other one is named.
pub(super) fn warnings(
    environment: &dyn Environment,
    directory: &Path,
    states: &dyn Fn(&str) -> bool,
) -> Vec<String> {
    let is_set = |name: &str| environment.get(name).is_some_and(|value| !value.is_empty());
    let mut warnings = Vec::new();
    if !states("config") && directory.join(GUNICORN_FILE).is_file() {
        warnings.push(format!(
            "{} is not read unless it is named: add `-c {GUNICORN_FILE}`",
            directory.join(GUNICORN_FILE).display()
        ));
    }
    if is_set("GUNICORN_CMD_ARGS") {
        warnings.push(
            "the environment variable GUNICORN_CMD_ARGS is not read: put its options on the \
             command line, or into a file that `-c` names"
                .to_owned(),
        );
    }
    if is_set("FORWARDED_ALLOW_IPS") {
        warnings.push(format!(
            "the environment variable FORWARDED_ALLOW_IPS has no effect: {PROXIES}"
        ));
    }
    warnings.extend(variables::warnings(environment, states));
    let mut names = environment.names();
    names.sort_unstable();
    warnings.extend(names.iter().filter_map(|name| unknown(name)));
    warnings
}

/// A warning of a variable that looks like one of a setting and is none.
fn unknown(variable: &str) -> Option<String> {
    let name = variable.strip_prefix(PREFIX)?;
    let is_known = DECLARATIONS.iter().any(|each| each.variable() == variable);
    if is_known || SERVICE.iter().any(|start| variable.starts_with(start)) {
        return None;
    }
    let nearest = DECLARATIONS
        .iter()
        .find(|each| Some(each.name) == Declaration::nearest(name));
    let hint = match nearest {
        Some(nearest) => format!("did you mean {}?", nearest.variable()),
        None => "docs/settings.md lists all settings".to_owned(),
    };
    Some(format!(
        "the environment variable {variable} is none of a setting; {hint}"
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::OsString;

    use super::*;

    fn of<const N: usize>(variables: [(&str, &str); N], names_file: bool) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(GUNICORN_FILE), "").unwrap();
        let variables: BTreeMap<String, OsString> = variables
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        warnings(&variables, directory.path(), &|name| {
            name == "config" && names_file
        })
    }

    #[test]
    fn what_others_read_is_named_with_what_to_do() {
        let [file] = of([], false).try_into().unwrap();
        assert!(file.ends_with(
            "gunicorn.conf.py is not read unless it is named: add `-c gunicorn.conf.py`"
        ));
        assert!(of([], true).is_empty());
        let variables = [
            ("GUNICORN_CMD_ARGS", "--workers 4"),
            ("FORWARDED_ALLOW_IPS", "127.0.0.1"),
        ];
        let [arguments, proxies] = of(variables, true).try_into().unwrap();
        assert!(arguments.contains("GUNICORN_CMD_ARGS") && arguments.contains("`-c`"));
        assert!(proxies.contains("ProxyFix") && proxies.contains("ProxyHeadersMiddleware"));
        let empty = [("GUNICORN_CMD_ARGS", ""), ("FORWARDED_ALLOW_IPS", "")];
        assert!(of(empty, true).is_empty());
    }

    #[test]
    fn a_variable_that_is_no_setting_is_named_with_the_nearest() {
        assert_eq!(
            of([("RSGUN_WORKER", "2"), ("RSGUN_ZZZ", "")], true),
            [
                "the environment variable RSGUN_WORKER is none of a setting; did you mean \
                 RSGUN_WORKERS?",
                "the environment variable RSGUN_ZZZ is none of a setting; docs/settings.md lists \
                 all settings",
            ]
        );
        let known = [
            ("RSGUN_WORKERS", "2"),
            ("RSGUN_CONFIG", "x"),
            ("RSGUN_SERVICE_HOST", "10.0.0.1"),
            ("RSGUN_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
            ("OTHER", "1"),
        ];
        assert!(of(known, true).is_empty());
    }
}
