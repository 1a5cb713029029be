//! How the text of a value is read.
//!
//! Each function takes the texts given for a setting: none when neither a source nor
//! the default has one, several for a list.

mod app;

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use super::python_file::{MODULE, PythonSource};
use super::{ConfigFile, LogTarget, Milliseconds, ReloadStrategy, Size, WebSockets, WorkerCount};
use crate::listeners::{Address, AddressError};
use crate::log::Level;

pub(super) use self::app::{
    application, event_loop, interface, is_without_lifespan, lifespan, optional_worker_class,
};

/// A text that is not a value of its setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` {reason}")]
pub struct ValueError {
    /// The text.
    pub text: String,
    /// What is wrong with it and what would be right; follows the text in a sentence.
    pub reason: String,
}

impl ValueError {
    fn new(text: &str, reason: impl Display) -> Self {
        Self {
            text: text.to_owned(),
            reason: reason.to_string(),
        }
    }
}

type Read<T> = Result<T, ValueError>;

fn first(texts: &[String]) -> &str {
    texts.first().map_or("", String::as_str)
}

fn optional<T>(texts: &[String], read: impl Fn(&str) -> Read<T>) -> Read<Option<T>> {
    texts.first().map(|text| read(text)).transpose()
}

/// The texts, or none where gunicorn takes an empty one for nothing.
fn filled(texts: &[String]) -> &[String] {
    match texts {
        [text] if text.is_empty() => &[],
        _ => texts,
    }
}

/// A whole number within bounds.
pub(super) fn number<T>(texts: &[String], range: &RangeInclusive<T>) -> Read<T>
where
    T: FromStr + Display + PartialOrd,
{
    let text = first(texts);
    let bounds = || {
        let (low, high) = (range.start(), range.end());
        ValueError::new(
            text,
            format_args!("is not a whole number from {low} to {high}"),
        )
    };
    let digits = text.trim();
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bounds());
    }
    match digits.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(bounds()),
    }
}

/// The number of workers.
pub(super) fn workers(texts: &[String]) -> Read<WorkerCount> {
    let text = first(texts);
    if text.trim().eq_ignore_ascii_case("auto") {
        return Ok(WorkerCount::Auto);
    }
    number(texts, &(1..=512))
        .map(WorkerCount::Fixed)
        .map_err(|error: ValueError| {
            ValueError::new(text, format_args!("{}, nor `auto`", error.reason))
        })
}

/// A mask for the modes of new files, in octal digits, or nothing.
pub(super) fn optional_umask(texts: &[String]) -> Read<Option<u32>> {
    optional(texts, |text| {
        let digits = text.trim();
        let digits = digits.strip_prefix("0o").unwrap_or(digits);
        let is_octal = digits.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
        u32::from_str_radix(digits, 8)
            .ok()
            .filter(|mask| is_octal && *mask <= 0o777)
            .ok_or_else(|| {
                ValueError::new(text, "is not an octal number from 0 to 777, such as 027")
            })
    })
}

/// The name or number of a user or group, or nothing.
pub(super) fn optional_account(texts: &[String]) -> Read<Option<String>> {
    optional(texts, |text| match text.trim() {
        "" => Err(ValueError::new(text, "is neither a name nor a number")),
        name => Ok(name.to_owned()),
    })
}

/// A word for the process titles, or nothing.
pub(super) fn optional_name(texts: &[String]) -> Read<Option<String>> {
    optional(filled(texts), |text| {
        if text.chars().any(char::is_control) {
            return Err(ValueError::new(text, "is not a name that can be shown"));
        }
        Ok(text.to_owned())
    })
}

/// Directories, any number of them in each text, separated by commas.
pub(super) fn directories(texts: &[String]) -> Read<Vec<String>> {
    let parts = texts.iter().flat_map(|text| text.split(','));
    let all: Vec<String> = parts.map(|part| part.trim().to_owned()).collect();
    match all.iter().find(|part| part.contains('\0')) {
        Some(part) => Err(ValueError::new(part, "is not a path")),
        None => Ok(all.into_iter().filter(|part| !part.is_empty()).collect()),
    }
}

