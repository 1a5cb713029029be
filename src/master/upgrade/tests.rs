//! Upgrades, step by step, and what must stay the same between versions.

use std::time::Duration;

use rsgun_core::ipc::{DrainReason, FromWorker, ToWorker};

use super::record::StateRecord;
use super::world::Exec;
use crate::master::event::Command;
use crate::master::exit::Exit;
use crate::master::moment::Moment;
use crate::master::notice::Notice;
use crate::master::state_world::{KILLED, World, count, import_error};
use crate::master::status::Condition;

fn failures(world: &World) -> usize {
    count(world, |notice| {
        matches!(notice, Notice::UpgradeFailed { .. })
    })
}

#[test]
fn all_workers_become_new_one_after_the_other() {
    let mut world = World::booted(3, false);
    let before = world.serving();
    world.command(Command::Upgrade);
    world.cooperate();
    assert_eq!(world.generations_serving(), [2, 2, 2]);
    assert!(world.serving().iter().all(|id| !before.contains(id)));
    assert_eq!(world.servers.len(), 1);
    let done = |notice: &Notice| matches!(notice, Notice::Upgraded { generation: 2 });
    assert_eq!(count(&world, done), 1);
    assert_eq!(last(&world), (2, true));
    assert_eq!(world.state.last_reload, world.state.last_upgrade);
}

/// The generation of the last upgrade, and whether it was complete.
fn last(world: &World) -> (u32, bool) {
    let outcome = world.state.last_upgrade.as_ref().unwrap();
    (outcome.generation, outcome.failure.is_none())
}

#[test]
fn the_probation_of_a_candidate_may_be_long() {
    let mut world = World::booted(2, false);
    world.policy.reload_probation = Duration::from_secs(60);
    world.command(Command::Upgrade);
    world.cooperate();
    assert_eq!(world.generations_serving(), [2, 2]);
}

#[test]
fn one_that_is_wanted_during_the_boot_follows_it() {
    let mut world = World::new(2, false);
    world.command(Command::Upgrade);
    assert_eq!(count(&world, |notice| *notice == Notice::UpgradeWaits), 1);
    assert!(world.state.upgrade.is_none() && world.candidate.is_none());
    world.cooperate();
    assert_eq!(world.generations_serving(), [2, 2]);
    let done = |notice: &Notice| matches!(notice, Notice::Upgraded { generation: 2 });
    assert_eq!(count(&world, done), 1);
}

#[test]
fn nothing_changes_when_the_candidate_fails_or_dies() {
    for dies in [false, true] {
        let mut world = World::booted(2, true);
        let before = world.serving();
        world.command(Command::Upgrade);
        world.candidate_reacts();
        if dies {
            world.candidate_dies(KILLED);
        } else {
            world.candidate_fails();
        }
        world.cooperate();
        assert_eq!(failures(&world), 1);
        assert_eq!(last(&world), (2, false));
        assert_eq!(world.serving(), before);
        assert!(world.state.upgrade.is_none() && world.candidate.is_none());
        world.command(Command::Upgrade);
        world.cooperate();
        assert!(world.generations_serving().iter().all(|g| *g > 2));
    }
}

#[test]
fn what_it_said_last_counts_also_after_its_exit() {
    for handed_over in [true, false] {
        let mut world = World::booted(1, false);
        world.signs_come_late = true;
        world.command(Command::Upgrade);
        world.candidate_reacts();
        if handed_over {
            world.candidate_reacts();
            world.candidate_dies(Exit::Code(0));
            world.cooperate();
            assert_eq!(world.generations_serving(), [2]);
        } else {
            world.candidate_dies(Exit::Code(1));
            world.cooperate();
            assert_eq!(failures(&world), 1, "it has ended without a word");
            assert_eq!(world.generations_serving(), [1]);
        }
    }
}

