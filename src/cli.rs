//! The command line, built from the declarations of the settings.
//!
//! Nothing here knows a setting by name: flags, aliases, help and the checks of the
//! values come from [`DECLARATIONS`]. A switch gets a second flag, `--no-NAME`, since
//! the command line must be able to undo what a file or a variable says.

mod foreign;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command as Parser};
use rsgun_core::config::{
    DECLARATIONS, Declaration, Environment, Foreign, Kind, Layer, Origin, Section, Source,
    are_alike,
};

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Serve, with the settings that this resolves to.
    Serve(Source),
    /// Write this to standard output and exit with 0: help or version.
    Print(String),
}

/// A command line that cannot be understood. The text has several lines and ends with
/// a newline; the exit code is [`CliError::EXIT_CODE`].
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct CliError {
    text: String,
}

impl CliError {
    /// The exit code of the process.
    pub const EXIT_CODE: u8 = 2;
}

/// Parses the arguments, of which the first is the name of the program.
///
/// `directory` is the current directory, where relative paths start. Values are
/// checked as far as the command line alone allows; the rest is done by
/// [`Source::look`], which reads the environment and the configuration file.
///
/// # Errors
/// [`CliError`] for unknown flags (it names the nearest one), missing and wrong values.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl Environment + 'static,
    directory: PathBuf,
) -> Result<Command, CliError> {
    let matches = parser().try_get_matches_from(arguments);
    match matches.and_then(|matches| Ok((foreign::needless(&matches)?, matches))) {
        Ok((notes, matches)) => Ok(Command::Serve(
            Source::new(layer(&matches), environment, directory).with_notes(notes),
        )),
        Err(mut error) => {
            leave_out_far_fetched(&mut error);
            let text = error.render().to_string();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Command::Print(text)),
                _ => Err(CliError { text }),
            }
        }
    }
}

/// Suggests no flag that has little in common with what was given.
fn leave_out_far_fetched(error: &mut clap::Error) {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.trim_start_matches('-')),
        _ => None,
    };
    if let Some(given) = text(ContextKind::InvalidArg)
        && let Some(suggested) = text(ContextKind::SuggestedArg)
        && !are_alike(given, suggested)
    {
        error.remove(ContextKind::SuggestedArg);
    }
}

const EXAMPLES: &str = "\
Examples:
  rsgun main:app                            serve `app` of main.py on 127.0.0.1:8000
  rsgun -w 4 -b :8080 main:app              four workers, on every address
  rsgun --uds /run/app.sock main:app        behind a proxy on the same machine
  rsgun -c rsgun.toml                       everything from a file
  rsgun -c gunicorn.conf.py                 the same, with hooks

Each setting is also a key of the file and a variable: --log-level is `log-level`
and RSGUN_LOG_LEVEL. The command line wins over the environment, and that over
the file.";

fn parser() -> Parser {
    let mut parser = Parser::new("rsgun")
        .version(rsgun_core::VERSION)
        .about("Serves Python web applications.")
        .override_usage("rsgun [OPTIONS] MODULE:ATTRIBUTE")
        .after_help(EXAMPLES)
        .max_term_width(100)
        .args_override_self(true)
        .disable_help_flag(true)
        .disable_version_flag(true);
    for section in Section::ALL {
        for declaration in DECLARATIONS.iter().filter(|each| each.section == section) {
            parser = parser.args(arguments(declaration));
        }
    }
    let title = Section::Configuration.title();
    parser
        .args(Foreign::all().flat_map(foreign::flags))
        .arg(
            Arg::new("help")
                .short('h')
                .long("help")
                .action(ArgAction::Help)
                .help_heading(title)
                .help("Show this text"),
        )
        .arg(
            Arg::new("version")
                .short('V')
                .visible_short_alias('v')
                .long("version")
                .action(ArgAction::Version)
                .help_heading(title)
                .help("Show the version"),
        )
}

/// The arguments of a setting: two for a switch, else one.
fn arguments(declaration: &'static Declaration) -> Vec<Arg> {
    let is_on = declaration.default == Some("true");
    let base = Arg::new(declaration.name)
        .help_heading(declaration.section.title())
        .help(help(declaration, is_on));
    if declaration.positional {
        return vec![with_value(base.display_order(0), declaration)];
    }
    let base = base.long(declaration.name).aliases(declaration.aliases);
    let base = match declaration.short {
        Some(letter) => base.short(letter),
        None => base,
    };
    if declaration.kind != Kind::Switch {
        return vec![with_value(base, declaration)];
    }
    let opposite = opposite(declaration);
    let negative = Arg::new(opposite.clone())
        .long(opposite.clone())
        .aliases(
            declaration
                .aliases
                .iter()
                .map(|alias| format!("no-{alias}")),
        )
        .action(ArgAction::SetTrue)
        .overrides_with(declaration.name)
        .hide(true);
    let positive = base.action(ArgAction::SetTrue).overrides_with(opposite);
    vec![positive, negative]
}

