//! The decisions of the master, one situation at a time.

use std::time::Duration;

use nix::sys::signal::Signal;
use rsgun_core::ipc::{FromForkServer, FromWorker, ToWorker, WorkerId};

use super::event::{Command, Event};
use super::exit::Exit;
use super::notice::Notice;
use super::state_world::{KILLED, World, count, import_error};

fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Workers that were lost before they had told their pid are waited for a moment.
fn cooperate_a_while(world: &mut World) {
    world.cooperate();
    if world.exit.is_none() {
        world.pass(milliseconds(250));
    }
}

// === boot ===

#[test]
fn all_workers_are_asked_for_at_once_and_announced_when_ready() {
    let mut world = World::new(4, false);
    world.server_hello(1);
    assert!(world.workers.is_empty());
    world.server_loaded(1);
    assert_eq!(world.workers.len(), 4);
    let ids = world.starting();
    for id in &ids {
        world.worker_hello(*id);
    }
    for id in &ids[..3] {
        world.worker_ready(*id);
    }
    assert_eq!(count(&world, |n| *n == Notice::Serving), 0);
    world.worker_ready(ids[3]);
    assert_eq!(count(&world, |n| *n == Notice::Serving), 1);
}

#[test]
fn a_slow_worker_does_not_hold_up_the_announcement_for_ever() {
    let mut world = World::new(2, false);
    world.server_hello(1);
    world.server_loaded(1);
    let id = world.starting()[0];
    world.worker_hello(id);
    world.worker_ready(id);
    world.pass(milliseconds(1999));
    assert_eq!(count(&world, |n| *n == Notice::Serving), 0);
    world.pass(milliseconds(1));
    assert_eq!(count(&world, |n| *n == Notice::Serving), 1);
}

#[test]
fn the_first_failure_of_the_first_boot_ends_everything_and_is_told_once() {
    let mut world = World::new(4, false);
    world.server_hello(1);
    world.server_loaded(1);
    for id in world.starting() {
        world.worker_hello(id);
    }
    for id in world.starting() {
        if world.exit.is_none() {
            world.happen(Event::Worker {
                id,
                message: FromWorker::Failed(import_error()),
            });
        }
    }
    let ids: Vec<WorkerId> = world.workers.keys().copied().collect();
    for id in ids {
        world.worker_dies(id, Exit::Code(3));
    }
    world.cooperate();
    assert_eq!(world.exit, Some(3));
    assert_eq!(count(&world, |n| matches!(n, Notice::BootFailed { .. })), 1);
    assert!(world.workers.is_empty() && world.servers.is_empty());
}

#[test]
fn a_missing_attribute_is_exit_code_4_also_with_preload() {
    let mut world = World::new(2, true);
    world.server_hello(1);
    let mut failure = import_error();
    failure.kind = rsgun_core::ipc::FailureKind::AttributeMissing;
    world.happen(Event::ForkServer {
        generation: 1,
        message: FromForkServer::Failed(failure),
    });
    world.server_dies(1, Exit::Code(1));
    assert_eq!(world.exit, Some(4));
}

#[test]
fn a_worker_that_dies_before_it_is_ready_fails_the_boot_in_words() {
    let mut world = World::new(1, false);
    world.server_hello(1);
    world.server_loaded(1);
    let id = world.starting()[0];
    world.worker_hello(id);
    let exit = Exit::Signal {
        signal: Signal::SIGSEGV,
        core: true,
        out_of_memory: false,
    };
    world.worker_dies(id, exit);
    world.cooperate();
    assert_eq!(world.exit, Some(3));
    assert!(world.notices.iter().any(|notice| matches!(
        notice,
        Notice::BootFailed { cause } if cause.message.contains("SIGSEGV (core dumped)")
    )));
}

#[test]
fn an_unsuitable_interpreter_is_a_configuration_error() {
    let mut world = World::new(1, false);
    world.happen(Event::ForkServer {
        generation: 1,
        message: FromForkServer::Unsuitable {
            reason: "is Python 3.8".to_owned(),
        },
    });
    world.server_dies(1, Exit::Code(1));
    assert_eq!(world.exit, Some(1));
}

#[test]
fn a_program_that_is_no_interpreter_is_named() {
    let mut world = World::new(1, false);
    world.server_dies(1, Exit::Code(0));
    assert_eq!(world.exit, Some(1));
    assert!(world.notices.iter().any(|notice| matches!(
        notice,
        Notice::BootFailed { cause } if cause.message.contains("/usr/bin/python3 exited")
    )));
}

