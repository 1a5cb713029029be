//! Where the lines go, in one process.
//!
//! There are two outputs, one for the server's own lines and one for those of the
//! access log. Each is a descriptor whose number never changes: opening a log file anew
//! makes the same number lead to another file, in one step, so that no thread ever
//! writes to a closed one. The master opens the files and passes the descriptors on;
//! so a worker that runs as another user can write to a file that only root may open.
//!
//! How the bytes get there, and who may wait for that, is in [`put`].

use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::Level;
use super::put::{self, put};
use crate::config::{LogTarget, PythonFile, Settings, Source};
use crate::scoreboard::now_ms;
use crate::sys::process;

/// A log file that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{place}: cannot open the log file {}: {source}", path.display())]
pub struct LogFileError {
    setting: &'static str,
    /// Where it is named: the setting, as long as nothing more is known.
    place: String,
    path: PathBuf,
    source: io::Error,
}

impl LogFileError {
    fn new(setting: &'static str, path: &Path, source: io::Error) -> Self {
        Self {
            setting,
            place: setting.to_owned(),
            path: path.to_owned(),
            source,
        }
    }

    /// Names the place where the file is named, among the settings of `settings`, which
    /// were completed with `file`.
    #[must_use]
    pub fn located(self, settings: &Source, file: Option<&PythonFile>) -> Self {
        match settings.origin(self.setting, file) {
            Some(origin) => Self {
                place: origin.to_string(),
                ..self
            },
            None => self,
        }
    }
}

/// Open descriptors for both kinds of lines.
#[derive(Debug)]
pub struct Files {
    error: OwnedFd,
    access: OwnedFd,
}

impl Files {
    /// Opens what the settings name; relative paths start at `directory`.
    ///
    /// # Errors
    /// [`LogFileError`], which names the setting and the file.
    pub fn open(settings: &Settings, directory: &Path) -> Result<Self, LogFileError> {
        let (error, access) = (&settings.error_logfile, &settings.access_logfile);
        let error = opened("error-logfile", error, directory, io::stderr().as_fd())?;
        let standard_output = io::stdout();
        let standard_output = if captures(settings) {
            error.as_fd()
        } else {
            standard_output.as_fd()
        };
        let access = opened("access-logfile", access, directory, standard_output)?;
        Ok(Self { error, access })
    }

    /// The files that this process writes to, for another one; standard error and
    /// standard output before [`super::init`].
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn in_use() -> io::Result<Self> {
        match OUTPUTS.get() {
            Some(outputs) => Ok(Self {
                error: outputs.error.fd.try_clone()?,
                access: outputs.access.fd.try_clone()?,
            }),
            None => Ok(Self {
                error: io::stderr().as_fd().try_clone_to_owned()?,
                access: io::stdout().as_fd().try_clone_to_owned()?,
            }),
        }
    }

    /// Takes descriptors that came with a message, in the order of [`Self::to_fds`];
    /// `None` if there are too few.
    #[must_use]
    pub fn from_fds(fds: Vec<OwnedFd>) -> Option<Self> {
        let mut fds = fds.into_iter();
        Some(Self {
            error: fds.next()?,
            access: fds.next()?,
        })
    }

    /// How many descriptors they are in a message.
    pub const COUNT: usize = 2;

    /// Copies for a message.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn to_fds(&self) -> io::Result<Vec<OwnedFd>> {
        Ok(vec![self.error.try_clone()?, self.access.try_clone()?])
    }

    /// Copies for this process.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            error: self.error.try_clone()?,
            access: self.access.try_clone()?,
        })
    }
}

/// Whether the standard streams of the application's processes lead to the file of the
/// server's own lines.
#[must_use]
pub fn captures(settings: &Settings) -> bool {
    settings.error_logfile.is_file() && (settings.capture_output || settings.daemon)
}

fn opened(
    setting: &'static str,
    target: &LogTarget,
    directory: &Path,
    standard: BorrowedFd<'_>,
) -> Result<OwnedFd, LogFileError> {
    match target {
        LogTarget::File(path) => open(setting, &directory.join(path)),
        LogTarget::Standard => standard
            .try_clone_to_owned()
            .map_err(|source| LogFileError::new(setting, Path::new("-"), source)),
    }
}

/// Neither a terminal that becomes the controlling one, nor a pipe that nobody empties,
/// may come of opening a log.
fn open(setting: &'static str, path: &Path) -> Result<OwnedFd, LogFileError> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
        .open(path)
        .map(OwnedFd::from)
        .map_err(|source| LogFileError::new(setting, path, source))
}

static OUTPUTS: OnceLock<Outputs> = OnceLock::new();
/// Who else is shown errors and warnings, as long as the server does not serve.
static WITNESS: Mutex<Option<OwnedFd>> = Mutex::new(None);

