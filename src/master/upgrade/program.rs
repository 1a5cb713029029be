//! How this program was called, so that it can be called again.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access, chdir};

/// Why the master cannot go to the directory that it was started in.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot change to the directory {}, in which this server was started: {source}\n\
     Code, configuration and all relative paths are looked for there, by that name: make it \
     again, or start the server anew in another one.",
    path.display()
)]
pub struct DirectoryError {
    path: PathBuf,
    source: std::io::Error,
}

/// The command line, the directory, and the file of this program.
#[derive(Debug, Clone)]
pub struct Invocation {
    arguments: Vec<OsString>,
    directory: PathBuf,
    /// Whether the directory can be reached by its name. Otherwise it was entered by
    /// somebody with more rights, who has started this program in it.
    reachable: bool,
    program: Option<Program>,
}

/// Where the file of the program is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Program {
    /// There.
    At(PathBuf),
    /// In the directories of `$PATH`.
    Named(OsString),
}

impl Invocation {
    /// That of this process. Call it before the process title is set, which is written
    /// over the arguments.
    ///
    /// # Errors
    /// When there is no current directory.
    pub fn of_process() -> std::io::Result<Self> {
        let physical = std::env::current_dir()?;
        let shown = std::env::var_os("PWD").map(PathBuf::from);
        let directory = shown
            .filter(|shown| shown.is_absolute() && is_same(shown, &physical))
            .unwrap_or(physical);
        let arguments: Vec<_> = std::env::args_os().collect();
        let called_as = arguments.first().map(OsString::as_os_str);
        let running = Path::new("/proc/self/exe");
        let called = called_as.map(|name| Program::called(name, &directory));
        let is_running = |program: &Program| {
            let found = program.find();
            found.is_some_and(|found| is_same(&found, running))
        };
        // A program that has been run again after it was replaced has a file no more.
        let file = std::env::current_exe().ok().filter(|file| file.exists());
        let program = match file {
            Some(file) if !called.as_ref().is_some_and(is_running) => Some(Program::At(file)),
            _ => called,
        };
        Ok(Self {
            arguments,
            reachable: is_same(&directory, Path::new(".")),
            directory,
            program,
        })
    }

    /// The arguments, the name of the program first.
    #[must_use]
    pub fn arguments(&self) -> &[OsString] {
        &self.arguments
    }

    /// The directory that the program was started in, by the name that the shell had for
    /// it: a symbolic link such as `/srv/app/current` may lead elsewhere by now.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Takes this process to where the name of its directory leads now, so that whatever
    /// has a relative path is found there, and whatever is started next begins there.
    ///
    /// # Errors
    /// [`DirectoryError`], chiefly when there is no such directory any more; the process
    /// stays where it is.
    pub(in crate::master) fn enter_directory(&self) -> Result<(), DirectoryError> {
        if !self.reachable || is_same(&self.directory, Path::new(".")) {
            return Ok(());
        }
        chdir(&self.directory).map_err(|error| DirectoryError {
            path: self.directory.clone(),
            source: error.into(),
        })
    }

    /// The file that the same command would run now.
    pub(super) fn program(&self) -> Result<PathBuf, String> {
        let Some(program) = &self.program else {
            return Err("the file of this program cannot be found out: is /proc there?".to_owned());
        };
        program.find().ok_or_else(|| match program {
            Program::At(path) => format!("there is no file {}", path.display()),
            Program::Named(name) => format!("there is no {} on PATH", name.display()),
        })
    }
}

impl Program {
    fn called(name: &OsStr, directory: &Path) -> Self {
        if name.as_encoded_bytes().contains(&b'/') {
            Self::At(directory.join(name))
        } else {
            Self::Named(name.to_owned())
        }
    }

    fn find(&self) -> Option<PathBuf> {
        match self {
            Self::At(path) => path.exists().then(|| path.clone()),
            Self::Named(name) => {
                let path = std::env::var_os("PATH")?;
                std::env::split_paths(&path)
                    .map(|directory| directory.join(name))
                    .find(|file| file.is_file() && access(file, AccessFlags::X_OK).is_ok())
            }
        }
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (std::fs::metadata(one), std::fs::metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_slash_starts_at_the_directory() {
        let called = |name: &str| Program::called(OsStr::new(name), Path::new("/srv/app/current"));
        assert_eq!(
            called("venv/bin/rsgun"),
            Program::At("/srv/app/current/venv/bin/rsgun".into())
        );
        assert_eq!(called("/bin/rsgun"), Program::At("/bin/rsgun".into()));
        assert_eq!(called("rsgun"), Program::Named("rsgun".into()));
        assert!(called("sh").find().is_some_and(|found| found.is_file()));
        assert!(called("no-such-program-here").find().is_none());
    }

    #[test]
    fn this_process_finds_itself() {
        let invocation = Invocation::of_process().unwrap();
        assert!(is_same(
            &invocation.program().unwrap(),
            Path::new("/proc/self/exe")
        ));
        assert!(is_same(invocation.directory(), Path::new(".")));
    }

    #[test]
    fn a_directory_that_is_gone_is_named() {
        let mut invocation = Invocation::of_process().unwrap();
        assert!(invocation.reachable && invocation.enter_directory().is_ok());
        invocation.directory = "/srv/no-such-release".into();
        let error = invocation.enter_directory().unwrap_err().to_string();
        assert!(error.contains("/srv/no-such-release"), "{error}");
        invocation.reachable = false;
        assert!(invocation.enter_directory().is_ok(), "it never was");
    }
}
