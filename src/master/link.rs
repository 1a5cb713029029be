//! The master's end of a channel: messages out without ever waiting, messages in as
//! events.
//!
//! A task owns the channel. What the peer's queue has no room for waits in the task
//! until there is room, so nothing is lost and the loop is never held up. Dropping
//! the [`Link`] closes the channel once everything is sent.
//!
//! The peer may be hostile, and can make the master do little: it is heard at a bounded
//! [`Pace`], what it says in vain is told once, what it does not take does not pile up
//! ([`Post::supersedes`]), and who does not read is not waited for without end.
//!
//! Before the process runs another program, links are *paused*: nothing more is read,
//! so that what comes in from then on waits in the channel for the successor, and what
//! could not be sent is told, so that the successor sends it.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rsgun_core::ipc::{Channel, ChannelError, Message, Post};
use rsgun_core::roster::SEATS;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::event::Event;

/// So many messages may come at once: more than a fork server has to say about all workers.
#[expect(clippy::cast_possible_truncation, reason = "a constant of 2048")]
const AT_ONCE: u32 = 2 * SEATS as u32;
/// Later ones may follow each other so soon.
const BETWEEN: Duration = Duration::from_millis(100);
/// How long a peer that the master has no more use for may take to read the rest.
const LAST_ORDERS: Duration = Duration::from_secs(30);

/// A message on its way, with its descriptors.
type Outgoing<Out> = (Out, Vec<OwnedFd>);

/// What the task that owns the channel is told.
#[derive(Debug)]
enum Letter<Out> {
    Message(Outgoing<Out>),
    /// Read nothing more; the answer follows when that is so.
    Pause(oneshot::Sender<()>),
    /// Tell what a successor needs.
    Report(oneshot::Sender<io::Result<Remains<Out>>>),
    /// Read again.
    Resume,
}

/// What a successor needs of a link that is paused.
#[derive(Debug)]
pub(super) struct Remains<Out> {
    /// A copy of the channel.
    pub(super) channel: OwnedFd,
    /// What could not be sent yet, in order.
    pub(super) unsent: Vec<Outgoing<Out>>,
}

/// The sending half; see the module.
#[derive(Debug)]
pub(super) struct Link<Out> {
    outbox: UnboundedSender<Letter<Out>>,
}

impl<Out: Post + Clone + Send + Sync + 'static> Link<Out> {
    /// Takes over a channel. Each message becomes an event by `on_message`; the end of
    /// the channel is `at_end`.
    ///
    /// # Errors
    /// What the registration with the loop returns.
    pub(super) fn open<In>(
        channel: Channel<Out, In>,
        events: UnboundedSender<Event>,
        on_message: impl Fn(Message<In>) -> Event + Send + 'static,
        at_end: Event,
    ) -> io::Result<Self>
    where
        In: Post + 'static,
    {
        let channel = watch(channel)?;
        let (outbox, outgoing) = unbounded_channel();
        tokio::spawn(async move {
            if carry(channel, outgoing, &events, on_message).await == End::Peer {
                // The loop ends before its queue does only when the master ends.
                let _ = events.send(at_end);
            }
        });
        Ok(Self { outbox })
    }

    /// One whose peer is gone.
    pub(super) fn ended() -> Self {
        let (outbox, _) = unbounded_channel();
        Self { outbox }
    }

    /// Sends a message; one to a peer that is gone is dropped.
    pub(super) fn send(&self, message: Out, fds: Vec<OwnedFd>) {
        // The task is only gone when the peer is, of which an event tells.
        let _ = self.outbox.send(Letter::Message((message, fds)));
    }

    /// Stops reading. Returns when no event of this link will be queued any more.
    pub(super) async fn pause(&self) {
        let (answer, paused) = oneshot::channel();
        let _ = self.outbox.send(Letter::Pause(answer));
        // Without an answer the peer is gone, and its last event is in the queue.
        let _ = paused.await;
    }

    /// What a successor needs of a link that is paused; `None` when the peer is gone.
    ///
    /// # Errors
    /// `EMFILE`.
    pub(super) async fn report(&self) -> io::Result<Option<Remains<Out>>> {
        let (answer, told) = oneshot::channel();
        let _ = self.outbox.send(Letter::Report(answer));
        told.await.ok().transpose()
    }

    /// Reads again.
    pub(super) fn resume(&self) {
        let _ = self.outbox.send(Letter::Resume);
    }
}

