//! The layers together.

use std::path::PathBuf;

use super::choice::ConfigFile;
use super::environment::{self, Environment};
use super::error::ConfigError;
use super::file;
use super::layer::{Layer, Layers, Origin};
use super::listen;
use super::python_file::{self, PythonFile, PythonSource};
use super::settings::{DJANGO, Inputs, Settings};
use super::{agreement, bystanders, directories, run_as};

/// Where the settings come from: the command line as it was parsed, and the places
/// that are read anew each time.
#[derive(Debug)]
pub struct Source {
    command_line: Layer,
    environment: Box<dyn Environment>,
    /// The current directory when the source was made: paths on the command line are
    /// relative to it also after the process has gone elsewhere.
    directory: PathBuf,
    /// About what was given and is not needed.
    notes: Vec<String>,
}

/// The settings, as far as they are known without Python.
#[derive(Debug)]
pub enum Configured {
    /// All of them.
    Completely {
        /// The settings.
        settings: Box<Settings>,
        /// About what has no effect.
        warnings: Vec<String>,
    },
    /// All but what a file of Python has to say.
    But {
        /// The file.
        file: PythonSource,
        /// The settings without it; there may be no application among them.
        known: Box<Settings>,
    },
}

impl Configured {
    /// The settings and the warnings, for a process that has nobody to evaluate a file of
    /// Python.
    ///
    /// # Errors
    /// [`ConfigError::FileNeedsMaster`].
    pub fn without_python(self) -> Result<(Settings, Vec<String>), ConfigError> {
        match self {
            Self::Completely { settings, warnings } => Ok((*settings, warnings)),
            Self::But { file, .. } => Err(ConfigError::FileNeedsMaster { file }),
        }
    }
}

impl Source {
    /// Combines a parsed command line with an environment. Relative paths start at
    /// `directory`, which is the current directory of the process when it starts.
    pub fn new(
        command_line: Layer,
        environment: impl Environment + 'static,
        directory: PathBuf,
    ) -> Self {
        Self {
            command_line,
            environment: Box::new(environment),
            directory,
            notes: Vec::new(),
        }
    }

    /// Keeps what is to be told about the command line, for [`Self::notes`].
    #[must_use]
    pub fn with_notes(mut self, notes: Vec<String>) -> Self {
        self.notes = notes;
        self
    }

    /// What the user should know about the command line.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What the user may believe to be read, and is not.
    #[must_use]
    pub fn unread(&self) -> Vec<String> {
        let environment = environment::layer(&*self.environment).unwrap_or_default();
        let stated = [&self.command_line, &environment];
        let states = |name: &str| Layers(&stated).get(name).is_some();
        bystanders::warnings(&*self.environment, &self.directory, &states)
    }

    /// How many sockets were opened for this process, whether they are used or not.
    #[must_use]
    pub fn sockets(&self) -> u16 {
        self.environment.sockets()
    }

    /// Reads environment and file and resolves all layers, as far as that goes without
    /// Python; a reload calls it again.
    ///
    /// # Errors
    /// [`ConfigError`], which names the option, variable or line.
    pub fn look(&self) -> Result<Configured, ConfigError> {
        let environment = environment::layer(&*self.environment)?;
        let stated = [&self.command_line, &environment];
        let (settings, warnings) = match self.file(Layers(&stated))? {
            None => self.settings(&stated)?,
            Some((ConfigFile::Toml(path), origin)) => {
                let file = file::read(&path, origin)?;
                self.settings(&[&self.command_line, &environment, &file])?
            }
            Some((ConfigFile::Python(file), _)) => {
                let known = Box::new(self.read(Layers(&stated))?);
                return Ok(Configured::But { file, known });
            }
        };
        let settings = Box::new(settings);
        Ok(Configured::Completely { settings, warnings })
    }

    /// Resolves all layers, of which `file` was evaluated meanwhile. Also returns
    /// warnings about settings in it that have no effect.
    ///
    /// # Errors
    /// As [`Self::look`].
    pub fn complete(&self, file: &PythonFile) -> Result<(Settings, Vec<String>), ConfigError> {
        let environment = environment::layer(&*self.environment)?;
        let stated = [&self.command_line, &environment];
        let (file, mut warnings) = python_file::layer(file)?;
        let all = [&self.command_line, &environment, &file];
        let known = run_as::credentials(Layers(&stated))?;
        let (settings, more) = self.settings(&all)?;
        warnings.extend(more);
        if known.is_some() && known != settings.run_as {
            let given = ["user", "group", "initgroups"]
                .into_iter()
                .find_map(|name| file.get(name));
            return Err(ConfigError::SplitUser {
                origin: Box::new(given.map_or(Origin::Default { name: "user" }, |given| {
                    given.origin.clone()
                })),
            });
        }
        Ok((settings, warnings))
    }

