//! The layers together.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::bystanders;
use super::choice::{ConfigFile, Interface, Lifespan};
use super::environment::{self, Environment};
use super::error::ConfigError;
use super::file;
use super::layer::{Layer, Layers, Origin};
use super::listen;
use super::python_file::{self, PythonFile, PythonSource};
use super::run_as;
use super::settings::{DJANGO, Inputs, Settings};
use super::value;

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
                self.check_start()?;
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

    /// The directory of the start may have been removed since, or moved away. What may
    /// not be looked at was entered with more rights, and is no reason to fail.
    fn check_start(&self) -> Result<(), ConfigError> {
        let gone = match std::fs::metadata(&self.directory) {
            Ok(found) => !found.is_dir(),
            Err(error) => matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        };
        if gone {
            return Err(ConfigError::StartDirectory {
                path: self.directory.clone(),
            });
        }
        Ok(())
    }

    fn settings(&self, layers: &[&Layer]) -> Result<(Settings, Vec<String>), ConfigError> {
        let surroundings = environment::surroundings(&*self.environment)?;
        let all = [layers, &[&surroundings]].concat();
        let layers = Layers(&all);
        let mut settings = self.read(layers)?;
        if settings.app.is_empty() {
            settings.app = django(&settings.env, &*self.environment)?;
        }
        check_bounds(layers, &settings)?;
        check_streams(layers, &settings)?;
        let warnings = self.check_directories(layers, &settings)?;
        Ok((settings, warnings))
    }

    fn read(&self, layers: Layers<'_>) -> Result<Settings, ConfigError> {
        let bind = listen::addresses(layers, &*self.environment)?;
        let run_as = run_as::credentials(layers)?;
        let mut settings = Settings::read(layers, bind, run_as)?;
        settings.interface = interface(layers, settings.interface)?;
        settings.lifespan = lifespan(layers, settings.lifespan)?;
        settings.access_log &= !declines_access_log(layers);
        Ok(settings)
    }

    /// A directory that is not there would surface as a module that cannot be found. One of
    /// many places to look at may be missing: returns warnings of these.
    fn check_directories(
        &self,
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
        let mut directory = self.directory.clone();
        let chdir = settings.chdir.as_deref();
        if chdir.is_none_or(Path::is_relative) {
            self.check_start()?;
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

/// There must be a number of workers that is within the bounds.
fn check_bounds(layers: Layers<'_>, settings: &Settings) -> Result<(), ConfigError> {
    let (min, max) = (settings.min_workers, settings.max_workers);
    let Some(given) = layers.get("min-workers").filter(|_| max > 0 && min > max) else {
        return Ok(());
    };
    let origin = Box::new(given.origin.clone());
    Err(ConfigError::NoWorkers { origin, min, max })
}

/// A daemon has no streams but those that lead to a file.
fn check_streams(layers: Layers<'_>, settings: &Settings) -> Result<(), ConfigError> {
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
fn lifespan(layers: Layers<'_>, stated: Lifespan) -> Result<Lifespan, ConfigError> {
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
fn declines_access_log(layers: Layers<'_>) -> bool {
    let file = layers.get("access-logfile");
    file.is_some_and(|given| given.texts.is_empty()) && layers.get("access-log").is_none()
}

/// What `--interface` and `--worker-class` say together.
fn interface(layers: Layers<'_>, stated: Interface) -> Result<Interface, ConfigError> {
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
    use std::collections::BTreeMap;
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::config::settings::DECLARATIONS;
    use crate::config::{Assigned, Declaration, Value, WorkerCount};
    use crate::hooks::HookSet;
    use crate::listeners::Address;

    fn resolve(source: &Source) -> Result<Settings, ConfigError> {
        Ok(source.look()?.without_python()?.0)
    }

    /// A source of flags (`name=text`, repeatable), variables and a file.
    struct Case {
        flags: Vec<(&'static str, &'static str)>,
        variables: Vec<(&'static str, &'static str)>,
        file: Option<&'static str>,
    }

    const APP: (&str, &str) = ("app", "main:app");

    fn case<const F: usize, const V: usize>(
        flags: [(&'static str, &'static str); F],
        variables: [(&'static str, &'static str); V],
        file: Option<&'static str>,
    ) -> Case {
        Case {
            flags: flags.to_vec(),
            variables: variables.to_vec(),
            file,
        }
    }

    impl Case {
        fn resolve(&self) -> Result<Settings, ConfigError> {
            let directory = tempfile::tempdir().unwrap();
            let mut layer = Layer::default();
            let mut flags: BTreeMap<&str, Vec<String>> = BTreeMap::new();
            for (name, text) in &self.flags {
                flags.entry(name).or_default().push((*text).to_owned());
            }
            if let Some(text) = self.file {
                std::fs::write(directory.path().join("rsgun.toml"), text).unwrap();
                flags.insert("config", vec!["rsgun.toml".to_owned()]);
            }
            for (name, texts) in flags {
                let option = format!("--{name}");
                let declaration = Declaration::find(name).unwrap();
                layer.set(declaration, texts, Origin::CommandLine { option });
            }
            let variables: BTreeMap<String, OsString> = self
                .variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), OsString::from(value)))
                .collect();
            resolve(&Source::new(layer, variables, directory.path().to_owned()))
        }

        fn settings(&self) -> Settings {
            self.resolve().unwrap_or_else(|error| panic!("{error}"))
        }

        fn error(&self) -> String {
            self.resolve().unwrap_err().to_string()
        }

        fn bind(&self) -> Vec<String> {
            self.settings()
                .bind
                .iter()
                .map(ToString::to_string)
                .collect()
        }
    }

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
    fn supervisord_shortens_the_graceful_end_that_nobody_has_chosen() {
        let supervised = [("SUPERVISOR_ENABLED", "1")];
        assert_eq!(case([APP], [], None).settings().graceful_timeout, 30);
        assert_eq!(case([APP], supervised, None).settings().graceful_timeout, 8);
        let file = Some("app = \"filed:app\"\ngraceful-timeout = 20\n");
        assert_eq!(case([], supervised, file).settings().graceful_timeout, 20);
    }

    #[test]
    fn gunicorn_s_variables_count_after_our_own() {
        assert_eq!(
            case([APP], [("WEB_CONCURRENCY", "5")], None)
                .settings()
                .workers,
            WorkerCount::Fixed(5)
        );
        let both = [("WEB_CONCURRENCY", "5"), ("RSGUN_WORKERS", "6")];
        assert_eq!(
            case([APP], both, None).settings().workers,
            WorkerCount::Fixed(6)
        );
        assert_eq!(
            case([APP], [("WEB_CONCURRENCY", "")], None)
                .settings()
                .workers,
            WorkerCount::Fixed(1)
        );
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
    fn gunicorn_s_ways_to_say_nothing_and_warning_are_understood() {
        let nothing = [
            APP,
            ("pid", ""),
            ("chdir", ""),
            ("name", ""),
            ("config", ""),
        ];
        let settings = case(nothing, [], None).settings();
        assert_eq!(
            (settings.pid, settings.chdir, settings.name),
            (None, None, None)
        );
        for text in ["warn", "WARN", "Warning"] {
            let settings = case([APP, ("log-level", text)], [], None).settings();
            assert_eq!(settings.log_level, crate::log::Level::Warning, "{text}");
        }
        // Whoever means a user and names none must not serve as root.
        for name in ["user", "group"] {
            let error = case([APP, (name, "")], [], None).error();
            assert!(error.contains("neither a name nor a number"), "{error}");
        }
    }

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
    fn a_variable_that_is_not_text_is_named() {
        let mut variables = BTreeMap::new();
        variables.insert("RSGUN_APP".to_owned(), OsString::from_vec(vec![0xff]));
        let source = Source::new(Layer::default(), variables, PathBuf::from("."));
        let error = resolve(&source).unwrap_err().to_string();
        assert_eq!(
            error,
            "the environment variable RSGUN_APP is not valid UTF-8"
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

    #[test]
    fn without_any_address_it_is_this_machine_or_the_platform_s_port() {
        assert_eq!(case([APP], [], None).bind(), ["127.0.0.1:8000"]);
        assert_eq!(
            case([APP], [("PORT", "5000")], None).bind(),
            ["0.0.0.0:5000"]
        );
        assert_eq!(case([APP], [("PORT", "")], None).bind(), ["127.0.0.1:8000"]);
        let error = case([APP], [("PORT", "http")], None).error();
        assert_eq!(
            error,
            "the environment variable PORT: `http` is not a whole number from 0 to 65535"
        );
        let port = [("PORT", "5000")];
        assert_eq!(
            case([APP, ("host", "::")], port, None).bind(),
            ["[::]:8000"]
        );
        assert_eq!(case([APP], port, Some("bind = \":1\"")).bind(), [":1"]);
    }

    /// No variables, but sockets that were opened for this process.
    #[derive(Debug)]
    struct Activated(BTreeMap<String, OsString>);

    impl Environment for Activated {
        fn get(&self, name: &str) -> Option<OsString> {
            Environment::get(&self.0, name)
        }

        fn names(&self) -> Vec<String> {
            self.0.names()
        }

        fn sockets(&self) -> u16 {
            2
        }
    }

    #[test]
    fn sockets_of_systemd_are_taken_when_no_setting_names_an_address() {
        let bind = |flags: &[(&str, &str)]| {
            let mut line = Layer::default();
            for (name, text) in flags {
                let declaration = DECLARATIONS.iter().find(|one| one.name == *name).unwrap();
                let origin = Origin::Default {
                    name: declaration.name,
                };
                line.set(declaration, vec![(*text).to_owned()], origin);
            }
            let environment = Activated([("PORT".to_owned(), "5000".into())].into());
            let source = Source::new(line, environment, PathBuf::from("/"));
            resolve(&source).unwrap().bind
        };
        assert_eq!(bind(&[APP]), [Address::Fd(3), Address::Fd(4)]);
        assert_eq!(bind(&[APP, ("fd", "4")]), [Address::Fd(4)]);
    }

    #[test]
    fn the_strongest_layer_alone_says_where_to_listen() {
        let file = Some("bind = [\":1\", \"unix:/x\"]");
        assert_eq!(case([APP], [], file).bind(), [":1", "unix:/x"]);
        assert_eq!(case([APP, ("uds", "/y")], [], file).bind(), ["unix:/y"]);
        assert_eq!(case([APP, ("fd", "0")], [], file).bind(), ["fd://0"]);
        assert_eq!(case([APP, ("port", "0")], [], file).bind(), ["127.0.0.1:0"]);
        let variable = [("RSGUN_BIND", ":2, unix:@z")];
        assert_eq!(case([APP], variable, file).bind(), [":2", "unix:@z"]);
        let twice = [APP, ("bind", ":3"), ("bind", "[::1]:4")];
        assert_eq!(case(twice, variable, file).bind(), [":3", "[::1]:4"]);
    }

    #[test]
    fn host_and_port_complete_each_other() {
        let host = Some("host = \"0.0.0.0\"\nport = 80");
        assert_eq!(case([APP], [], host).bind(), ["0.0.0.0:80"]);
        assert_eq!(
            case([APP, ("port", "9000")], [], host).bind(),
            ["0.0.0.0:9000"]
        );
        assert_eq!(
            case([APP], [("RSGUN_HOST", "::1")], host).bind(),
            ["[::1]:80"]
        );
        let between = [("RSGUN_UDS", "/x")];
        assert_eq!(
            case([APP, ("port", "9")], between, host).bind(),
            ["127.0.0.1:9"]
        );
    }

    #[test]
    fn one_layer_must_not_say_it_in_two_ways() {
        let error = case([APP, ("bind", ":1"), ("port", "2")], [], None).error();
        assert!(
            error.starts_with("--bind and --port contradict each other"),
            "{error}"
        );
        let error = case([APP], [], Some("uds = \"/x\"\n\nfd = 3")).error();
        assert!(
            error.contains("line 1: uds and ") && error.contains("line 3: fd"),
            "{error}"
        );
        let error = case([APP], [], Some("bind = []")).error();
        assert!(error.contains("line 1: bind: is an empty list"), "{error}");
    }

    #[test]
    fn a_missing_file_or_directory_is_named_with_the_setting() {
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
        let error = case([APP, ("chdir", "nowhere")], [], None).error();
        assert!(
            error.starts_with("--chdir: /") && error.ends_with("not a directory"),
            "{error}"
        );
        let error = case([APP, ("app-dir", "nowhere")], [], None).error();
        assert!(error.starts_with("--app-dir: /"), "{error}");
    }

    /// A source of one layer, in the directory `/`.
    fn flags(given: &[(&str, &str)]) -> Source {
        let mut layer = Layer::default();
        for (name, text) in given {
            let option = format!("--{name}");
            let declaration = Declaration::find(name).unwrap();
            let origin = Origin::CommandLine { option };
            layer.set(declaration, vec![(*text).to_owned()], origin);
        }
        Source::new(layer, BTreeMap::new(), PathBuf::from("/"))
    }

    /// The settings with what a file of Python has set.
    fn completed(source: &Source, assigned: &[(&str, Value)]) -> Result<Settings, ConfigError> {
        let assigned = assigned.iter().map(|(name, value)| Assigned {
            name: (*name).to_owned(),
            line: Some(1),
            value: value.clone(),
        });
        let path = PathBuf::from("/srv/gunicorn.conf.py");
        let file = PythonFile {
            source: PythonSource::File(path.clone()),
            path,
            assigned: assigned.collect(),
            hooks: HookSet::default(),
        };
        source.complete(&file).map(|(settings, _)| settings)
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
    fn the_directory_of_the_start_must_be_there_unless_another_one_is_absolute() {
        let resolved = |chdir: Option<&str>| {
            let mut layer = Layer::default();
            let mut set = |name: &str, text: &str| {
                let option = format!("--{name}");
                layer.set(
                    Declaration::find(name).unwrap(),
                    vec![text.to_owned()],
                    Origin::CommandLine { option },
                );
            };
            set("app", "main:app");
            if let Some(chdir) = chdir {
                set("chdir", chdir);
            }
            resolve(&Source::new(layer, BTreeMap::new(), "/srv/gone".into()))
        };
        for chdir in [None, Some("below")] {
            let error = resolved(chdir).unwrap_err().to_string();
            assert!(
                error.starts_with("the directory /srv/gone does not"),
                "{error}"
            );
        }
        assert!(resolved(Some("/")).is_ok());
    }

    #[test]
    fn a_second_look_sees_a_changed_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("rsgun.toml");
        let mut layer = Layer::default();
        let option = "--config".to_owned();
        let texts = vec!["rsgun.toml".to_owned()];
        layer.set(
            Declaration::find("config").unwrap(),
            texts,
            Origin::CommandLine { option },
        );
        let source = Source::new(layer, BTreeMap::new(), directory.path().to_owned());
        std::fs::write(&file, "app = \"main:app\"\nworkers = 2").unwrap();
        assert_eq!(resolve(&source).unwrap().workers, WorkerCount::Fixed(2));
        std::fs::write(&file, "app = \"main:app\"\nworkers = 3").unwrap();
        assert_eq!(resolve(&source).unwrap().workers, WorkerCount::Fixed(3));
        std::fs::write(&file, "app = \"main:app\"\nworkers = 0").unwrap();
        assert!(resolve(&source).is_err());
    }
}
