//! How much an account's files take, and whether there is room for more.
//!
//! The total is kept and moved along with what is written and deleted here. Kernels change files too and tell nobody, so it is
//! measured anew when it is old, and before anything is refused for it.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;

use super::Files;
use super::place::Place;
use crate::error::{GatewayError, Result};

/// How long a total is believed.
const FRESH: Duration = Duration::from_secs(60);
/// Or so many times as long as measuring took, if that is more: a large folder is not walked all the time.
const REST: u32 = 100;

/// What is known of an account's total.
#[derive(Debug, Default)]
pub(super) struct Total(Mutex<Option<Measured>>);

#[derive(Debug, Clone, Copy)]
struct Measured {
    bytes: u64,
    at: Instant,
    took: Duration,
}

impl Total {
    fn known(&self) -> Option<u64> {
        let total = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = total.filter(|total| total.at.elapsed() < FRESH.max(total.took * REST));
        fresh.map(|total| total.bytes)
    }

    fn measure(&self, root: &Path) -> u64 {
        let at = Instant::now();
        let bytes = bytes_below(root);
        let took = at.elapsed();
        let measured = Some(Measured { bytes, at, took });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = measured;
        bytes
    }

    fn moved(&self, before: u64, after: u64) {
        let mut total = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(total) = total.as_mut() {
            total.bytes = total.bytes.saturating_sub(before).saturating_add(after);
        }
    }
}

/// Bytes of all files below a folder. Links count nothing: what they lead to is counted where it is, or is not the account's.
pub(super) fn bytes_below(folder: &Path) -> u64 {
    let mut bytes = 0_u64;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // What went meanwhile takes no room.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => folders.push(entry.path()),
                Ok(meta) if meta.is_file() => bytes = bytes.saturating_add(meta.len()),
                _ => {}
            }
        }
    }
    bytes
}

/// Bytes of a file; none where there is none.
pub(super) fn bytes_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| if meta.is_file() { meta.len() } else { 0 })
}

impl Files {
    /// Bytes of the account's files.
    pub(crate) fn used(&self) -> u64 {
        let total = &self.account.total;
        total.known().unwrap_or_else(|| total.measure(&self.root))
    }

    /// Refuses what would take more room than the account has. What takes no more than it did is never refused.
    ///
    /// # Errors
    /// 507 `storage_quota`.
    pub(super) fn has_room(&self, place: &Place, before: u64, after: u64) -> Result<()> {
        let (Some(limit), Some(more)) = (self.limit, after.checked_sub(before)) else {
            return Ok(());
        };
        if more == 0 || self.used().saturating_add(more) <= limit {
            return Ok(());
        }
        let wanted = self.account.total.measure(&self.root).saturating_add(more);
        if wanted <= limit {
            return Ok(());
        }
        let message = format!(
            "`{}` was not saved and nothing was changed: your files would take {}, and this gateway keeps {} for an account",
            place.path(),
            size(wanted),
            size(limit)
        );
        Err(
            GatewayError::refused(StatusCode::INSUFFICIENT_STORAGE, "storage_quota", message)
                .with_hint("delete files that you no longer need, then save again"),
        )
    }

    /// Notes that something took `before` bytes and takes `after` now.
    pub(super) fn moved(&self, before: u64, after: u64) {
        self.account.total.moved(before, after);
    }
}

/// `1.5 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ];
    let Some((unit, one)) = UNITS.into_iter().find(|(_, one)| bytes >= *one) else {
        return format!("{bytes} bytes");
    };
    // Tenths, rounded up, so that what is over a limit never reads as the limit.
    let tenths = (u128::from(bytes) * 10).div_ceil(u128::from(one));
    match tenths % 10 {
        0 => format!("{} {unit}", tenths / 10),
        tenth => format!("{}.{tenth} {unit}", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_one_unit() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1 << 20, "1 MiB"),
            (20 << 30, "20 GiB"),
            ((20 << 30) + 1, "20.1 GiB"),
            (u64::MAX, "16777216 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
