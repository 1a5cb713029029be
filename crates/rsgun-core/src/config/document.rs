//! The files that are generated from the declarations: `docs/settings.md`,
//! `config/rsgun.toml`, and the keyword arguments in `python/rsgun/_settings.pyi`; and the
//! means to keep parts of other files so.
//!
//! The tests compare them with what is in the repository; with `RSGUN_BLESS` set they
//! write them instead.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::declaration::{Declaration, Kind, Section};
use super::settings::DECLARATIONS;

const INTRODUCTION: &str = "\
# Settings

<!-- Generated from the declarations in crates/rsgun-core/src/config/settings.rs:
     change them there and run `RSGUN_BLESS=1 cargo test -p rsgun-core`. -->

A setting can be given in four ways. The first one that has it wins:

1. on the command line: `--log-level debug`;
2. in the environment: `RSGUN_LOG_LEVEL=debug`;
3. in the file that `-c FILE` or `RSGUN_CONFIG` names, in TOML: `log-level = \"debug\"`
   (`log_level` is understood as well), or in a `gunicorn.conf.py`, under gunicorn's name
   or, after `rsgun_`, under its own: `loglevel = \"debug\"`,
   `rsgun_boot_timeout = 60`; see [migration](migration.md);
4. by default.

An empty variable counts as not set. A switch such as `--preload` has an opposite,
`--no-preload`, which overrides what a variable or the file says. Unknown flags and keys
are errors, and an unknown variable that begins with `RSGUN_` is a warning. A wrong
command line ends rsgun with exit code 2, any other mistake in the configuration with 1.

In a Python program they are keyword arguments of `rsgun.run`, with `_` for `-`, which
take the place of the command line: [in a Python program](programmatic.md).

A reload (`SIGHUP`) reads the file again; flags and variables of a running process do
not change. Where it says below that a setting needs a restart, a reload leaves the old
value in force.

**Where to listen** can be said in one of four ways: with `bind`, with `host` and
`port`, with `uds`, or with `fd`. Two of them in one place (all flags are one place, all
variables are another, the file is the third) contradict each other and are an error. In
different places, the stronger place wins alone: `--uds` on the command line replaces
`bind` of the file. Only `host` and `port` complete each other: `--port 9000` keeps the
`host` of the file. When nothing says where to listen, the sockets are taken that systemd
has opened for rsgun (`LISTEN_FDS`); without any, the variable `PORT`, which many
platforms set, means `0.0.0.0:$PORT`.
";

/// The text of `docs/settings.md`.
fn reference() -> String {
    let mut text = INTRODUCTION.to_owned();
    for section in Section::ALL {
        write!(text, "\n## {}\n", section.title()).unwrap();
        for declaration in in_section(section) {
            text.push('\n');
            text.push_str(&entry(declaration));
        }
    }
    text
}

fn in_section(section: Section) -> impl Iterator<Item = &'static Declaration> {
    DECLARATIONS
        .iter()
        .filter(move |declaration| declaration.section == section)
}

fn entry(declaration: &Declaration) -> String {
    let mut text = format!("### `{}`\n\n", declaration.name);
    let details = declaration
        .details
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let about = format!("{} {details}", declaration.help());
    text.push_str(&wrap(about.trim(), "", 88));
    text.push('\n');
    let mut line = |what: &str, value: &str| {
        writeln!(text, "- {what}: {value}").unwrap();
    };
    line("Command line", &flags(declaration));
    let variables: Vec<String> = std::iter::once(declaration.variable())
        .chain(declaration.variables.iter().map(|&name| name.to_owned()))
        .map(|name| format!("`{name}`"))
        .collect();
    line("Environment", &variables.join(", "));
    if !declaration.gunicorn.is_empty() {
        line("gunicorn.conf.py", &format!("`{}`", declaration.gunicorn));
    }
    match declaration.default {
        Some("") => line("Default", "empty"),
        Some(_) => line("Default", &format!("`{}`", literal(declaration))),
        None => line("Default", declaration.otherwise),
    }
    line(
        "Reload",
        if declaration.reload {
            "applies a change"
        } else {
            "needs a restart"
        },
    );
    if declaration.needs_master {
        line(
            "In a Python program",
            "not for an application object, which has no process manager",
        );
    }
    text
}

fn flags(declaration: &Declaration) -> String {
    if declaration.positional {
        return format!("`{}`", declaration.placeholder);
    }
    let mut flags: Vec<String> = declaration
        .short
        .iter()
        .map(|letter| format!("-{letter}"))
        .collect();
    let names = std::iter::once(&declaration.name).chain(declaration.aliases);
    if declaration.kind == Kind::Switch {
        flags.extend(names.flat_map(|name| [format!("--{name}"), format!("--no-{name}")]));
    } else {
        flags.extend(names.map(|name| format!("--{name}")));
        if let Some(first) = flags.first_mut() {
            write!(first, " {}", declaration.placeholder).unwrap();
        }
    }
    let quoted: Vec<String> = flags.iter().map(|flag| format!("`{flag}`")).collect();
    quoted.join(", ")
}

const SAMPLE_INTRODUCTION: &str = "\
# rsgun.toml: every setting, with its default or, where there is none, an example.
#
# Use it with `rsgun -c rsgun.toml`. To change a setting, remove the `#` before its
# name. Flags and variables override what stands here. docs/settings.md says more.
";

