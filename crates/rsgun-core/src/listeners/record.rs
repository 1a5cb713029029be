//! What is known about a listener besides its descriptor, for a successor of this
//! program in the same process.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::listener::SocketFile;
use super::{Address, Change, Listener, Origin};

/// A listener without its descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    requested: Address,
    local: Address,
    inherited: bool,
    file: Option<FileRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FileRecord {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Record {
    /// Writes down what is known about a listener.
    #[must_use]
    pub fn of(listener: &Listener) -> Self {
        Self {
            requested: listener.requested.clone(),
            local: listener.local.clone(),
            inherited: listener.origin == Origin::Inherited,
            file: listener.file.as_ref().map(|file| FileRecord {
                path: file.path.clone(),
                device: file.device,
                inode: file.inode,
            }),
        }
    }

    /// The listener as one that belongs to another process, which serves on it: it is
    /// not this process that shuts it down, or removes its file.
    #[must_use]
    pub fn lent(self, fd: OwnedFd) -> Listener {
        let listener = Self { file: None, ..self }.with(fd);
        Listener {
            origin: match listener.origin {
                Origin::Created => Origin::Lent,
                other => other,
            },
            ..listener
        }
    }

    /// The listener again. Its file, if it has one, is this process's to remove.
    #[must_use]
    pub fn with(self, fd: OwnedFd) -> Listener {
        Listener {
            fd,
            requested: self.requested,
            local: self.local,
            origin: if self.inherited {
                Origin::Inherited
            } else {
                Origin::Created
            },
            file: self.file.map(|file| SocketFile {
                path: file.path,
                device: file.device,
                inode: file.inode,
                creator: std::process::id(),
            }),
        }
    }
}

impl Change {
    /// The addresses that are wanted from now on.
    #[must_use]
    pub fn wanted(&self) -> &[Address] {
        &self.wanted
    }

    /// The change again, from its addresses and the sockets that it has opened.
    pub fn restored(wanted: Vec<Address>, opened: Vec<Listener>) -> Self {
        Self { wanted, opened }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listeners::open_all;
    use std::os::fd::AsFd;

    #[test]
    fn a_listener_comes_back_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let address = Address::Unix(path.clone());
        let listener = open_all(&[address], 16).unwrap().remove(0);
        let record = Record::of(&listener);
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        let fd = listener.as_fd().try_clone_to_owned().unwrap();
        drop(listener);
        let again = record.clone().with(fd);
        assert_eq!(Record::of(&again), record);
        assert!(path.exists());
        again.cleanup().unwrap();
        assert!(!path.exists());
    }
}