struct Outputs {
    level: AtomicU8,
    error: Output,
    access: Output,
    /// Standard output and standard error follow the server's own lines.
    captures: bool,
}

struct Output {
    fd: OwnedFd,
    colors: AtomicBool,
    /// When it was last said that it cannot be written; 0: never, or it can be again.
    complained_ms: AtomicU64,
    /// How many times nobody has read it, since it was last written.
    unread: AtomicU64,
}

/// Milliseconds before it is said again that an output cannot be written, where some
/// lines can.
const COMPLAINT_MS: u64 = 600_000;

impl Output {
    fn new(fd: OwnedFd) -> Self {
        let colors = AtomicBool::new(fd.is_terminal());
        Self {
            fd,
            colors,
            complained_ms: AtomicU64::new(0),
            unread: AtomicU64::new(0),
        }
    }

    fn replace(&self, fd: &OwnedFd) {
        if let Err(error) = process::redirect(self.fd.as_fd(), fd.as_fd()) {
            tracing::error!("cannot change to another log file: {error}");
        }
        self.colors.store(fd.is_terminal(), Relaxed);
        self.complained_ms.store(0, Relaxed);
    }

    /// A log that cannot be written (full disk, closed terminal) must not stop the
    /// server: the lines are lost. Returns why, if it is time to say so.
    fn write(&self, lines: &[u8]) -> Option<nix::Error> {
        let is_read = self.unread.load(Relaxed) == 0;
        let patience = if is_read {
            put::PATIENCE_MS
        } else {
            put::NONE_MS
        };
        match put(self.fd.as_fd(), lines, self.colors.load(Relaxed), patience) {
            Ok(()) => None,
            Err(error) => {
                if error == nix::Error::EAGAIN {
                    self.unread.fetch_add(1, Relaxed);
                }
                self.may_complain().then_some(error)
            }
        }
    }

    fn may_complain(&self) -> bool {
        let now = now_ms().max(1);
        let last = self.complained_ms.load(Relaxed);
        let is_time = last == 0 || now.saturating_sub(last) >= COMPLAINT_MS;
        if is_time {
            self.complained_ms.store(now, Relaxed);
        }
        is_time
    }
}

/// Sets the outputs, once in the life of a process; whether this was the first time.
pub(super) fn install(level: Level, files: Files, captures: bool) -> bool {
    let outputs = Outputs {
        level: AtomicU8::new(level as u8),
        error: Output::new(files.error),
        access: Output::new(files.access),
        captures,
    };
    let is_first = OUTPUTS.set(outputs).is_ok();
    capture();
    is_first
}

/// Changes to other files, or to the same ones opened anew.
pub fn replace(files: &Files) {
    if let Some(outputs) = OUTPUTS.get() {
        outputs.error.replace(&files.error);
        outputs.access.replace(&files.access);
        capture();
    }
}

/// Changes the least level that is written.
pub fn set_level(level: Level) {
    if let Some(outputs) = OUTPUTS.get() {
        outputs.level.store(level as u8, Relaxed);
    }
}

fn capture() {
    let Some(outputs) = OUTPUTS.get().filter(|outputs| outputs.captures) else {
        return;
    };
    let redirected = nix::unistd::dup2_stdout(&outputs.error.fd)
        .and_then(|()| nix::unistd::dup2_stderr(&outputs.error.fd));
    if let Err(error) = redirected {
        tracing::error!("the output of the application cannot be captured: {error}");
    }
}

/// Whether lines of this level are written.
pub(super) fn admits(level: tracing::Level) -> bool {
    OUTPUTS.get().is_some_and(|outputs| {
        Level::ALL
            .get(usize::from(outputs.level.load(Relaxed)))
            .is_some_and(|least| least.admits(level))
    })
}

/// Writes a line of the server.
pub(super) fn write(level: tracing::Level, text: &str) {
    let Some(outputs) = OUTPUTS.get() else { return };
    let line = |colors| format!("{}{text}\n", super::prefix(level, colors));
    let colors = outputs.error.colors.load(Relaxed);
    let unread = outputs.error.unread.load(Relaxed);
    if let Some(error) = outputs.error.write(line(colors).as_bytes()) {
        let complaint = format!(
            "{}the log cannot be written: {}; lines are lost until it can be\n",
            super::prefix(tracing::Level::ERROR, false),
            reason(error)
        );
        // Whoever watches the terminal, the journal, or the container sees it there.
        let stderr = io::stderr();
        let is_terminal = stderr.is_terminal();
        let _ = put(
            stderr.as_fd(),
            complaint.as_bytes(),
            is_terminal,
            put::NONE_MS,
        );
    }
    if unread > 0 && outputs.error.unread.load(Relaxed) == unread {
        outputs.error.unread.store(0, Relaxed);
        let lost = format!(
            "{}Lines were lost before this one, since nobody has read the log: {unread}\n",
            super::prefix(tracing::Level::WARN, colors)
        );
        outputs.error.write(lost.as_bytes());
    }
    if level <= tracing::Level::WARN
        && let Some(witness) = &*witness()
    {
        // Whoever watched the start may have gone.
        let is_terminal = witness.is_terminal();
        let text = line(is_terminal);
        let _ = put(
            witness.as_fd(),
            text.as_bytes(),
            is_terminal,
            put::PATIENCE_MS,
        );
    }
}