/// Registers a descriptor with the loop.
///
/// # Errors
/// What `epoll_ctl(2)` returns.
#[expect(
    deprecated,
    reason = "the new way is an unsafe function, to exclude types that lie about their descriptor; \
              those that come here own it"
)]
pub(super) fn watch<T: AsFd + AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(owner)
}

/// How many messages of a peer are heard: some at once, later ones one after the other.
/// Those beyond wait in the channel.
#[derive(Debug)]
struct Pace {
    left: u32,
    /// When there will be one more.
    next: Instant,
}

impl Pace {
    fn new() -> Self {
        Self {
            left: AT_ONCE,
            next: Instant::now(),
        }
    }

    /// When the next message may be heard; `None`: now.
    fn pause(&mut self) -> Option<Instant> {
        let now = Instant::now();
        while self.left < AT_ONCE && self.next <= now {
            self.left += 1;
            self.next += BETWEEN;
        }
        (self.left == 0).then_some(self.next)
    }

    /// A message was heard.
    fn count(&mut self) {
        if self.left == AT_ONCE {
            self.next = Instant::now() + BETWEEN;
        }
        self.left = self.left.saturating_sub(1);
    }
}

/// Who has ended the channel.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Peer,
    Master,
}

async fn carry<Out, In>(
    channel: AsyncFd<Channel<Out, In>>,
    mut outgoing: UnboundedReceiver<Letter<Out>>,
    events: &UnboundedSender<Event>,
    on_message: impl Fn(Message<In>) -> Event,
) -> End
where
    Out: Post + Clone,
    In: Post,
{
    let mut waiting: VecDeque<Outgoing<Out>> = VecDeque::new();
    // When what is left must have been sent, once the master has closed the channel.
    let mut ends_at: Option<Instant> = None;
    let mut reading = true;
    let mut pace = Pace::new();
    let mut complained = false;
    loop {
        if ends_at.is_some() && waiting.is_empty() {
            return End::Master;
        }
        let pause = pace.pause();
        tokio::select! {
            () = until(pause), if reading => {}
            () = until(ends_at) => return End::Master,
            ready = channel.readable(), if reading && pause.is_none() => {
                let Ok(mut ready) = ready else { return End::Peer };
                match channel.get_ref().try_recv() {
                    Ok(Some(message)) => {
                        pace.count();
                        let _ = events.send(on_message(message));
                    }
                    Err(ChannelError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready.clear_ready();
                    }
                    Err(error @ (ChannelError::Format(_) | ChannelError::Damaged(_))) => {
                        pace.count();
                        if !mem::replace(&mut complained, true) {
                            tracing::warn!("ignoring what a process sends: {error}");
                        }
                    }
                    Ok(None) | Err(ChannelError::Io(_)) => return End::Peer,
                }
            }
            letter = outgoing.recv(), if ends_at.is_none() => match letter {
                Some(Letter::Message(message)) => {
                    waiting.retain(|(earlier, _)| !message.0.supersedes(earlier));
                    waiting.push_back(message);
                    // Only a full queue is worth waiting for.
                    flush(channel.get_ref(), &mut waiting);
                }
                Some(Letter::Pause(answer)) => {
                    reading = false;
                    let _ = answer.send(());
                }
                Some(Letter::Report(answer)) => {
                    let _ = answer.send(remains(channel.get_ref(), &waiting));
                }
                Some(Letter::Resume) => reading = true,
                None => ends_at = Some(Instant::now() + LAST_ORDERS),
            },
            ready = channel.writable(), if !waiting.is_empty() => {
                let Ok(mut ready) = ready else { return End::Peer };
                if !flush(channel.get_ref(), &mut waiting) {
                    ready.clear_ready();
                }
            }
        }
    }
}

/// Waits until then, or for ever.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

fn remains<Out: Clone>(
    channel: &impl AsFd,
    waiting: &VecDeque<Outgoing<Out>>,
) -> io::Result<Remains<Out>> {
    let copies =
        |fds: &Vec<OwnedFd>| -> io::Result<Vec<_>> { fds.iter().map(OwnedFd::try_clone).collect() };
    let unsent = waiting
        .iter()
        .map(|(message, fds)| Ok((message.clone(), copies(fds)?)))
        .collect::<io::Result<Vec<_>>>()?;
    Ok(Remains {
        channel: channel.as_fd().try_clone_to_owned()?,
        unsent,
    })
}

