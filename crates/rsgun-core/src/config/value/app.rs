//! How the values are read that say what the application is, and what it runs in.

use super::{Read, ValueError, choice, first, optional};
use crate::config::{Interface, Lifespan};

/// `MODULE`, `MODULE:ATTRIBUTE`, or a path to a file in the place of the module. No
/// text gives an empty one, which [`crate::config::Source`] refuses, since it knows
/// whether a file was read.
pub(in crate::config) fn application(texts: &[String]) -> Read<String> {
    let text = first(texts);
    if texts.is_empty() {
        return Ok(String::new());
    }
    let has_attribute = text.contains(':');
    let (module, attribute) = text.split_once(':').unwrap_or((text, ""));
    if module.is_empty() || (has_attribute && attribute.is_empty()) || text.contains('\0') {
        return Err(ValueError::new(
            text,
            "is not MODULE:ATTRIBUTE, such as `main:app`",
        ));
    }
    if module.contains('/') && !has_python_suffix(module) {
        return Err(ValueError::new(
            text,
            "is neither a module, such as `main:app`, nor a path to a file that ends in `.py`",
        ));
    }
    Ok(text.to_owned())
}

fn has_python_suffix(module: &str) -> bool {
    std::path::Path::new(module)
        .extension()
        .is_some_and(|suffix| suffix == "py")
}

/// What granian calls ASGI if no lifespan is asked for.
const WITHOUT_LIFESPAN: &str = "asginl";

/// Whether `--interface` says that there is no lifespan.
pub(in crate::config) fn is_without_lifespan(texts: &[String]) -> bool {
    first(texts).trim().eq_ignore_ascii_case(WITHOUT_LIFESPAN)
}

/// `--interface`.
pub(in crate::config) fn interface(texts: &[String]) -> Read<Interface> {
    choice(
        texts,
        &[
            ("auto", Interface::Auto),
            ("asgi", Interface::Asgi),
            (WITHOUT_LIFESPAN, Interface::Asgi),
            ("asgi3", Interface::Asgi3),
            ("asgi2", Interface::Asgi2),
            ("rsgi", Interface::Rsgi),
            ("wsgi", Interface::Wsgi),
        ],
    )
}

/// `--worker-class`, or nothing.
pub(in crate::config) fn optional_worker_class(texts: &[String]) -> Read<Option<Interface>> {
    optional(texts, |text| {
        let class = text.trim();
        match class.strip_prefix("egg:gunicorn#").unwrap_or(class) {
            "sync" | "gthread" => return Ok(Interface::Wsgi),
            "asgi" => return Ok(Interface::Asgi),
            _ => {}
        }
        if let Some((module, name)) = class.rsplit_once('.') {
            match (module, name) {
                (
                    "uvicorn.workers"
                    | "uvicorn_worker"
                    | "uvicorn_worker._workers"
                    | "gunicorn.workers.gasgi",
                    _,
                ) => return Ok(Interface::Asgi),
                ("gunicorn.workers.sync" | "gunicorn.workers.gthread", _) => {
                    return Ok(Interface::Wsgi);
                }
                _ => {}
            }
        }
        let advice = if class.contains("gevent") || class.contains("eventlet") {
            "is not served: use `--interface wsgi --threads N`, where each thread waits for one \
             request's I/O as a greenlet would, or an ASGI application"
        } else if class.contains("tornado") {
            "is not served: use Tornado's own server, or an ASGI application; a WSGI application \
             needs `--interface wsgi --threads N`"
        } else if class.contains("meinheld") {
            "is not served: use `--interface wsgi`; connections are handled by native code here, \
             too"
        } else if class.contains("aiohttp") {
            "is not served: an aiohttp application is neither ASGI nor WSGI; use aiohttp's own \
             server"
        } else if class.contains(['.', ':']) {
            "is none that rsgun knows, and there is one kind of worker: leave `worker-class` out, \
             and say elsewhere what a class of your own sets: `loop`, `lifespan` and `ws` by the \
             settings of these names; `http` not at all; `proxy_headers` and `headers` by a \
             middleware of the application; and what it does besides by the hooks of a \
             gunicorn.conf.py"
        } else {
            "is none of `sync`, `gthread`, `asgi`, `uvicorn.workers.UvicornWorker`, \
             `uvicorn.workers.UvicornH11Worker`, `uvicorn_worker.UvicornWorker`; there is one \
             kind of worker, and `--interface` tells it what the application is"
        };
        Err(ValueError::new(text, advice))
    })
}

