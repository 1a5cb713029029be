//! `docs/migration.md`, as far as it lists settings of other servers: generated from their
//! table, and checked by the tests. Also checks that the table has all of them.

use std::fmt::Write as _;

use super::declaration::Declaration;
use super::document::{check_part, wrap};
use super::foreign::{Consequence, Foreign};
use super::python_file::Value;
use super::settings::DECLARATIONS;

/// The flags of gunicorn 27.0.
const GUNICORN: &str = "\
    c config b bind backlog w workers k worker-class threads worker-connections \
    max-requests max-requests-jitter t timeout graceful-timeout keep-alive \
    limit-request-line limit-request-fields limit-request-field_size reload \
    reload-engine reload-extra-file spew check-config print-config preload no-sendfile \
    reuse-port chdir D daemon e env p pid worker-tmp-dir u user g group m umask \
    initgroups forwarded-allow-ips access-logfile disable-redirect-access-to-syslog \
    access-logformat error-logfile log-file log-level capture-output logger-class \
    log-config log-config-json log-syslog-to log-syslog log-syslog-prefix \
    log-syslog-facility R enable-stdio-inheritance statsd-host dogstatsd-tags \
    statsd-prefix enable-backlog-metric n name pythonpath paste paster proxy-protocol \
    proxy-allow-from protocol uwsgi-allow-from keyfile certfile ssl-version cert-reqs \
    ca-certs suppress-ragged-eofs do-handshake-on-connect ciphers http-protocols \
    http2-cleartext http2-max-concurrent-streams http2-initial-window-size \
    http2-max-frame-size http2-max-header-list-size paste-global permit-obsolete-folding \
    strip-header-spaces permit-unconventional-http-method \
    permit-unconventional-http-version casefold-http-method forwarder-headers header-map \
    asgi-loop asgi-lifespan asgi-disconnect-grace-period websocket-max-message-size \
    http-parser root-path dirty-app dirty-workers dirty-timeout dirty-threads \
    dirty-graceful-timeout control-socket control-socket-mode no-control-socket";
/// The flags of uvicorn 0.54.
const UVICORN: &str = "\
    host port uds fd reload reload-dir reload-include reload-exclude reload-delay \
    workers loop http http2 ws ws-max-size ws-max-queue ws-ping-interval ws-ping-timeout \
    ws-per-message-deflate lifespan interface env-file log-config log-level access-log \
    no-access-log use-colors no-use-colors proxy-headers no-proxy-headers server-header \
    no-server-header date-header no-date-header forwarded-allow-ips root-path \
    limit-concurrency backlog limit-max-requests limit-max-requests-jitter \
    timeout-keep-alive timeout-graceful-shutdown timeout-worker-healthcheck ssl-keyfile \
    ssl-certfile ssl-keyfile-password ssl-version ssl-cert-reqs ssl-ca-certs ssl-ciphers \
    header app-dir h11-max-incomplete-event-size reset-contextvars factory";
/// The flags of granian 2.8.
const GRANIAN: &str = "\
    host port uds uds-permissions interface http ws no-ws workers blocking-threads \
    blocking-threads-idle-timeout runtime-threads runtime-blocking-threads runtime-mode \
    loop task-impl backlog backpressure http1-buffer-size http1-header-read-timeout \
    http1-keep-alive no-http1-keep-alive http1-pipeline-flush no-http1-pipeline-flush \
    http2-adaptive-window no-http2-adaptive-window http2-initial-connection-window-size \
    http2-initial-stream-window-size http2-keep-alive-interval http2-keep-alive-timeout \
    http2-max-concurrent-streams http2-max-frame-size http2-max-headers-size \
    http2-max-send-buffer-size log no-log log-level log-config access-log no-access-log \
    access-log-fmt ssl-certificate ssl-keyfile ssl-keyfile-password ssl-protocol-min \
    ssl-ca ssl-crl ssl-client-verify no-ssl-client-verify url-path-prefix \
    respawn-failed-workers no-respawn-failed-workers respawn-interval \
    rss-sample-interval rss-samples workers-lifetime workers-max-rss \
    workers-kill-timeout factory no-factory working-dir env-files static-path-route \
    static-path-mount static-path-dir-to-file static-path-expires metrics no-metrics \
    metrics-scrape-interval metrics-address metrics-port reload no-reload reload-paths \
    reload-ignore-dirs reload-ignore-patterns reload-ignore-paths reload-tick \
    reload-ignore-worker-failure no-reload-ignore-worker-failure process-name pid-file";