fn opposite(declaration: &Declaration) -> String {
    format!("no-{}", declaration.name)
}

fn with_value(argument: Arg, declaration: &'static Declaration) -> Arg {
    let check = declaration.check;
    let action = match declaration.kind {
        Kind::List => ArgAction::Append,
        Kind::Text | Kind::Number | Kind::Count | Kind::Decimal | Kind::Mask | Kind::Switch => {
            ArgAction::Set
        }
    };
    argument
        .value_name(declaration.placeholder)
        .action(action)
        // So that a wrong number is called one, and not an unknown flag.
        .allow_negative_numbers(true)
        .value_parser(move |text: &str| match check(&[text.to_owned()]) {
            Ok(()) => Ok(text.to_owned()),
            Err(error) => Err(format!("it {}", error.reason)),
        })
}

fn help(declaration: &Declaration, is_on: bool) -> String {
    let mut text = declaration.help();
    // Documentation is Markdown; a terminal is not.
    text.retain(|letter| letter != '`');
    let text = text.trim_end_matches('.');
    match (declaration.kind, declaration.default) {
        (Kind::Switch, _) if is_on => {
            format!(
                "{text} [default; --{} for the opposite]",
                opposite(declaration)
            )
        }
        (Kind::Switch, _) | (_, None | Some("")) => text.to_owned(),
        (_, Some(default)) => format!("{text} [default: {default}]"),
    }
}

