//! Settings that of these servers only granian has.

use super::{Consequence, Foreign, LIMITS, NO_HTTP2, RELOAD, TLS};

const THREADS: &str = "a worker has one thread for its connections; use more --workers";
const STATIC_FILES: &str =
    "files are served by the proxy, or by the application (StaticFiles of starlette, whitenoise)";
const METRICS: &str =
    "no metrics are exported; `rsgunctl status --json` tells the state at the --control-socket";
const RESPAWN: &str = "a worker that has ended is always replaced, at growing intervals";
const MEMORY: &str = "memory is limited by --max-rss and --hard-max-rss";

/// In the order of granian's help.
pub(super) const SETTINGS: &[Foreign] = &[
    Foreign {
        flags: &["uds-permissions"],
        advice: "a UNIX socket has the mode 0666 without the bits of --umask; restrict its \
                 directory",
        ..Foreign::BASE
    },
    Foreign {
        flags: &["no-ws"],
        is_switch: true,
        is_on: true,
        advice: "use `--ws none`",
        ..Foreign::BASE
    },
    Foreign {
        flags: &["blocking-threads-idle-timeout"],
        consequence: Consequence::Nothing,
        advice: "threads of a WSGI application stay; see --threads for how many there may be",
        ..Foreign::BASE
    },
    Foreign {
        flags: &["runtime-threads", "runtime-blocking-threads"],
        harmless: &["1"],
        advice: THREADS,
        ..Foreign::BASE
    },
    Foreign {
        flags: &["runtime-mode"],
        harmless: &["auto", "st"],
        advice: THREADS,
        ..Foreign::BASE
    },
    Foreign {
        flags: &["task-impl"],
        harmless: &["asyncio"],
        advice: "tasks are those of the event loop: see --loop",
        ..Foreign::BASE
    },
    Foreign {
        flags: &["http1-header-read-timeout"],
        advice: "a client has 60 seconds for its first request; see --keep-alive for the others",
        ..Foreign::BASE
    },
    Foreign {
        flags: &["http1-buffer-size"],
        advice: LIMITS,
        ..Foreign::BASE
    },
    Foreign {
        flags: &["http1-keep-alive", "no-http1-keep-alive"],
        is_switch: true,
        is_on: true,
        advice: "use `--keep-alive 0`",
        ..Foreign::BASE
    },
    Foreign {
        flags: &["http1-pipeline-flush", "no-http1-pipeline-flush"],
        is_switch: true,
        consequence: Consequence::Nothing,
        advice: "nothing needs to be set for it",
        ..Foreign::BASE
    },
    Foreign {
        flags: &["http2-adaptive-window", "no-http2-adaptive-window"],
        is_switch: true,
        consequence: Consequence::Nothing,
        advice: NO_HTTP2,
        ..Foreign::BASE
    },
    Foreign {
        flags: &[
            "http2-initial-connection-window-size",
            "http2-initial-stream-window-size",
            "http2-keep-alive-interval",
            "http2-keep-alive-timeout",
            "http2-max-headers-size",
            "http2-max-send-buffer-size",
        ],
        consequence: Consequence::Nothing,
        advice: NO_HTTP2,
        ..Foreign::BASE
    },
    Foreign {
        flags: &["log", "no-log"],
        is_switch: true,
        is_on: true,
        advice: "use `--log-level critical`, or `--error-logfile /dev/null`",
        ..Foreign::BASE
    },
    Foreign {
        flags: &["ssl-crl"],
        consequence: Consequence::Refusal,
        advice: TLS,
        ..Foreign::BASE
    },
    Foreign {
        flags: &["ssl-client-verify", "no-ssl-client-verify"],
        is_switch: true,
        consequence: Consequence::Refusal,
        advice: TLS,
        ..Foreign::BASE
    },
    Foreign {
        flags: &["url-path-prefix"],
        advice: "use --root-path",
        ..Foreign::BASE
    },
    Foreign {
        flags: &["respawn-failed-workers", "no-respawn-failed-workers"],
        is_switch: true,
        is_on: true,
        advice: RESPAWN,
        ..Foreign::BASE
    },
    Foreign {
        flags: &["respawn-interval"],
        advice: RESPAWN,
        ..Foreign::BASE
    },
    Foreign {
        flags: &["workers-lifetime"],
        advice: "use --max-lifetime",
        ..Foreign::BASE
    },
    Foreign {
        flags: &["workers-max-rss"],
        advice: "use --max-rss, such as `--max-rss 512M`",
        ..Foreign::BASE
    },
    Foreign {
        flags: &["rss-sample-interval", "rss-samples"],
        advice: MEMORY,
        ..Foreign::BASE
    },
    Foreign {
        flags: &["workers-kill-timeout"],
        advice: "use --graceful-timeout",
        ..Foreign::BASE
    },
    Foreign {
        flags: &["working-dir"],
        advice: "use --chdir",
        ..Foreign::BASE
    },
    Foreign {
        flags: &[
            "static-path-route",
            "static-path-mount",
            "static-path-dir-to-file",
            "static-path-expires",
        ],
        advice: STATIC_FILES,
        ..Foreign::BASE
    },
    Foreign {
        flags: &["metrics", "no-metrics"],
        is_switch: true,
        advice: METRICS,
        ..Foreign::BASE
    },
    Foreign {
        flags: &["metrics-scrape-interval", "metrics-address", "metrics-port"],
        consequence: Consequence::Nothing,
        advice: METRICS,
        ..Foreign::BASE
    },
    Foreign {
        flags: &[
            "reload-ignore-dirs",
            "reload-ignore-patterns",
            "reload-ignore-paths",
            "reload-tick",
        ],
        advice: RELOAD,
        ..Foreign::BASE
    },
    Foreign {
        flags: &[
            "reload-ignore-worker-failure",
            "no-reload-ignore-worker-failure",
        ],
        is_switch: true,
        advice: RELOAD,
        ..Foreign::BASE
    },
    Foreign {
        flags: &["process-name"],
        advice: "use --name",
        ..Foreign::BASE
    },
    Foreign {
        flags: &["pid-file"],
        advice: "use --pid",
        ..Foreign::BASE
    },
];
