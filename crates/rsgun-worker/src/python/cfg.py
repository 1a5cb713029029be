"""The configuration as hooks see it: `cfg` of the server and of each worker.

It has each setting of gunicorn under its name, as an attribute and in `settings`. For what
rsgun has, that is the value in force, whoever has set it; for everything else it is what the
file says, and otherwise gunicorn's default, which says nothing about what rsgun does. What
only rsgun has is an attribute too, under its own name.
"""

import os


def nothing(*_):
    """Stands for a hook that the file does not have."""


FOREIGN = {
    "access_log_format": '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"',
    "asgi_disconnect_grace_period": 3,
    "ca_certs": None,
    "casefold_http_method": False,
    "cert_reqs": 0,
    "certfile": None,
    "check_config": False,
    "ciphers": None,
    "config": "./gunicorn.conf.py",
    "control_socket_disable": False,
    "control_socket_mode": 0o600,
    "dirty_apps": [],
    "dirty_graceful_timeout": 30,
    "dirty_post_fork": nothing,
    "dirty_threads": 1,
    "dirty_timeout": 300,
    "dirty_worker_exit": nothing,
    "dirty_worker_init": nothing,
    "dirty_workers": 0,
    "disable_redirect_access_to_syslog": False,
    "do_handshake_on_connect": False,
    "dogstatsd_tags": "",
    "enable_backlog_metric": False,
    "enable_stdio_inheritance": False,
    "forwarded_allow_ips": ["127.0.0.1", "::1"],
    "forwarder_headers": ["SCRIPT_NAME", "PATH_INFO"],
    "header_map": "drop",
    "http2_cleartext": "off",
    "http2_initial_window_size": 65535,
    "http2_max_concurrent_streams": 100,
    "http2_max_frame_size": 16384,
    "http2_max_header_list_size": 65536,
    "http_parser": "auto",
    "http_protocols": ["h1"],
    "initgroups": False,
    "keyfile": None,
    "limit_request_field_size": 8190,
    "limit_request_fields": 100,
    "limit_request_line": 4094,
    "logconfig": None,
    "logconfig_dict": {},
    "logconfig_json": None,
    "logger_class": "gunicorn.glogging.Logger",
    "on_dirty_starting": nothing,
    "paste": None,
    "permit_obsolete_folding": False,
    "permit_unconventional_http_method": False,
    "permit_unconventional_http_version": False,
    "print_config": False,
    "protocol": "http",
    "proxy_allow_ips": ["127.0.0.1", "::1"],
    "proxy_protocol": "off",
    "raw_paste_global_conf": [],
    "reload": False,
    "reload_engine": "auto",
    "reload_extra_files": [],
    "secure_scheme_headers": {
        "X-FORWARDED-PROTOCOL": "ssl",
        "X-FORWARDED-PROTO": "https",
        "X-FORWARDED-SSL": "on",
    },
    "sendfile": None,
    "spew": False,
    "ssl_context": nothing,
    "ssl_version": 2,
    "statsd_host": None,
    "statsd_prefix": "",
    "strip_header_spaces": False,
    "suppress_ragged_eofs": True,
    "syslog": False,
    "syslog_addr": "udp://localhost:514",
    "syslog_facility": "user",
    "syslog_prefix": None,
    "tmp_upload_dir": None,
    "uwsgi_allow_ips": ["127.0.0.1", "::1"],
    "worker_class": "sync",
    "worker_connections": 1000,
}
"""gunicorn's defaults for its settings that say nothing to rsgun, or say it in another way."""

LISTS = {"forwarded_allow_ips", "proxy_allow_ips", "uwsgi_allow_ips"}
"""What gunicorn makes a list of if the file has a string."""


class Setting:
    """A setting of gunicorn."""

    def __init__(self, name, value):
        self.name = name
        self.value = value

    def get(self):
        """Returns its value."""
        return self.value

    def set(self, value):
        """Changes the value for whoever asks in this process."""
        self.value = value


class Config:
    """All settings."""

    def __init__(self, values, file, hooks, note):
        """Takes the settings of the server, and those and the hooks of the file.

        `values` has those of rsgun under its names, those that gunicorn has as well in a
        dictionary under `gunicorn`, and the names of all hooks. `note` is called with a
        text for the log.
        """
        known = values.pop("gunicorn")
        given = {name: value for name, value in file.items() if value is not None}
        others = dict.fromkeys(values.pop("hooks"), nothing)
        shared = {**FOREIGN, **given, **known, **others, **hooks}
        for name in LISTS:
            if isinstance(shared[name], str):
                shared[name] = [text.strip() for text in shared[name].split(",")]
        shared["chdir"] = shared["chdir"] or os.getcwd()
        shared["pythonpath"] = ",".join(shared["pythonpath"]) or None
        shared["accesslog"] = shared["accesslog"] if values["access_log"] else None
        shared["default_proc_name"] = shared["wsgi_app"]
        shared["user"] = os.geteuid()
        shared["group"] = os.getegid()
        own = {name: value for name, value in values.items() if name not in shared}
        self.__dict__["settings"] = {name: Setting(name, shared[name]) for name in sorted(shared)}
        self.__dict__["_note"] = note
        self.__dict__.update(own)

    def __getattr__(self, name):
        setting = self.__dict__.get("settings", {}).get(name)
        if setting is None:
            raise AttributeError(f"No configuration setting for: {name}")
        return setting.get()

    def __setattr__(self, name, value):
        if name in self.settings:
            raise AttributeError("Invalid access!")
        super().__setattr__(name, value)

    def set(self, name, value):
        """Changes a setting for whoever asks in this process, but not for the server."""
        if name not in self.settings:
            raise AttributeError(f"No configuration setting for: {name}")
        self.settings[name].set(value)
        self._note(f"cfg.set({name!r}) changes nothing but what hooks see: set it in the file")

    @property
    def address(self):
        """Where to listen: paths, and pairs of host and port."""
        return [_address(text) for text in self.bind]

    @property
    def env(self):
        """The variables of raw_env."""
        return dict(entry.split("=", 1) for entry in self.raw_env)

    @property
    def is_ssl(self):
        """Whether Python encrypts connections, which it never does here."""
        return False

    @property
    def proc_name(self):
        """What the processes are called after."""
        return self.settings["proc_name"].get() or self.default_proc_name

    @property
    def uid(self):
        """The user of the workers."""
        return self.user

    @property
    def gid(self):
        """The group of the workers."""
        return self.group

    @property
    def worker_class_str(self):
        """The kind of worker, as gunicorn calls it."""
        name = self.worker_class
        is_sync = name == "sync" or name.endswith("SyncWorker")
        return "gthread" if is_sync and self.threads > 1 else name


def _address(text):
    """Returns an address as gunicorn has it: a path, or a host and a port."""
    if text.startswith("unix:"):
        return text[len("unix:") :]
    host, _, port = text.rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() else text
