//! Which interpreter, and which extension.
//!
//! The interpreter is, in this order: the one that `--python` or `RSGUN_PYTHON` names;
//! that of the virtual environment in whose `bin` directory this command lies or a
//! symbolic link on the way to it; a `python3` beside the command; that of
//! `$VIRTUAL_ENV`; the first `python3` on `$PATH`.
//!
//! The path is used as it was found, not resolved: a virtual environment is known by
//! the path under which its interpreter is started.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use rsgun_core::ipc::Extension;

/// The shared object that a build leaves beside the command.
const EXTENSION_FILE: &str = "librsgun_worker.so";
/// A chain of symbolic links that is longer leads nowhere.
const HOPS_MAX: usize = 40;

/// Why there is no interpreter.
#[derive(Debug, thiserror::Error)]
pub enum PythonError {
    /// The one that was named cannot be used.
    #[error("--python (RSGUN_PYTHON): {}: {problem}", path.display())]
    Unusable {
        /// What was named.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The one that was named is not on the search path.
    #[error(
        "--python (RSGUN_PYTHON): there is no `{name}` on PATH; give the path of the interpreter"
    )]
    NotOnPath {
        /// What was named.
        name: String,
    },
    /// There is none anywhere.
    #[error(
        "no Python found: looked for a python3 beside {}, in $VIRTUAL_ENV ({}) and on PATH ({})\n\
         Name one with --python /path/to/python3 or RSGUN_PYTHON, or activate a virtual environment.",
        command.display(),
        shown(virtual_env.as_deref()),
        shown(path.as_deref())
    )]
    NotFound {
        /// The path of this command.
        command: PathBuf,
        /// `$VIRTUAL_ENV`.
        virtual_env: Option<OsString>,
        /// `$PATH`.
        path: Option<OsString>,
    },
}

fn shown(value: Option<&OsStr>) -> String {
    value.map_or_else(
        || "not set".to_owned(),
        |value| value.to_string_lossy().into_owned(),
    )
}