/// The name of an event loop, or `MODULE:FACTORY`.
pub(in crate::config) fn event_loop(texts: &[String]) -> Read<String> {
    const NAMES: [(&str, &str); 4] = [
        ("auto", "auto"),
        ("asyncio", "asyncio"),
        ("uvloop", "uvloop"),
        ("rloop", "rloop"),
    ];
    let text = first(texts);
    match text.split_once(':') {
        Some((module, factory)) if !module.is_empty() && !factory.is_empty() => Ok(text.to_owned()),
        _ => choice(texts, &NAMES)
            .map(str::to_owned)
            .map_err(|mut error| {
                error
                    .reason
                    .push_str(", or MODULE:FACTORY for a loop of your own");
                error
            }),
    }
}

/// `--lifespan`.
pub(in crate::config) fn lifespan(texts: &[String]) -> Read<Lifespan> {
    choice(
        texts,
        &[
            ("auto", Lifespan::Auto),
            ("on", Lifespan::On),
            ("off", Lifespan::Off),
        ],
    )
}

#[cfg(test)]
mod tests {
    use crate::config::Interface;
    use crate::config::case::{APP, case};

    #[test]
    fn applications_are_modules_files_attributes_and_calls() {
        let app = |text| case([("app", text)], [], None);
        for text in [
            "mysite.wsgi",
            "main:create.app",
            "main:create_app('a:b', debug=True)",
            "main.py",
            "src/web/main.py:app",
        ] {
            assert_eq!(app(text).settings().app, text);
        }
        for text in [":app", "main:", ":"] {
            assert!(
                app(text).error().contains("is not MODULE:ATTRIBUTE"),
                "{text}"
            );
        }
        let error = app("src/main:app").error();
        assert!(error.contains("nor a path to a file"), "{error}");
    }

    #[test]
    fn worker_classes_are_interfaces() {
        let class = |text| case([APP, ("worker-class", text)], [], None);
        for (text, interface) in [
            ("sync", Interface::Wsgi),
            ("gthread", Interface::Wsgi),
            ("asgi", Interface::Asgi),
            ("uvicorn.workers.UvicornWorker", Interface::Asgi),
            ("uvicorn.workers.UvicornH11Worker", Interface::Asgi),
            ("uvicorn_worker.UvicornWorker", Interface::Asgi),
            ("uvicorn_worker._workers.UvicornWorker", Interface::Asgi),
            ("gunicorn.workers.gasgi.ASGIWorker", Interface::Asgi),
            ("gunicorn.workers.sync.SyncWorker", Interface::Wsgi),
            ("gunicorn.workers.gthread.ThreadWorker", Interface::Wsgi),
            ("egg:gunicorn#sync", Interface::Wsgi),
            ("egg:gunicorn#gthread", Interface::Wsgi),
            ("egg:gunicorn#asgi", Interface::Asgi),
        ] {
            assert_eq!(class(text).settings().interface, interface, "{text}");
        }
        for text in [
            "gevent",
            "eventlet",
            "egg:gunicorn#gevent",
            "gunicorn.workers.ggevent.GeventWorker",
            "gunicorn.workers.geventlet.EventletWorker",
            "tornado",
            "gunicorn.workers.gtornado.TornadoWorker",
            "egg:meinheld#gunicorn_worker",
        ] {
            let error = class(text).error();
            assert!(
                error.starts_with("--worker-class:") && error.contains("use "),
                "{error}"
            );
        }
        assert!(
            class("aiohttp.GunicornWebWorker")
                .error()
                .contains("neither ASGI nor WSGI")
        );
        let own = class("main.MyUvicornWorker").error();
        assert!(
            own.contains("leave `worker-class` out") && own.contains("`loop`"),
            "{own}"
        );
    }

    #[test]
    fn loops_are_names_or_factories() {
        let event_loop = |text| case([APP, ("loop", text)], [], None);
        assert_eq!(event_loop("UVLoop").settings().event_loop, "uvloop");
        assert_eq!(
            event_loop("mine:new_loop").settings().event_loop,
            "mine:new_loop"
        );
        for text in ["uvlop", ":x", "x:"] {
            assert!(
                event_loop(text).error().contains("MODULE:FACTORY"),
                "{text}"
            );
        }
    }
}
