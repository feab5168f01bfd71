//! Revisions that are open for the kernel's hub. Few of them: each keeps its manifest and may keep one decrypted object, 32 MiB.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use alephlab_api::Card;
use alephlab_vault::Reader;
use tokio::sync::Notify;

use crate::now;

/// Most that are kept for the kernel, and for those who have tokens of shares: others must not take the kernel's places.
const MOST: usize = 4;
/// How long a name, as `main`, is taken for the revision that it was, where only the owner's machine could say another: it may
/// have to ask a person each time.
const NAMED: Duration = Duration::from_secs(600);

/// Longest sleep before the clock is looked at again: it may have been set.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// For whom something is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// For cells of this kernel.
    Kernel,
    /// For who has this token of a share: its SHA-256.
    Token([u8; 32]),
}

/// An open revision.
pub(crate) struct Held {
    /// As clients name it: `owner/name`, or `m/UUID` of a share.
    pub(crate) id: String,
    /// The revision as it was asked for: `main`, a tag or a commit.
    pub(crate) asked: String,
    pub(crate) audience: Audience,
    /// When the kernel may no longer read it, unix seconds.
    pub(crate) expires: Option<u64>,
    /// What its publisher says, where that is known.
    pub(crate) card: Option<Card>,
    /// Reads and verifies.
    pub(crate) reader: Reader,
}

impl Held {
    /// 40 hex digits.
    pub(crate) fn revision(&self) -> String {
        self.reader.head().revision()
    }

    /// Whether the kernel may no longer read it.
    pub(super) fn is_over(&self) -> bool {
        self.expires.is_some_and(|expires| now() > expires)
    }

    fn is_of_kernel(&self) -> bool {
        self.audience == Audience::Kernel
    }
}

/// What is open.
#[derive(Default)]
pub(crate) struct Readers {
    kept: Mutex<Vec<Kept>>,
    changed: Notify,
}

struct Kept {
    held: Arc<Held>,
    revision: String,
    since: Instant,
    used: Instant,
}

impl Readers {
    /// What is open under this id at a commit, or under the name that was asked for a while ago.
    pub(super) fn at(&self, id: &str, revision: &str, who: Audience) -> Option<Arc<Held>> {
        self.find(|kept| {
            let is_named = kept.held.asked == revision && kept.since.elapsed() < NAMED;
            kept.held.audience == who
                && kept.held.id.eq_ignore_ascii_case(id)
                && (is_named || kept.revision.eq_ignore_ascii_case(revision))
        })
    }

    /// Keeps it in the place of what was used longest ago.
    pub(crate) fn keep(&self, held: Held) -> Arc<Held> {
        let held = Arc::new(held);
        let (revision, now) = (held.revision(), Instant::now());
        let mut all = self.current();
        let is_same = |kept: &Kept| {
            let known = &kept.held;
            (&known.id, &known.asked, known.audience) == (&held.id, &held.asked, held.audience)
        };
        all.retain(|kept| !is_same(kept));
        let alike = |kept: &Kept| kept.held.is_of_kernel() == held.is_of_kernel();
        let places = (0..all.len()).filter(|at| alike(&all[*at]));
        if places.clone().count() >= MOST
            && let Some(oldest) = places.min_by_key(|at| all[*at].used)
        {
            all.remove(oldest);
        }
        all.push(Kept {
            held: Arc::clone(&held),
            revision,
            since: now,
            used: now,
        });
        drop(all);
        self.changed.notify_one();
        held
    }

    /// Closes each when its time is over: its keys, and what is decrypted of it, are not kept until somebody asks. Runs until it is
    /// dropped.
    pub(crate) async fn close_what_expires(&self) {
        loop {
            let next = self.current().iter().filter_map(|kept| kept.held.expires).min();
            let wait = next.map_or(LOOK_AGAIN, |next| {
                Duration::from_secs(next.saturating_sub(now()) + 1)
            });
            tokio::select! {
                () = tokio::time::sleep(wait.min(LOOK_AGAIN)) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Closes all.
    pub(crate) fn close_all(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// All that is open for this kernel, each model once.
    pub(super) fn all(&self) -> Vec<Arc<Held>> {
        let current = self.current();
        let all = current.iter().filter(|kept| kept.held.is_of_kernel());
        let mut all: Vec<_> = all.map(|kept| Arc::clone(&kept.held)).collect();
        all.sort_by_key(|held| held.id.to_ascii_lowercase());
        all.dedup_by(|one, other| one.id.eq_ignore_ascii_case(&other.id));
        all
    }

    fn find(&self, is_it: impl Fn(&Kept) -> bool) -> Option<Arc<Held>> {
        let mut all = self.current();
        // What was opened last counts.
        let found = all.iter_mut().rev().find(|kept| is_it(kept))?;
        found.used = Instant::now();
        Some(Arc::clone(&found.held))
    }

    /// Without what is over.
    fn current(&self) -> MutexGuard<'_, Vec<Kept>> {
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|kept| !kept.held.is_over());
        all
    }
}
