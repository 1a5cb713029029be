//! The layers together.

use std::path::{Path, PathBuf};

use super::environment::{self, Environment};
use super::error::ConfigError;
use super::file;
use super::layer::{Layer, Layers, Origin};
use super::listen;
use super::settings::{Inputs, Settings};

/// Where the settings come from: the command line as it was parsed, and the places
/// that are read anew each time.
#[derive(Debug)]
pub struct Source {
    command_line: Layer,
    environment: Box<dyn Environment>,
    /// The current directory when the source was made: paths on the command line are
    /// relative to it also after the process has gone elsewhere.
    directory: PathBuf,
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
        }
    }

    /// Reads environment and file and resolves all layers; a reload calls it again.
    ///
    /// # Errors
    /// [`ConfigError`], which names the option, variable or line.
    pub fn resolve(&self) -> Result<Settings, ConfigError> {
        let environment = environment::layer(&*self.environment)?;
        let stated = [&self.command_line, &environment];
        let file = self.read_file(Layers(&stated))?;
        let mut all = stated.to_vec();
        all.extend(&file);
        let layers = Layers(&all);
        let bind = listen::addresses(layers, &*self.environment)?;
        let settings = Settings::read(layers, bind)?;
        if settings.app.is_empty() {
            return Err(ConfigError::NoApplication);
        }
        self.check_directories(layers, &settings)?;
        Ok(settings)
    }

    fn read_file(&self, layers: Layers<'_>) -> Result<Option<Layer>, ConfigError> {
        let Some(given) = layers.get("config") else {
            return Ok(None);
        };
        let Some(path) = Inputs::read(layers)?.config else {
            return Ok(None);
        };
        file::read(&self.directory.join(path), &given.origin).map(Some)
    }

    /// A directory that is not there would surface as a module that cannot be found.
    fn check_directories(
        &self,
        layers: Layers<'_>,
        settings: &Settings,
    ) -> Result<(), ConfigError> {
        let check = |name: &'static str, path: &Path| {
            if path.is_dir() {
                return Ok(());
            }
            let origin = layers
                .get(name)
                .map_or(Origin::Default { name }, |given| given.origin.clone());
            Err(ConfigError::NotADirectory {
                origin: Box::new(origin),
                path: path.to_owned(),
            })
        };
        let mut directory = self.directory.clone();
        if let Some(chdir) = &settings.chdir {
            directory.push(chdir);
            check("chdir", &directory)?;
        }
        check("app-dir", &directory.join(&settings.app_dir))
    }
}