#[test]
fn a_second_one_is_refused_until_the_last_worker_is_new() {
    let mut world = World::booted(2, false);
    let refused = |world: &World| count(world, |notice| *notice == Notice::UpgradeRefused);
    world.command(Command::Upgrade);
    world.command(Command::Upgrade);
    assert_eq!(refused(&world), 1);
    while world.state.upgrade.is_some() {
        world.candidate_reacts();
    }
    world.command(Command::Upgrade);
    assert_eq!(refused(&world), 2, "old workers are still being exchanged");
    world.cooperate();
    world.command(Command::Upgrade);
    assert_eq!(refused(&world), 2);
}

#[test]
fn another_one_waits_for_a_candidate_that_ends() {
    let mut world = World::booted(2, false);
    world.command(Command::Upgrade);
    world.candidate_reacts();
    world.candidate_fails();
    // Its worker may have answers to give, for as long as the graceful time-out.
    world.pass(Duration::from_secs(30));
    world.command(Command::Upgrade);
    assert_eq!(count(&world, |n| *n == Notice::UpgradeWaits), 1);
    world.command(Command::Upgrade);
    assert_eq!(count(&world, |n| *n == Notice::UpgradeRefused), 1);
    assert!(world.candidate.is_some());
    world.cooperate();
    assert_eq!(world.generations_serving(), [3, 3]);
}

#[test]
fn a_reload_waits_for_the_new_program() {
    let mut world = World::booted(2, false);
    world.command(Command::Upgrade);
    world.command(Command::Reload);
    assert!(world.resolving.is_none());
    world.cooperate();
    assert_eq!(world.generations_serving(), [3, 3]);
    let reloads = |notice: &Notice| matches!(notice, Notice::Reloaded { .. });
    assert_eq!(count(&world, reloads), 1);
}

#[test]
fn an_upgrade_waits_for_a_reload() {
    let mut world = World::booted(2, false);
    world.command(Command::Reload);
    world.command(Command::Upgrade);
    assert!(world.candidate.is_none());
    world.cooperate();
    assert_eq!(world.generations_serving(), [3, 3]);
}

#[test]
fn a_stop_ends_the_candidate_too() {
    let mut world = World::booted(2, false);
    world.command(Command::Upgrade);
    world.candidate_reacts();
    world.command(Command::Stop);
    assert_eq!(world.exit, None, "the candidate is still there");
    world.cooperate();
    assert_eq!(world.exit, Some(0));
    assert!(world.candidate.is_none());
}

#[test]
fn a_stop_in_the_last_moment_is_carried_out_by_the_new_program() {
    let mut world = World::booted(2, false);
    world.command(Command::Upgrade);
    world.candidate_reacts();
    world.candidate_reacts();
    world.command(Command::Stop);
    assert!(!world.state.is_stopping());
    world.candidate_reacts();
    assert!(world.state.is_stopping());
    world.cooperate();
    assert_eq!(world.exit, Some(0));
}

#[test]
fn an_exec_that_fails_leaves_everything_as_it_was() {
    let mut world = World::booted(2, false);
    let before = world.serving();
    world.next_exec = Exec::Fails;
    world.command(Command::Upgrade);
    world.candidate_reacts();
    world.candidate_reacts();
    world.command(Command::More);
    world.cooperate();
    assert_eq!(failures(&world), 1);
    assert!(before.iter().all(|id| world.serving().contains(id)));
    assert_eq!(world.serving().len(), 3, "the kept TTIN was not lost");
    assert_eq!(last(&world), (2, false));
}

#[test]
fn a_program_that_is_run_again_remembers_which_upgrade_has_failed() {
    let mut world = World::booted(1, false);
    world.command(Command::Reload);
    world.cooperate();
    world.next_exec = Exec::IsTakenBack;
    world.command(Command::Upgrade);
    world.cooperate();
    assert_eq!(failures(&world), 1);
    assert_eq!(last(&world), (3, false));
    assert!(world.state.last_reload().unwrap().failure.is_none());
}

#[test]
fn adjustments_are_kept() {
    let mut world = World::booted(2, false);
    world.command(Command::More);
    world.command(Command::Upgrade);
    world.cooperate();
    assert_eq!(world.generations_serving(), [2, 2, 2]);
    world.command(Command::Dismiss);
    world.cooperate();
    world.pass(Duration::from_secs(1));
    world.command(Command::Upgrade);
    world.cooperate();
    assert!(world.serving().is_empty());
    assert!(
        world.state.reload.is_none(),
        "nobody is left to be exchanged"
    );
    world.command(Command::More);
    world.cooperate();
    assert_eq!(world.generations_serving(), [3, 3, 3]);
}

