//! Hooks: which fork server is asked for which, and when.

use rsgun_core::hooks::{Call, Hook};
use rsgun_core::ipc::FromForkServer;

use super::event::{Command, Event};
use super::exit::Exit;
use super::notice::Notice;
use super::state_world::{KILLED, World, count, policy, with_hooks};
use super::worker::Stage;

/// The hooks that were asked for since the last look.
fn calls(world: &mut World) -> Vec<(u32, Hook)> {
    std::mem::take(&mut world.calls)
        .into_iter()
        .map(|(generation, call)| (generation, call.hook()))
        .collect()
}

fn booted(workers: u32) -> World {
    let mut world = World::booted_of(with_hooks(policy(workers, true)));
    world.calls.clear();
    world
}

#[test]
fn the_boot_calls_the_hooks_of_the_start_once() {
    let mut world = World::of(with_hooks(policy(2, true)));
    world.server_hello(1);
    let start = [
        (1, Hook::NworkersChanged),
        (1, Hook::OnStarting),
        (1, Hook::WhenReady),
    ];
    assert_eq!(calls(&mut world), start, "it has been evaluated before");
    world.cooperate();
    assert_eq!(calls(&mut world), []);
    assert_eq!(world.serving().len(), 2);
}

#[test]
fn without_hooks_nothing_is_called() {
    let mut world = World::booted(2, true);
    world.command(Command::More);
    world.command(Command::Reload);
    world.cooperate();
    world.command(Command::Stop);
    world.cooperate();
    assert_eq!((calls(&mut world), world.exit), (Vec::new(), Some(0)));
}

#[test]
fn a_reload_has_the_file_evaluated_anew() {
    let mut world = booted(1);
    let old = world.serving()[0];
    world.command(Command::Reload);
    world.one_reaction();
    world.server_hello(2);
    assert!(world.servers[&2].asked && !world.servers[&2].configured);
    world.server_evaluated(2);
    assert_eq!(world.resolving, Some(2), "its settings are resolved");
    world.policy.workers = 2;
    world.cooperate();
    assert_eq!(world.generations_serving(), [2, 2]);
    let pid = Some(100 + 2);
    assert_eq!(
        std::mem::take(&mut world.calls),
        [
            (
                2,
                Call::WorkersChanged {
                    new: 2,
                    old: Some(1)
                }
            ),
            (2, Call::OnReload),
            (2, Call::WhenReady),
            (2, Call::ChildExit { id: old, pid }),
        ]
    );
}

#[test]
fn when_ready_waits_for_the_end_of_the_fork_server_before() {
    let mut world = booted(1);
    world.command(Command::Reload);
    while !world.servers[&1].closed_by_master {
        assert!(world.one_reaction(), "it is not closed");
    }
    assert!(!world.calls.contains(&(2, Call::WhenReady)));
    world.cooperate();
    assert!(calls(&mut world).contains(&(2, Hook::WhenReady)));
}

#[test]
fn on_starting_decides_against_the_start() {
    let mut world = World::of(with_hooks(policy(2, true)));
    world.server_hello(1);
    let reason = "the hook on_starting has ended the start: sys.exit(7)".to_owned();
    world.happen(Event::ForkServer {
        generation: 1,
        message: FromForkServer::Declined { code: 7, reason },
    });
    world.cooperate();
    assert_eq!(world.exit, Some(7));
    assert!(!calls(&mut world).contains(&(1, Hook::OnExit)));
}

#[test]
fn settings_that_are_wrong_end_the_reload() {
    let mut world = booted(1);
    world.command(Command::Reload);
    world.one_reaction();
    world.server_hello(2);
    world.server_evaluated(2);
    world.resolving = None;
    let reason = "workers: `0` is not a number".to_owned();
    world.happen(Event::ResolveFailed {
        generation: 2,
        reason,
    });
    world.cooperate();
    assert_eq!(world.generations_serving(), [1]);
    assert_eq!(calls(&mut world), []);
    assert_eq!(
        count(&world, |notice| matches!(
            notice,
            Notice::ReloadFailed { .. }
        )),
        1
    );
}

#[test]
fn a_fork_server_that_replaces_a_dead_one_evaluates_and_is_told_no_start() {
    let mut world = booted(1);
    world.server_dies(1, KILLED);
    world.cooperate();
    let anew = [(2, Hook::NworkersChanged), (2, Hook::WhenReady)];
    assert_eq!(calls(&mut world), anew);
    world.worker_dies(world.serving()[0], Exit::Code(1));
    world.cooperate();
    assert_eq!(calls(&mut world), [(2, Hook::ChildExit)]);
    assert_eq!(world.generations_serving(), [2]);
}

#[test]
fn without_a_fork_server_a_hook_is_skipped_with_a_warning() {
    let mut world = booted(2);
    world.server_dies(1, KILLED);
    // The next one has said nothing yet.
    world.worker_dies(world.serving()[0], Exit::Code(1));
    assert_eq!(calls(&mut world), []);
    let skipped = Notice::HookSkipped {
        hook: Hook::ChildExit,
    };
    assert_eq!(count(&world, |notice| *notice == skipped), 1);
}

#[test]
fn the_fork_server_stays_for_the_last_hooks() {
    let mut world = booted(2);
    world.command(Command::Stop);
    assert!(!world.servers[&1].closed_by_master);
    world.cooperate();
    let last = [
        (1, Hook::ChildExit),
        (1, Hook::ChildExit),
        (1, Hook::OnExit),
    ];
    assert_eq!((calls(&mut world), world.exit), (last.to_vec(), Some(0)));
}

#[test]
fn a_second_int_does_not_wait_for_the_last_hook() {
    let mut world = booted(1);
    let worker = world.serving()[0];
    world.command(Command::StopQuickly);
    world.worker_dies(worker, Exit::Code(0));
    assert_eq!(calls(&mut world).last(), Some(&(1, Hook::OnExit)));
    assert!(world.exit.is_none(), "the hook runs");
    world.command(Command::StopQuickly);
    assert_eq!(world.state.generations[&1].server.stage, Stage::Killed);
    world.cooperate();
    assert_eq!(world.exit, Some(0));
}

#[test]
fn a_stop_at_once_waits_for_no_hook() {
    let mut world = booted(1);
    world.command(Command::StopQuickly);
    world.command(Command::StopQuickly);
    world.cooperate();
    assert!(!calls(&mut world).contains(&(1, Hook::OnExit)));
    assert_eq!(world.exit, Some(0));
}