    /// Where a setting is given that was resolved before, with `file` if one was evaluated.
    #[must_use]
    pub fn origin(&self, name: &str, file: Option<&PythonFile>) -> Option<Origin> {
        let environment = environment::layer(&*self.environment).ok()?;
        let stated = [&self.command_line, &environment];
        let file = match (file, self.file(Layers(&stated)).ok()?) {
            (Some(file), _) => python_file::layer(file).ok()?.0,
            (None, Some((ConfigFile::Toml(path), origin))) => file::read(&path, origin).ok()?,
            (None, _) => Layer::default(),
        };
        let all = [&self.command_line, &environment, &file];
        Layers(&all).get(name).map(|given| given.origin.clone())
    }

    /// The file that is named, and where.
    fn file<'a>(
        &self,
        layers: Layers<'a>,
    ) -> Result<Option<(ConfigFile, &'a Origin)>, ConfigError> {
        let Some(given) = layers.get("config") else {
            return Ok(None);
        };
        let Some(file) = Inputs::read(layers)?.config else {
            return Ok(None);
        };
        let anchored = |path: PathBuf| {
            if path.is_relative() {
                directories::check_start(&self.directory)?;
            }
            Ok::<_, ConfigError>(self.directory.join(path))
        };
        let file = match file {
            ConfigFile::Toml(path) => ConfigFile::Toml(anchored(path)?),
            ConfigFile::Python(PythonSource::File(path)) => {
                ConfigFile::Python(PythonSource::File(anchored(path)?))
            }
            module @ ConfigFile::Python(PythonSource::Module { .. }) => module,
        };
        Ok(Some((file, &given.origin)))
    }

    fn settings(&self, layers: &[&Layer]) -> Result<(Settings, Vec<String>), ConfigError> {
        let surroundings = environment::surroundings(&*self.environment)?;
        let all = [layers, &[&surroundings]].concat();
        let layers = Layers(&all);
        let mut settings = self.read(layers)?;
        if settings.app.is_empty() {
            settings.app = django(&settings.env, &*self.environment)?;
        }
        agreement::check_bounds(layers, &settings)?;
        agreement::check_streams(layers, &settings)?;
        let warnings = directories::check_all(&self.directory, layers, &settings)?;
        Ok((settings, warnings))
    }

    fn read(&self, layers: Layers<'_>) -> Result<Settings, ConfigError> {
        let bind = listen::addresses(layers, &*self.environment)?;
        let run_as = run_as::credentials(layers)?;
        let mut settings = Settings::read(layers, bind, run_as)?;
        settings.interface = agreement::interface(layers, settings.interface)?;
        settings.lifespan = agreement::lifespan(layers, settings.lifespan)?;
        settings.access_log &= !agreement::declines_access_log(layers);
        Ok(settings)
    }
}

