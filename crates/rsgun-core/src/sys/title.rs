//! Process titles: what `ps`, `top` and `/proc/PID/cmdline` show.
//!
//! Linux shows the memory between `arg_start` and `arg_end` of `/proc/self/stat`.
//! A title is written over it. When the arguments are too short for a title, the
//! environment that follows them is used as well, after its strings were moved to
//! the heap ([`make_room`]).

use std::sync::OnceLock;

/// Address and length of the writable area, found once.
static AREA: OnceLock<Option<Area>> = OnceLock::new();

#[derive(Debug, Clone, Copy)]
struct Area {
    start: usize,
    /// End of what the kernel counts as the arguments.
    arguments: usize,
    /// End of what may be written.
    writable: usize,
}

/// Moves the environment to the heap so that titles may use its old place.
///
/// Call it before any other thread exists and before any title is set. It makes
/// `getenv` results from before it invalid, so call it first in `main`.
#[expect(
    clippy::disallowed_methods,
    reason = "same values, only moved to the heap"
)]
pub fn make_room() {
    let Some((start, arguments, environment_end)) = read_area() else {
        return;
    };
    for (key, value) in std::env::vars_os() {
        // SAFETY: by the contract of this function no other thread exists that could
        // read the environment meanwhile.
        unsafe {
            std::env::set_var(key, value);
        }
    }
    AREA.get_or_init(|| {
        Some(Area {
            start,
            arguments,
            writable: environment_end,
        })
    });
}

/// Sets the title of this process; a title that does not fit is cut.
///
/// Also sets the thread name that `top` and `/proc/PID/comm` show, whose limit is
/// 15 bytes.
pub fn set(title: &str) {
    let area = AREA.get_or_init(|| {
        read_area().map(|(start, arguments, _)| Area {
            start,
            arguments,
            writable: arguments,
        })
    });
    if let Some(area) = area {
        let room = area.writable - area.start;
        if room > 1 {
            let text = &title.as_bytes()[..title.len().min(room - 1)];
            // SAFETY: `[start, writable)` is the argument (and, after `make_room`, the
            // environment) area that the kernel laid out on our own stack. What still
            // points into it (`std::env::args` reads it anew at each call) only ever
            // reads strings up to a NUL, and the last byte stays one. The arguments must
            // have been read before for their values.
            unsafe {
                let start = area.start as *mut u8;
                std::ptr::copy_nonoverlapping(text.as_ptr(), start, text.len());
                std::ptr::write_bytes(start.add(text.len()), 0, room - text.len());
                // The kernel reads past the arguments only when they do not end in NUL.
                if text.len() >= area.arguments - area.start {
                    *(area.arguments as *mut u8).sub(1) = text[area.arguments - area.start - 1];
                }
            }
        }
    }
    // Without blanks: CPython finds its thread count in `/proc/self/stat` by counting
    // them, and this name stands before it.
    let words = title.split('[').next().unwrap_or(title).replace(':', "");
    let short: String = words.trim().replace(' ', "-").chars().take(15).collect();
    if let Ok(name) = std::ffi::CString::new(short) {
        // A thread name is cosmetic: a refusal changes nothing else.
        let _ = nix::sys::prctl::set_name(&name);
    }
}

/// `arg_start`, `arg_end`, `env_end` from `/proc/self/stat` (fields 48, 49, 51),
/// if the environment follows the arguments directly.
fn read_area() -> Option<(usize, usize, usize)> {
    let line = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the command in parentheses and may hold blanks.
    let rest = line.rsplit_once(')')?.1;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<usize>().ok();
    let (start, arguments_end) = (field(48)?, field(49)?);
    let (environment, environment_end) = (field(50)?, field(51)?);
    if start == 0 || arguments_end <= start {
        return None;
    }
    let writable = if environment == arguments_end {
        environment_end
    } else {
        arguments_end
    };
    Some((start, arguments_end, writable))
}
