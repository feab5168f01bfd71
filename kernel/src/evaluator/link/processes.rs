//! Finds the processes below this one, in /proc. Called to stop a compiler and at the end.

/// All processes that this one started, and theirs, except `spared` and what it started, and except `servers`
/// (but what those started is there).
pub(super) fn descendants(spared: &[u32], servers: &[u32]) -> Vec<u32> {
    let all = parents();
    let mut found = vec![std::process::id()];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        next += 1;
        found.extend(
            all.iter()
                .filter(|(pid, of)| *of == parent && !spared.contains(pid))
                .map(|(pid, _)| *pid),
        );
    }
    found
        .split_off(1)
        .into_iter()
        .filter(|pid| !servers.contains(pid))
        .collect()
}

/// Process and parent, of every process.
fn parents() -> Vec<(u32, u32)> {
    let Ok(folder) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    folder
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // The program's name, in brackets, may hold anything; state and parent follow the last one.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_grandchild_and_spares_a_child_or_a_server_that_it_is_told_to() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & echo; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0_u8; 1];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        let all = descendants(&[], &[]);
        let spared = descendants(&[child.id()], &[]);
        let of_server = descendants(&[], &[child.id()]);
        let grandchild = all
            .iter()
            .copied()
            .find(|pid| parents().contains(&(*pid, child.id())));
        grandchild
            .into_iter()
            .chain([child.id()])
            .for_each(crate::child::kill);
        child.wait().unwrap();
        assert!(all.contains(&child.id()) && grandchild.is_some());
        assert!(!spared.contains(&child.id()) && !spared.contains(&grandchild.unwrap()));
        assert!(!of_server.contains(&child.id()) && of_server.contains(&grandchild.unwrap()));
    }
}
