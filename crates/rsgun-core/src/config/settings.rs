//! The one declaration of each setting.
//!
//! An entry of [`declare!`] is `field: type = reader, { properties }`, its doc comment
//! being the help as well. Entries under `settings` become fields of [`Settings`];
//! those under `inputs` only lead to something: a file, or addresses to listen on.
//! To add a setting, add an entry; then let the tests rewrite the two generated files
//! (`RSGUN_BLESS=1 cargo test -p rsgun-core`).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::choice::{
    ConfigFile, Interface, Lifespan, LogTarget, Milliseconds, ReloadStrategy, WebSockets,
    WorkerCount,
};
use super::declaration::{Declaration, Kind, Section};
use super::declare::declare;
use super::error::ConfigError;
use super::layer::Layers;
use super::size::Size;
use super::value::{self, ValueError};
use crate::listeners::Address;
use crate::log::Level;
use crate::sys::credentials::Credentials;

/// The variable by which Django's projects find their settings.
pub(super) const DJANGO: &str = "DJANGO_SETTINGS_MODULE";

impl Settings {
    /// The settings of the Django project whose application is served, when the variable
    /// for them stands in for an application.
    #[must_use]
    pub fn django_settings(&self) -> Option<&str> {
        self.app.strip_prefix(DJANGO)?.strip_prefix('=')
    }
}