#[test]
fn the_boot_timeout_counts_from_before_the_fork() {
    let mut world = World::new(1, false);
    world.server_hello(1);
    world.server_loaded(1);
    world.pass(Duration::from_secs(60));
    cooperate_a_while(&mut world);
    assert_eq!(world.exit, Some(3));
}

#[test]
fn a_signal_during_the_boot_ends_it_cleanly() {
    for command in [Command::Stop, Command::StopQuickly] {
        for steps in 0..8 {
            let mut world = World::new(2, false);
            for _ in 0..steps {
                world.one_reaction();
            }
            world.command(command);
            cooperate_a_while(&mut world);
            assert_eq!(world.exit, Some(0), "{command:?} after {steps} steps");
            assert!(world.workers.is_empty() && world.servers.is_empty());
        }
    }
}

#[test]
fn an_import_that_hangs_is_killed_when_the_server_stops() {
    let mut world = World::new(1, false);
    world.server_hello(1);
    world.server_loaded(1);
    let id = world.starting()[0];
    world.worker_hello(id);
    world.command(Command::Stop);
    world.server_dies(1, Exit::Code(0));
    assert_eq!(world.exit, None);
    world.pass(Duration::from_secs(1));
    assert!(world.is_killed(id));
    world.worker_dies(id, KILLED);
    assert_eq!(world.exit, Some(0));
}

// === running ===

#[test]
fn a_worker_that_dies_is_replaced_at_once_and_then_with_delay() {
    let mut world = World::booted(2, false);
    let mut delays = Vec::new();
    for _ in 0..5 {
        let victim = *world
            .serving()
            .iter()
            .find(|id| world.workers[id].identity.slot == 1)
            .unwrap();
        world.worker_dies(victim, KILLED);
        let told = world.notices.iter().rev().find_map(|notice| match notice {
            Notice::WorkerDied { retry_in, .. } => *retry_in,
            _ => None,
        });
        let retry_in = told.expect("nobody was told");
        delays.push(retry_in.as_millis());
        assert_eq!(world.starting().len(), usize::from(retry_in.is_zero()));
        world.pass(retry_in);
        world.cooperate();
        assert_eq!(world.serving().len(), 2);
        world.notices.clear();
    }
    assert_eq!(delays, [0, 100, 200, 400, 800]);
    assert_eq!(world.exit, None);
}

#[test]
fn no_failure_of_workers_ends_a_master_that_has_served() {
    let mut world = World::booted(3, false);
    for id in world.serving() {
        world.worker_dies(id, Exit::Code(3));
    }
    for _ in 0..20 {
        while let Some(id) = world.starting().first().copied() {
            if !world.workers[&id].greeted {
                world.worker_hello(id);
            }
            world.worker_fails(id, import_error());
        }
        world.pass(Duration::from_secs(31));
    }
    assert_eq!(world.exit, None);
    world.cooperate();
    assert_eq!(world.serving().len(), 3);
}

#[test]
fn a_worker_that_drains_by_itself_is_replaced() {
    let mut world = World::booted(1, false);
    let id = world.serving()[0];
    world.worker_draining(id);
    assert_eq!(world.starting().len(), 1);
    world.cooperate();
    assert_eq!(world.serving().len(), 1);
    assert_eq!(count(&world, |n| matches!(n, Notice::WorkerDied { .. })), 0);
}

#[test]
fn workers_that_drain_as_soon_as_they_are_ready_are_replaced_ever_later() {
    let mut world = World::booted(1, false);
    let mut delays = Vec::new();
    for _ in 0..5 {
        let id = world.serving()[0];
        world.worker_draining(id);
        let mut delay = 0;
        while world.starting().is_empty() {
            world.pass(Duration::from_millis(50));
            delay += 50;
        }
        delays.push(delay);
        world.cooperate();
    }
    assert_eq!(delays, [0, 100, 200, 400, 800]);
}

#[test]
fn exits_that_are_known_before_their_hello_are_not_lost() {
    let mut world = World::booted(1, false);
    let victim = world.serving()[0];
    world.worker_dies(victim, KILLED);
    let id = world.starting()[0];
    let pid = world.workers[&id].pid;
    world.happen(Event::Exited {
        pid,
        exit: Exit::Code(9),
    });
    world.workers.remove(&id);
    world.happen(Event::Worker {
        id,
        message: FromWorker::Hello { pid },
    });
    world.happen(Event::WorkerClosed { id });
    assert!(world.notices.iter().any(|notice| matches!(
        notice,
        Notice::WorkerFailed { cause, .. } if cause.message.contains("exited with code 9")
    )));
}

