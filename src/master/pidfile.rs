//! The pidfile: who runs, for scripts and for a second start by mistake.
//!
//! It appears with its content, or not at all: it is written under a temporary name
//! beside it and then moved into place. A file that is there already decides whether
//! this may be done. It is *stale* when its process has ended, or when the number has
//! been given to another program since, which is known by the name that the kernel has
//! for it; or when it is this process's own number, as in a container where each start
//! gets the same one. A process that has ended counts as gone also when nobody has asked
//! how.
//!
//! Of several servers that find the same stale file at the same moment one may replace
//! it: whoever has it locked, as long as it is still the file of that name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::poll::poll;
use nix::sys::signal::kill;
use nix::unistd::{Pid, User, geteuid};

/// How often the steps are repeated when another process interferes.
const TRIES: usize = 8;
/// How long another process may hold the lock. Afterwards it is no server that starts.
const LOCK_LIMIT: Duration = Duration::from_secs(1);
/// Between two looks at the lock, milliseconds.
const LOCK_PAUSE_MS: u8 = 5;

/// Why there can be no pidfile; nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    /// Its process runs.
    #[error(
        "--pid: {} names the process {pid}, which runs: {program}\n\
         Stop it first (`kill {pid}`), or give this server another pidfile.", path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
        /// The process.
        pid: i32,
        /// What it is called.
        program: String,
    },
    /// It is some other file.
    #[error(
        "--pid: {} is there and holds something else than a process id; name another file or \
         remove it", path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error(
        "--pid: cannot write the pidfile {}: {source}\n\
         Whoever is to stop this server by it would find nothing, so it does not start. Name a \
         file in a directory that exists, where {} may write and the disk has room.",
        path.display(), user()
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Who writes.
fn user() -> String {
    let uid = geteuid();
    match User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => format!("the user {uid}"),
    }
}

/// The pidfile of this process, which is removed when this is dropped.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    pid: i32,
}

impl PidFile {
    /// Writes the pidfile.
    ///
    /// # Errors
    /// [`PidFileError`]; what was there is there still.
    pub(super) fn create(path: &Path) -> Result<Self, PidFileError> {
        let pid = Pid::this().as_raw();
        let failed = |source| PidFileError::Io {
            path: path.to_owned(),
            source,
        };
        let path = std::path::absolute(path).map_err(failed)?;
        Self::write(&path, pid)?;
        Ok(Self { path, pid })
    }

    /// Writes it again if it is not there any more: removed by somebody, or left behind
    /// where a symbolic link in its path has led before.
    ///
    /// # Errors
    /// As for [`Self::create`].
    pub(super) fn renew(&self) -> Result<(), PidFileError> {
        if self.is_there() {
            return Ok(());
        }
        Self::write(&self.path, self.pid)
    }

    fn write(path: &Path, pid: i32) -> Result<(), PidFileError> {
        let failed = |source| PidFileError::Io {
            path: path.to_owned(),
            source,
        };
        for _ in 0..TRIES {
            let Some(_lock) = Lock::take(path).map_err(failed)? else {
                continue;
            };
            let is_stale = examine(path, pid)?;
            let temporary = Temporary::write(path, pid).map_err(failed)?;
            if temporary.move_to(path, is_stale).map_err(failed)? {
                return Ok(());
            }
        }
        Err(failed(ErrorKind::AlreadyExists.into()))
    }
}

impl PidFile {
    /// The file that the program before has written, in this very process.
    pub(super) fn taken_over(path: PathBuf) -> Self {
        let pid = Pid::this().as_raw();
        Self { path, pid }
    }

    fn is_there(&self) -> bool {
        read(&self.path).is_ok_and(|found| found == Content::Pid(self.pid))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Another server may have found it stale and replaced it; a fork of this
        // process is not its owner.
        let is_ours = Pid::this().as_raw() == self.pid && self.is_there();
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove the pidfile {}: {error}", self.path.display());
        }
    }
}

/// What is in a pidfile.
#[derive(Debug, PartialEq, Eq)]
enum Content {
    Pid(i32),
    /// Nothing: a disk was full, or a machine has crashed.
    Empty,
    Foreign,
}

fn read(path: &Path) -> io::Result<Content> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() > 64 {
        return Ok(Content::Foreign);
    }
    let text = fs::read(path)?;
    let text = text.trim_ascii();
    if text.is_empty() {
        return Ok(Content::Empty);
    }
    let pid = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok());
    Ok(pid
        .filter(|pid| *pid > 0)
        .map_or(Content::Foreign, Content::Pid))
}

/// Whether there is a stale pidfile; `false` when there is none.
fn examine(path: &Path, own: i32) -> Result<bool, PidFileError> {
    let pid = match read(path) {
        Ok(Content::Pid(pid)) => pid,
        Ok(Content::Empty) => return Ok(true),
        Ok(Content::Foreign) => {
            return Err(PidFileError::Foreign {
                path: path.to_owned(),
            });
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(source) => {
            return Err(PidFileError::Io {
                path: path.to_owned(),
                source,
            });
        }
    };
    let has_ended = kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) || is_zombie(pid);
    if pid == own || has_ended {
        return Ok(true);
    }
    // Its other processes have other names; one that cannot be seen may be it.
    let program = fs::read_to_string(format!("/proc/{pid}/comm"));
    match program.as_deref().map(str::trim) {
        Ok(name) if !matches!(name, "rsgun" | "rsgun-master") => Ok(true),
        name => Err(PidFileError::InUse {
            path: path.to_owned(),
            pid,
            program: name.unwrap_or("a program that cannot be seen").to_owned(),
        }),
    }
}

