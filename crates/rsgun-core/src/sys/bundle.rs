//! Bundles: many descriptors that travel as one.
//!
//! The kernel takes 253 descriptors with a datagram at most, and one after the other could
//! come in part: the queue of a channel becomes full in between, or its peer dies. So they go
//! into the queue of a socket of their own, some with each datagram, and its other end is what
//! travels. Nobody else sends there, and the sender's end is closed again: whoever gets the
//! bundle gets all that is in it, up to the end of the stream. What nobody takes out goes with
//! the socket.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::datagram::{self, FDS_OF_DATAGRAM, WORDS_OF_FDS, pair};

/// The most descriptors of one bundle.
pub(super) const FDS_MAX: usize = 40 * FDS_OF_DATAGRAM;

/// Makes a bundle.
///
/// # Errors
/// What `socketpair(2)` and `sendmsg(2)` return, chiefly `EMFILE`.
pub(super) fn pack(fds: &[BorrowedFd<'_>]) -> io::Result<OwnedFd> {
    let (near, far) = pair()?;
    for some in fds.chunks(FDS_OF_DATAGRAM) {
        let raw: Vec<RawFd> = some.iter().map(AsRawFd::as_raw_fd).collect();
        datagram::send(near.as_fd(), &[IoSlice::new(&[0])], &raw)?;
    }
    Ok(far)
}

/// Takes out what [`pack`] has put in; whether some are missing, and then there are none.
///
/// # Errors
/// What `recvmsg(2)` returns.
pub(super) fn unpack(bundle: BorrowedFd<'_>) -> io::Result<(Vec<OwnedFd>, bool)> {
    let mut fds = Vec::new();
    loop {
        let mut control = [0; WORDS_OF_FDS];
        match datagram::receive(bundle, &mut [0], &mut control) {
            Ok(datagram) if datagram.length == 0 => return Ok((fds, false)),
            Ok(datagram) if datagram.flags & libc::MSG_CTRUNC != 0 => {
                return Ok((Vec::new(), true));
            }
            Ok(datagram) => fds.extend(datagram.fds),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    use super::*;
    use crate::sys::channel::{Freight, INLINE_MAX, recv, send};
    use crate::sys::process::next_fd_number;

    const FREIGHT: Freight = Freight::Descriptors;

    #[test]
    fn more_descriptors_than_a_datagram_takes_arrive_in_their_order() {
        let (left, right) = pair().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let files: Vec<File> = (0_u64..600)
            .map(|length| {
                let file = File::create(directory.path().join(length.to_string())).unwrap();
                file.set_len(length).unwrap();
                file
            })
            .collect();
        for count in [249, 250, 251, 600] {
            for payload in [b"short".to_vec(), vec![b'x'; INLINE_MAX + 1]] {
                let fds: Vec<_> = files[..count].iter().map(AsFd::as_fd).collect();
                send(left.as_fd(), &payload, &fds, FREIGHT).unwrap();
                let got = recv(right.as_fd(), FREIGHT).unwrap().unwrap();
                assert_eq!(got.payload, payload);
                let lengths =
                    (got.fds.into_iter()).map(|fd| File::from(fd).metadata().unwrap().len());
                assert!(lengths.eq(0..count as u64), "{count}");
            }
        }
    }

    #[test]
    fn who_has_not_room_for_all_gets_none() {
        let (left, right) = pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        let fds = vec![file.as_fd(); 2 * FDS_OF_DATAGRAM];
        send(left.as_fd(), b"hello", &fds, FREIGHT).unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let free = u64::try_from(next_fd_number().unwrap()).unwrap();
        // Room for the bundle itself, and for all but one.
        let room = fds.len() as u64;
        setrlimit(Resource::RLIMIT_NOFILE, free + room, hard).unwrap();
        let got = recv(right.as_fd(), FREIGHT);
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        let got = got.unwrap().unwrap();
        assert_eq!(got.payload, b"hello");
        assert_eq!((got.fds.len(), got.bereft), (0, true));
        let then = u64::try_from(next_fd_number().unwrap()).unwrap();
        assert_eq!(then, free, "all are closed again");
    }
}