/// What a worker says that it is.
fn hello(world: &mut World, id: WorkerId, pid: i32) {
    world.happen(Event::Worker {
        id,
        message: FromWorker::Hello { pid },
    });
}

#[test]
fn a_worker_that_serves_is_who_it_is() {
    let mut world = World::booted(1, false);
    let id = world.serving()[0];
    let pid = world.workers[&id].pid;
    for other in [7777, pid, 1, 0, -1, i32::MIN] {
        hello(&mut world, id, other);
        assert_eq!(world.state.workers[&id].pid, Some(pid));
        assert_eq!(world.serving(), [id]);
    }
}

#[test]
fn a_new_worker_is_nobody_whom_the_master_knows() {
    let mut world = World::booted(2, false);
    let [victim, other] = world.serving()[..] else {
        panic!("two workers");
    };
    let server = world.servers[&1].pid;
    let known = world.workers[&other].pid;
    world.worker_dies(victim, KILLED);
    let id = world.starting()[0];
    for pid in [server, known, 1, 0, -1, i32::MIN] {
        hello(&mut world, id, pid);
        assert_eq!(world.state.workers[&id].pid, None, "{pid}");
    }
    // Nor does anything else count as long as it is nobody.
    world.happen(Event::Worker {
        id,
        message: FromWorker::Ready,
    });
    assert_eq!(world.serving(), [other]);
    world.cooperate();
    assert_eq!(world.serving().len(), 2);
}

/// A reload whose fork server has just said hello, and its generation.
fn reload_begun() -> (World, u32) {
    let mut world = World::booted(1, false);
    world.command(Command::Reload);
    let generation = world.resolving.take().unwrap();
    let policy = world.policy.clone();
    world.happen(Event::Resolved { generation, policy });
    world.server_hello(2);
    (world, generation)
}

#[test]
fn a_fork_server_speaks_for_its_own_workers() {
    let (mut world, _) = reload_begun();
    world.server_loaded(2);
    let id = world.starting()[0];
    let error = "of another's".to_owned();
    world.happen(Event::ForkServer {
        generation: 1,
        message: FromForkServer::SpawnFailed { id, error },
    });
    assert_eq!(world.starting(), [id]);
    assert!(world.state.reload.is_some());
}

#[test]
fn who_says_that_it_fails_has_a_moment_to_end_and_no_more() {
    let (mut world, generation) = reload_begun();
    for _ in 0..4 {
        let message = FromForkServer::Failed(import_error());
        world.happen(Event::ForkServer {
            generation,
            message,
        });
        world.pass(milliseconds(900));
    }
    assert!(world.is_killed_server(2));
}

#[test]
fn a_fork_server_greets_once() {
    let mut world = World::new(1, false);
    for _ in 0..3 {
        world.server_hello(1);
    }
    let greeted = count(&world, |notice| matches!(notice, Notice::Starting { .. }));
    assert_eq!(greeted, 1);
}

#[test]
fn foreign_children_are_nobodys_business() {
    let mut world = World::booted(1, false);
    for pid in 5000..5100 {
        world.happen(Event::Exited {
            pid,
            exit: Exit::Code(3),
        });
    }
    assert!(world.notices.is_empty());
    assert_eq!(world.serving().len(), 1);
}

#[test]
fn a_fork_server_that_dies_gets_a_successor_and_the_workers_stay() {
    let mut world = World::booted(2, true);
    world.server_dies(1, KILLED);
    assert_eq!(world.serving().len(), 2);
    world.cooperate();
    assert_eq!(world.generations_serving(), [1, 1]);
    let victim = world.serving()[0];
    world.worker_dies(victim, KILLED);
    world.cooperate();
    assert_eq!(world.generations_serving(), [1, 2]);
}

#[test]
fn a_request_that_dies_with_the_fork_server_is_repeated_without_blame() {
    let mut world = World::booted(1, false);
    let victim = world.serving()[0];
    world.worker_dies(victim, KILLED);
    world.notices.clear();
    assert_eq!(world.starting().len(), 1);
    world.server_dies(1, KILLED);
    world.pass(milliseconds(250));
    world.cooperate();
    assert_eq!(
        count(&world, |n| matches!(n, Notice::WorkerFailed { .. })),
        0
    );
    assert_eq!(world.generations_serving(), [2]);
}

