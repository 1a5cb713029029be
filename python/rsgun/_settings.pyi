# Generated from the declarations in crates/rsgun-core/src/config/settings.rs: change them
# there and run `RSGUN_BLESS=1 cargo test -p rsgun-core`.

from collections.abc import Sequence
from os import PathLike
from typing import TypeAlias, TypedDict

Text: TypeAlias = str | PathLike[str]

class Settings(TypedDict, total=False):
    """The settings as keyword arguments. None means that one is not given, but for pings."""

    worker_class: Text | None
    """The kind of application, by gunicorn's names of worker classes."""

    interface: Text | None
    """What kind of application it is: auto finds out."""

    factory: bool | None
    """The application is a function that returns the application."""

    app_dir: Text | None
    """The directory that is put first on `sys.path`."""

    pythonpath: Text | Sequence[Text] | None
    """Directories that come after it on `sys.path`, separated by commas; repeatable."""

    chdir: Text | None
    """The directory to change to before anything is loaded."""

    root_path: Text | None
    """The ASGI `root_path`: the path under which a proxy mounts the application."""

    lifespan: Text | None
    """Whether the application has a lifespan: auto finds out."""

    asgi_lifespan: Text | None
    """The same as `lifespan`."""

    cancel_on_disconnect: bool | None
    """Cancel a request whose client has left."""

    bind: Text | Sequence[Text] | None
    """Where to listen; repeatable: HOST:PORT, [::1]:PORT, :PORT, unix:PATH, unix:@NAME or
    fd://N.
    """

    host: Text | None
    """The host to listen on, together with port."""

    port: int | None
    """The port to listen on, together with host; 0 picks a free one."""

    uds: Text | None
    """The UNIX socket to listen on."""

    fd: int | None
    """The number of a listening socket that the parent process passes on."""

    limit_request_body: Text | None
    """The size above which a request body is refused, such as 10M."""

    backlog: int | None
    """Connections that may wait to be accepted."""

    reuse_port: bool | None
    """Give each worker a TCP queue of its own (`SO_REUSEPORT`)."""

    workers: int | str | None
    """The number of worker processes."""

    min_workers: int | None
    """The fewest workers, if their number follows the load; 0: see max-workers."""

    max_workers: int | None
    """The most workers, if their number follows the load; 0: see min-workers."""

    threads: int | None
    """The most threads of a worker that run a WSGI application."""

    blocking_threads: int | None
    """The same as `threads`."""

    preload: bool | None
    """Import the application once, before the workers are forked."""

    preload_app: bool | None
    """The same as `preload`."""

    reload_strategy: Text | None
    """How a reload replaces the workers: rolling (one after the other) or parallel."""

    reload_max_unavailable: int | None
    """Workers that may be missing while a rolling reload starts their replacements."""

    reload_probation: float | None
    """Seconds that the first worker of a reload must survive before old ones go."""

    python: Text | None
    """The Python interpreter."""

    loop: Text | None
    """The event loop: auto (uvloop where it is installed), asyncio, uvloop, rloop or
    MODULE:FACTORY.
    """

    asgi_loop: Text | None
    """The same as `loop`."""

    max_requests: int | None
    """Requests after which a worker is replaced; 0 means never."""

    limit_max_requests: int | None
    """The same as `max_requests`."""

    max_requests_jitter: int | None
    """The most requests that are added at random to max-requests, for each worker."""

    limit_max_requests_jitter: int | None
    """The same as `max_requests_jitter`."""

    max_lifetime: int | None
    """Seconds of service after which a worker is replaced; 0 means never."""

    max_lifetime_jitter: int | None
    """The most seconds that are added at random to max-lifetime, for each worker."""

    max_rss: Text | None
    """The resident memory above which a worker is replaced, such as 512M or 1G."""

    hard_max_rss: Text | None
    """The resident memory above which a worker is killed at once, such as 2G."""

    graceful_timeout: int | None
    """Seconds that a worker has to finish its requests when it is stopped."""

    timeout_graceful_shutdown: int | None
    """The same as `graceful_timeout`."""

    drain_delay: int | None
    """Seconds that the server goes on accepting after TERM, before it drains."""

    keep_alive: int | None
    """Seconds that an idle connection is kept open; 0 closes it after each answer."""

    timeout_keep_alive: int | None
    """The same as `keep_alive`."""

    client_timeout: int | None
    """Seconds that a client may let pass without sending or taking a byte; 0 means no limit."""

    boot_timeout: int | None
    """Seconds that a worker has from its start until it serves; 0 means no limit."""

    timeout: int | None
    """Seconds without a sign of life after which a worker is killed and replaced; 0 means
    never.
    """

    request_timeout: int | None
    """Seconds that the application has for a request; 0 means no limit."""

    ws: Text | None
    """Whether WebSockets are served: auto or none."""

    ws_max_size: int | None
    """Bytes that a message may have, compressed or not."""

    websocket_max_message_size: int | None
    """The same as `ws_max_size`."""

    ws_max_queue: int | None
    """Messages that may wait for the application on one connection."""

    ws_ping_interval: float | None
    """Seconds between two pings to a silent client; 0 sends none."""

    ws_ping_timeout: float | None
    """Seconds that a client has to answer a ping; 0 means no limit."""

    ws_per_message_deflate: bool | None
    """Compress messages for clients that offer it."""

    log_level: Text | int | None
    """The least level that is logged: critical, error, warning, info, debug or trace."""

    access_log: bool | None
    """Log every request."""

    access_logfile: Text | None
    """Where the requests are logged: a file, or - for standard output."""

    error_logfile: Text | None
    """Where the server logs: a file, or - for standard error."""

    error_log: Text | None
    """The same as `error_logfile`."""

    log_file: Text | None
    """The same as `error_logfile`."""

    capture_output: bool | None
    """Write what the application prints to the file of error-logfile."""

    user: Text | None
    """The user that the application runs as: a name or a number."""

    group: Text | None
    """The group that the application runs as: a name or a number."""

    initgroups: bool | None
    """Give the application's processes all groups of their user."""

    enable_stdio_inheritance: bool | None
    """Accepted from gunicorn: a daemon's output is to go where that of the start goes."""

    daemon: bool | None
    """Run in the background, apart from the terminal."""

    pid: Text | None
    """The file that the process id of the master is written to."""

    pidfile: Text | None
    """The same as `pid`."""

    control_socket: Text | None
    """A UNIX socket that tells the state of the server; see rsgunctl."""

    umask: Text | None
    """The mask for the modes of new files, in octal, such as 027."""

    env: Text | Sequence[Text] | None
    """A variable for the application's processes, NAME=VALUE; repeatable."""

    name: Text | None
    """A name that process titles show."""

    proc_name: Text | None
    """The same as `name`."""

    worker_tmp_dir: Text | None
    """Accepted from gunicorn; no such directory is needed."""

    config: Text | None
    """The configuration file: TOML, or a gunicorn.conf.py."""
