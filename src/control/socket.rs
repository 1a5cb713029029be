//! The master's side of the control socket.
//!
//! One task accepts, and one task for each client writes. The event loop only makes the
//! document, when a client asks, so that no client can hold it up: one that does not
//! read has [`PATIENCE`], and while [`CLIENTS`] are being answered, others wait in the
//! kernel's queue.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rsgun_core::listeners::{self, Address, ListenError, Listener, Manner};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use super::document::{Answer, Status};

/// How many clients are answered at a time.
const CLIENTS: usize = 16;
/// How long a client may take to read its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long nothing is accepted after the system had no descriptor left.
const EXHAUSTED: Duration = Duration::from_millis(100);
/// How many clients may wait to be accepted.
const BACKLOG: u32 = 16;
/// Only the user of the master may connect.
const MODE: u32 = 0o600;

/// Why there can be no control socket.
#[derive(Debug, thiserror::Error)]
#[error("--control-socket: {0}")]
pub struct ControlSocketError(#[from] ListenError);

/// The open control socket; its file is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    listener: Listener,
}

/// A client that waits for the status.
#[derive(Debug)]
pub(crate) struct Question {
    reply: oneshot::Sender<String>,
}

impl Question {
    /// Answers it.
    pub(crate) fn answer(self, status: &Status) {
        match serde_json::to_string(&Answer::from(status)) {
            Ok(mut document) => {
                document.push('\n');
                self.send(document);
            }
            Err(error) => tracing::error!("the status cannot be told: {error}"),
        }
    }

    fn send(self, document: String) {
        // The client may have left.
        let _ = self.reply.send(document);
    }
}

impl ControlSocket {
    /// Opens it at `path`, in the place of one that a dead server has left behind.
    ///
    /// # Errors
    /// [`ControlSocketError`], as for any UNIX socket: somebody listens there, it is some
    /// other file, its directory is missing or may not be written to.
    pub(crate) fn open(path: &Path) -> Result<Self, ControlSocketError> {
        let manner = Manner {
            mode: MODE,
            ..Manner::from(BACKLOG)
        };
        let mut opened = listeners::open_all(&[Address::Unix(path.to_owned())], manner)?;
        let listener = opened.pop().ok_or_else(|| ListenError::Io {
            address: Address::Unix(path.to_owned()),
            action: "listen",
            source: io::ErrorKind::NotFound.into(),
        })?;
        Ok(Self { listener })
    }

    /// Begins to accept clients on the event loop of this thread. Returns their
    /// questions.
    ///
    /// # Errors
    /// What the registration with the loop returns.
    pub(crate) fn listen(&self) -> io::Result<Receiver<Question>> {
        let socket = self.listener.as_fd().try_clone_to_owned()?;
        let socket = UnixListener::from_std(net::UnixListener::from(socket))?;
        let (questions, asked) = channel(1);
        tokio::spawn(accept(socket, questions));
        Ok(asked)
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = self.listener.cleanup() {
            let url = self.listener.url();
            tracing::warn!("cannot remove the control socket {url}: {error}");
        }
    }
}

async fn accept(socket: UnixListener, questions: Sender<Question>) {
    let places = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match socket.accept().await {
            Ok((client, _)) => {
                let questions = questions.clone();
                tokio::spawn(async move {
                    serve(client, &questions).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!("the control socket accepts nobody for a moment: {error}");
                sleep(EXHAUSTED).await;
            }
        }
    }
}

async fn serve(mut client: UnixStream, questions: &Sender<Question>) {
    let (reply, answer) = oneshot::channel();
    if questions.send(Question { reply }).await.is_err() {
        return;
    }
    // Without an answer the master is about to end.
    let Ok(document) = answer.await else { return };
    let written = timeout(PATIENCE, async {
        client.write_all(document.as_bytes()).await?;
        client.shutdown().await
    });
    match written.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("a client of the control socket has left: {error}"),
        Err(_) => tracing::debug!("a client of the control socket does not read: given up"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tokio::io::AsyncReadExt;

    use super::*;

    /// More than the buffers of a socket hold.
    const LARGE: usize = 4 << 20;

    async fn read(path: &Path) -> String {
        let mut client = UnixStream::connect(path).await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test(flavor = "current_thread")]
    async fn clients_that_do_not_read_keep_nobody_else_waiting_for_long() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let socket = ControlSocket::open(&path).unwrap();
        let mut asked = socket.listen().unwrap();
        tokio::spawn(async move {
            while let Some(question) = asked.recv().await {
                question.send("x".repeat(LARGE));
            }
        });
        let mut idle = Vec::new();
        for _ in 0..CLIENTS {
            idle.push(UnixStream::connect(&path).await.unwrap());
        }
        let answer = timeout(6 * PATIENCE, read(&path)).await.unwrap();
        assert_eq!(answer.len(), LARGE);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn only_its_user_may_connect_and_it_goes_with_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let socket = ControlSocket::open(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        let refused = ControlSocket::open(&path).unwrap_err().to_string();
        assert!(refused.starts_with("--control-socket: "), "{refused}");
        drop(socket);
        assert!(!path.exists());
    }
}
