//! Settings that must agree, and those that mean something only together.
//!
//! Each is read by itself before, and may stand in another layer than the others. An error
//! says where one of them stands, and how they can be brought together.

use super::choice::{Interface, Lifespan};
use super::error::ConfigError;
use super::layer::Layers;
use super::settings::{Inputs, Settings};
use super::value;

/// There must be a number of workers that is within the bounds.
pub(super) fn check_bounds(layers: Layers<'_>, settings: &Settings) -> Result<(), ConfigError> {
    let (min, max) = (settings.min_workers, settings.max_workers);
    let Some(given) = layers.get("min-workers").filter(|_| max > 0 && min > max) else {
        return Ok(());
    };
    let origin = Box::new(given.origin.clone());
    Err(ConfigError::NoWorkers { origin, min, max })
}

/// A daemon has no streams but those that lead to a file.
pub(super) fn check_streams(layers: Layers<'_>, settings: &Settings) -> Result<(), ConfigError> {
    let is_wanted = Inputs::read(layers)?.enable_stdio_inheritance;
    match layers.get("enable-stdio-inheritance") {
        Some(given) if is_wanted && settings.daemon && !settings.error_logfile.is_file() => {
            Err(ConfigError::DaemonWithStreams {
                origin: Box::new(given.origin.clone()),
            })
        }
        _ => Ok(()),
    }
}

/// What `--lifespan` and `--interface` say together.
pub(super) fn lifespan(layers: Layers<'_>, stated: Lifespan) -> Result<Lifespan, ConfigError> {
    match layers.get("interface") {
        Some(given) if value::is_without_lifespan(&given.texts) => match stated {
            Lifespan::On => Err(ConfigError::LifespanConflict {
                origin: Box::new(given.origin.clone()),
            }),
            Lifespan::Auto | Lifespan::Off => Ok(Lifespan::Off),
        },
        _ => Ok(stated),
    }
}

/// Whether the file for the access log is to be none, and nobody says that there is such
/// a log.
pub(super) fn declines_access_log(layers: Layers<'_>) -> bool {
    let file = layers.get("access-logfile");
    file.is_some_and(|given| given.texts.is_empty()) && layers.get("access-log").is_none()
}

/// What `--interface` and `--worker-class` say together.
pub(super) fn interface(layers: Layers<'_>, stated: Interface) -> Result<Interface, ConfigError> {
    let (Some(class), Some(given)) = (
        Inputs::read(layers)?.worker_class,
        layers.get("worker-class"),
    ) else {
        return Ok(stated);
    };
    match (stated, class) {
        (Interface::Auto, _) => Ok(class),
        (Interface::Asgi | Interface::Asgi3 | Interface::Asgi2, Interface::Asgi) => Ok(stated),
        _ if stated == class => Ok(class),
        _ => Err(ConfigError::InterfaceConflict {
            origin: Box::new(given.origin.clone()),
            class: class.name(),
            stated: stated.name(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Value;
    use crate::config::case::{APP, case, completed, flags};

    #[test]
    fn bounds_that_leave_no_number_are_refused() {
        let variables = [("RSGUN_MAX_WORKERS", "3")];
        assert_eq!(
            case([APP, ("min-workers", "4")], variables, None).error(),
            "--min-workers: 4 workers at least are more than the 3 that --max-workers allows"
        );
        case([APP, ("min-workers", "3")], variables, None).settings();
        case([APP, ("min-workers", "3")], [], None).settings();
    }

    #[test]
    fn an_interface_and_a_worker_class_must_agree() {
        let both = |interface, class| {
            let flags = [APP, ("interface", interface), ("worker-class", class)];
            case(flags, [], None)
        };
        assert_eq!(both("asgi2", "asgi").settings().interface, Interface::Asgi2);
        assert_eq!(both("wsgi", "sync").settings().interface, Interface::Wsgi);
        let error = both("wsgi", "asgi").error();
        assert!(error.contains("keep one of them"), "{error}");
    }

    #[test]
    fn granian_s_interface_without_lifespan_is_understood() {
        let settings = case([APP, ("interface", "asginl")], [], None).settings();
        let both = (settings.interface, settings.lifespan);
        assert_eq!(both, (Interface::Asgi, Lifespan::Off));
        let settings = case([APP, ("interface", "asgi")], [], None).settings();
        assert_eq!(settings.lifespan, Lifespan::Auto);
        let both = [APP, ("interface", "ASGINL"), ("lifespan", "on")];
        let error = case(both, [], None).error();
        assert!(
            error.starts_with("--interface: means --lifespan off, but"),
            "{error}"
        );
    }

    #[test]
    fn a_file_may_decline_the_access_log_as_for_gunicorn() {
        let nothing = [("accesslog", Value::Nothing)];
        let logs = |given: &[(&str, &str)], assigned: &[(&str, Value)]| {
            let source = flags(&[&[APP], given].concat());
            let settings = completed(&source, assigned).unwrap();
            (settings.access_log, settings.access_logfile.is_file())
        };
        assert_eq!(logs(&[], &[]), (true, false));
        assert_eq!(logs(&[], &nothing), (false, false));
        // Whoever is stronger, or more explicit, has such a log.
        assert_eq!(logs(&[("access-logfile", "-")], &nothing), (true, false));
        assert_eq!(logs(&[("access-logfile", "/x")], &nothing), (true, true));
        assert_eq!(logs(&[("access-log", "true")], &nothing), (true, false));
        let both = [
            nothing[0].clone(),
            ("rsgun_access_log", Value::Switch(true)),
        ];
        assert_eq!(logs(&[], &both), (true, false));
        assert_eq!(logs(&[], &[("errorlog", Value::Nothing)]), (true, false));
    }

    #[test]
    fn a_daemon_cannot_keep_its_streams() {
        let inherit = [("enable_stdio_inheritance", Value::Switch(true))];
        completed(&flags(&[APP]), &inherit).unwrap();
        let file = [APP, ("daemon", "true"), ("error-logfile", "/x")];
        completed(&flags(&file), &inherit).unwrap();
        let daemon = [APP, ("daemon", "true")];
        completed(
            &flags(&daemon),
            &[("enable_stdio_inheritance", Value::Switch(false))],
        )
        .unwrap();
        let error = completed(&flags(&daemon), &inherit)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("/srv/gunicorn.conf.py, line 1: enable_stdio_inheritance: a daemon")
                && error.contains("--error-logfile"),
            "{error}"
        );
    }
}