/// Variables as `NAME=VALUE`.
pub(super) fn variables(texts: &[String]) -> Read<Vec<String>> {
    for text in texts {
        let name = text.split_once('=').map_or("", |(name, _)| name);
        if name.is_empty() || text.contains('\0') {
            return Err(ValueError::new(
                text,
                "is not NAME=VALUE, such as `DJANGO_SETTINGS_MODULE=site.settings`",
            ));
        }
    }
    Ok(texts.to_vec())
}

/// Where log lines go: a file, or `-` for the standard stream. No text is a file's way to
/// say that there is no such log, which [`super::Source`] sees to.
pub(super) fn log_target(texts: &[String]) -> Read<LogTarget> {
    match texts.first().map_or("-", String::as_str) {
        "-" => Ok(LogTarget::Standard),
        _ => path(texts).map(LogTarget::File),
    }
}

/// Seconds, 0 included.
pub(super) fn seconds(texts: &[String]) -> Read<u32> {
    const YEAR: u32 = 365 * 24 * 3600;
    number(texts, &(0..=YEAR))
}

/// How many requests, 0 included.
pub(super) fn requests(texts: &[String]) -> Read<u64> {
    number(texts, &(0..=1_000_000_000_000))
}

/// A size in bytes, or nothing; 0 stands for nothing too.
pub(super) fn optional_size(texts: &[String]) -> Read<Option<Size>> {
    let size = optional(texts, str::parse::<Size>)?;
    Ok(size.filter(|size| size.bytes() > 0))
}

/// Seconds with or without a fraction, 0 included, as milliseconds.
pub(super) fn decimal_seconds(texts: &[String]) -> Read<Milliseconds> {
    const DAY: f64 = 24.0 * 3600.0;
    let text = first(texts);
    let trimmed = text.trim();
    let is_plain = trimmed
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    match trimmed.parse::<f64>() {
        Ok(seconds) if is_plain && seconds <= DAY => {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 0 and a day"
            )]
            let milliseconds = (seconds * 1000.0).ceil() as u64;
            Ok(milliseconds)
        }
        _ => Err(ValueError::new(
            text,
            format_args!("is not a number of seconds from 0 to {DAY}"),
        )),
    }
}

/// A port, or nothing.
pub(super) fn optional_port(texts: &[String]) -> Read<Option<u16>> {
    optional(texts, |text| {
        number(&[text.to_owned()], &(0..=u16::MAX)).map_err(|error| {
            // What container platforms set for a service that is called rsgun.
            if text.starts_with("tcp://") {
                let reason = "is not a port; Kubernetes sets this variable for a service that is \
                              called `rsgun`: set enableServiceLinks to false for the pod";
                return ValueError::new(text, reason);
            }
            error
        })
    })
}

/// A descriptor's number, or nothing.
pub(super) fn optional_descriptor(texts: &[String]) -> Read<Option<i32>> {
    optional(texts, |text| number(&[text.to_owned()], &(0..=i32::MAX)))
}

/// On or off.
pub(super) fn switch(texts: &[String]) -> Read<bool> {
    let text = first(texts);
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(ValueError::new(text, "is neither `true` nor `false`")),
    }
}

/// Any text.
#[expect(
    clippy::unnecessary_wraps,
    reason = "all readers have the same signature"
)]
pub(super) fn text(texts: &[String]) -> Read<String> {
    Ok(first(texts).to_owned())
}

/// A path that is not empty.
pub(super) fn path(texts: &[String]) -> Read<PathBuf> {
    let text = first(texts);
    if text.is_empty() || text.contains('\0') {
        return Err(ValueError::new(text, "is not a path"));
    }
    Ok(PathBuf::from(text))
}

/// A path, or nothing.
pub(super) fn optional_path(texts: &[String]) -> Read<Option<PathBuf>> {
    optional(filled(texts), |text| path(&[text.to_owned()]))
}