/// Where to look.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The first argument of this process: how the command was called.
    pub called_as: OsString,
    /// `$PATH`.
    pub path: Option<OsString>,
    /// `$VIRTUAL_ENV`.
    pub virtual_env: Option<OsString>,
    /// The file that this process runs.
    pub executable: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process. Call it before the process title is set, which is written
    /// over the arguments.
    #[must_use]
    pub fn of_process() -> Self {
        Self {
            called_as: std::env::args_os().next().unwrap_or_default(),
            path: std::env::var_os("PATH"),
            virtual_env: std::env::var_os("VIRTUAL_ENV").filter(|value| !value.is_empty()),
            executable: std::env::current_exe().ok(),
        }
    }

    /// Finds the interpreter; `named` is what the settings say.
    ///
    /// # Errors
    /// [`PythonError`], which says where was looked and how to name one.
    pub fn interpreter(&self, named: Option<&Path>) -> Result<PathBuf, PythonError> {
        if let Some(named) = named {
            return self.named(named);
        }
        let hops = self.hops();
        let beside = |hop: &PathBuf| hop.parent().map(|directory| directory.join("python3"));
        let in_environment = |hop: &&PathBuf| {
            hop.ancestors()
                .nth(2)
                .is_some_and(|root| root.join("pyvenv.cfg").is_file())
        };
        let virtual_env = self.in_virtual_env();
        hops.iter()
            .filter(in_environment)
            .filter_map(beside)
            .chain(hops.iter().filter_map(beside))
            .chain(virtual_env)
            .find(|candidate| problem(candidate).is_none())
            .or_else(|| {
                self.on_path(OsStr::new("python3"))
                    .inspect(|found| self.warn(found))
            })
            .ok_or_else(|| PythonError::NotFound {
                command: hops
                    .first()
                    .cloned()
                    .unwrap_or_else(|| self.called_as.clone().into()),
                virtual_env: self.virtual_env.clone(),
                path: self.path.clone(),
            })
    }

    fn in_virtual_env(&self) -> Option<PathBuf> {
        let root = self.virtual_env.as_ref()?;
        Some(Path::new(root).join("bin").join("python3"))
    }

    /// Tells somebody who has set `$VIRTUAL_ENV` that it is another interpreter, which
    /// has other packages.
    fn warn(&self, found: &Path) {
        let Some(expected) = self.in_virtual_env() else {
            return;
        };
        if let Some(problem) = problem(&expected) {
            tracing::warn!(
                "$VIRTUAL_ENV has no interpreter: {}: {problem}; {} is used, name another one \
                 with --python",
                expected.display(),
                found.display()
            );
        }
    }

    /// Finds the extension: what a build has left beside the command, else whatever
    /// is installed in the interpreter.
    #[must_use]
    pub fn extension(&self) -> Extension {
        let newest = self
            .executable
            .as_deref()
            .and_then(Path::parent)
            .into_iter()
            .flat_map(|directory| {
                [
                    directory.join(EXTENSION_FILE),
                    directory.join("deps").join(EXTENSION_FILE),
                ]
            })
            .filter_map(|file| Some((fs::metadata(&file).ok()?.modified().ok()?, file)))
            .max();
        newest.map_or(Extension::Installed, |(_, file)| Extension::File(file))
    }

    fn named(&self, named: &Path) -> Result<PathBuf, PythonError> {
        // As a shell does it: a bare name is looked for, anything else is a path.
        if named.components().count() == 1 && !named.as_os_str().as_encoded_bytes().contains(&b'/')
        {
            return self
                .on_path(named.as_os_str())
                .ok_or_else(|| PythonError::NotOnPath {
                    name: named.to_string_lossy().into_owned(),
                });
        }
        match problem(named) {
            Some(problem) => Err(PythonError::Unusable {
                path: named.to_owned(),
                problem,
            }),
            None => Ok(absolute(named)),
        }
    }

    /// The command as it was called, then each symbolic link that it leads through, and
    /// at last the file that is running.
    fn hops(&self) -> Vec<PathBuf> {
        let called = Path::new(&self.called_as);
        let mut next = if called.components().count() > 1 {
            Some(absolute(called))
        } else {
            self.on_path(&self.called_as)
        };
        let mut hops = Vec::new();
        while let Some(hop) = next.take().filter(|_| hops.len() < HOPS_MAX) {
            next = fs::read_link(&hop)
                .ok()
                .map(|target| hop.parent().unwrap_or(Path::new("/")).join(target));
            hops.push(hop);
        }
        hops.extend(self.executable.clone());
        hops
    }

    fn on_path(&self, name: &OsStr) -> Option<PathBuf> {
        let path = self.path.as_ref().filter(|_| !name.is_empty())?;
        std::env::split_paths(path)
            .map(|directory| absolute(&directory.join(name)))
            .find(|candidate| problem(candidate).is_none())
    }
}