/// The arguments of `uvicorn.run` and `uvicorn.Config` that have no flag of their name.
const UVICORN_ARGUMENTS: &str = "headers reload_dirs reload_includes reload_excludes \
                                 ssl_context_factory callback_notify timeout_notify";

/// The setting that a flag stands for.
fn declared(flag: &str) -> Option<&'static Declaration> {
    let is_name = |each: &Declaration| each.name == flag || each.aliases.contains(&flag);
    let is_short = |each: &Declaration| each.short.is_some_and(|letter| flag == letter.to_string());
    let positive = flag.strip_prefix("no-").unwrap_or(flag);
    DECLARATIONS
        .iter()
        .find(|each| is_name(each) || is_short(each))
        .or_else(|| {
            DECLARATIONS.iter().find(|each| {
                each.placeholder.is_empty()
                    && (each.name == positive || each.aliases.contains(&positive))
            })
        })
}

/// The table of uvicorn's flags: flags with the same fate share a line.
fn uvicorn_flags() -> String {
    let mut fates: Vec<(String, Vec<String>)> = Vec::new();
    for flag in UVICORN.split_whitespace() {
        let fate = fate(flag);
        let shown = format!("`--{flag}`");
        match fates.iter_mut().find(|(known, _)| *known == fate) {
            Some((_, flags)) => flags.push(shown),
            None => fates.push((fate, vec![shown])),
        }
    }
    let mut text = "| uvicorn | rsgun |\n|---|---|\n".to_owned();
    for (fate, flags) in fates {
        assert!(!fate.contains('|'), "{fate}");
        writeln!(text, "| {} | {fate} |", flags.join(", ")).unwrap();
    }
    text
}

/// What becomes of a flag of another server.
fn fate(flag: &str) -> String {
    if let Some(declaration) = declared(flag) {
        if declaration.aliases.contains(&flag) {
            return format!("the same; also called `--{}`", declaration.name);
        }
        return "the same".to_owned();
    }
    let foreign = foreign(flag).unwrap();
    let advice = foreign.advice;
    let switch = Value::Switch(!flag.starts_with("no-"));
    if foreign.consequence == Consequence::Nothing {
        format!("accepted, not needed: {advice}")
    } else if foreign.is_switch && !foreign.is_missed(&switch) {
        "accepted, not needed".to_owned()
    } else if foreign.harmless.is_empty() || foreign.is_switch {
        format!("refused: {advice}")
    } else {
        let harmless = quoted(foreign.harmless.iter().copied());
        format!("refused, but for {harmless}: {advice}")
    }
}

fn quoted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

fn foreign(flag: &str) -> Option<&'static Foreign> {
    Foreign::all().find(|foreign| foreign.flags.contains(&flag))
}

#[test]
fn every_flag_of_the_other_servers_is_understood_or_explained() {
    for flag in [GUNICORN, UVICORN, GRANIAN].join(" ").split_whitespace() {
        assert!(
            declared(flag).is_some() != foreign(flag).is_some(),
            "--{flag} is neither a setting nor in the table, or both"
        );
    }
    for argument in UVICORN_ARGUMENTS.split_whitespace() {
        assert!(Foreign::find_argument(argument).is_some(), "{argument}");
    }
}

#[test]
fn the_refused_settings_of_gunicorn_are_all_listed() {
    let refused = Foreign::all().filter(|each| each.consequence == Consequence::Refusal);
    let names = refused
        .map(|each| each.name)
        .filter(|name| !name.is_empty());
    let text = wrap(&format!("{}.", quoted(names)), "  ", 110);
    check_part("docs/migration.md", "refused settings", &text);
}

#[test]
fn the_flags_of_uvicorn_are_all_listed() {
    check_part("docs/migration.md", "flags of uvicorn", &uvicorn_flags());
}