declare! {
    settings {
        /// The application: MODULE:ATTRIBUTE, such as main:app.
        app: String = value::application, {
            name: "app",
            section: Section::Application,
            gunicorn: "wsgi_app",
            positional: true,
            placeholder: "APP",
            otherwise: "what `DJANGO_SETTINGS_MODULE` leads to; else it must be given somewhere",
            example: "\"main:app\"",
            details: "The attribute may have dots, and may be a call with literal arguments that \
                      returns the application: `main:create_app('prod', debug=True)`. Without \
                      one the module's `application` is taken, else its `app`. A path to a file, \
                      `src/main.py` or `src/main.py:app`, stands for its module; the directory \
                      above its packages is put first on `sys.path` then. When no application \
                      is given, but `DJANGO_SETTINGS_MODULE` is set, in the environment or by \
                      `env`, it is `ASGI_APPLICATION` or else `WSGI_APPLICATION` of these \
                      settings, or what the module `wsgi` or else `asgi` beside them has; \
                      `interface` can say which of the two.",
        }
        /// What kind of application it is: auto finds out.
        interface: Interface = value::interface, {
            name: "interface",
            section: Section::Application,
            placeholder: "auto|asgi|asgi3|asgi2|rsgi|wsgi",
            default: Some("auto"),
            details: "`auto` looks at how the application is to be called; an object that has \
                      `__rsgi__` is served by that. `asgi` is version 3 or \
                      2 of it; `asginl`, granian's word, is that with `--lifespan off`. The names of gunicorn's worker classes mean the same; see \
                      `worker-class`.",
        }
        /// The application is a function that returns the application.
        factory: bool = value::switch, {
            name: "factory",
            section: Section::Application,
            kind: Kind::Switch,
            default: Some("false"),
        }
        /// The directory that is put first on `sys.path`.
        app_dir: PathBuf = value::path, {
            name: "app-dir",
            section: Section::Application,
            placeholder: "DIR",
            default: Some("."),
            details: "A relative path starts at the directory of `chdir`.",
        }
        /// Directories that come after it on `sys.path`, separated by commas; repeatable.
        pythonpath: Vec<String> = value::directories, {
            name: "pythonpath",
            needs_master: true,
            section: Section::Application,
            gunicorn: "pythonpath",
            kind: Kind::List,
            placeholder: "DIRS",
            otherwise: "none",
            example: "[\"/srv/shared\"]",
            details: "Relative paths start at the directory of `chdir`. One that is not there is \
                      only warned of.",
        }
        /// The directory to change to before anything is loaded.
        chdir: Option<PathBuf> = value::optional_path, {
            name: "chdir",
            needs_master: true,
            section: Section::Application,
            gunicorn: "chdir",
            placeholder: "DIR",
            otherwise: "the current directory",
            example: "\"/srv/app\"",
        }
        /// The ASGI `root_path`: the path under which a proxy mounts the application.
        root_path: String = value::text, {
            name: "root-path",
            section: Section::Application,
            gunicorn: "root_path",
            placeholder: "PATH",
            default: Some(""),
        }
        /// Whether the application has a lifespan: auto finds out.
        lifespan: Lifespan = value::lifespan, {
            name: "lifespan",
            section: Section::Application,
            gunicorn: "asgi_lifespan",
            aliases: &["asgi-lifespan"],
            placeholder: "auto|on|off",
            default: Some("auto"),
            details: "With `auto` an application that raises on the lifespan scope is served \
                      without one; with `on` that is an error; with `off` it is not asked.",
        }
        /// Cancel a request whose client has left.
        cancel_on_disconnect: bool = value::switch, {
            name: "cancel-on-disconnect",
            section: Section::Application,
            kind: Kind::Switch,
            default: Some("false"),
            details: "The task of an ASGI application is cancelled when the client closes its side \
                      of the connection before the answer is complete. Without it the application \
                      learns of that from `http.disconnect` and the error of `send()`, and decides \
                      by itself. A client that only closes its sending side and waits for the \
                      answer looks the same, and gets none.",
        }
        /// The number of worker processes.
        workers: WorkerCount = value::workers, {
            name: "workers",
            needs_master: true,
            section: Section::Workers,
            gunicorn: "workers",
            kind: Kind::Count,
            short: Some('w'),
            variables: &["WEB_CONCURRENCY"],
            placeholder: "N|auto",
            default: Some("1"),
            details: "A number from 1 to 512. `auto` is one worker for each processor that this \
                      process may use: those of its affinity mask and its cpuset, or fewer if a \
                      CPU quota of its control group (version 2 `cpu.max`, version 1 \
                      `cpu.cfs_quota_us`) allows less; a part of a processor does not count, but \
                      there is at least one worker. A reload counts again.",
        }
        /// The fewest workers, if their number follows the load; 0: see --max-workers.
        min_workers: u32 = |texts| value::number(texts, &(0..=512)), {
            name: "min-workers",
            needs_master: true,
            section: Section::Workers,
            kind: Kind::Number,
            placeholder: "N",
            default: Some("0"),
            details: "With neither bound the number of workers is fixed. With `max-workers` alone \
                      the fewest are as many as `workers` says.",
        }
        /// The most workers, if their number follows the load; 0: see --min-workers.
        max_workers: u32 = |texts| value::number(texts, &(0..=512)), {
            name: "max-workers",
            needs_master: true,
            section: Section::Workers,
            kind: Kind::Number,
            placeholder: "N",
            default: Some("0"),
            details: "With `min-workers` alone the most are as many as `workers` says. Another \
                      worker is started when the event loops have been busy three quarters of the \
                      time for 3 seconds; one is sent away when the others would be busy at most \
                      half of the time without it, for 30 seconds. See [scaling](scaling.md).",
        }
        /// The most threads of a worker that run a WSGI application.
        threads: u32 = |texts| value::number(texts, &(1..=1024)), {
            name: "threads",
            section: Section::Workers,
            gunicorn: "threads",
            kind: Kind::Number,
            aliases: &["blocking-threads"],
            placeholder: "N",
            default: Some("1"),
            details: "A worker starts with one, and starts another whenever a request finds none \
                      idle. They only run the application: reading requests, writing answers and \
                      waiting for slow clients is done by a thread without Python. ASGI \
                      applications run on the event loop, whatever this says.",
        }
        /// Import the application once, before the workers are forked.
        preload: bool = value::switch, {
            name: "preload",
            needs_master: true,
            section: Section::Workers,
            gunicorn: "preload_app",
            kind: Kind::Switch,
            aliases: &["preload-app"],
            default: Some("false"),
            details: "Saves memory and makes a new worker start at once. The application must \
                      not open connections or start threads while it is imported, since the \
                      workers would share the former and miss the latter.",
        }
        /// How a reload replaces the workers: rolling (one after the other) or parallel.
        reload_strategy: ReloadStrategy = value::reload_strategy, {
            name: "reload-strategy",
            needs_master: true,
            section: Section::Workers,
            placeholder: "rolling|parallel",
            default: Some("rolling"),
            details: "The first worker of the new code must be ready in any case before anything \
                      else happens. With `parallel` the replacements of all other workers then \
                      start at once, which is faster and needs room for twice as many workers.",
        }
        /// Workers that may be missing while a rolling reload starts their replacements.
        reload_max_unavailable: u32 = |texts| value::number(texts, &(0..=511)), {
            name: "reload-max-unavailable",
            needs_master: true,
            section: Section::Workers,
            kind: Kind::Number,
            placeholder: "N",
            default: Some("0"),
            details: "With 0 each replacement is ready before its old worker drains. With more, so \
                      many old workers at a time drain first, where there is no memory for more \
                      workers than usual; the first worker of the new code is one more even so.",
        }
        /// Seconds that the first worker of a reload must survive before old ones go.
        reload_probation: Milliseconds = value::decimal_seconds, {
            name: "reload-probation",
            needs_master: true,
            section: Section::Workers,
            kind: Kind::Decimal,
            placeholder: "SECONDS",
            default: Some("1"),
            details: "It serves beside the old workers so long. If it crashes or hangs, the reload \
                      ends there, and the old workers serve on.",
        }
        /// The Python interpreter.
        python: Option<PathBuf> = value::optional_path, {
            name: "python",
            needs_master: true,
            section: Section::Workers,
            placeholder: "PATH",
            otherwise: "the virtual environment that rsgun is installed in, else `$VIRTUAL_ENV`, \
                        else `python3` on `$PATH`",
            example: "\"/srv/app/.venv/bin/python\"",
        }
        /// The event loop: auto (uvloop where it is installed), asyncio, uvloop, rloop or
        /// MODULE:FACTORY.
        #[serde(rename = "loop")]
        event_loop: String = value::event_loop, {
            name: "loop",
            section: Section::Workers,
            gunicorn: "asgi_loop",
            aliases: &["asgi-loop"],
            placeholder: "LOOP",
            default: Some("auto"),
        }
        /// Seconds that a worker has to finish its requests when it is stopped.
        graceful_timeout: u32 = value::seconds, {
            name: "graceful-timeout",
            section: Section::Timeouts,
            gunicorn: "graceful_timeout",
            kind: Kind::Number,
            aliases: &["timeout-graceful-shutdown"],
            placeholder: "SECONDS",
            default: Some("30"),
            details: "What still runs then is cancelled. Under supervisord, which kills a \
                      program ten seconds after its stop signal, the default is 8.",
        }
        /// Seconds that the server goes on accepting after TERM, before it drains.
        drain_delay: u32 = value::seconds, {
            name: "drain-delay",
            needs_master: true,
            section: Section::Timeouts,
            kind: Kind::Number,
            placeholder: "SECONDS",
            default: Some("0"),
            details: "For load balancers that learn only after a while that this server leaves: \
                      new connections are served meanwhile, and every answer says `Connection: \
                      close`. A second `TERM` ends the delay. It comes on top of \
                      `graceful-timeout`: the sum and 5 seconds must fit into the time that the \
                      system gives a service to stop.",
        }
        /// Seconds that an idle connection is kept open; 0 closes it after each answer.
        keep_alive: u32 = value::seconds, {
            name: "keep-alive",
            section: Section::Timeouts,
            gunicorn: "keepalive",
            kind: Kind::Number,
            aliases: &["timeout-keep-alive"],
            placeholder: "SECONDS",
            default: Some("75"),
            details: "Longer than the 60 seconds for which common load balancers keep a \
                      connection, so that it is they who close it: a request that crosses with \
                      the server's close is a 502 to its client.",
        }
        /// Seconds that a client may let pass without sending or taking a byte; 0 means no limit.
        client_timeout: u32 = value::seconds, {
            name: "client-timeout",
            section: Section::Timeouts,
            kind: Kind::Number,
            placeholder: "SECONDS",
            default: Some("60"),
            details: "For requests and answers that are on their way: a head has to be complete \
                      in this time, a body that stops coming is answered with 408, and a \
                      connection whose client takes nothing of its answer is reset.",
        }
        /// The size above which a request body is refused, such as 10M.
        limit_request_body: Option<Size> = value::optional_size, {
            name: "limit-request-body",
            section: Section::Listening,
            placeholder: "SIZE",
            otherwise: "no limit",
            example: "\"10M\"",
            details: "The answer is 413: to what a request announces before any of it is read, \
                      otherwise when it has become too much. A WSGI application gets a request \
                      when its body is complete, and a large one is on disk (`TMPDIR`) by then: \
                      without this limit, or that of a proxy in front, a client decides how much.",
        }
        /// Seconds that a worker has from its start until it serves; 0 means no limit.
        boot_timeout: u32 = value::seconds, {
            name: "boot-timeout",
            needs_master: true,
            section: Section::Timeouts,
            kind: Kind::Number,
            placeholder: "SECONDS",
            default: Some("120"),
            details: "Importing the application and its lifespan startup must fit in. A worker \
                      that takes longer is killed; a reload then leaves the old workers serving.",
        }
        /// Seconds without a sign of life after which a worker is killed and replaced; 0 means
        /// never.
        timeout: u32 = value::seconds, {
            name: "timeout",
            needs_master: true,
            section: Section::Timeouts,
            gunicorn: "timeout",
            kind: Kind::Number,
            short: Some('t'),
            placeholder: "SECONDS",
            default: Some("30"),
            details: "The event loop gives the sign of life; what blocks it, blocks every request \
                      of the worker. The log then has the stacks of all threads and the requests \
                      in flight. Before a worker serves, `boot-timeout` counts. For a limit on \
                      single requests see `request-timeout`.",
        }
        /// Seconds that the application has for a request; 0 means no limit.
        request_timeout: u32 = value::seconds, {
            name: "request-timeout",
            section: Section::Timeouts,
            kind: Kind::Number,
            placeholder: "SECONDS",
            default: Some("0"),
            details: "A request that takes longer is answered with 504 and cancelled; one whose \
                      answer has begun loses its connection. The application can ask for more \
                      time; see [timeouts](timeouts.md).",
        }
        /// Requests after which a worker is replaced; 0 means never.
        max_requests: u64 = value::requests, {
            name: "max-requests",
            section: Section::Workers,
            gunicorn: "max_requests",
            kind: Kind::Number,
            aliases: &["limit-max-requests"],
            placeholder: "N",
            default: Some("0"),
            details: "The replacement is ready before the worker drains, and only one worker is \
                      replaced at a time, so a worker answers some requests more than this.",
        }
        /// The most requests that are added at random to --max-requests, for each worker.
        max_requests_jitter: u64 = value::requests, {
            name: "max-requests-jitter",
            section: Section::Workers,
            gunicorn: "max_requests_jitter",
            kind: Kind::Number,
            aliases: &["limit-max-requests-jitter"],
            placeholder: "N",
            default: Some("0"),
        }
        /// Seconds of service after which a worker is replaced; 0 means never.
        max_lifetime: u32 = value::seconds, {
            name: "max-lifetime",
            needs_master: true,
            section: Section::Workers,
            kind: Kind::Number,
            placeholder: "SECONDS",
            default: Some("0"),
        }
        /// The most seconds that are added at random to --max-lifetime, for each worker.
        max_lifetime_jitter: u32 = value::seconds, {
            name: "max-lifetime-jitter",
            needs_master: true,
            section: Section::Workers,
            kind: Kind::Number,
            placeholder: "SECONDS",
            default: Some("0"),
        }
        /// The resident memory above which a worker is replaced, such as 512M or 1G.
        max_rss: Option<Size> = value::optional_size, {
            name: "max-rss",
            needs_master: true,
            section: Section::Workers,
            placeholder: "SIZE",
            otherwise: "no limit",
            example: "\"512M\"",
            details: "The replacement is ready before the worker drains; both need room for that \
                      long. Memory that workers share with `preload` counts for each of them.",
        }
        /// The resident memory above which a worker is killed at once, such as 2G.
        hard_max_rss: Option<Size> = value::optional_size, {
            name: "hard-max-rss",
            needs_master: true,
            section: Section::Workers,
            placeholder: "SIZE",
            otherwise: "no limit",
            example: "\"1G\"",
            details: "Its requests are lost. It is the fuse that blows before the system runs out \
                      of memory; `max-rss` replaces a worker without losing anything.",
        }
        /// Whether WebSockets are served: auto or none.
        ws: WebSockets = value::web_sockets, {
            name: "ws",
            section: Section::WebSocket,
            placeholder: "auto|none",
            default: Some("auto"),
            details: "The names of uvicorn's implementations, `websockets`, `websockets-sansio` \
                      and `wsproto`, mean `auto`. With `none` a handshake is an ordinary request, \
                      also for a WSGI application, which is not offered its socket then.",
        }
        /// Bytes that a message may have, compressed or not.
        ws_max_size: u32 = |texts| value::number(texts, &(1..=1_073_741_824)), {
            name: "ws-max-size",
            section: Section::WebSocket,
            gunicorn: "websocket_max_message_size",
            kind: Kind::Number,
            aliases: &["websocket-max-message-size"],
            placeholder: "BYTES",
            default: Some("16777216"),
            details: "A client that sends more is disconnected with code 1009.",
        }
        /// Messages that may wait for the application on one connection.
        ws_max_queue: u32 = |texts| value::number(texts, &(1..=65_536)), {
            name: "ws-max-queue",
            section: Section::WebSocket,
            kind: Kind::Number,
            placeholder: "N",
            default: Some("32"),
            details: "When so many are waiting, or together are as large as the largest message \
                      may be, no more is read from the client.",
        }
        /// Seconds between two pings to a silent client; 0 sends none.
        ws_ping_interval: Milliseconds = value::decimal_seconds, {
            name: "ws-ping-interval",
            section: Section::WebSocket,
            kind: Kind::Decimal,
            placeholder: "SECONDS",
            default: Some("20"),
        }
        /// Seconds that a client has to answer a ping; 0 means no limit.
        ws_ping_timeout: Milliseconds = value::decimal_seconds, {
            name: "ws-ping-timeout",
            section: Section::WebSocket,
            kind: Kind::Decimal,
            placeholder: "SECONDS",
            default: Some("20"),
            details: "Whatever it sends counts as an answer. A client that is silent for longer \
                      is disconnected with code 1011; the application is told 1006.",
        }
        /// Compress messages for clients that offer it.
        ws_per_message_deflate: bool = value::switch, {
            name: "ws-per-message-deflate",
            section: Section::WebSocket,
            kind: Kind::Switch,
            default: Some("true"),
        }
        /// The least level that is logged: critical, error, warning, info, debug or trace.
        log_level: Level = value::level, {
            name: "log-level",
            section: Section::Logging,
            gunicorn: "loglevel",
            placeholder: "LEVEL",
            default: Some("info"),
            details: "`warn` means warning.",
        }
        /// Log every request.
        access_log: bool = value::switch, {
            name: "access-log",
            section: Section::Logging,
            kind: Kind::Switch,
            default: Some("true"),
            details: "Off as well if a gunicorn.conf.py says `accesslog = None` and nobody says \
                      otherwise. A request that is refused before the application sees it, for its \
                      Host header or its size, has a line too. What is not HTTP is only a warning in \
                      the log of the server.",
        }
        /// Where the requests are logged: a file, or - for standard output.
        access_logfile: LogTarget = value::log_target, {
            name: "access-logfile",
            section: Section::Logging,
            gunicorn: "accesslog",
            placeholder: "FILE|-",
            default: Some("-"),
            details: "A relative path starts at the directory where rsgun was started. `USR1` \
                      opens the file anew, for logrotate. A log that cannot be written, such as \
                      on a full disk or to a pipe that nobody reads, loses lines and never \
                      stops the server.",
        }
        /// Where the server logs: a file, or - for standard error.
        error_logfile: LogTarget = value::log_target, {
            name: "error-logfile",
            section: Section::Logging,
            gunicorn: "errorlog",
            // The first is a beginning of the name, which gunicorn's command line understands.
            aliases: &["error-log", "log-file"],
            placeholder: "FILE|-",
            default: Some("-"),
            details: "As `access-logfile`. Until the server serves, errors and warnings appear on \
                      standard error as well.",
        }
        /// Write what the application prints to the file of error-logfile.
        capture_output: bool = value::switch, {
            name: "capture-output",
            needs_master: true,
            section: Section::Logging,
            gunicorn: "capture_output",
            kind: Kind::Switch,
            default: Some("false"),
            details: "Standard output and standard error of the application's processes lead to \
                      that file then, and so does an access log that goes to `-`. Without a file \
                      it changes nothing: both are where the log goes anyway.",
        }
        /// Run in the background, apart from the terminal.
        daemon: bool = value::switch, {
            name: "daemon",
            needs_master: true,
            section: Section::Service,
            gunicorn: "daemon",
            kind: Kind::Switch,
            short: Some('D'),
            default: Some("false"),
            reload: false,
            details: "The command returns when the server serves, with exit code 0, or when it \
                      could not start, with the reason on standard error and the exit code of \
                      the failure. Standard input is `/dev/null` then, and so are standard output \
                      and standard error unless `error-logfile` names a file, which they lead to. \
                      Under systemd, supervisord or in a container, stay in the foreground.",
        }
        /// The file that the process id of the master is written to.
        pid: Option<PathBuf> = value::optional_path, {
            name: "pid",
            needs_master: true,
            section: Section::Service,
            gunicorn: "pidfile",
            short: Some('p'),
            aliases: &["pidfile"],
            placeholder: "FILE",
            otherwise: "none is written",
            example: "\"/run/rsgun.pid\"",
            reload: false,
            details: "Written before anything listens, and removed at the end. If it names a \
                      process that runs and is an rsgun, this one does not start; the file of a \
                      process that has ended is replaced. A relative path starts at the directory \
                      where rsgun was started.",
        }
        /// A UNIX socket that tells the state of the server; see rsgunctl.
        control_socket: Option<PathBuf> = value::optional_path, {
            name: "control-socket",
            needs_master: true,
            section: Section::Service,
            gunicorn: "control_socket",
            placeholder: "PATH",
            otherwise: "none is made",
            example: "\"/run/rsgun/control.sock\"",
            reload: false,
            details: "Only the user that runs the master may connect to it. Whoever does gets one \
                      JSON document: see [status](status.md). A relative path starts at the \
                      directory where rsgun was started.",
        }
        /// The mask for the modes of new files, in octal, such as 027.
        umask: Option<u32> = value::optional_umask, {
            name: "umask",
            needs_master: true,
            section: Section::Service,
            gunicorn: "umask",
            kind: Kind::Mask,
            short: Some('m'),
            placeholder: "MASK",
            otherwise: "the mask that rsgun was started with",
            example: "\"027\"",
            reload: false,
            details: "Holds in all processes. If it is set, it also takes its bits from the mode \
                      0666 of UNIX sockets.",
        }
        /// A variable for the application's processes, NAME=VALUE; repeatable.
        env: Vec<String> = value::variables, {
            name: "env",
            needs_master: true,
            section: Section::Service,
            gunicorn: "raw_env",
            kind: Kind::List,
            short: Some('e'),
            placeholder: "NAME=VALUE",
            otherwise: "none",
            example: "[\"DJANGO_SETTINGS_MODULE=site.settings\"]",
            details: "The interpreter is started with it. In the variable, separate entries by \
                      commas.",
        }
        /// A name that process titles show.
        name: Option<String> = value::optional_name, {
            name: "name",
            needs_master: true,
            section: Section::Service,
            gunicorn: "proc_name",
            short: Some('n'),
            aliases: &["proc-name"],
            placeholder: "NAME",
            otherwise: "the title of the master shows the application",
            example: "\"shop\"",
            details: "`rsgun: master [shop]`, `rsgun: worker 1 [shop, gen 1]`.",
        }
        /// Accepted from gunicorn; no such directory is needed.
        worker_tmp_dir: Option<PathBuf> = value::optional_path, {
            name: "worker-tmp-dir",
            needs_master: true,
            section: Section::Service,
            gunicorn: "worker_tmp_dir",
            placeholder: "DIR",
            otherwise: "none",
            example: "\"/dev/shm\"",
            details: "gunicorn's workers touch a file there to show that they live. Here they \
                      write to shared memory, which no disk can hold up.",
        }
        /// Connections that may wait to be accepted.
        backlog: u32 = |texts| value::number(texts, &(1..=2_147_483_647)), {
            name: "backlog",
            section: Section::Listening,
            gunicorn: "backlog",
            kind: Kind::Number,
            placeholder: "N",
            default: Some("2048"),
            reload: false,
            details: "The system's own limit, `net.core.somaxconn`, holds as well. Inherited \
                      sockets keep the queue that they have, and so does, at a reload, every \
                      socket that stays open.",
        }
        /// Give each worker a TCP queue of its own (`SO_REUSEPORT`).
        reuse_port: bool = value::switch, {
            name: "reuse-port",
            section: Section::Listening,
            gunicorn: "reuse_port",
            kind: Kind::Switch,
            default: Some("false"),
            reload: false,
            details: "The kernel then spreads the clients among as many sockets for each address \
                      as there are workers at the start, 32 at most, and other servers of the \
                      same user may listen at the same port. The master keeps all of them open, \
                      a worker hands its own on to its successor, and what waits for one that is \
                      busy or gone is taken by the others, so no connection is lost. Without it \
                      all workers share one queue for each address, which balances as well.",
        }
    }
    inputs {
        /// The configuration file: TOML, or a gunicorn.conf.py.
        config: Option<ConfigFile> = value::optional_config, {
            name: "config",
            section: Section::Configuration,
            short: Some('c'),
            in_file: false,
            placeholder: "FILE",
            otherwise: "no file is read",
            reload: false,
            details: "A file whose name ends in `.toml` is TOML; every other one is Python, as for \
                      gunicorn. `file:PATH` means the path, `python:MODULE` a module that the \
                      interpreter finds in the current directory or where others are. A reload \
                      reads the same file again.",
        }
        /// Where to listen; repeatable: HOST:PORT, [::1]:PORT, :PORT, unix:PATH, unix:@NAME
        /// or fd://N.
        bind: Vec<Address> = value::addresses, {
            name: "bind",
            section: Section::Listening,
            gunicorn: "bind",
            kind: Kind::List,
            short: Some('b'),
            placeholder: "ADDRESS",
            otherwise: "`127.0.0.1:8000`, or `0.0.0.0:$PORT` if the variable `PORT` is set",
            example: "[\"127.0.0.1:8000\"]",
            details: "`HOST` alone means port 8000. `:PORT` means every address of the machine, \
                      IPv6 and IPv4; `[::]:PORT` too, unless another address of the list takes \
                      the same port of IPv4. A host name that stands for several addresses \
                      listens on all of them. `unix:PATH` makes a socket that everybody may \
                      connect to (mode 0666): restrict its directory. `unix:@NAME` is an abstract \
                      socket. `fd://N` is a listening socket that the parent process passes on. \
                      In the variable, separate addresses by commas.",
        }
        /// The kind of application, by gunicorn's names of worker classes.
        worker_class: Option<Interface> = value::optional_worker_class, {
            name: "worker-class",
            section: Section::Application,
            gunicorn: "worker_class",
            short: Some('k'),
            placeholder: "CLASS",
            otherwise: "`interface` says it",
            example: "\"sync\"",
            details: "`sync` and `gthread` mean the interface `wsgi`; `asgi`, \
                      `uvicorn.workers.UvicornWorker`, `uvicorn.workers.UvicornH11Worker` and \
                      those of `uvicorn_worker` mean `asgi`. There is one kind of worker, so \
                      other classes are refused.",
        }
        /// The host to listen on, together with --port.
        host: Option<String> = value::optional_host, {
            name: "host",
            section: Section::Listening,
            placeholder: "HOST",
            otherwise: "`127.0.0.1`",
            example: "\"127.0.0.1\"",
        }
        /// The port to listen on, together with --host; 0 picks a free one.
        port: Option<u16> = value::optional_port, {
            name: "port",
            section: Section::Listening,
            kind: Kind::Number,
            placeholder: "PORT",
            otherwise: "`8000`",
            example: "8000",
        }
        /// The user that the application runs as: a name or a number.
        user: Option<String> = value::optional_account, {
            name: "user",
            needs_master: true,
            section: Section::Service,
            gunicorn: "user",
            short: Some('u'),
            placeholder: "USER",
            otherwise: "the user that starts rsgun",
            example: "\"www-data\"",
            details: "Fork servers and workers run as this user, with its primary group unless \
                      `group` names another, and without supplementary groups unless `initgroups` \
                      says so. They cannot get the old rights back. The master keeps its own: it \
                      binds ports below 1024 and opens log files also at a reload. UNIX sockets \
                      that it makes belong to this user. `HOME` and other variables stay as they \
                      are: see `env`.",
        }
        /// The group that the application runs as: a name or a number.
        group: Option<String> = value::optional_account, {
            name: "group",
            needs_master: true,
            section: Section::Service,
            gunicorn: "group",
            short: Some('g'),
            placeholder: "GROUP",
            otherwise: "the primary group of `user`, else the group that starts rsgun",
            example: "\"www-data\"",
        }
        /// Give the application's processes all groups of their user.
        initgroups: bool = value::switch, {
            name: "initgroups",
            needs_master: true,
            section: Section::Service,
            gunicorn: "initgroups",
            kind: Kind::Switch,
            default: Some("false"),
        }
        /// Accepted from gunicorn: a daemon's output is to go where that of the start goes.
        enable_stdio_inheritance: bool = value::switch, {
            name: "enable-stdio-inheritance",
            needs_master: true,
            section: Section::Service,
            gunicorn: "enable_stdio_inheritance",
            kind: Kind::Switch,
            short: Some('R'),
            default: Some("false"),
            reload: false,
            details: "In the foreground it is so anyway. A daemon holds on to no terminal: it \
                      needs the file of `error-logfile`, where all output goes then.",
        }
        /// The UNIX socket to listen on.
        uds: Option<Address> = value::optional_socket_path, {
            name: "uds",
            section: Section::Listening,
            placeholder: "PATH",
            otherwise: "none",
            example: "\"/run/app.sock\"",
            details: "The same as `unix:PATH` for `bind`.",
        }
        /// The number of a listening socket that the parent process passes on.
        fd: Option<i32> = value::optional_descriptor, {
            name: "fd",
            section: Section::Listening,
            kind: Kind::Number,
            placeholder: "N",
            otherwise: "none",
            example: "0",
            details: "The same as `fd://N` for `bind`. 0 is what supervisord passes to an \
                      `fcgi-program`.",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;

    fn defaults() -> serde_json::Map<String, Value> {
        match serde_json::to_value(Settings::read(Layers(&[]), Vec::new(), None).unwrap()).unwrap()
        {
            Value::Object(map) => map,
            other => panic!("settings are {other}"),
        }
    }

    #[test]
    fn a_declaration_has_the_name_and_the_kind_of_its_field() {
        let inputs = [
            "config",
            "bind",
            "host",
            "port",
            "uds",
            "fd",
            "user",
            "group",
            "initgroups",
            "enable-stdio-inheritance",
            "worker-class",
        ];
        let mut fields = defaults();
        assert!(fields.remove("bind").is_some() && fields.remove("run_as").is_some());
        for declaration in DECLARATIONS {
            if inputs.contains(&declaration.name) {
                continue;
            }
            let field = fields.remove(&declaration.name.replace('-', "_"));
            let field = field.unwrap_or_else(|| panic!("no field for {}", declaration.name));
            let fits = match declaration.kind {
                Kind::Number | Kind::Decimal => field.is_number(),
                Kind::Count => !field.is_null(),
                Kind::Switch => field.is_boolean(),
                Kind::Text => field.is_string() || field.is_null(),
                Kind::Mask => field.is_number() || field.is_null(),
                Kind::List => field.is_array(),
            };
            assert!(fits, "{} is {field}", declaration.name);
        }
        assert!(fields.is_empty(), "without a declaration: {fields:?}");
    }

    #[test]
    fn declarations_are_complete_and_do_not_collide() {
        let mut names = HashSet::new();
        let mut letters = HashSet::new();
        let mut variables = HashSet::new();
        for declaration in DECLARATIONS {
            let name = declaration.name;
            for alias in declaration.aliases.iter().chain([&name]) {
                assert!(names.insert(*alias), "{alias} is there twice");
            }
            if let Some(letter) = declaration.short {
                assert!(letters.insert(letter), "-{letter} is there twice");
            }
            assert!(variables.insert(declaration.variable()), "{name}");
            for variable in declaration.variables {
                assert!(
                    variables.insert((*variable).to_owned()),
                    "{variable} is there twice"
                );
            }
            assert!(
                declaration.description.ends_with('.'),
                "{name}: the help is a sentence"
            );
            assert_eq!(
                declaration.kind == Kind::Switch,
                declaration.placeholder.is_empty()
            );
            if let Some(default) = declaration.default {
                (declaration.check)(&[default.to_owned()]).unwrap();
            } else {
                assert!(!declaration.otherwise.is_empty(), "{name}");
                assert!(
                    !declaration.in_file || !declaration.example.is_empty(),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn what_a_reload_does_not_apply_is_known() {
        let before = Settings::read(Layers(&[]), Vec::new(), None).unwrap();
        let mut after = before.clone();
        after.graceful_timeout += 1;
        assert!(after.unapplied(&before).is_empty());
        after.pid = Some("app.pid".into());
        after.backlog += 1;
        after.control_socket = Some("control".into());
        let mut names = after.unapplied(&before);
        names.sort_unstable();
        assert_eq!(names, ["backlog", "control-socket", "pid"]);
    }

    #[test]
    fn settings_survive_the_way_to_another_process() {
        let bind = vec![
            "[::1]:80".parse().unwrap(),
            "unix:/run/x".parse().unwrap(),
            "unix:@x".parse().unwrap(),
            "fd://0".parse().unwrap(),
        ];
        let run_as = Credentials {
            uid: 33,
            gid: 33,
            groups: vec![33, 4],
        };
        let settings = Settings::read(Layers(&[]), bind, Some(run_as)).unwrap();
        let json = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&json).unwrap(), settings);
    }
}
