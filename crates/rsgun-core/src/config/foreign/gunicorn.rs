//! Settings of gunicorn, with the flags that mean the same elsewhere.

use super::{Consequence, Foreign, LIMITS, LOGGING, NO_HTTP2, PROXIES, RELOAD, TLS};

const TLS_DETAIL: &str = "it is an option of Python's ssl module, which has no part in the \
                          connections here";
const STRICT: &str = "such requests get 400, since proxies and servers read them differently";
const STATISTICS: &str = "no statistics are sent; --control-socket and rsgunctl tell the state";
const DIRTY: &str = "dirty arbiters are gunicorn's own; run such work in a process of its own";
const SYSLOG: &str = "syslog is not spoken; systemd-journald or the container's runtime take \
                      standard error";
const PASTE: &str = "Paste Deploy files are not read; write a module with \
                     `application = paste.deploy.loadapp(\"config:/path/to/file.ini\")`, for \
                     Pyramid after `pyramid.paster.setup_logging(\"/path/to/file.ini\")`, and \
                     serve that";
const NO_NEED: &str = "nothing needs to be set for it";

/// In the order of gunicorn's documentation.
pub(super) const SETTINGS: &[Foreign] = &[
    Foreign {
        name: "config",
        advice: "a configuration file cannot name another one; import from it instead",
        ..Foreign::BASE
    },
    Foreign {
        name: "worker_connections",
        flags: &["worker-connections"],
        harmless: &["1000"],
        advice: "the number of connections is limited by `ulimit -n` alone",
        ..Foreign::BASE
    },
    Foreign {
        name: "limit_request_line",
        flags: &["limit-request-line"],
        harmless: &["4094"],
        advice: LIMITS,
        ..Foreign::BASE
    },
    Foreign {
        name: "limit_request_fields",
        flags: &["limit-request-fields"],
        harmless: &["100"],
        advice: LIMITS,
        ..Foreign::BASE
    },
    Foreign {
        name: "limit_request_field_size",
        flags: &["limit-request-field_size", "limit-request-field-size"],
        harmless: &["8190"],
        advice: LIMITS,
        ..Foreign::BASE
    },
    Foreign {
        name: "reload",
        flags: &["reload", "no-reload"],
        is_switch: true,
        advice: RELOAD,
        ..Foreign::BASE
    },
    Foreign {
        name: "reload_engine",
        flags: &["reload-engine"],
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "reload_extra_files",
        flags: &["reload-extra-file", "reload-extra-files"],
        advice: RELOAD,
        ..Foreign::BASE
    },
    Foreign {
        name: "spew",
        flags: &["spew"],
        is_switch: true,
        consequence: Consequence::Refusal,
        advice: "it writes out every line of Python that runs; `python -m trace` and debuggers do \
                 that for the lines that matter",
        ..Foreign::BASE
    },
    Foreign {
        name: "check_config",
        flags: &["check-config"],
        is_switch: true,
        consequence: Consequence::Refusal,
        advice: "there is no such check: a mistake ends the start with its line, and at a reload the old \
                 workers serve on",
        ..Foreign::BASE
    },
    Foreign {
        name: "print_config",
        flags: &["print-config"],
        is_switch: true,
        advice: "there is no such listing; docs/settings.md lists all settings with their defaults",
        ..Foreign::BASE
    },
    Foreign {
        name: "sendfile",
        flags: &["no-sendfile"],
        is_switch: true,
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "tmp_upload_dir",
        advice: "large bodies of requests are kept where the variable TMPDIR says, else in /tmp: set \
                 TMPDIR",
        ..Foreign::BASE
    },
    Foreign {
        name: "secure_scheme_headers",
        advice: PROXIES,
        ..Foreign::BASE
    },
    Foreign {
        name: "forwarded_allow_ips",
        flags: &["forwarded-allow-ips"],
        advice: PROXIES,
        ..Foreign::BASE
    },
    Foreign {
        name: "disable_redirect_access_to_syslog",
        flags: &["disable-redirect-access-to-syslog"],
        is_switch: true,
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "access_log_format",
        flags: &["access-logformat", "access-log-fmt"],
        advice: "the lines of the access log have the form of uvicorn's",
        ..Foreign::BASE
    },
    Foreign {
        name: "logger_class",
        flags: &["logger-class"],
        harmless: &["gunicorn.glogging.Logger"],
        advice: LOGGING,
        ..Foreign::BASE
    },
    Foreign {
        name: "logconfig",
        flags: &["log-config"],
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
        flags: &["log-config-json"],
        advice: LOGGING,
        ..Foreign::BASE
    },
    Foreign {
        name: "syslog",
        flags: &["log-syslog"],
        is_switch: true,
        advice: SYSLOG,
        ..Foreign::BASE
    },
    Foreign {
        name: "syslog_addr",
        flags: &["log-syslog-to"],
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "syslog_prefix",
        flags: &["log-syslog-prefix"],
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "syslog_facility",
        flags: &["log-syslog-facility"],
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "statsd_host",
        flags: &["statsd-host"],
        advice: STATISTICS,
        ..Foreign::BASE
    },
    Foreign {
        name: "dogstatsd_tags",
        flags: &["dogstatsd-tags"],
        consequence: Consequence::Nothing,
        advice: STATISTICS,
        ..Foreign::BASE
    },
    Foreign {
        name: "statsd_prefix",
        flags: &["statsd-prefix"],
        consequence: Consequence::Nothing,
        advice: STATISTICS,
        ..Foreign::BASE
    },
    Foreign {
        name: "enable_backlog_metric",
        flags: &["enable-backlog-metric"],
        is_switch: true,
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
        advice: PASTE,
        ..Foreign::BASE
    },
    Foreign {
        name: "raw_paste_global_conf",
        flags: &["paste-global"],
        consequence: Consequence::Refusal,
        advice: PASTE,
        ..Foreign::BASE
    },
    Foreign {
        name: "proxy_protocol",
        flags: &["proxy-protocol"],
        consequence: Consequence::Refusal,
        harmless: &["off"],
        advice: "the PROXY protocol is not spoken: its first line would be taken for a request; \
                 turn it off in the proxy",
        ..Foreign::BASE
    },
    Foreign {
        name: "proxy_allow_ips",
        flags: &["proxy-allow-from"],
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "protocol",
        flags: &["protocol"],
        consequence: Consequence::Refusal,
        harmless: &["http"],
        advice: "only HTTP is spoken; have the proxy speak that",
        ..Foreign::BASE
    },
    Foreign {
        name: "uwsgi_allow_ips",
        flags: &["uwsgi-allow-from"],
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "keyfile",
        flags: &["keyfile", "ssl-keyfile"],
        consequence: Consequence::Refusal,
        advice: TLS,
        ..Foreign::BASE
    },
    Foreign {
        name: "certfile",
        flags: &["certfile", "ssl-certfile", "ssl-certificate"],
        consequence: Consequence::Refusal,
        advice: TLS,
        ..Foreign::BASE
    },
    Foreign {
        name: "ssl_version",
        flags: &["ssl-version", "ssl-protocol-min"],
        harmless: &["2", "17"],
        advice: TLS_DETAIL,
        ..Foreign::BASE
    },
    Foreign {
        name: "cert_reqs",
        flags: &["cert-reqs", "ssl-cert-reqs"],
        consequence: Consequence::Refusal,
        harmless: &["0"],
        advice: TLS,
        ..Foreign::BASE
    },
    Foreign {
        name: "ca_certs",
        flags: &["ca-certs", "ssl-ca-certs", "ssl-ca"],
        consequence: Consequence::Refusal,
        advice: TLS,
        ..Foreign::BASE
    },
    Foreign {
        name: "suppress_ragged_eofs",
        flags: &["suppress-ragged-eofs"],
        is_switch: true,
        consequence: Consequence::Nothing,
        advice: TLS_DETAIL,
        ..Foreign::BASE
    },
    Foreign {
        name: "do_handshake_on_connect",
        flags: &["do-handshake-on-connect"],
        is_switch: true,
        advice: TLS_DETAIL,
        ..Foreign::BASE
    },
    Foreign {
        name: "ciphers",
        flags: &["ciphers", "ssl-ciphers"],
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
        flags: &["http-protocols"],
        harmless: &["h1"],
        advice: NO_HTTP2,
        ..Foreign::BASE
    },
    Foreign {
        name: "http2_cleartext",
        flags: &["http2-cleartext"],
        harmless: &["off"],
        advice: NO_HTTP2,
        ..Foreign::BASE
    },
    Foreign {
        name: "http2_max_concurrent_streams",
        flags: &["http2-max-concurrent-streams"],
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "http2_initial_window_size",
        flags: &["http2-initial-window-size"],
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "http2_max_frame_size",
        flags: &["http2-max-frame-size"],
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "http2_max_header_list_size",
        flags: &["http2-max-header-list-size"],
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "permit_obsolete_folding",
        flags: &["permit-obsolete-folding"],
        is_switch: true,
        advice: STRICT,
        ..Foreign::BASE
    },
    Foreign {
        name: "strip_header_spaces",
        flags: &["strip-header-spaces"],
        is_switch: true,
        consequence: Consequence::Refusal,
        advice: "a blank between the name of a header and the colon is read differently by proxies \
                 and servers, which lets requests be smuggled past a proxy; such requests get 400",
        ..Foreign::BASE
    },
    Foreign {
        name: "permit_unconventional_http_method",
        flags: &["permit-unconventional-http-method"],
        is_switch: true,
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "permit_unconventional_http_version",
        flags: &["permit-unconventional-http-version"],
        is_switch: true,
        advice: STRICT,
        ..Foreign::BASE
    },
    Foreign {
        name: "casefold_http_method",
        flags: &["casefold-http-method"],
        is_switch: true,
        advice: "a WSGI application is told the method as the client has sent it, an ASGI application \
                 in capital letters",
        ..Foreign::BASE
    },
    Foreign {
        name: "forwarder_headers",
        flags: &["forwarder-headers"],
        harmless: &["SCRIPT_NAME,PATH_INFO"],
        advice: "SCRIPT_NAME is not taken from a header; see --root-path",
        ..Foreign::BASE
    },
    Foreign {
        name: "header_map",
        flags: &["header-map"],
        harmless: &["drop"],
        advice: "an ASGI application is given each header under its own name",
        ..Foreign::BASE
    },
    Foreign {
        name: "asgi_disconnect_grace_period",
        flags: &["asgi-disconnect-grace-period"],
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "http_parser",
        flags: &["http-parser"],
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "dirty_apps",
        flags: &["dirty-app"],
        consequence: Consequence::Refusal,
        advice: DIRTY,
        ..Foreign::BASE
    },
    Foreign {
        name: "dirty_workers",
        flags: &["dirty-workers"],
        consequence: Consequence::Refusal,
        advice: DIRTY,
        ..Foreign::BASE
    },
    Foreign {
        name: "dirty_timeout",
        flags: &["dirty-timeout"],
        consequence: Consequence::Nothing,
        advice: DIRTY,
        ..Foreign::BASE
    },
    Foreign {
        name: "dirty_threads",
        flags: &["dirty-threads"],
        consequence: Consequence::Nothing,
        advice: DIRTY,
        ..Foreign::BASE
    },
    Foreign {
        name: "dirty_graceful_timeout",
        flags: &["dirty-graceful-timeout"],
        consequence: Consequence::Nothing,
        advice: DIRTY,
        ..Foreign::BASE
    },
    Foreign {
        name: "control_socket_mode",
        flags: &["control-socket-mode"],
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
    Foreign {
        name: "control_socket_disable",
        flags: &["no-control-socket"],
        is_switch: true,
        consequence: Consequence::Nothing,
        advice: NO_NEED,
        ..Foreign::BASE
    },
];
