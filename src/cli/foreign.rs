//! The flags of other servers.
//!
//! The parser knows them, so that whoever comes from another server is told what to do
//! instead of which flag is the nearest.

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches};
use rsgun_core::config::{Foreign, Value};

use super::parser;

/// The flags of a setting of another server, which [`needless`] judges.
pub(super) fn flags(foreign: &'static Foreign) -> impl Iterator<Item = Arg> {
    foreign.flags.iter().map(|name| {
        let flag = match single_letter(name) {
            Some(letter) => Arg::new(*name).short(letter),
            None => Arg::new(*name).long(*name),
        };
        // A missing value must not hide what there is to say, and the application that
        // follows a switch is no value.
        flag.num_args(0..=1)
            .require_equals(foreign.is_switch)
            .allow_negative_numbers(true)
            .action(ArgAction::Append)
            .hide(true)
    })
}

fn single_letter(name: &str) -> Option<char> {
    let mut letters = name.chars();
    letters.next().filter(|_| letters.next().is_none())
}

/// A note for each flag of another server that asks for nothing; an error for the first
/// that asks for something.
pub(super) fn needless(matches: &ArgMatches) -> Result<Vec<String>, clap::Error> {
    let mut notes = Vec::new();
    for foreign in Foreign::all() {
        let given = |name: &&&str| matches.contains_id(name);
        for name in foreign.flags.iter().filter(given) {
            let option = match single_letter(name) {
                Some(letter) => format!("-{letter}"),
                None => format!("--{name}"),
            };
            let advice = foreign.advice;
            let given: Vec<&String> = matches.get_many(name).into_iter().flatten().collect();
            let value = match given.last() {
                Some(text) => Value::Text((*text).clone()),
                None => Value::Switch(!name.starts_with("no-")),
            };
            if foreign.is_missed(&value) {
                let text = format!("{option} is an option that rsgun does not have: {advice}");
                return Err(parser().error(ErrorKind::UnknownArgument, text));
            }
            notes.push(format!("{option} is accepted, and not needed: {advice}"));
        }
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use crate::cli::Command;
    use crate::cli::tests::{error, printed, run, settings};

    #[test]
    fn what_other_servers_have_is_refused_with_what_to_do() {
        for (flag, reason) in [
            ("--spew", "every line"),
            ("--paster app.ini", "Paste Deploy"),
            ("--strip-header-spaces", "smuggled"),
            ("--reload", "kill -HUP"),
            ("--proxy-headers", "ProxyHeadersMiddleware"),
            ("--forwarded-allow-ips=*", "SECURE_PROXY_SSL_HEADER"),
            ("--ssl-keyfile", "nginx"),
            ("--certfile /etc/cert.pem", "Caddy"),
            ("--http zttp", "HTTP/2"),
            ("--no-date-header", "always sent"),
            ("--worker-connections 5000", "ulimit -n"),
            ("--limit-request-line -1", "64 KiB"),
            ("--pid-file /run/x", "use --pid"),
        ] {
            for line in [format!("main:app {flag}"), format!("{flag} main:app")] {
                let text = error(&line);
                let name = flag.split([' ', '=']).next().unwrap();
                assert!(
                    text.contains(&format!("{name} is an option that rsgun does not have"))
                        && text.contains(reason)
                        && !text.contains("unexpected"),
                    "{text}"
                );
            }
        }
        assert!(!printed("--help").contains("spew"));
    }

    #[test]
    fn what_asks_for_nothing_is_accepted_with_a_note() {
        let line = "--worker-connections 1000 --http auto --no-proxy-headers --date-header \
                    --no-server-header --reload-engine=poll --no-sendfile main:app";
        let Ok(Command::Serve(source)) = run(line, &[]) else {
            panic!("nothing is missing");
        };
        assert_eq!(source.notes().len(), 7, "{:?}", source.notes());
        let note = source.notes().iter().find(|note| note.contains("--http"));
        assert_eq!(
            note.unwrap(),
            "--http is accepted, and not needed: requests are read by rsgun itself, as HTTP/1.1; \
             for HTTP/2 let nginx, Caddy or HAProxy speak it in front"
        );
        assert_eq!(settings(line).app, "main:app");
    }
}
