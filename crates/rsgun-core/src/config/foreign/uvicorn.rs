//! Settings that uvicorn has and gunicorn has not.

use super::{Consequence, Foreign, LIMITS, NO_HTTP2, PROXIES, RELOAD, TLS};

/// In the order of uvicorn's help.
pub(super) const SETTINGS: &[Foreign] = &[
    Foreign {
        flags: &["reload-dir", "reload-paths"],
        arguments: &["reload_dirs"],
        advice: RELOAD,
        ..Foreign::BASE
    },
    Foreign {
        flags: &["reload-include"],
        arguments: &["reload_includes"],
        advice: RELOAD,
        ..Foreign::BASE
    },
    Foreign {
        flags: &["reload-exclude"],
        arguments: &["reload_excludes"],
        advice: RELOAD,
        ..Foreign::BASE
    },
    Foreign {
        flags: &["reload-delay"],
        harmless: &["0.25"],
        advice: RELOAD,
        ..Foreign::BASE
    },
    Foreign {
        flags: &["http"],
        harmless: &["auto", "h11", "httptools", "1"],
        advice: "requests are read by rsgun itself, as HTTP/1.1; for HTTP/2 let nginx, Caddy or \
                 HAProxy speak it in front",
        ..Foreign::BASE
    },
    Foreign {
        flags: &["http2"],
        is_switch: true,
        advice: NO_HTTP2,
        ..Foreign::BASE
    },
    Foreign {
        flags: &["env-file", "env-files"],
        advice: "no such file is read; set each variable with --env NAME=VALUE, let systemd \
                 (EnvironmentFile=) or the container's runtime (--env-file) read the file, or call \
                 dotenv.load_dotenv() in the application",
        ..Foreign::BASE
    },
    Foreign {
        flags: &["use-colors", "no-use-colors"],
        is_switch: true,
        consequence: Consequence::Nothing,
        advice: "the lines of the log have no colours",
        ..Foreign::BASE
    },
    Foreign {
        flags: &["proxy-headers", "no-proxy-headers"],
        is_switch: true,
        advice: PROXIES,
        ..Foreign::BASE
    },
    Foreign {
        flags: &["server-header", "no-server-header"],
        is_switch: true,
        advice: "no Server header is sent; have the application or the proxy add one",
        ..Foreign::BASE
    },
    Foreign {
        flags: &["date-header", "no-date-header"],
        is_switch: true,
        is_on: true,
        advice: "a Date header is always sent; have the proxy take it out",
        ..Foreign::BASE
    },
    Foreign {
        flags: &["limit-concurrency", "backpressure"],
        advice: "requests are not counted; have the proxy limit connections (limit_conn of nginx, \
                 maxconn of HAProxy), or the application requests; a WSGI application is limited \
                 by --threads",
        ..Foreign::BASE
    },
    Foreign {
        flags: &["timeout-worker-healthcheck"],
        harmless: &["5"],
        advice: "a worker that does not respond is found by --timeout",
        ..Foreign::BASE
    },
    Foreign {
        flags: &["ssl-keyfile-password"],
        arguments: &["ssl_context_factory"],
        consequence: Consequence::Refusal,
        advice: TLS,
        ..Foreign::BASE
    },
    Foreign {
        flags: &["header"],
        arguments: &["headers"],
        advice: "headers are added by the application, in a middleware, or by the proxy \
                 (add_header of nginx)",
        ..Foreign::BASE
    },
    Foreign {
        flags: &["h11-max-incomplete-event-size"],
        advice: LIMITS,
        ..Foreign::BASE
    },
    Foreign {
        flags: &["reset-contextvars"],
        is_switch: true,
        consequence: Consequence::Nothing,
        advice: "requests never see the context of the lifespan",
        ..Foreign::BASE
    },
    Foreign {
        arguments: &["callback_notify", "timeout_notify"],
        harmless: &["30"],
        advice: "nothing is called from time to time; start a task in the lifespan startup",
        ..Foreign::BASE
    },
];
