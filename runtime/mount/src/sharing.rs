//! Folders whose mounts are seen in other mount namespaces, too: those of sandboxes that were made before something is mounted.

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Lets what is mounted below `folder` be seen wherever the folder is shown. Most systems have it so; where not, it takes root.
///
/// # Errors
/// Why it cannot be, in words.
pub fn share(folder: &Path) -> Result<(), String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string())?;
    if is_shared(&mounts, folder) {
        return Ok(());
    }
    let none: Option<&str> = None;
    let shared = mount(Some(folder), folder, none, MsFlags::MS_BIND, none)
        .and_then(|()| mount(none, folder, none, MsFlags::MS_SHARED, none));
    shared.map_err(|error| {
        unshare(folder);
        format!("what is mounted here is not seen in a sandbox ({error})")
    })
}

/// Takes that back. Nothing happens where the folder is not a mount of its own.
pub fn unshare(folder: &Path) {
    let _ = umount2(folder, MntFlags::MNT_DETACH);
}

/// Whether the mount that a folder lies on tells others of mounts below (`proc_pid_mountinfo(5)`).
fn is_shared(mounts: &str, folder: &Path) -> bool {
    let around = mounts.lines().filter_map(|line| {
        let (left, _) = line.split_once(" - ")?;
        let place = left.split(' ').nth(4)?.replace("\\040", " ");
        folder.starts_with(&place).then(|| {
            (
                place.len(),
                left.split(' ').skip(6).any(|tag| tag.starts_with("shared:")),
            )
        })
    });
    // Of two at one place the later one covers the other; `max_by_key` gives the last of equals.
    around
        .max_by_key(|(length, _)| *length)
        .is_some_and(|(_, shared)| shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_counts_and_of_two_the_later() {
        let mounts = "\
25 1 8:1 / / rw shared:1 - ext4 /dev/sda rw
26 25 0:5 / /dev rw,nosuid - devtmpfs devtmpfs rw
27 26 0:6 / /dev/shm rw shared:4 master:2 - tmpfs tmpfs rw
28 26 0:7 / /dev/shm rw - tmpfs tmpfs rw
";
        let shared = |path: &str| is_shared(mounts, Path::new(path));
        assert!(shared("/home/a") && !shared("/dev/x") && !shared("/dev/shm/x"));
        assert!(is_shared(
            &mounts.replace("28 26 0:7", "28 26 0:7 / /other rw - x x rw\n29"),
            Path::new("/home")
        ));
    }
}
