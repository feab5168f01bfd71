//! Mounts whose process was killed: their folders answer "transport endpoint is not connected" until they are detached.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

/// What the system calls our mounts by.
pub(crate) const SOURCE: &str = "alephlab";

/// Detaches what is mounted at `path`, now or, for files that are open, once they are closed.
pub(crate) fn detach(path: &Path) -> std::io::Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if !is_ours(&mounts, path) {
        return Ok(());
    }
    match umount2(path, MntFlags::MNT_DETACH) {
        // Unmounted by somebody else already.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        // Not root: the program that mounted for us unmounts for us.
        Err(Errno::EPERM) => {
            let done = Command::new("fusermount3")
                .args(["-u", "-z", "--"])
                .arg(path)
                .output()?;
            if done.status.success() {
                return Ok(());
            }
            Err(std::io::Error::other(
                String::from_utf8_lossy(&done.stderr).into_owned(),
            ))
        }
        Err(error) => Err(error.into()),
    }
}

/// Detaches what is mounted at `path` when the process behind it is gone.
pub fn detach_dead(path: &Path) {
    let is_dead = path
        .metadata()
        .is_err_and(|error| error.raw_os_error() == Some(Errno::ENOTCONN as i32));
    if is_dead && let Err(error) = detach(path) {
        tracing::warn!(path = %path.display(), %error, "a dead mount could not be removed");
    }
}

/// Detaches every dataset of ours that is mounted below `folder`, whoever mounted it.
pub fn detach_below(folder: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for path in ours_below(&mounts, folder) {
        if let Err(error) = detach(&path) {
            tracing::warn!(path = %path.display(), %error, "a dead mount could not be removed");
        }
    }
}

/// Whether what is seen at `path` is ours, and not mounted over it or left after ours was unmounted.
fn is_ours(mounts: &str, path: &Path) -> bool {
    // The last one covers those before it.
    let mut at = mounts
        .lines()
        .rev()
        .filter_map(mounted)
        .filter(|(place, _)| place == path);
    at.next().is_some_and(|(_, is_ours)| is_ours)
}

fn ours_below(mounts: &str, folder: &Path) -> Vec<PathBuf> {
    let ours = mounts
        .lines()
        .filter_map(mounted)
        .filter(|(place, is_ours)| *is_ours && place.starts_with(folder));
    ours.map(|(place, _)| place).collect()
}

/// Where a line of the system's table of mounts has something, and whether that is ours.
fn mounted(line: &str) -> Option<(PathBuf, bool)> {
    let mut fields = line.split(' ');
    let (source, place, kind) = (fields.next()?, fields.next()?, fields.next()?);
    // By its name: the kind is `fuse` where we mount ourselves, `fuse.alephlab` where fusermount3 does it for us.
    let is_ours = source == SOURCE && kind.starts_with("fuse");
    Some((PathBuf::from(place.replace("\\040", " ")), is_ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_mounts_of_the_folder_are_found() {
        let mounts = "alephlab /dev/shm/a/1-my\\040data fuse ro 0 0\n\
                      alephlab /dev/shm/ab/1-x fuse.alephlab ro 0 0\n\
                      sshfs /dev/shm/a/2-y fuse.sshfs rw 0 0\n";
        let over = format!("{mounts}tmpfs /dev/shm/ab/1-x tmpfs rw 0 0\n");
        assert!(
            is_ours(mounts, Path::new("/dev/shm/ab/1-x")) && !is_ours(&over, Path::new("/dev/shm/ab/1-x"))
        );
        assert!(!is_ours(mounts, Path::new("/dev/shm")));
        assert_eq!(
            ours_below(mounts, Path::new("/dev/shm/a")),
            [PathBuf::from("/dev/shm/a/1-my data")]
        );
    }
}