#[test]
fn a_candidate_that_hangs_is_ended_and_then_killed() {
    let mut world = World::booted(1, false);
    world.command(Command::Upgrade);
    world.pass(Duration::from_secs(61));
    assert_eq!(failures(&world), 1);
    assert!(world.state.upgrade.is_some());
    world.pass(Duration::from_secs(9));
    world.candidate_dies(KILLED);
    assert!(world.state.upgrade.is_none());
    assert_eq!(world.generations_serving(), [1]);
}

/// A world in which a candidate was killed whose processes live on.
fn bereaved() -> World {
    let mut world = World::booted(2, false);
    world.orphans_hang = true;
    world.command(Command::Upgrade);
    world.candidate_reacts();
    world.candidate_dies(KILLED);
    assert_eq!(failures(&world), 1);
    assert_eq!(world.orphans.len(), 2);
    assert!(world.killed.is_empty());
    world
}

#[test]
fn who_is_left_behind_by_a_candidate_is_ended_in_time() {
    let mut world = bereaved();
    world.pass(Duration::from_secs(34));
    world.cooperate();
    assert_eq!(world.orphans.len(), 1, "the worker may answer its requests");
    world.pass(Duration::from_secs(1));
    world.cooperate();
    assert!(world.orphans.is_empty());
    let overdue = |notice: &Notice| matches!(notice, Notice::WorkerOverdue { .. });
    assert_eq!(count(&world, overdue), 1);
    assert_eq!(world.generations_serving(), [1, 1]);
    assert_eq!(world.state.generations.len(), 1);
}

#[test]
fn a_stop_waits_for_who_is_left_behind_by_a_candidate() {
    for command in [Command::Stop, Command::StopQuickly] {
        let mut world = bereaved();
        world.command(command);
        world.cooperate();
        assert_eq!(world.exit, None);
        let quick = command == Command::StopQuickly;
        world.pass(Duration::from_secs(if quick { 10 } else { 35 }));
        world.cooperate();
        assert!(world.orphans.is_empty());
        assert_eq!(world.exit, Some(0));
    }
}

#[test]
fn a_program_that_is_run_again_follows_who_was_handed_over() {
    let mut world = World::booted(2, false);
    world.next_exec = Exec::IsTakenBack;
    world.command(Command::Upgrade);
    while world.state.upgrade.is_some() {
        world.candidate_reacts();
    }
    assert_eq!(world.orphans.len(), 2);
    world.cooperate();
    assert!(world.orphans.is_empty());
    assert_eq!(world.generations_serving(), [1, 1]);
}

