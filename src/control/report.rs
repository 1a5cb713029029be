//! The status for people: what `rsgunctl status` prints.

use std::fmt::Write as _;

use super::document::{Renewal, Slot, Status, Totals, Worker};

/// The columns of the table of workers; the first two are to the left.
const HEADINGS: [&str; 10] = [
    "SLOT", "PHASE", "PID", "GEN", "UP", "REQUESTS", "ACTIVE", "CONNS", "MEMORY", "LOST",
];

/// The status as text of several lines, with a newline at the end.
///
/// Text that comes from the application cannot control the terminal: its control
/// characters are escaped.
#[must_use]
pub fn text(status: &Status) -> String {
    let Status {
        version, pid, name, ..
    } = status;
    let mut text = format!(
        "rsgun {version}, master {pid} [{}]: {}, {}, up {}\n",
        escaped(name),
        status.phase.name(),
        readiness(status),
        duration(status.uptime_s)
    );
    let _ = writeln!(
        text,
        "  {}, generation {}",
        workers(status),
        status.generation
    );
    for listener in &status.listeners {
        let _ = writeln!(text, "  listens on {}", escaped(listener));
    }
    let totals = &status.totals;
    let _ = writeln!(
        text,
        "  {} answered, {} with 5xx; {} lost of {} started",
        counted(totals.requests, "request"),
        totals.status[4],
        counted(totals.restarts, "worker"),
        totals.workers_started
    );
    if let Some(line) = threads_text(status) {
        text.push_str(&line);
    }
    text.push_str(&renewals_text(status));
    for reason in &status.degraded {
        let _ = writeln!(text, "  degraded: {}", escaped(reason));
    }
    text.push('\n');
    text.push_str(&table(status));
    for worker in &status.workers {
        if let Some(request) = &worker.oldest_request {
            let _ = writeln!(
                text,
                "Slot {} works on {} since {}",
                worker.slot,
                escaped(&request.line),
                duration(request.age_s)
            );
        }
    }
    for slot in &status.slots {
        text.push_str(&slot_text(slot));
    }
    text
}

/// Whether the server is ready, in one line: what `rsgunctl ready` prints.
#[must_use]
pub fn ready(status: &Status) -> String {
    format!(
        "{}: {}, {}\n",
        readiness(status),
        status.phase.name(),
        workers(status)
    )
}

fn readiness(status: &Status) -> &'static str {
    if status.is_ready() {
        "ready"
    } else {
        "not ready"
    }
}

fn workers(status: &Status) -> String {
    let serving = status.workers_serving;
    let verb = if serving == 1 { "serves" } else { "serve" };
    let wanted = counted(status.workers_wanted.into(), "worker");
    format!("{serving} of {wanted} {verb}")
}

/// A number of things, of which one has this name.
fn counted(number: u64, name: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {name}{plural}")
}

/// How busy the threads of WSGI workers are, and how long requests wait for one.
fn threads_text(status: &Status) -> Option<String> {
    let pools = status.workers.iter().filter_map(|one| one.threads.as_ref());
    let (count, idle, queued) = pools.fold((0_u64, 0_u64, 0_u64), |sums, pool| {
        (
            sums.0 + u64::from(pool.count),
            sums.1 + u64::from(pool.idle),
            sums.2 + u64::from(pool.queued),
        )
    });
    if count == 0 {
        return None;
    }
    let busy = count.saturating_sub(idle);
    let mut text = format!("  {busy} of {count} threads are busy, {queued} requests wait for one");
    let Totals {
        waits, waited_s, ..
    } = status.totals;
    if waits > 0 {
        #[expect(clippy::cast_precision_loss, reason = "a time for people")]
        let mean_ms = waited_s * 1000.0 / waits as f64;
        let _ = write!(text, "; the average wait was {mean_ms:.1} ms");
    }
    text.push('\n');
    Some(text)
}

fn renewals_text(status: &Status) -> String {
    let reload = status.last_reload.as_ref();
    let upgrade = status.last_upgrade.as_ref();
    // An upgrade that was complete counts as both.
    let is_both = |one: &&Renewal| upgrade.is_some_and(|other| one.generation == other.generation);
    let reload = reload.filter(|reload| !is_both(reload));
    let text = |what: &str, renewal: Option<&Renewal>| {
        renewal.map_or_else(String::new, |renewal| renewal_text(what, renewal))
    };
    text("reload", reload) + &text("upgrade", upgrade)
}

