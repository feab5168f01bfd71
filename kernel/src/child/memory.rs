//! What the allocator does with the memory of large tensors.
//!
//! Left alone, glibc asks the system for each of them and gives it back at once: every operation then waits for pages that
//! are filled with zeros, which takes four to seven times as long as the operation itself (docs/benchmarks.md, "CPU ops").
//! So memory stays while a cell runs, and goes when it is over.

/// Has what is freed kept for the next tensor.
pub(super) fn keep() {
    // SAFETY: plain calls that set numbers of the allocator; a refusal leaves the usual ones.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, libc::c_int::MAX);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
    }
}

/// Gives back what is free now.
pub(super) fn give_back() {
    // SAFETY: takes the allocator's locks as any allocation does.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident() -> usize {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: usize = pages.split(' ').nth(1).unwrap().parse().unwrap();
        pages * 4096
    }

    /// In a process of its own, whose threads share the first one's heap as a child's cells have it: other heaps are small, and
    /// their last piece is not given back.
    #[test]
    fn memory_of_large_values_is_kept_until_it_is_given_back() {
        const ALONE: &str = "ALEPHLAB_TEST_ALONE";
        const SIZE: usize = 256 << 20;
        if std::env::var_os(ALONE).is_none() {
            let name = "child::memory::tests::memory_of_large_values_is_kept_until_it_is_given_back";
            let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
            alone
                .args(["--exact", name])
                .env(ALONE, "1")
                .env("MALLOC_ARENA_MAX", "1");
            assert!(alone.status().unwrap().success());
            return;
        }
        keep();
        let before = resident();
        drop(std::hint::black_box(vec![1u8; SIZE]));
        let kept = resident();
        assert!(kept > before + SIZE / 2, "{before} {kept}");
        give_back();
        let after = resident();
        assert!(after < kept - SIZE / 2, "{kept} {after}");
    }
}