/// Why a log cannot be written, in words.
fn reason(error: nix::Error) -> &'static str {
    match error {
        nix::Error::EAGAIN => "nobody reads it",
        other => other.desc(),
    }
}

/// Writes lines of the access log; see [`super::access::whole_lines`].
pub fn write_access(lines: &[u8]) {
    if let Some(outputs) = OUTPUTS.get() {
        let failed = outputs.access.write(lines);
        if let Some(error) = failed {
            tracing::error!(
                "the access log cannot be written: {}; lines are lost until it can be",
                reason(error)
            );
        }
    }
}

/// Writes a line of an application's own to the access log.
pub fn write_access_line(text: &str) {
    let prefix = super::prefix(tracing::Level::INFO, access_has_colors());
    write_access(format!("{prefix}{text}\n").as_bytes());
}

/// Whether the access log is shown in colours.
#[must_use]
pub fn access_has_colors() -> bool {
    OUTPUTS
        .get()
        .is_some_and(|outputs| outputs.access.colors.load(Relaxed))
}

/// Shows errors and warnings there as well, until [`dismiss_witness`].
pub fn show_to(witness_of_boot: OwnedFd) {
    *witness() = Some(witness_of_boot);
}

/// Ends what [`show_to`] began.
pub fn dismiss_witness() {
    *witness() = None;
}

fn witness() -> std::sync::MutexGuard<'static, Option<OwnedFd>> {
    WITNESS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells why the process ends, whether or not logging was set up: on standard error,
/// or in the log and to the witness.
pub fn last_words(message: &str) {
    let text = super::continued(message);
    let level = tracing::Level::ERROR;
    if OUTPUTS.get().is_some() {
        write(level, &text);
        return;
    }
    let tell = |to: BorrowedFd<'_>| {
        let is_terminal = to.is_terminal();
        let line = format!("{}{text}\n", super::prefix(level, is_terminal));
        // There is nobody left to tell when it is closed.
        let _ = put(to, line.as_bytes(), is_terminal, put::PATIENCE_MS);
    };
    match &*witness() {
        Some(witness) => tell(witness.as_fd()),
        None => tell(io::stderr().as_fd()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layer;

    #[test]
    fn an_output_that_was_replaced_writes_to_the_new_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let output = Output::new(open("error-logfile", &path).unwrap());
        output.write(b"one\n");
        let rotated = directory.path().join("log.1");
        std::fs::rename(&path, &rotated).unwrap();
        output.write(b"two\n");
        output.replace(&open("error-logfile", &path).unwrap());
        output.write(b"three\n");
        assert_eq!(std::fs::read_to_string(rotated).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "three\n");
    }

    #[test]
    fn a_full_disk_loses_lines_and_nothing_else() {
        let output = Output::new(open("access-logfile", Path::new("/dev/full")).unwrap());
        assert_eq!(output.write(b"lost\n"), Some(nix::Error::ENOSPC));
        assert_eq!(output.write(b"lost too\n"), None, "said once");
        let directory = tempfile::tempdir().unwrap();
        output.replace(&open("access-logfile", &directory.path().join("log")).unwrap());
        assert_eq!(output.write(b"written\n"), None);
        output.replace(&open("access-logfile", Path::new("/dev/full")).unwrap());
        assert_eq!(output.write(b"lost\n"), Some(nix::Error::ENOSPC));
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named_with_its_setting() {
        let error = open("access-logfile", Path::new("/nowhere/access.log")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "access-logfile: cannot open the log file /nowhere/access.log: No such file or \
             directory (os error 2)"
        );
        let variables = [(
            "RSGUN_ACCESS_LOGFILE".to_owned(),
            "/nowhere/access.log".into(),
        )];
        let variables = std::collections::BTreeMap::from(variables);
        let source = Source::new(Layer::default(), variables, PathBuf::from("/"));
        let error = error.located(&source, None).to_string();
        assert!(
            error.starts_with("the environment variable RSGUN_ACCESS_LOGFILE: cannot open"),
            "{error}"
        );
    }
}
