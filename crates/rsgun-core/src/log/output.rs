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
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::errno::Errno;

use super::Level;
use super::access::whole_lines;
use super::outlet::{Outlet, lines_in};
use super::put::{self, Patience, Way, put};
use crate::config::{LogTarget, PythonFile, Settings, Source};

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
                error: outputs.error.fd().try_clone()?,
                access: outputs.access.fd().try_clone()?,
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
        LogTarget::Standard => put::opened_anew(standard)
            .map_or_else(|| standard.try_clone_to_owned(), Ok)
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
    error: Outlet,
    access: Outlet,
    /// Standard output and standard error follow the server's own lines.
    captures: bool,
}

/// Sets the outputs, once in the life of a process; whether this was the first time.
pub(super) fn install(level: Level, files: Files, captures: bool) -> bool {
    let outputs = Outputs {
        level: AtomicU8::new(level as u8),
        error: Outlet::new(files.error),
        access: Outlet::new(files.access),
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
    let redirected = nix::unistd::dup2_stdout(outputs.error.fd())
        .and_then(|()| nix::unistd::dup2_stderr(outputs.error.fd()));
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

/// In a process that was just forked: begins anew with what is known of the readers.
pub fn begin_anew() {
    if let Some(outputs) = OUTPUTS.get() {
        outputs.error.begin_anew();
        outputs.access.begin_anew();
    }
}

/// Writes a line of the server.
pub(super) fn write(level: tracing::Level, text: &str) {
    let Some(outputs) = OUTPUTS.get() else { return };
    let line = |colors| format!("{}{text}\n", super::prefix(level, colors));
    if let Err(error) = outputs.write_own(&line(outputs.error.is_terminal()))
        && outputs.error.may_complain()
    {
        let complaint = format!(
            "the log cannot be written: {}; lines are lost until it can be",
            reason(error)
        );
        // Whoever watches the terminal, the journal, or the container sees it there.
        show(
            io::stderr().as_fd(),
            tracing::Level::ERROR,
            &complaint,
            Patience::none(),
        );
    }
    if level <= tracing::Level::WARN
        && let Some(witness) = &*witness()
    {
        // Whoever watched the start may have gone.
        show(witness.as_fd(), level, text, Patience::usual());
    }
}

impl Outputs {
    /// Writes a line of the server, after one about those that were lost before.
    fn write_own(&self, line: &str) -> Result<(), Errno> {
        let mut patience = self.error.patience();
        let lost = self.error.take_lost();
        if lost > 0 {
            let notice = format!(
                "{}Lines were lost before this one, since nobody has read the log: {lost}\n",
                super::prefix(tracing::Level::WARN, self.error.is_terminal())
            );
            let told = self.error.write(notice.as_bytes(), &mut patience);
            if let Err(error) = told {
                // The notice has been counted instead of a line.
                let is_unread = error == Errno::EAGAIN;
                let further = u64::from(is_unread) * (lines_in(line.as_bytes()) - 1);
                self.error.count_lost(lost + further);
                return told;
            }
        }
        self.error.write(line.as_bytes(), &mut patience)
    }
}

/// Shows a line to whoever reads this descriptor, if anybody does.
fn show(to: BorrowedFd<'_>, level: tracing::Level, text: &str, mut patience: Patience) {
    let is_terminal = to.is_terminal();
    let line = format!("{}{text}\n", super::prefix(level, is_terminal));
    // There is nobody left to tell when it is closed.
    let _ = put(to, Way::of(to), line.as_bytes(), is_terminal, &mut patience);
}

/// Why a log cannot be written, in words.
fn reason(error: Errno) -> &'static str {
    match error {
        Errno::EAGAIN => "nobody reads it",
        other => other.desc(),
    }
}

/// Writes lines of the access log, as few writes as leave each line whole on a pipe. Who
/// waits for room does so for all of them together.
pub fn write_access(lines: &[u8]) {
    let Some(outputs) = OUTPUTS.get() else { return };
    let log = &outputs.access;
    let mut patience = log.patience();
    let mut written = Ok(());
    let mut rest = lines;
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(whole_lines(rest));
        written = log.write(piece, &mut patience);
        if let Err(error) = written
            && log.may_complain()
        {
            tracing::error!(
                "the access log cannot be written: {}; lines are lost until it can be",
                reason(error)
            );
        }
        rest = later;
    }
    if written.is_err() {
        return;
    }
    let lost = log.take_lost();
    if lost > 0 {
        tracing::warn!("Lines of the access log were lost, since nobody has read it: {lost}");
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
        .is_some_and(|outputs| outputs.access.is_terminal())
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
    match &*witness() {
        Some(witness) => show(witness.as_fd(), level, &text, Patience::usual()),
        None => show(io::stderr().as_fd(), level, &text, Patience::usual()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layer;

    fn write(output: &Outlet, lines: &[u8]) -> Result<(), Errno> {
        output.write(lines, &mut output.patience())
    }

    #[test]
    fn an_output_that_was_replaced_writes_to_the_new_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let output = Outlet::new(open("error-logfile", &path).unwrap());
        write(&output, b"one\n").unwrap();
        let rotated = directory.path().join("log.1");
        std::fs::rename(&path, &rotated).unwrap();
        write(&output, b"two\n").unwrap();
        output.replace(&open("error-logfile", &path).unwrap());
        write(&output, b"three\n").unwrap();
        assert_eq!(std::fs::read_to_string(rotated).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "three\n");
    }

    #[test]
    fn a_full_disk_loses_lines_and_nothing_else() {
        let output = Outlet::new(open("access-logfile", Path::new("/dev/full")).unwrap());
        assert_eq!(write(&output, b"lost\n"), Err(Errno::ENOSPC));
        assert!(output.may_complain());
        assert_eq!(write(&output, b"lost too\n"), Err(Errno::ENOSPC));
        assert!(!output.may_complain(), "said once");
        let directory = tempfile::tempdir().unwrap();
        output.replace(&open("access-logfile", &directory.path().join("log")).unwrap());
        assert_eq!(write(&output, b"written\n"), Ok(()));
        output.replace(&open("access-logfile", Path::new("/dev/full")).unwrap());
        assert_eq!(write(&output, b"lost\n"), Err(Errno::ENOSPC));
        assert!(output.may_complain());
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
