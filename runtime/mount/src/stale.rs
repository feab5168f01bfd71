//! Mounts whose process was killed: their folders answer "transport endpoint is not connected" until they are detached.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

/// Detaches what is mounted at `path`, now or, for files that are open, once they are closed.
pub(crate) fn detach(path: &Path) -> std::io::Result<()> {
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

fn ours_below(mounts: &str, folder: &Path) -> Vec<PathBuf> {
    let ours = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (path, kind) = (fields.nth(1)?, fields.next()?);
        let path = PathBuf::from(path.replace("\\040", " "));
        (kind == "fuse.alephlab" && path.starts_with(folder)).then_some(path)
    });
    ours.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_mounts_of_the_folder_are_found() {
        let mounts = "alephlab /dev/shm/a/1-my\\040data fuse.alephlab ro 0 0\n\
                      alephlab /dev/shm/ab/1-x fuse.alephlab ro 0 0\n\
                      sshfs /dev/shm/a/2-y fuse.sshfs rw 0 0\n";
        assert_eq!(
            ours_below(mounts, Path::new("/dev/shm/a")),
            [PathBuf::from("/dev/shm/a/1-my data")]
        );
    }
}