/// What the command line says about the settings.
fn layer(matches: &ArgMatches) -> Layer {
    let mut layer = Layer::default();
    for declaration in DECLARATIONS {
        let option = if declaration.positional {
            declaration.placeholder.to_owned()
        } else {
            format!("--{}", declaration.name)
        };
        match declaration.kind {
            Kind::Switch => {
                let negative = opposite(declaration);
                for (flag, value) in [(declaration.name, "true"), (negative.as_str(), "false")] {
                    if matches.get_flag(flag) {
                        let option = format!("--{flag}");
                        let origin = Origin::CommandLine { option };
                        layer.set(declaration, vec![value.to_owned()], origin);
                    }
                }
            }
            Kind::Text | Kind::Number | Kind::Count | Kind::Decimal | Kind::Mask | Kind::List => {
                let texts: Vec<String> = matches
                    .get_many::<String>(declaration.name)
                    .into_iter()
                    .flatten()
                    .cloned()
                    .collect();
                if !texts.is_empty() {
                    layer.set(declaration, texts, Origin::CommandLine { option });
                }
            }
        }
    }
    layer
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rsgun_core::config::{Configured, LogTarget, Settings, WorkerCount};
    use rsgun_core::log::Level;

    use super::*;

    pub(super) fn run(line: &str, variables: &[(&str, &str)]) -> Result<Command, CliError> {
        let variables: BTreeMap<String, OsString> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), OsString::from(value)))
            .collect();
        let arguments = std::iter::once("rsgun").chain(line.split_whitespace());
        parse(
            arguments.map(OsString::from),
            variables,
            std::env::temp_dir(),
        )
    }

    fn settings_with(line: &str, variables: &[(&str, &str)]) -> Settings {
        match run(line, variables) {
            Ok(Command::Serve(source)) => match source.look() {
                Ok(Configured::Completely { settings, .. }) => *settings,
                other => panic!("{line}: {other:?}"),
            },
            other => panic!("{line}: {other:?}"),
        }
    }

    pub(super) fn settings(line: &str) -> Settings {
        settings_with(line, &[])
    }

    pub(super) fn error(line: &str) -> String {
        run(line, &[]).map(|_| ()).unwrap_err().to_string()
    }

    pub(super) fn printed(line: &str) -> String {
        match run(line, &[]) {
            Ok(Command::Print(text)) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_parser_is_consistent() {
        parser().debug_assert();
    }

    #[test]
    fn the_command_of_the_first_page() {
        let settings = settings("-w 4 main:app");
        assert_eq!(
            (settings.workers, settings.app.as_str()),
            (WorkerCount::Fixed(4), "main:app")
        );
        assert!(settings.access_log && !settings.preload);
    }

    #[test]
    fn flags_of_gunicorn_and_uvicorn_are_understood() {
        let gunicorn = settings(
            "main:app --workers=3 --preload-app -b :80 -b unix:/x --log-level WARNING \
             --graceful-timeout 5 --keep-alive 2 --backlog 64",
        );
        assert_eq!(
            (gunicorn.workers, gunicorn.preload),
            (WorkerCount::Fixed(3), true)
        );
        assert_eq!(gunicorn.log_level, Level::Warning);
        assert_eq!((gunicorn.graceful_timeout, gunicorn.keep_alive), (5, 2));
        assert_eq!(gunicorn.bind.len(), 2);
        let uvicorn = settings(
            "--host 0.0.0.0 --port 0 --loop asyncio --lifespan off --no-access-log --factory \
             --timeout-keep-alive 9 --timeout-graceful-shutdown 8 --root-path /api main:app",
        );
        assert_eq!(uvicorn.bind[0].to_string(), "0.0.0.0:0");
        assert!(uvicorn.factory && !uvicorn.access_log);
        assert_eq!((uvicorn.graceful_timeout, uvicorn.keep_alive), (8, 9));
        assert_eq!(uvicorn.root_path, "/api");
        assert_eq!(settings("main:app --fd 0").bind[0].to_string(), "fd://0");
    }

    #[test]
    fn flags_of_a_service_are_understood() {
        let gunicorn = settings(
            "main:app -w auto -D -p app.pid -m 007 -e A=1 --env B=x=y -n shop \
             --worker-tmp-dir /dev/shm --access-logfile /var/log/a --log-file - --capture-output",
        );
        assert_eq!(gunicorn.workers, WorkerCount::Auto);
        assert!(gunicorn.daemon && gunicorn.capture_output);
        assert_eq!(gunicorn.pid.unwrap(), PathBuf::from("app.pid"));
        assert_eq!(
            (gunicorn.umask, gunicorn.env),
            (Some(7), vec!["A=1".to_owned(), "B=x=y".to_owned()])
        );
        assert_eq!(gunicorn.name.as_deref(), Some("shop"));
        assert_eq!(
            gunicorn.access_logfile,
            LogTarget::File("/var/log/a".into())
        );
        assert_eq!(gunicorn.error_logfile, LogTarget::Standard);
        let abbreviated = settings("main:app --error-log /var/log/e");
        assert_eq!(
            abbreviated.error_logfile,
            LogTarget::File("/var/log/e".into())
        );
        let auto = settings_with("main:app", &[("WEB_CONCURRENCY", "AUTO")]);
        assert_eq!(auto.workers, WorkerCount::Auto);
        assert!(error("main:app -m 8").contains("it is not an octal number from 0 to 777"));
        assert!(error("main:app -e A").contains("it is not NAME=VALUE"));
    }

    #[test]
    fn the_last_of_repeated_flags_wins() {
        assert_eq!(
            settings("main:app -w 2 -w 3").workers,
            WorkerCount::Fixed(3)
        );
        assert!(settings("main:app --no-access-log --access-log").access_log);
        assert!(!settings("main:app --access-log --no-access-log").access_log);
        assert!(!settings("main:app --preload --no-preload-app").preload);
    }

    #[test]
    fn a_flag_overrides_a_variable() {
        let variables = [
            ("RSGUN_PRELOAD", "yes"),
            ("WEB_CONCURRENCY", "4"),
            ("RSGUN_APP", "a:b"),
        ];
        let from_environment = settings_with("", &variables);
        assert!(from_environment.preload);
        assert_eq!(
            (from_environment.workers, from_environment.app.as_str()),
            (WorkerCount::Fixed(4), "a:b")
        );
        let overridden = settings_with("--no-preload -w 2 main:app", &variables);
        assert!(!overridden.preload);
        assert_eq!(
            (overridden.workers, overridden.app.as_str()),
            (WorkerCount::Fixed(2), "main:app")
        );
    }

    #[test]
    fn mistakes_are_named_with_the_nearest_flag() {
        let text = error("main:app --worker 4");
        assert!(
            text.contains("'--worker'") && text.contains("'--workers'"),
            "{text}"
        );
        let text = error("main:app --lifepsan off");
        assert!(text.contains("'--lifespan'"), "{text}");
        let text = error("main:app -w many");
        assert!(
            text.contains(
                "'--workers <N|auto>': it is not a whole number from 1 to 512, nor `auto`"
            ),
            "{text}"
        );
        assert!(error("main:app -w -1").contains("it is not a whole number"));
        assert!(error("main:app --bind 8000").contains("write `:8000`"));
        assert!(error("main:app other:app").contains("'other:app'"));
        assert!(error("main:app --port").contains("--port <PORT>"));
    }

    #[test]
    fn contradictions_name_the_flags() {
        let Ok(Command::Serve(source)) = run("main:app --bind :80 --uds /x", &[]) else {
            panic!("the arguments themselves are well-formed");
        };
        let error = source.look().unwrap_err();
        assert!(
            error.to_string().starts_with("--bind and --uds contradict"),
            "{error}"
        );
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn help_lists_every_setting_under_its_section() {
        let help = printed("--help");
        assert_eq!(help, printed("-h"));
        for section in Section::ALL {
            assert!(help.contains(&format!("{}:\n", section.title())), "{help}");
        }
        for declaration in DECLARATIONS {
            let shown = if declaration.positional {
                format!("[{}]", declaration.placeholder)
            } else {
                format!("--{}", declaration.name)
            };
            assert!(help.contains(&shown), "{shown} is not in\n{help}");
        }
        assert!(help.contains("rsgun -w 4 -b :8080 main:app"), "{help}");
    }

    #[test]
    fn the_version_is_the_package_s() {
        for flag in ["--version", "-V", "-v"] {
            assert_eq!(printed(flag), format!("rsgun {}\n", rsgun_core::VERSION));
        }
    }
}
