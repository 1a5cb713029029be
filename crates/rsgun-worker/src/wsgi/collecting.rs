//! A request body on its way: in memory, and then on disk.
//!
//! A thread of tokio's pool makes the file and writes to it. The body goes on when that is
//! done: meanwhile nothing is taken from the exchange, so that the connection reads no more
//! than that holds.

use std::convert::identity;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::pool::Body;
use crate::asgi::exchange::{Received, SharedExchange};
use crate::http::disk;
use crate::http::spool::Spool;
use crate::reactor::engine::Engine;
use crate::reactor::queue::{self, NewRequest, Work};

/// Bytes of a request body that stay in memory; a larger one is kept on disk.
const MEMORY_MAX: usize = 512 * 1024;
/// Bytes of a larger one that are written at a time.
const PORTION: usize = 256 * 1024;

/// A request whose body has not arrived completely, or is not kept yet.
#[derive(Debug)]
pub(super) struct Collecting {
    request: Box<NewRequest>,
    /// The first part, as long as it is the only one.
    first: Bytes,
    memory: BytesMut,
    disk: Spool,
    /// Nothing follows.
    is_complete: bool,
    writing: Option<Writing>,
}

/// What goes to disk at the moment. Nobody waits for it who does not keep this.
#[derive(Debug)]
struct Writing(AbortHandle);

/// What has become of a part that was to be written.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(super) exchange: SharedExchange,
    outcome: io::Result<(Spool, BytesMut)>,
}

/// Whether a body is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Complete,
    Waiting,
    /// There is something to be written before it goes on.
    Full,
    /// The client has left.
    Gone,
}

impl Collecting {
    pub(super) fn new(request: Box<NewRequest>) -> Self {
        Self {
            request,
            first: Bytes::new(),
            memory: BytesMut::new(),
            disk: Spool::default(),
            is_complete: false,
            writing: None,
        }
    }

    pub(super) fn request(&self) -> &NewRequest {
        &self.request
    }

    pub(super) fn exchange(&self) -> &SharedExchange {
        &self.request.exchange
    }

    /// Takes what has arrived, up to what memory may hold.
    pub(super) fn take(&mut self) -> Progress {
        if self.writing.is_some() {
            let state = self.exchange().lock();
            return if state.closed || state.refused().is_some() {
                Progress::Gone
            } else {
                Progress::Waiting
            };
        }
        loop {
            if self.is_full() {
                return Progress::Full;
            }
            if self.is_complete {
                return Progress::Complete;
            }
            let received = self.exchange().lock().receive();
            match received {
                Received::Body(data, more) => {
                    self.add(data);
                    self.is_complete = !more;
                }
                Received::Pending => return Progress::Waiting,
                Received::Disconnect => return Progress::Gone,
            }
        }
    }

    fn add(&mut self, data: Bytes) {
        let is_first = self.memory.is_empty() && self.disk.length() == 0;
        if is_first && self.first.is_empty() {
            // Most bodies arrive in one piece.
            self.first = data;
        } else {
            let first = std::mem::take(&mut self.first);
            self.memory.extend_from_slice(&first);
            self.memory.extend_from_slice(&data);
        }
    }

    fn is_full(&self) -> bool {
        let most = if self.disk.length() == 0 {
            MEMORY_MAX
        } else if self.is_complete {
            0
        } else {
            PORTION
        };
        self.memory.len() > most
    }

    /// Begins to write what is in memory.
    pub(super) fn write(&mut self, engine: &Engine, writers: &Arc<Semaphore>) {
        let exchange = Arc::clone(self.exchange());
        let keeping = keep(
            std::mem::take(&mut self.disk),
            std::mem::take(&mut self.memory),
            Arc::clone(writers),
        );
        let task = engine.spawn(async move {
            let outcome = keeping.await;
            queue::push(Work::Kept(Box::new(Kept { exchange, outcome })));
        });
        self.writing = Some(Writing(task));
    }

    /// Goes on when that was written.
    ///
    /// # Errors
    /// Why it could not be.
    pub(super) fn go_on(&mut self, kept: Kept) -> io::Result<()> {
        self.writing = None;
        (self.disk, self.memory) = kept.outcome?;
        Ok(())
    }

    /// The request, and its body when that is complete.
    pub(super) fn into_parts(self) -> (Box<NewRequest>, Body) {
        let body = match self.disk.into_file() {
            Some((file, length)) => Body::Disk(file, length),
            None if self.memory.is_empty() => Body::Memory(self.first),
            None => Body::Memory(self.memory.freeze()),
        };
        (self.request, body)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Adds to what is on disk. Returns it with the memory, which is empty then.
async fn keep(
    mut disk: Spool,
    mut memory: BytesMut,
    writers: Arc<Semaphore>,
) -> io::Result<(Spool, BytesMut)> {
    let permit = writers.acquire_owned().await.map_err(io::Error::other)?;
    let writing = disk::apart(move || {
        let written = disk.append(&memory);
        memory.clear();
        // Also when nobody waits for it any more, it had a thread until now.
        drop(permit);
        written.map(|()| (disk, memory))
    })?;
    writing.await.map_err(io::Error::other).and_then(identity)
}