#[test]
fn a_fork_server_that_cannot_load_any_more_is_retried_with_delay() {
    let mut world = World::booted(2, true);
    world.server_dies(1, KILLED);
    for attempt in 0..6 {
        let (number, _) = world.servers.pop_first().unwrap();
        world.servers.insert(
            number,
            super::state_world::ForkServer {
                pid: 101 + 3 + attempt,
                ..Default::default()
            },
        );
        world.servers.get_mut(&number).unwrap().pid =
            world.state.generations[&number].server.pid.unwrap();
        world.server_hello(number);
        world.happen(Event::ForkServer {
            generation: number,
            message: FromForkServer::Failed(import_error()),
        });
        world.server_dies(number, Exit::Code(3));
        let told = world.notices.iter().rev().find_map(|notice| match notice {
            Notice::ForkServerFailed { retry_in, .. } => Some(*retry_in),
            _ => None,
        });
        let retry_in = told.expect("nobody was told");
        assert!(attempt == 0 || retry_in >= milliseconds(100));
        assert_eq!(world.serving().len(), 2);
        world.pass(retry_in);
    }
}

#[test]
fn ttin_and_ttou_change_the_number_and_one_worker_remains() {
    let mut world = World::booted(2, false);
    world.command(Command::More);
    world.cooperate();
    assert_eq!(world.serving().len(), 3);
    for _ in 0..5 {
        world.command(Command::Fewer);
    }
    world.cooperate();
    assert_eq!(world.serving().len(), 1);
    world.command(Command::More);
    world.cooperate();
    assert_eq!(
        world.serving().len(),
        2,
        "what had no effect does not count"
    );
}

#[test]
fn a_worker_that_was_ready_before_it_was_unwanted_answers_what_it_has() {
    for reads_it in [true, false] {
        let mut world = World::booted(1, false);
        world.command(Command::More);
        let id = world.starting()[0];
        world.worker_hello(id);
        world.command(Command::Fewer);
        let order = world.workers[&id].order;
        let drains = matches!(
            order,
            Some(ToWorker::Drain {
                within_ms: 30_000,
                ..
            })
        );
        assert!(drains, "{order:?}");
        if reads_it {
            world.worker_ready(id);
        }
        world.pass(Duration::from_secs(29));
        assert_eq!(world.is_killed(id), !reads_it);
    }
}

#[test]
fn winch_sends_all_workers_away_until_ttin() {
    let mut world = World::booted(3, false);
    world.command(Command::Dismiss);
    world.command(Command::Dismiss);
    world.command(Command::Fewer);
    world.cooperate();
    assert!(world.workers.is_empty());
    assert!(!world.listeners_closed);
    assert_eq!(world.servers.len(), 1, "the fork server stays");
    world.pass(Duration::from_secs(60));
    assert!(world.workers.is_empty());
    world.command(Command::More);
    world.cooperate();
    assert_eq!(world.serving().len(), 3, "as many as before");
    assert_eq!(count(&world, |n| *n == Notice::Dismissed), 1);
    assert_eq!(count(&world, |n| *n == Notice::Recalled { workers: 3 }), 1);
}

#[test]
fn hup_brings_the_workers_back_and_reloads() {
    let mut world = World::booted(2, false);
    world.command(Command::Dismiss);
    world.cooperate();
    world.command(Command::Reload);
    world.cooperate();
    assert_eq!(world.generations_serving(), [2, 2]);
}

#[test]
fn a_reload_waits_while_there_are_no_workers() {
    let mut world = World::booted(2, false);
    world.command(Command::Reload);
    world.command(Command::Dismiss);
    world.cooperate();
    assert!(world.workers.is_empty());
    assert_eq!(count(&world, |n| matches!(n, Notice::Reloaded { .. })), 0);
    world.command(Command::More);
    world.cooperate();
    assert_eq!(world.generations_serving(), [2, 2]);
}

#[test]
fn winch_during_the_boot_waits_for_its_end() {
    let mut world = World::new(2, false);
    world.command(Command::Dismiss);
    world.cooperate();
    assert_eq!(world.exit, None);
    assert_eq!(count(&world, |n| *n == Notice::Serving), 1);
    assert!(world.workers.is_empty());
}

#[test]
fn usr1_changes_nothing_but_the_logs() {
    let mut world = World::booted(1, false);
    world.command(Command::ReopenLogs);
    assert_eq!(world.serving().len(), 1);
    assert_eq!(world.notices, [Notice::LogsReopened]);
}