/// The application of the Django project whose settings the variables name: of those
/// for the application, which come later, and of this process.
fn django(variables: &[String], environment: &dyn Environment) -> Result<String, ConfigError> {
    let given = variables
        .iter()
        .rev()
        .find_map(|variable| variable.strip_prefix(DJANGO)?.strip_prefix('='))
        .map(str::to_owned);
    let module = match given {
        Some(module) => Some(module).filter(|module| !module.is_empty()),
        None => environment::read(environment, DJANGO)?,
    };
    match module {
        Some(module) => Ok(format!("{DJANGO}={module}")),
        None => Err(ConfigError::NoApplication),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::WorkerCount;
    use crate::config::case::{APP, case, command_line, flags, resolve};

    #[test]
    fn the_strongest_layer_wins() {
        let file = Some("app = \"filed:app\"\nworkers = 2\nbacklog = 7\n");
        let variables = [("RSGUN_WORKERS", "3"), ("RSGUN_LOG_LEVEL", "DEBUG")];
        let settings = case([("workers", "4")], variables, file).settings();
        assert_eq!(settings.workers, WorkerCount::Fixed(4));
        assert_eq!(settings.log_level, crate::log::Level::Debug);
        assert_eq!((settings.app.as_str(), settings.backlog), ("filed:app", 7));
        assert_eq!(settings.keep_alive, 75, "the default");
        let settings = case([], variables, file).settings();
        assert_eq!(settings.workers, WorkerCount::Fixed(3));
    }

    #[test]
    fn a_wrong_value_names_the_place() {
        assert_eq!(
            case([APP], [("WEB_CONCURRENCY", "many")], None).error(),
            "the environment variable WEB_CONCURRENCY: `many` is not a whole number from 1 to 512, nor \
             `auto`"
        );
        let error = case([APP], [], Some("workers = 4\nkeep-alive = -1\n")).error();
        assert!(
            error.ends_with(
                "rsgun.toml, line 2: keep-alive: `-1` is not a whole number from 0 to 31536000"
            ),
            "{error}"
        );
        let error = case([APP], [("RSGUN_PORT", "tcp://10.0.0.1:80")], None).error();
        assert!(
            error.contains("RSGUN_PORT") && error.contains("Kubernetes"),
            "{error}"
        );
        let error = case([APP], [("RSGUN_LOG_LEVEL", "loud")], None).error();
        assert!(
            error.contains("RSGUN_LOG_LEVEL: `loud` is none of `critical`"),
            "{error}"
        );
    }

    #[test]
    fn without_an_application_the_usage_is_shown() {
        let error = case([], [], None).resolve().unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("rsgun -w 4 main:app"), "{error}");
        assert_eq!(
            case([], [("RSGUN_APP", "main:app")], None).settings().app,
            "main:app"
        );
    }

    #[test]
    fn without_an_application_it_is_that_of_a_django_project() {
        const PROJECT: (&str, &str) = ("DJANGO_SETTINGS_MODULE", "project.settings");
        let settings = case([], [PROJECT], None).settings();
        assert_eq!(settings.app, "DJANGO_SETTINGS_MODULE=project.settings");
        assert_eq!(settings.django_settings(), Some("project.settings"));
        let settings = case([APP], [PROJECT], None).settings();
        assert_eq!(settings.app, "main:app");
        assert_eq!(settings.django_settings(), None);
        let given = [("env", "A=1"), ("env", "DJANGO_SETTINGS_MODULE=other")];
        let settings = case(given, [PROJECT], None).settings();
        assert_eq!(settings.django_settings(), Some("other"));
        for (flag, variable) in [("A=1", ""), ("DJANGO_SETTINGS_MODULE=", "project.settings")] {
            let variables = [("DJANGO_SETTINGS_MODULE", variable)];
            let error = case([("env", flag)], variables, None).error();
            assert!(error.contains("no application given"), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named_with_the_setting() {
        let error = case([APP, ("config", "nowhere.toml")], [], None).error();
        assert!(
            error.starts_with("--config: cannot read the configuration file /"),
            "{error}"
        );
        let error = case([APP], [("RSGUN_CONFIG", "settings.toml")], None).error();
        assert!(
            error.starts_with("the environment variable RSGUN_CONFIG: "),
            "{error}"
        );
    }

    #[test]
    fn what_is_not_called_toml_is_python() {
        let named = |text: &str| match flags(&[APP, ("config", text)]).look() {
            Ok(Configured::But { file, .. }) => file.to_string(),
            other => panic!("{text}: {other:?}"),
        };
        for text in ["gunicorn.conf", "file:gunicorn.conf", "/gunicorn.conf"] {
            assert_eq!(named(text), "/gunicorn.conf");
        }
        assert_eq!(named("conf/a.py"), "/conf/a.py");
        assert_eq!(named("python:site.conf"), "python:site.conf");
        for text in ["nowhere.toml", "file:nowhere.toml"] {
            let error = flags(&[APP, ("config", text)]).look().unwrap_err();
            let error = error.to_string();
            assert!(error.contains("file /nowhere.toml: "), "{error}");
        }
        for text in ["python:", "python:a..b", "python:conf/a.py"] {
            let error = case([APP, ("config", text)], [], None).error();
            assert!(error.contains("names no module"), "{error}");
        }
    }

    #[test]
    fn the_place_of_a_setting_can_be_found_again() {
        let place = |source: &Source| {
            source
                .origin("error-logfile", None)
                .map(|it| it.to_string())
        };
        assert_eq!(place(&flags(&[APP])), None);
        let flag = flags(&[("error-logfile", "/x")]);
        assert_eq!(place(&flag).as_deref(), Some("--error-logfile"));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.toml");
        std::fs::write(&path, "\nerror-logfile = \"/x\"").unwrap();
        let source = flags(&[("config", path.to_str().unwrap())]);
        let expected = format!("{}, line 2: error-logfile", path.display());
        assert_eq!(place(&source), Some(expected));
    }

    #[test]
    fn a_second_look_sees_a_changed_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("rsgun.toml");
        let line = command_line(&[("config", "rsgun.toml")]);
        let source = Source::new(line, BTreeMap::new(), directory.path().to_owned());
        std::fs::write(&file, "app = \"main:app\"\nworkers = 2").unwrap();
        assert_eq!(resolve(&source).unwrap().workers, WorkerCount::Fixed(2));
        std::fs::write(&file, "app = \"main:app\"\nworkers = 3").unwrap();
        assert_eq!(resolve(&source).unwrap().workers, WorkerCount::Fixed(3));
        std::fs::write(&file, "app = \"main:app\"\nworkers = 0").unwrap();
        assert!(resolve(&source).is_err());
    }
}
