//! Settings of gunicorn that rsgun does not have.
//!
//! What rsgun has is known from its declarations. For everything else somebody who comes
//! from gunicorn is told what to do instead: by an error where going on would serve
//! something else than was meant, by a warning where it would not.

/// A setting of gunicorn without an equivalent.
#[derive(Debug, Clone, Copy)]
pub struct Foreign {
    /// Its name in gunicorn's configuration file.
    pub name: &'static str,
    /// Its flags on gunicorn's command line, without the dashes, if they are recognised
    /// there to be refused.
    pub flags: &'static [&'static str],
    /// What becomes of a file that sets it.
    pub consequence: Consequence,
    /// Values that ask for nothing, besides `None`, `False`, and what is empty.
    pub harmless: &'static [&'static str],
    /// Why it is not there, and what to do.
    pub advice: &'static str,
}

/// What becomes of a configuration file that uses a foreign setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// It is not used.
    Refusal,
    /// It is, with a warning.
    Warning,
    /// It is: nothing is missing.
    Nothing,
}

impl Foreign {
    const BASE: Self = Self {
        name: "",
        flags: &[],
        consequence: Consequence::Warning,
        harmless: &[],
        advice: "",
    };

    /// Finds one by its name in the file.
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        FOREIGN.iter().find(|foreign| foreign.name == name)
    }
}

const TLS: &str = "connections are not encrypted by Python here, and not by rsgun yet: let nginx, \
                   Caddy or HAProxy do it in front of it";
const TLS_DETAIL: &str = "it is an option of Python's ssl module, which has no part in the \
                          connections here";
const STRICT: &str = "such requests get 400, since proxies and servers read them differently";
const LIMITS: &str = "the limits of rsgun hold";
const LOGGING: &str = "rsgun writes its log itself: see --error-logfile, --access-logfile and \
                       --log-level; for the application's own logging call \
                       logging.config.dictConfig in the application";
const STATISTICS: &str = "no statistics are sent";
const DIRTY: &str = "dirty arbiters are gunicorn's own; run such work in a process of its own";
const PROXIES: &str = "headers of proxies are not evaluated; use a middleware such as uvicorn's \
                       ProxyHeadersMiddleware";
const NO_NEED: &str = "nothing needs to be set for it";