fn renewal_text(what: &str, renewal: &Renewal) -> String {
    let ago = duration(renewal.seconds_ago);
    if renewal.ok {
        return format!(
            "  last {what}: generation {} complete, {ago} ago\n",
            renewal.generation
        );
    }
    let mut text = format!(
        "  last {what}: generation {} FAILED, {ago} ago: {}\n",
        renewal.generation,
        escaped(renewal.message.as_deref().unwrap_or_default())
    );
    for line in renewal.traceback.as_deref().unwrap_or_default().lines() {
        let _ = writeln!(text, "    {}", escaped(line));
    }
    text
}

fn slot_text(slot: &Slot) -> String {
    let Some(last) = &slot.last_exit else {
        return String::new();
    };
    let mut text = format!(
        "Slot {}: the last worker that was lost {}, {} ago",
        slot.slot,
        escaped(&last.reason),
        duration(last.seconds_ago)
    );
    if let Some(seconds) = slot.retry_in_s {
        let _ = write!(text, "; the next one starts in {}", duration(seconds));
    }
    text.push('\n');
    text
}

fn table(status: &Status) -> String {
    let lost = |number: u32| {
        let slot = status.slots.iter().find(|slot| slot.slot == number);
        slot.map_or_else(String::new, |slot| slot.restarts.to_string())
    };
    let mut rows: Vec<[String; 10]> = vec![HEADINGS.map(str::to_owned)];
    for slot in &status.slots {
        let (mut of_slot, number) = (Vec::new(), slot.slot);
        of_slot.extend(status.workers.iter().filter(|worker| worker.slot == number));
        if of_slot.is_empty() {
            let mut row: [String; 10] = std::array::from_fn(|_| "-".to_owned());
            row[0] = number.to_string();
            "empty".clone_into(&mut row[1]);
            row[9] = slot.restarts.to_string();
            rows.push(row);
        }
        rows.extend(of_slot.into_iter().map(|worker| row(worker, lost(number))));
    }
    // Those whose slot is gone, as after TTOU.
    let gone = |worker: &&Worker| status.slots.iter().all(|slot| slot.slot != worker.slot);
    for worker in status.workers.iter().filter(gone) {
        rows.push(row(worker, "-".to_owned()));
    }
    let widths: [usize; 10] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .enumerate()
            .map(|(column, (cell, width))| {
                if column < 2 {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            })
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn row(worker: &Worker, lost: String) -> [String; 10] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        worker.slot.to_string(),
        escaped(&worker.phase),
        or_dash(worker.pid.map(|pid| pid.to_string())),
        worker.generation.to_string(),
        duration(worker.uptime_s),
        worker.requests.to_string(),
        worker.active.to_string(),
        worker.connections.to_string(),
        or_dash(worker.rss_bytes.map(|bytes| format!("{} MiB", bytes >> 20))),
        lost,
    ]
}

