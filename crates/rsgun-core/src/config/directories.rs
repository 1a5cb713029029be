//! The directories that the settings lead to must be there: what is missing would surface
//! as a module that cannot be found.

use std::io::ErrorKind;
use std::path::Path;

use super::error::ConfigError;
use super::layer::{Layers, Origin};
use super::settings::Settings;

/// The directory of the start may have been removed since, or moved away. What may
/// not be looked at was entered with more rights, and is no reason to fail.
pub(super) fn check_start(directory: &Path) -> Result<(), ConfigError> {
    let gone = match std::fs::metadata(directory) {
        Ok(found) => !found.is_dir(),
        Err(error) => matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
    };
    if gone {
        return Err(ConfigError::StartDirectory {
            path: directory.to_owned(),
        });
    }
    Ok(())
}

/// Checks those of the settings. One of many places to import from may be missing: returns
/// warnings of these.
pub(super) fn check_all(
    start: &Path,
    layers: Layers<'_>,
    settings: &Settings,
) -> Result<Vec<String>, ConfigError> {
    let origin = |name: &'static str| {
        let given = layers.get(name).map(|given| given.origin.clone());
        given.unwrap_or(Origin::Default { name })
    };
    let check = |name: &'static str, path: &Path| {
        if path.is_dir() {
            return Ok(());
        }
        Err(ConfigError::NotADirectory {
            origin: Box::new(origin(name)),
            path: path.to_owned(),
        })
    };
    let mut directory = start.to_owned();
    let chdir = settings.chdir.as_deref();
    if chdir.is_none_or(Path::is_relative) {
        check_start(start)?;
    }
    if let Some(chdir) = chdir {
        directory.push(chdir);
        check("chdir", &directory)?;
    }
    let app_dir = directory.join(&settings.app_dir);
    check("app-dir", &app_dir)?;
    let paths = settings.pythonpath.iter().map(|path| directory.join(path));
    let missing = paths.filter(|path| !path.exists());
    Ok(missing
        .map(|path| {
            let origin = origin("pythonpath");
            format!("{origin}: {} is not there to import from", path.display())
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::config::Source;
    use crate::config::case::{APP, case, command_line, flags, resolve};

    #[test]
    fn a_missing_directory_is_named_with_the_setting() {
        let error = case([APP, ("chdir", "nowhere")], [], None).error();
        assert!(
            error.starts_with("--chdir: /") && error.ends_with("not a directory"),
            "{error}"
        );
        let error = case([APP, ("app-dir", "nowhere")], [], None).error();
        assert!(error.starts_with("--app-dir: /"), "{error}");
    }

    #[test]
    fn one_of_many_places_to_import_from_may_be_missing() {
        let source = flags(&[APP, ("pythonpath", "/,nowhere")]);
        let (settings, warnings) = source.look().unwrap().without_python().unwrap();
        assert_eq!(settings.pythonpath, ["/", "nowhere"]);
        assert_eq!(
            warnings,
            ["--pythonpath: /nowhere is not there to import from"]
        );
    }

    #[test]
    fn the_directory_of_the_start_must_be_there_unless_another_one_is_absolute() {
        let resolved = |chdir: &[(&str, &str)]| {
            let line = command_line(&[&[APP], chdir].concat());
            resolve(&Source::new(line, BTreeMap::new(), "/srv/gone".into()))
        };
        for chdir in [&[][..], &[("chdir", "below")]] {
            let error = resolved(chdir).unwrap_err().to_string();
            assert!(
                error.starts_with("the directory /srv/gone does not"),
                "{error}"
            );
        }
        assert!(resolved(&[("chdir", "/")]).is_ok());
    }
}