/// The text of `config/rsgun.toml`.
fn sample() -> String {
    let mut text = SAMPLE_INTRODUCTION.to_owned();
    for section in Section::ALL {
        let mut entries = in_section(section).filter(|entry| entry.in_file).peekable();
        if entries.peek().is_none() {
            continue;
        }
        let title = section.title();
        write!(text, "\n# {title}\n# {}\n", "-".repeat(title.len())).unwrap();
        for declaration in entries {
            let mut about = declaration.help();
            if declaration.default.is_none() {
                write!(about, " Without it: {}.", declaration.otherwise).unwrap();
            }
            text.push('\n');
            text.push_str(&wrap(
                &about.split_whitespace().collect::<Vec<_>>().join(" "),
                "# ",
                88,
            ));
            writeln!(text, "#{} = {}", declaration.name, literal(declaration)).unwrap();
        }
    }
    text
}

const STUB_INTRODUCTION: &str = "\
# Generated from the declarations in crates/rsgun-core/src/config/settings.rs: change them
# there and run `RSGUN_BLESS=1 cargo test -p rsgun-core`.

from collections.abc import Sequence
from os import PathLike
from typing import TypeAlias, TypedDict

Text: TypeAlias = str | PathLike[str]

class Settings(TypedDict, total=False):
    \"\"\"The settings as keyword arguments. None means that one is not given, but for pings.\"\"\"
";

/// The text of `python/rsgun/_settings.pyi`.
fn stub() -> String {
    let mut text = STUB_INTRODUCTION.to_owned();
    for section in Section::ALL {
        for declaration in in_section(section).filter(|each| !each.positional) {
            let kind = match declaration.kind {
                // Those of Python's logging.
                _ if declaration.name == "log-level" => "Text | int | None",
                Kind::Text | Kind::Mask => "Text | None",
                Kind::Number => "int | None",
                Kind::Count => "int | str | None",
                Kind::Decimal => "float | None",
                Kind::Switch => "bool | None",
                Kind::List => "Text | Sequence[Text] | None",
            };
            let name = declaration.name.replace('-', "_");
            let help = declaration.help().replace("--", "");
            write!(text, "\n    {name}: {kind}\n    \"\"\"").unwrap();
            let lines = wrap(&help, "    ", 90);
            text.push_str(lines.trim());
            let end = if lines.lines().count() > 1 {
                "\n    "
            } else {
                ""
            };
            writeln!(text, "{end}\"\"\"").unwrap();
            for alias in declaration.aliases {
                let alias = alias.replace('-', "_");
                write!(text, "\n    {alias}: {kind}\n    \"\"\"").unwrap();
                writeln!(text, "The same as `{name}`.\"\"\"").unwrap();
            }
        }
    }
    text
}

/// The default, or the example, as TOML has it.
fn literal(declaration: &Declaration) -> String {
    match (declaration.default, declaration.kind) {
        (None, _) => declaration.example.to_owned(),
        (Some(text), Kind::Number | Kind::Count | Kind::Decimal | Kind::Switch) => text.to_owned(),
        (Some(text), Kind::Text | Kind::Mask | Kind::List) => format!("\"{text}\""),
    }
}

pub(super) fn wrap(text: &str, prefix: &str, width: usize) -> String {
    let mut lines = String::new();
    let mut line = prefix.to_owned();
    for word in text.split(' ') {
        if line.len() > prefix.len() {
            if line.len() + 1 + word.len() > width {
                lines.push_str(&line);
                lines.push('\n');
                prefix.clone_into(&mut line);
            } else {
                line.push(' ');
            }
        }
        line.push_str(word);
    }
    lines + &line + "\n"
}

fn check(path: &str, generated: &str) {
    let stored = stored(path);
    let stored = match std::fs::read_to_string(&stored) {
        _ if std::env::var_os("RSGUN_BLESS").is_some() => {
            std::fs::create_dir_all(stored.parent().unwrap()).unwrap();
            std::fs::write(&stored, generated).unwrap();
            return;
        }
        Ok(text) => text,
        Err(error) => panic!("{path}: {error}"),
    };
    assert!(
        stored == generated,
        "{path} is not what the declarations say; run `RSGUN_BLESS=1 cargo test -p rsgun-core`"
    );
}

/// Checks what stands between the comments that name this part of a file.
pub(super) fn check_part(path: &str, part: &str, generated: &str) {
    let text = std::fs::read_to_string(stored(path)).unwrap();
    let begin = format!("<!-- generated: {part} -->\n");
    let (before, rest) = text.split_once(&begin).expect("the part begins");
    let end = rest.find("<!-- end -->").expect("the part ends");
    // The comment may be indented.
    let end = rest[..end].rfind('\n').map_or(0, |line| line + 1);
    check(path, &format!("{before}{begin}{generated}{}", &rest[end..]));
}

fn stored(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

#[test]
fn the_reference_is_up_to_date() {
    check("docs/settings.md", &reference());
}

#[test]
fn the_keyword_arguments_are_up_to_date() {
    check("python/rsgun/_settings.pyi", &stub());
}

#[test]
fn the_sample_file_is_up_to_date() {
    check("config/rsgun.toml", &sample());
}

/// The settings of the sample, taken out of their comments.
fn uncommented() -> Vec<String> {
    sample()
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| line.starts_with(|letter: char| letter.is_ascii_lowercase()))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_sample_file_sets_nothing_and_can_be_read() {
    let table: toml::Table = sample().parse().unwrap();
    assert!(table.is_empty());
}

#[test]
fn every_line_of_the_sample_file_is_a_setting() {
    let lines = uncommented();
    assert_eq!(
        lines.len(),
        DECLARATIONS.iter().filter(|each| each.in_file).count()
    );
    for line in lines {
        let layer = super::file::parse(Path::new("sample.toml"), &line)
            .unwrap_or_else(|error| panic!("{line}: {error}"));
        let name = line.split(' ').next().unwrap();
        let texts = &layer.get(name).unwrap().texts;
        (Declaration::find(name).unwrap().check)(texts)
            .unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}
