//! The command line, built from the declarations of the settings.
//!
//! Nothing here knows a setting by name: flags, aliases, help and the checks of the
//! values come from [`DECLARATIONS`]. A switch gets a second flag, `--no-NAME`, since
//! the command line must be able to undo what a file or a variable says.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command as Parser};
use rsgun_core::config::{
    DECLARATIONS, Declaration, Environment, Kind, Layer, Origin, Section, Source,
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
/// [`Source::resolve`], which reads the environment and the configuration file.
///
/// # Errors
/// [`CliError`] for unknown flags (it names the nearest one), missing and wrong values.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl Environment + 'static,
    directory: PathBuf,
) -> Result<Command, CliError> {
    match parser().try_get_matches_from(arguments) {
        Ok(matches) => Ok(Command::Serve(Source::new(
            layer(&matches),
            environment,
            directory,
        ))),
        Err(error) => {
            let text = error.render().to_string();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Command::Print(text)),
                _ => Err(CliError { text }),
            }
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  rsgun main:app                            serve `app` of main.py on 127.0.0.1:8000
  rsgun -w 4 -b :8080 main:app              four workers, on every address
  rsgun --uds /run/app.sock main:app        behind a proxy on the same machine
  rsgun -c rsgun.toml                       everything from a file

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
        return vec![with_value(base, declaration)];
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
        Kind::Text | Kind::Number | Kind::Switch => ArgAction::Set,
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
            Kind::Text | Kind::Number | Kind::List => {
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