/// A worker of any version must understand these, and any master must understand its
/// answers: they end the workers of the program before.
#[test]
fn the_messages_that_end_a_worker_are_frozen() {
    let json = |message: &ToWorker| serde_json::to_string(message).unwrap();
    let drain = |reason| {
        json(&ToWorker::Drain {
            within_ms: 30_000,
            reason,
        })
    };
    assert_eq!(
        drain(DrainReason::Replaced),
        r#"{"Drain":{"within_ms":30000,"reason":"Replaced"}}"#
    );
    assert_eq!(
        drain(DrainReason::Stop),
        r#"{"Drain":{"within_ms":30000,"reason":"Stop"}}"#
    );
    assert_eq!(json(&ToWorker::Quit), r#""Quit""#);
    assert_eq!(json(&ToWorker::ChangeLogs), r#""ChangeLogs""#);
    assert_eq!(
        serde_json::to_string(&FromWorker::Draining).unwrap(),
        r#""Draining""#
    );
}

/// If this fails, the format of the state has changed: raise `snapshot::FORMAT`, unless
/// what is new may be missing.
#[test]
fn the_format_of_the_state_has_not_changed() {
    let world = World::booted(1, false);
    let record = serde_json::to_value(StateRecord::of(&world.state)).unwrap();
    let expected = serde_json::json!({
        "current": 1, "last_generation": 1, "last_worker": 1, "adjustment": 0, "scaled_to": null,
        "dismissed": false, "reload_waits": false, "seed": 1_000_000_u64 << 20, "kept": [],
        "generations": [{
            "number": 1, "standing": "Current", "graceful_timeout_ms": 30_000, "pid": 101,
            "stage": {"Serving": {"since": 1_000_000}},
            "gone": false, "greeted": true, "asked": true, "configured": true,
            "warned": false, "workers": 1, "when_ready": true, "closed": false,
        }],
        "workers": [{
            "identity": {"id": 1, "slot": 1, "generation": 1, "seat": 0}, "pid": 102,
            "asked_at": 1_000_000,
            "stage": {"Serving": {"since": 1_000_000}},
            "was_ready": true, "stopped_accepting": false, "retire_at": null, "closed": false,
        }],
        "slots": [{
            "number": 1, "current": 1, "replacement": null, "losses": 0, "last_loss": null,
            "backoff": {"failures": 0, "retry_at": null},
        }],
        "past": {
            "started_at": 1_000_000, "condition": "Sound", "losses": 0, "last_reload": null,
            "last_upgrade": null, "upgrade": null,
            "server_backoff": {"failures": 0, "retry_at": null},
        },
    });
    assert_eq!(record, expected);
    let again: StateRecord = serde_json::from_value(record).unwrap();
    let state = again
        .clone()
        .restore(Moment::from_ms(1_000_000), |generation| {
            generation.promised(&world.policy)
        });
    assert_eq!(StateRecord::of(&state), again);
}

#[test]
fn what_came_later_may_be_missing() {
    let world = World::booted(1, false);
    let whole = StateRecord::of(&world.state);
    let mut older = serde_json::to_value(&whole).unwrap();
    older.as_object_mut().unwrap().remove("past");
    let slot = older["slots"][0].as_object_mut().unwrap();
    slot.remove("last_loss");
    slot.remove("backoff");
    let policy = world.policy.clone();
    let state = serde_json::from_value::<StateRecord>(older)
        .unwrap()
        .restore(world.now, |_| policy.clone());
    assert_eq!(StateRecord::of(&state), whole);
}

#[test]
fn the_past_is_remembered() {
    for exec in [Exec::Succeeds, Exec::Fails, Exec::IsTakenBack] {
        let mut world = degraded_after_a_failed_reload();
        world.next_exec = exec;
        let past = |world: &World| {
            let status = world.state.status(world.now, |_, _| None);
            let reload = status.last_reload.map(|last| (last.ok, last.message));
            let restarts = (status.totals.restarts, status.slots[1].restarts);
            (status.uptime_s.to_bits(), reload, restarts, status.degraded)
        };
        let before = past(&world);
        assert_eq!(before.3.len(), 1, "{:?}", before.3);
        let retry_at = world.state.slots[&2].backoff.deadline();
        world.command(Command::Upgrade);
        while world.state.upgrade.is_some() {
            world.candidate_reacts();
        }
        assert_eq!(past(&world), before);
        assert_eq!(world.shown, Condition::Degraded);
        let retry_after = world.state.slots[&2].backoff.deadline();
        assert_eq!(retry_after, retry_at.filter(|_| exec != Exec::Succeeds));
        world.pass(Duration::from_secs(30));
        world.cooperate();
        assert_eq!(world.shown, Condition::Sound);
        assert_eq!(world.serving().len(), 2);
    }
}

/// The second worker of two has died, and the next ones cannot start.
fn degraded_after_a_failed_reload() -> World {
    let mut world = World::booted(2, false);
    world.command(Command::Reload);
    world.until_a_failed_start();
    let second = world.serving()[1];
    world.worker_dies(second, KILLED);
    while world.shown == Condition::Sound {
        while world.starting().is_empty() {
            world.pass(Duration::from_millis(400));
        }
        let next = world.starting()[0];
        world.worker_hello(next);
        world.worker_fails(next, import_error());
    }
    world
}
