//! What is mounted in this kernel, how, until when, and what keeps it from others; and a warning before the end.

use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alephlab_api::broker::{Access, BrokerStatus, Mounted, Op, OpenedStatus};

use crate::display::{Bundle, Rich};
use crate::live::{facts_html, facts_text};
use crate::{Result, broker};

/// How long before the end a person is warned, seconds.
const WARNED_BEFORE: u64 = 30 * 60;
/// Longest sleep before the clock is looked at again: it may have been set, or the machine slept.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What is open in this kernel, and what keeps it from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounts {
    status: BrokerStatus,
}

/// What is mounted in this kernel: how, until when, whether a read failed and why, and what stands between cells and keys.
///
/// # Errors
/// [`crate::Error::NoBroker`], [`crate::Error::BrokerGone`].
pub fn mounts() -> Result<Mounts> {
    let status = broker::ask_quietly(Op::Status)?;
    Ok(Mounts { status })
}

impl Mounts {
    /// All of it, as the broker tells it.
    pub fn status(&self) -> &BrokerStatus {
        &self.status
    }

    fn facts(&self) -> Vec<(String, String)> {
        let mut facts: Vec<_> = self
            .status
            .opened
            .iter()
            .map(|opened| (name(opened), said(opened)))
            .collect();
        if facts.is_empty() {
            facts.push(("nothing".to_owned(), "is mounted".to_owned()));
        }
        for wall in &self.status.walls {
            let stands = wall
                .missing
                .as_ref()
                .map_or_else(|| "yes".to_owned(), |missing| format!("no: {missing}"));
            // The id is what a policy asks for.
            facts.push((format!("{} ({})", wall.name, wall.id), stands));
        }
        facts
    }
}

impl Rich for Mounts {
    fn bundle(&self) -> Bundle {
        let facts = self.facts();
        let facts: Vec<_> = facts
            .iter()
            .map(|(name, said)| (name.as_str(), said.clone()))
            .collect();
        Bundle::new()
            .text(facts_text("Mounts", &facts))
            .html(facts_html("Mounts", &facts))
    }
}

fn name(opened: &OpenedStatus) -> String {
    format!("{}, version {}", opened.name, opened.version)
}

fn said(opened: &OpenedStatus) -> String {
    let how = match &opened.access {
        Access::Mounted => "mounted".to_owned(),
        Access::Copied { why } => format!("copied ({why})"),
    };
    let end = match opened.expires {
        _ if opened.is_over => "its time is over: mount it again".to_owned(),
        Some(expires) => format!("for {}", left(expires.saturating_sub(now()))),
        None => "until the kernel stops".to_owned(),
    };
    let failure = opened.failure.as_ref().map_or_else(String::new, |failure| {
        format!("; a read of {} failed: {}", failure.path, failure.message)
    });
    format!("{how} at {}, {end}{failure}", opened.path.display())
}

/// A time that is left, for people.
pub(super) fn left(seconds: u64) -> String {
    match seconds / 60 {
        minutes @ 0..=1 => format!("{} more seconds", seconds.max(minutes)),
        minutes @ 2..=119 => format!("{minutes} more minutes"),
        minutes => format!("{} more hours", minutes / 60),
    }
}

/// Warns in the notebook when the time of a dataset is nearly over.
pub(super) fn watch(mounted: &Mounted) {
    /// Ends that somebody watches already.
    static WATCHED: Mutex<Vec<(String, u64)>> = Mutex::new(Vec::new());
    // With its version: another one would be another mount.
    let (name, expires) = (format!("{}@{}", mounted.name, mounted.version), mounted.expires);
    let mut watched = WATCHED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let own = (format!("{}@{}", mounted.dataset_id, mounted.version), expires);
    if watched.contains(&own) {
        return;
    }
    // A later end takes the place of an earlier one, whose thread then says nothing.
    watched.retain(|(id, _)| *id != own.0);
    watched.push(own.clone());
    drop(watched);
    let still = move || {
        WATCHED
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .contains(&own)
    };
    let thread = std::thread::Builder::new().name("mounts".to_owned());
    // Without a thread there is no warning, and `mounts()` still tells.
    let _ = thread.spawn(move || {
        wait_until(expires.saturating_sub(WARNED_BEFORE));
        if still() {
            let _ = std::io::stderr().write_all(warning(&name, expires.saturating_sub(now())).as_bytes());
        }
    });
}

fn warning(name: &str, seconds: u64) -> String {
    let time = left(seconds);
    format!(
        "`{name}` can be read for {time}: mount(\"{name}\") asks `alephlab keys` for more. Variables stay.\n"
    )
}

fn wait_until(time: u64) {
    loop {
        let seconds = time.saturating_sub(now());
        if seconds == 0 {
            return;
        }
        std::thread::park_timeout(Duration::from_secs(seconds).min(LOOK_AGAIN));
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use alephlab_api::broker::{ReadFailure, Wall};

    use super::*;
    use crate::live::escaped;

    #[test]
    fn how_until_when_and_what_failed_is_said() {
        let opened = OpenedStatus {
            name: "digits".into(),
            version: 3,
            path: "/m/1-digits".into(),
            access: Access::Copied {
                why: "this machine has no /dev/fuse".into(),
            },
            expires: Some(now() + 3 * 3600 + 59),
            is_over: false,
            failure: None,
        };
        let over = OpenedStatus {
            access: Access::Mounted,
            is_over: true,
            failure: Some(ReadFailure {
                path: "a.csv".into(),
                code: "E_HASH".into(),
                message: "object <x>".into(),
            }),
            ..opened.clone()
        };
        let walls = vec![Wall {
            id: "no-swap".into(),
            name: "memory is not swapped".into(),
            missing: Some("swap is on".into()),
        }];
        let mounts = Mounts {
            status: BrokerStatus {
                opened: vec![opened, over],
                walls,
            },
        };
        let text = mounts.bundle().as_text().unwrap().to_owned();
        for expected in [
            "digits, version 3",
            "copied (this machine has no /dev/fuse) at /m/1-digits, for 3 more hours",
            "its time is over: mount it again; a read of a.csv failed: object <x>",
            "no: swap is on",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
        let html = mounts.bundle().into_parts().0["text/html"].to_string();
        assert!(html.contains(&escaped("object <x>")), "{html}");
    }

    #[test]
    fn times_are_said_in_the_unit_that_fits() {
        assert_eq!(
            [left(59), left(1800), left(7200)],
            ["59 more seconds", "30 more minutes", "2 more hours"]
        );
        assert!(warning("digits", 1799).contains("29 more minutes: mount(\"digits\")"));
    }
}