/// A time with its two largest units: `12.3 s`, `4 min 10 s`, `3 h 20 min`, `2 d 1 h`.
fn duration(seconds: f64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    if seconds < 60.0 {
        return format!("{:.1} s", seconds.max(0.0));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and saturating"
    )]
    let whole = seconds as u64;
    match whole {
        0..HOUR => format!("{} min {} s", whole / MINUTE, whole % MINUTE),
        HOUR..DAY => format!("{} h {} min", whole / HOUR, whole % HOUR / MINUTE),
        _ => format!("{} d {} h", whole / DAY, whole % DAY / HOUR),
    }
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::super::document::{Answer, Ended, Phase, Request, Threads};
    use super::*;

    fn status() -> Status {
        Status {
            version: "1.2.3".to_owned(),
            pid: 4711,
            name: "main:app".to_owned(),
            uptime_s: 3725.0,
            phase: Phase::Degraded,
            degraded: vec!["slot 2 has no worker that serves".to_owned()],
            generation: 1,
            workers_wanted: 2,
            workers_serving: 1,
            listeners: vec!["http://127.0.0.1:8000".to_owned()],
            slots: vec![
                Slot {
                    slot: 1,
                    restarts: 0,
                    last_exit: None,
                    retry_in_s: None,
                },
                Slot {
                    slot: 2,
                    restarts: 12,
                    last_exit: Some(Ended {
                        reason: "was killed by SIGSEGV".to_owned(),
                        seconds_ago: 3.0,
                    }),
                    retry_in_s: Some(9.8),
                },
            ],
            workers: vec![Worker {
                slot: 1,
                pid: Some(4712),
                generation: 1,
                phase: "serving".to_owned(),
                uptime_s: 3720.0,
                silent_s: Some(0.2),
                busy: Some(0.375),
                requests: 120_488,
                active: 1,
                connections: 40,
                websockets: 0,
                threads: None,
                rss_bytes: Some(98 << 20),
                oldest_request: Some(Request {
                    line: "GET /report".to_owned(),
                    age_s: 12.04,
                }),
            }],
            totals: Totals {
                workers_started: 14,
                restarts: 12,
                requests: 120_500,
                status: [0, 120_499, 0, 0, 1],
                ..Totals::default()
            },
            last_reload: Some(Renewal {
                generation: 2,
                ok: false,
                seconds_ago: 130.0,
                message: Some("importing \"main\" failed".to_owned()),
                traceback: Some("Traceback:\n  File \x1b[2Jmain.py".to_owned()),
            }),
            last_upgrade: Some(Renewal {
                generation: 3,
                ok: false,
                seconds_ago: 9.0,
                message: Some("no such \x1bprogram".to_owned()),
                traceback: None,
            }),
        }
    }

    #[test]
    fn an_upgrade_that_was_complete_is_told_once() {
        let mut status = status();
        let complete = Renewal {
            generation: 4,
            ok: true,
            seconds_ago: 61.0,
            message: None,
            traceback: None,
        };
        status.last_upgrade = Some(complete.clone());
        status.last_reload = Some(complete);
        assert_eq!(
            renewals_text(&status),
            "  last upgrade: generation 4 complete, 1 min 1 s ago\n"
        );
    }

    #[test]
    fn everything_of_interest_is_shown() {
        assert_eq!(
            text(&status()),
            "\
rsgun 1.2.3, master 4711 [main:app]: degraded, ready, up 1 h 2 min
  1 of 2 workers serves, generation 1
  listens on http://127.0.0.1:8000
  120500 requests answered, 1 with 5xx; 12 workers lost of 14 started
  last reload: generation 2 FAILED, 2 min 10 s ago: importing \"main\" failed
    Traceback:
      File \\u{1b}[2Jmain.py
  last upgrade: generation 3 FAILED, 9.0 s ago: no such \\u{1b}program
  degraded: slot 2 has no worker that serves

SLOT  PHASE     PID  GEN         UP  REQUESTS  ACTIVE  CONNS  MEMORY  LOST
1     serving  4712    1  1 h 2 min    120488       1     40  98 MiB     0
2     empty       -    -          -         -       -      -       -    12
Slot 1 works on GET /report since 12.0 s
Slot 2: the last worker that was lost was killed by SIGSEGV, 3.0 s ago; the next one starts in 9.8 s
"
        );
    }

    #[test]
    fn threads_are_shown_with_the_time_that_requests_wait_for_them() {
        let mut status = status();
        assert_eq!(threads_text(&status), None);
        status.workers[0].threads = Some(Threads {
            count: 4,
            idle: 1,
            queued: 2,
            waits: 10,
            waited_s: 0.5,
        });
        assert_eq!(
            threads_text(&status).as_deref(),
            Some("  3 of 4 threads are busy, 2 requests wait for one\n")
        );
        // Those that have ended count.
        (status.totals.waits, status.totals.waited_s) = (200, 0.51);
        assert_eq!(
            threads_text(&status).as_deref(),
            Some(
                "  3 of 4 threads are busy, 2 requests wait for one; \
                 the average wait was 2.5 ms\n"
            )
        );
    }

    #[test]
    fn a_document_survives_the_way_to_the_reader() {
        let json = serde_json::to_string(&Answer::from(&status())).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status());
        assert!(json.contains("\"phase\":\"degraded\""));
        assert!(json.contains("\"ready\":true"));
    }

    #[test]
    fn a_server_is_ready_when_it_goes_on_to_serve_and_has_somebody_to_do_so() {
        let mut status = status();
        for (phase, serving, expected) in [
            (Phase::Booting, 1, false),
            (Phase::Serving, 1, true),
            (Phase::Serving, 0, false),
            (Phase::Degraded, 1, true),
            (Phase::Degraded, 0, false),
            (Phase::Reloading, 1, true),
            (Phase::Reloading, 0, false),
            (Phase::Draining, 2, false),
            (Phase::Stopping, 2, false),
        ] {
            (status.phase, status.workers_serving) = (phase, serving);
            assert_eq!(status.is_ready(), expected, "{phase:?}, {serving}");
        }
        assert_eq!(
            ready(&status),
            "not ready: stopping, 2 of 2 workers serve\n"
        );
        (status.workers_wanted, status.workers_serving) = (1, 1);
        assert_eq!(workers(&status), "1 of 1 worker serves");
    }

    #[test]
    fn a_time_has_two_units() {
        for (seconds, expected) in [
            (-1.0, "0.0 s"),
            (59.94, "59.9 s"),
            (61.0, "1 min 1 s"),
            (86_399.0, "23 h 59 min"),
            (90_000.0, "1 d 1 h"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }
}