/// Whether a process has ended and its parent has not asked how yet.
fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before it may contain anything.
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_some_and(|state| state.starts_with(['Z', 'X']))
}

/// Holds a pidfile that is there already, until it is dropped.
struct Lock {
    /// `None` where there is nothing to hold.
    _file: Option<Flock<File>>,
}

impl Lock {
    /// `None` when the file has become another one meanwhile.
    fn take(path: &Path) -> io::Result<Option<Self>> {
        // Whatever it is, opening it changes and awaits nothing.
        let options = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let mut file = match OpenOptions::new()
            .read(true)
            .custom_flags(options.bits())
            .open(path)
        {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Some(Self { _file: None }));
            }
            Err(error) => return Err(error),
        };
        let by = Instant::now() + LOCK_LIMIT;
        let held = loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(held) => break Some(held),
                Err((back, Errno::EWOULDBLOCK)) if Instant::now() < by => file = back,
                // Whoever holds it for so long means something else by it; and not every
                // file system has locks.
                Err(_) => break None,
            }
            let _ = poll(&mut [], LOCK_PAUSE_MS);
        };
        let Some(held) = held else {
            return Ok(Some(Self { _file: None }));
        };
        let ours = held.metadata()?;
        let is_same = fs::metadata(path)
            .is_ok_and(|there| there.ino() == ours.ino() && there.dev() == ours.dev());
        Ok(is_same.then_some(Self { _file: Some(held) }))
    }
}

/// The name under which the file is made ready; removed unless it was moved.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn write(place: &Path, pid: i32) -> io::Result<Self> {
        let mut name = place.as_os_str().to_owned();
        name.push(format!(".~{pid}"));
        let path = PathBuf::from(name);
        // Left behind by a process that had the same number and was killed right here.
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file: File = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&path)?;
        let temporary = Self { path };
        file.write_all(format!("{pid}\n").as_bytes())?;
        // Some file systems find out only now that they are full.
        file.sync_all()?;
        Ok(temporary)
    }

    /// `false` when somebody else was faster.
    fn move_to(self, place: &Path, replaces: bool) -> io::Result<bool> {
        if replaces {
            return fs::rename(&self.path, place).map(|()| true);
        }
        // Unlike a rename a link never replaces what another process may just have
        // put there.
        match fs::hard_link(&self.path, place) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            // Not every file system has links.
            Err(_) => fs::rename(&self.path, place).map(|()| true),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Renamed away, it is not there any more; nothing else can be done about
        // another failure.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn place() -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.pid");
        (directory, path)
    }

    fn names(directory: &TempDir) -> usize {
        fs::read_dir(directory.path()).unwrap().count()
    }

    #[test]
    fn it_holds_the_process_id_and_goes_with_its_owner() {
        let (directory, path) = place();
        let file = PidFile::create(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
        assert_eq!(names(&directory), 1);
        drop(file);
        assert_eq!(names(&directory), 0);
    }

    #[test]
    fn one_that_somebody_has_replaced_stays() {
        let (_directory, path) = place();
        let file = PidFile::create(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
    }

    #[test]
    fn a_stale_one_is_replaced() {
        let (_directory, path) = place();
        // No process, another program, this very number, a crash.
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let other = child.id();
        for text in [
            "2147483647".to_owned(),
            other.to_string(),
            std::process::id().to_string(),
            String::new(),
        ] {
            fs::write(&path, &text).unwrap();
            drop(PidFile::create(&path).unwrap_or_else(|error| panic!("{text:?}: {error}")));
        }
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn who_comes_second_to_a_stale_one_looks_again() {
        let (directory, path) = place();
        fs::write(&path, "2147483647").unwrap();
        let first = Lock::take(&path).unwrap().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let second = path.clone();
        let thread = std::thread::spawn(move || {
            sender.send(Lock::take(&second).unwrap().is_some()).unwrap();
        });
        let early = receiver.recv_timeout(Duration::from_millis(50));
        assert!(early.is_err(), "it waits");
        let new = directory.path().join("new");
        fs::write(&new, "7").unwrap();
        fs::rename(&new, &path).unwrap();
        drop(first);
        assert!(!receiver.recv().unwrap(), "another file has its name");
        thread.join().unwrap();
    }

    #[test]
    fn other_files_are_left_alone() {
        let (_directory, path) = place();
        for text in ["import os\n", "-4", "12 monkeys", "99999999999"] {
            fs::write(&path, text).unwrap();
            let error = PidFile::create(&path).unwrap_err();
            assert!(matches!(error, PidFileError::Foreign { .. }), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let error = PidFile::create(Path::new("/dev/null")).unwrap_err();
        assert!(matches!(error, PidFileError::Foreign { .. }), "{error}");
    }

    #[test]
    fn a_pidfile_that_was_removed_is_written_again() {
        let (_directory, path) = place();
        let file = PidFile::create(&path).unwrap();
        fs::remove_file(&path).unwrap();
        file.renew().unwrap();
        let written = fs::metadata(&path).unwrap().ino();
        file.renew().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), written, "it is there");
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let error = PidFile::create(Path::new("/nowhere/app.pid")).unwrap_err();
        assert!(error.to_string().starts_with(
            "--pid: cannot write the pidfile /nowhere/app.pid: No such file or directory (os error \
             2)\nWhoever"
        ));
    }
}