/// All of them, in the order of gunicorn's documentation.
pub const FOREIGN: &[Foreign] = &[
    Foreign {
        name: "config",
        advice: "a configuration file cannot name another one; import from it instead",
        ..Foreign::BASE
    },
    Foreign {
        name: "worker_connections",
        harmless: &["1000"],
        advice: "the number of connections is limited by `ulimit -n` alone",
        ..Foreign::BASE
    },
    Foreign {
        name: "limit_request_line",
        harmless: &["4094"],
        advice: LIMITS,
        ..Foreign::BASE
    },
    Foreign {
        name: "limit_request_fields",
        harmless: &["100"],
        advice: LIMITS,
        ..Foreign::BASE
    },
    Foreign {
        name: "limit_request_field_size",
        harmless: &["8190"],
        advice: LIMITS,
        ..Foreign::BASE
    },
    Foreign {
        name: "reload",
        advice: "files are not watched; send HUP to the master when the code has changed",
        ..Foreign::BASE
    },
    Foreign {
        name: "reload_engine",
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "reload_extra_files",
        advice: "files are not watched; send HUP to the master when one has changed",
        ..Foreign::BASE
    },
    Foreign {
        name: "spew",
        flags: &["spew"],
        consequence: Consequence::Refusal,
        advice: "it writes out every line of Python that runs; `python -m trace` and debuggers do \
                 that for the lines that matter",
        ..Foreign::BASE
    },
    Foreign {
        name: "check_config",
        consequence: Consequence::Refusal,
        advice: "there is no such check; it is an option for the command line in any case",
        ..Foreign::BASE
    },
    Foreign {
        name: "print_config",
        advice: "there is no such listing; it is an option for the command line in any case",
        ..Foreign::BASE
    },
    Foreign {
        name: "sendfile",
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "tmp_upload_dir",
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "secure_scheme_headers",
        advice: PROXIES,
        ..Foreign::BASE
    },
    Foreign {
        name: "forwarded_allow_ips",
        harmless: &["127.0.0.1,::1", "127.0.0.1"],
        advice: PROXIES,
        ..Foreign::BASE
    },
    Foreign {
        name: "disable_redirect_access_to_syslog",
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "access_log_format",
        advice: "the lines of the access log have the form of uvicorn's",
        ..Foreign::BASE
    },
    Foreign {
        name: "logger_class",
        harmless: &["gunicorn.glogging.Logger"],
        advice: LOGGING,
        ..Foreign::BASE
    },
    Foreign {
        name: "logconfig",
        advice: LOGGING,
        ..Foreign::BASE
    },
    Foreign {
        name: "logconfig_dict",
        advice: LOGGING,
        ..Foreign::BASE
    },
    Foreign {
        name: "logconfig_json",
        advice: LOGGING,
        ..Foreign::BASE
    },
    Foreign {
        name: "syslog",
        advice: "syslog is not spoken; systemd-journald or the container's runtime take standard \
                 error",
        ..Foreign::BASE
    },
    Foreign {
        name: "syslog_addr",
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "syslog_prefix",
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "syslog_facility",
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "enable_stdio_inheritance",
        flags: &["enable-stdio-inheritance"],
        consequence: Consequence::Refusal,
        advice: "a daemon holds on to no terminal; name a file with --error-logfile and add \
                 --capture-output, or stay in the foreground",
        ..Foreign::BASE
    },
    Foreign {
        name: "statsd_host",
        advice: STATISTICS,
        ..Foreign::BASE
    },
    Foreign {
        name: "dogstatsd_tags",
        consequence: Consequence::Nothing,
        advice: STATISTICS,
        ..Foreign::BASE
    },
    Foreign {
        name: "statsd_prefix",
        consequence: Consequence::Nothing,
        advice: STATISTICS,
        ..Foreign::BASE
    },
    Foreign {
        name: "enable_backlog_metric",
        advice: STATISTICS,
        ..Foreign::BASE
    },
    Foreign {
        name: "default_proc_name",
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "paste",
        flags: &["paste", "paster"],
        consequence: Consequence::Refusal,
        advice: "Paste Deploy files are not read; write a module with \
                 `application = paste.deploy.loadapp(\"config:/path/to/file.ini\")` and serve that",
        ..Foreign::BASE
    },
    Foreign {
        name: "raw_paste_global_conf",
        consequence: Consequence::Refusal,
        advice: "Paste Deploy files are not read",
        ..Foreign::BASE
    },
    Foreign {
        name: "proxy_protocol",
        consequence: Consequence::Refusal,
        harmless: &["off"],
        advice: "the PROXY protocol is not spoken: its first line would be taken for a request; \
                 turn it off in the proxy",
        ..Foreign::BASE
    },
    Foreign {
        name: "proxy_allow_ips",
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "protocol",
        consequence: Consequence::Refusal,
        harmless: &["http"],
        advice: "only HTTP is spoken; have the proxy speak that",
        ..Foreign::BASE
    },
    Foreign {
        name: "uwsgi_allow_ips",
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "keyfile",
        consequence: Consequence::Refusal,
        advice: TLS,
        ..Foreign::BASE
    },
    Foreign {
        name: "certfile",
        consequence: Consequence::Refusal,
        advice: TLS,
        ..Foreign::BASE
    },
    Foreign {
        name: "ssl_version",
        advice: TLS_DETAIL,
        ..Foreign::BASE
    },
    Foreign {
        name: "cert_reqs",
        consequence: Consequence::Refusal,
        harmless: &["0"],
        advice: TLS,
        ..Foreign::BASE
    },
    Foreign {
        name: "ca_certs",
        consequence: Consequence::Refusal,
        advice: TLS,
        ..Foreign::BASE
    },
    Foreign {
        name: "suppress_ragged_eofs",
        flags: &["suppress-ragged-eofs"],
        consequence: Consequence::Nothing,
        advice: TLS_DETAIL,
        ..Foreign::BASE
    },
    Foreign {
        name: "do_handshake_on_connect",
        flags: &["do-handshake-on-connect"],
        advice: TLS_DETAIL,
        ..Foreign::BASE
    },
    Foreign {
        name: "ciphers",
        advice: TLS_DETAIL,
        ..Foreign::BASE
    },
    Foreign {
        name: "ssl_context",
        consequence: Consequence::Refusal,
        advice: TLS,
        ..Foreign::BASE
    },
    Foreign {
        name: "http_protocols",
        harmless: &["h1"],
        advice: "HTTP/1.1 is spoken; HTTP/2 is a proxy's work",
        ..Foreign::BASE
    },
    Foreign {
        name: "http2_cleartext",
        harmless: &["off"],
        advice: "HTTP/1.1 is spoken; HTTP/2 is a proxy's work",
        ..Foreign::BASE
    },
    Foreign {
        name: "http2_max_concurrent_streams",
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "http2_initial_window_size",
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "http2_max_frame_size",
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "http2_max_header_list_size",
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "permit_obsolete_folding",
        advice: STRICT,
        ..Foreign::BASE
    },
    Foreign {
        name: "strip_header_spaces",
        flags: &["strip-header-spaces"],
        consequence: Consequence::Refusal,
        advice: "a blank between the name of a header and the colon is read differently by proxies \
                 and servers, which lets requests be smuggled past a proxy; such requests get 400",
        ..Foreign::BASE
    },
    Foreign {
        name: "permit_unconventional_http_method",
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "permit_unconventional_http_version",
        advice: STRICT,
        ..Foreign::BASE
    },
    Foreign {
        name: "casefold_http_method",
        advice: "the application is told the method as the client has sent it",
        ..Foreign::BASE
    },
    Foreign {
        name: "forwarder_headers",
        harmless: &["SCRIPT_NAME,PATH_INFO"],
        advice: "SCRIPT_NAME is not taken from a header; see --root-path",
        ..Foreign::BASE
    },
    Foreign {
        name: "header_map",
        harmless: &["drop"],
        advice: "an ASGI application is given each header under its own name",
        ..Foreign::BASE
    },
    Foreign {
        name: "asgi_disconnect_grace_period",
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "http_parser",
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "dirty_apps",
        consequence: Consequence::Refusal,
        advice: DIRTY,
        ..Foreign::BASE
    },
    Foreign {
        name: "dirty_workers",
        consequence: Consequence::Refusal,
        advice: DIRTY,
        ..Foreign::BASE
    },
    Foreign {
        name: "dirty_timeout",
        consequence: Consequence::Nothing,
        advice: DIRTY,
        ..Foreign::BASE
    },
    Foreign {
        name: "dirty_threads",
        consequence: Consequence::Nothing,
        advice: DIRTY,
        ..Foreign::BASE
    },
    Foreign {
        name: "dirty_graceful_timeout",
        consequence: Consequence::Nothing,
        advice: DIRTY,
        ..Foreign::BASE
    },
    Foreign {
        name: "control_socket_mode",
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "control_socket_disable",
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
];