/// Sends what can be sent; `false` when the peer's queue is full.
fn flush<Out: Post, In: Post>(
    channel: &Channel<Out, In>,
    waiting: &mut VecDeque<Outgoing<Out>>,
) -> bool {
    while let Some((message, fds)) = waiting.front() {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        match channel.send(message, &fds) {
            Err(ChannelError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return false;
            }
            Err(ChannelError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                waiting.clear();
                return true;
            }
            Err(error) => tracing::error!("cannot send a message: {error}"),
            Ok(()) => {}
        }
        waiting.pop_front();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use rsgun_core::ipc::{FromWorker, ToWorker, WorkerId};
    use rsgun_core::sys::channel;
    use std::time::Duration;

    #[tokio::test(flavor = "current_thread")]
    async fn nothing_is_lost_when_the_queue_of_the_peer_is_full() {
        const COUNT: usize = 5000;
        let (link, worker, mut queue) = linked();
        for _ in 0..COUNT {
            link.send(ToWorker::Quit, Vec::new());
        }
        let mut received = 0;
        tokio::time::timeout(Duration::from_secs(20), async {
            while received < COUNT {
                match worker.try_recv() {
                    Ok(Some(_)) => received += 1,
                    Ok(None) => panic!("the channel has ended"),
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        })
        .await
        .unwrap();
        worker.send(&FromWorker::Ready, &[]).unwrap();
        drop(worker);
        assert!(matches!(
            queue.recv().await,
            Some(Event::Worker {
                message: FromWorker::Ready,
                ..
            })
        ));
        assert!(matches!(
            queue.recv().await,
            Some(Event::WorkerClosed { .. })
        ));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn dropping_the_link_sends_what_waits_and_then_closes() {
        let (link, worker, _queue) = linked();
        link.send(ToWorker::Acknowledge, Vec::new());
        drop(link);
        let mut seen = Vec::new();
        tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                match worker.try_recv() {
                    Ok(Some(message)) => seen.push(message.body),
                    Ok(None) => break,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        })
        .await
        .unwrap();
        assert_eq!(seen, [ToWorker::Acknowledge]);
    }

    /// A link to a worker, with the worker's end and what the master is told.
    fn linked() -> (
        Link<ToWorker>,
        Channel<FromWorker, ToWorker>,
        UnboundedReceiver<Event>,
    ) {
        let (left, right) = channel::pair().unwrap();
        let (events, queue) = unbounded_channel();
        let id = WorkerId(1);
        let link = Link::open(
            Channel::<ToWorker, FromWorker>::new(left),
            events,
            move |message| Event::Worker {
                id,
                message: message.body,
            },
            Event::WorkerClosed { id },
        )
        .unwrap();
        (link, Channel::new(right), queue)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_a_peer_does_not_take_does_not_pile_up() {
        let (link, worker, _queue) = linked();
        let (read, written) = nix::unistd::pipe().unwrap();
        for _ in 0..5000 {
            link.send(ToWorker::ChangeLogs, vec![read.try_clone().unwrap()]);
            tokio::task::yield_now().await;
        }
        link.send(ToWorker::Quit, Vec::new());
        drop((read, written));
        let mut orders = Vec::new();
        tokio::time::timeout(Duration::from_secs(20), async {
            while orders.last() != Some(&ToWorker::Quit) {
                match worker.try_recv() {
                    Ok(Some(message)) => orders.push(message.body),
                    Ok(None) => panic!("the channel has ended"),
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        })
        .await
        .unwrap();
        // What the kernel had room for, and the last one.
        assert!(orders.len() < 1000, "{}", orders.len());
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_peer_is_heard_at_a_pace() {
        let (_link, worker, mut queue) = linked();
        let began = Instant::now();
        let more = 20;
        let mut heard = 0;
        while heard < AT_ONCE + more {
            match worker.send(&FromWorker::WantsLogs, &[]) {
                Ok(()) => {}
                Err(ChannelError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
            match queue.try_recv() {
                Ok(_) => heard += 1,
                // Time goes on when nothing else happens.
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        let expected = BETWEEN * more;
        let took = began.elapsed();
        assert!(took + BETWEEN >= expected, "{took:?}");
        assert!(took <= expected + Duration::from_secs(4), "{took:?}");
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_peer_that_never_reads_is_left_in_the_end() {
        let (link, worker, mut queue) = linked();
        for _ in 0..5000 {
            link.send(ToWorker::Quit, Vec::new());
        }
        drop(link);
        let last = tokio::time::timeout(2 * LAST_ORDERS, queue.recv()).await;
        assert!(matches!(last, Ok(None)), "the task has ended: {last:?}");
        drop(worker);
    }
}