/// The current directory of the fork server may be another one than the master's.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// What keeps a file from being an interpreter, as far as one can see.
fn problem(path: &Path) -> Option<&'static str> {
    match fs::metadata(path) {
        Err(_) => Some("there is no such file"),
        Ok(metadata) if metadata.is_dir() => {
            Some("it is a directory; name the interpreter in it, such as bin/python3")
        }
        Ok(metadata) if !metadata.is_file() => Some("it is not a file"),
        Ok(_) if access(path, AccessFlags::X_OK).is_err() => Some("it is not executable"),
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn executable(path: &Path) -> PathBuf {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_owned()
    }

    fn called_as(command: &Path) -> Surroundings {
        Surroundings {
            called_as: command.into(),
            path: None,
            virtual_env: None,
            executable: None,
        }
    }

    #[test]
    fn a_virtual_environment_beats_a_python_beside_a_link_to_it() {
        let root = tempfile::tempdir().unwrap();
        let python = executable(&root.path().join("venv/bin/python3"));
        fs::write(root.path().join("venv/pyvenv.cfg"), "").unwrap();
        let real = executable(&root.path().join("venv/bin/rsgun"));
        executable(&root.path().join("usr/bin/python3"));
        let link = root.path().join("usr/bin/rsgun");
        symlink(&real, &link).unwrap();
        assert_eq!(called_as(&link).interpreter(None).unwrap(), python);
    }

    #[test]
    fn a_python_beside_the_command_beats_virtual_env() {
        let root = tempfile::tempdir().unwrap();
        let python = executable(&root.path().join("usr/bin/python3"));
        let command = executable(&root.path().join("usr/bin/rsgun"));
        executable(&root.path().join("venv/bin/python3"));
        let mut surroundings = called_as(&command);
        surroundings.virtual_env = Some(root.path().join("venv").into());
        assert_eq!(surroundings.interpreter(None).unwrap(), python);
    }

    #[test]
    fn a_build_directory_takes_virtual_env_then_path() {
        let root = tempfile::tempdir().unwrap();
        let command = executable(&root.path().join("target/release/rsgun"));
        let in_venv = executable(&root.path().join("venv/bin/python3"));
        let on_path = executable(&root.path().join("bin/python3"));
        let mut surroundings = called_as(&command);
        surroundings.path = Some(root.path().join("bin").into());
        assert_eq!(surroundings.interpreter(None).unwrap(), on_path);
        surroundings.virtual_env = Some(root.path().join("venv").into());
        assert_eq!(surroundings.interpreter(None).unwrap(), in_venv);
    }

    #[test]
    fn a_command_without_a_slash_is_found_on_the_path() {
        let root = tempfile::tempdir().unwrap();
        let python = executable(&root.path().join("venv/bin/python3"));
        executable(&root.path().join("venv/bin/rsgun"));
        let mut surroundings = called_as(Path::new("rsgun"));
        surroundings.path = Some(root.path().join("venv/bin").into());
        assert_eq!(surroundings.interpreter(None).unwrap(), python);
    }

    #[test]
    fn whatever_is_named_is_taken_or_refused() {
        let root = tempfile::tempdir().unwrap();
        let python = executable(&root.path().join("python3.13"));
        let mut surroundings = called_as(Path::new("/nowhere/rsgun"));
        surroundings.path = Some(root.path().into());
        assert_eq!(surroundings.interpreter(Some(&python)).unwrap(), python);
        assert_eq!(
            surroundings
                .interpreter(Some(Path::new("python3.13")))
                .unwrap(),
            python
        );
        let refusal = |named: &Path| {
            surroundings
                .interpreter(Some(named))
                .unwrap_err()
                .to_string()
        };
        assert!(refusal(root.path()).contains("is a directory"));
        assert!(refusal(&root.path().join("none")).contains("no such file"));
        assert!(refusal(Path::new("python9")).contains("no `python9` on PATH"));
        let plain = root.path().join("plain");
        fs::write(&plain, "").unwrap();
        assert!(refusal(&plain).contains("not executable"));
    }

    #[test]
    fn no_python_says_where_was_looked() {
        let root = tempfile::tempdir().unwrap();
        let mut surroundings = called_as(&root.path().join("rsgun"));
        surroundings.path = Some("/nowhere/bin".into());
        let text = surroundings.interpreter(None).unwrap_err().to_string();
        assert!(
            text.contains("/nowhere/bin") && text.contains("--python"),
            "{text}"
        );
        assert!(text.contains("$VIRTUAL_ENV (not set)"), "{text}");
    }

    #[test]
    fn the_newest_extension_of_a_build_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let mut surroundings = called_as(Path::new("rsgun"));
        surroundings.executable = Some(root.path().join("rsgun"));
        assert_eq!(surroundings.extension(), Extension::Installed);
        let stale = executable(&root.path().join(EXTENSION_FILE));
        let old = std::time::SystemTime::UNIX_EPOCH;
        fs::File::options()
            .write(true)
            .open(&stale)
            .unwrap()
            .set_modified(old)
            .unwrap();
        assert_eq!(surroundings.extension(), Extension::File(stale));
        let fresh = executable(&root.path().join("deps").join(EXTENSION_FILE));
        assert_eq!(surroundings.extension(), Extension::File(fresh));
    }
}