/// A configuration file by its path, with gunicorn's prefixes, or nothing. What is not
/// called a file of TOML is one of Python, as every file is for gunicorn.
pub(super) fn optional_config(texts: &[String]) -> Read<Option<ConfigFile>> {
    optional(filled(texts), |text| {
        if let Some(module) = text.strip_prefix(MODULE) {
            let is_word = |part: &str| !part.is_empty() && !part.contains(['/', '\0', ' ']);
            if !module.split('.').all(is_word) {
                return Err(ValueError::new(
                    text,
                    "names no module, such as `python:site.gunicorn_conf`; a file is named by its \
                     path alone",
                ));
            }
            let module = module.to_owned();
            return Ok(ConfigFile::Python(PythonSource::Module { module }));
        }
        let path = path(&[text.strip_prefix("file:").unwrap_or(text).to_owned()])?;
        let is_toml = path.extension().is_some_and(|suffix| suffix == "toml");
        Ok(if is_toml {
            ConfigFile::Toml(path)
        } else {
            ConfigFile::Python(PythonSource::File(path))
        })
    })
}

/// The socket path of `--uds`, or nothing.
pub(super) fn optional_socket_path(texts: &[String]) -> Read<Option<Address>> {
    optional(texts, |text| {
        Address::from_socket_path(text).map_err(|error| ValueError::new(text, error))
    })
}

/// Addresses as `--bind` takes them.
pub(super) fn addresses(texts: &[String]) -> Read<Vec<Address>> {
    let read = |text: &String| {
        text.parse()
            .map_err(|error: AddressError| ValueError::new(text, error))
    };
    texts.iter().map(read).collect()
}

/// A host as `--host` takes it, or nothing.
pub(super) fn optional_host(texts: &[String]) -> Read<Option<String>> {
    optional(texts, |text| match Address::from_host_and_port(text, 0) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(ValueError::new(text, error)),
    })
}

/// `--reload-strategy`.
pub(super) fn reload_strategy(texts: &[String]) -> Read<ReloadStrategy> {
    choice(
        texts,
        &[
            ("rolling", ReloadStrategy::Rolling),
            ("parallel", ReloadStrategy::Parallel),
        ],
    )
}

/// `--ws`; uvicorn's names for its implementations mean that there is one.
pub(super) fn web_sockets(texts: &[String]) -> Read<WebSockets> {
    choice(
        texts,
        &[
            ("auto", WebSockets::Auto),
            ("none", WebSockets::None),
            ("websockets", WebSockets::Auto),
            ("websockets-sansio", WebSockets::Auto),
            ("wsproto", WebSockets::Auto),
        ],
    )
}

/// `--log-level`.
pub(super) fn level(texts: &[String]) -> Read<Level> {
    choice(
        texts,
        &[
            ("critical", Level::Critical),
            ("error", Level::Error),
            ("warning", Level::Warning),
            ("warn", Level::Warning),
            ("info", Level::Info),
            ("debug", Level::Debug),
            ("trace", Level::Trace),
        ],
    )
}

/// One of some words, in any case.
fn choice<T: Copy>(texts: &[String], words: &[(&str, T)]) -> Read<T> {
    let text = first(texts);
    let wanted = text.trim().to_ascii_lowercase();
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == wanted) {
        return Ok(*value);
    }
    let all: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
    Err(ValueError::new(
        text,
        format_args!("is none of {}", all.join(", ")),
    ))
}

#[cfg(test)]
mod tests {
    use crate::config::case::{APP, case};

    #[test]
    fn gunicorn_s_ways_to_say_nothing_and_warning_are_understood() {
        let nothing = [
            APP,
            ("pid", ""),
            ("chdir", ""),
            ("name", ""),
            ("config", ""),
        ];
        let settings = case(nothing, [], None).settings();
        assert_eq!(
            (settings.pid, settings.chdir, settings.name),
            (None, None, None)
        );
        for text in ["warn", "WARN", "Warning"] {
            let settings = case([APP, ("log-level", text)], [], None).settings();
            assert_eq!(settings.log_level, crate::log::Level::Warning, "{text}");
        }
        // Whoever means a user and names none must not serve as root.
        for name in ["user", "group"] {
            let error = case([APP, (name, "")], [], None).error();
            assert!(error.contains("neither a name nor a number"), "{error}");
        }
    }
}
