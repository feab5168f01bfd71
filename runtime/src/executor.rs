//! The one executor of a kernel's cells, which lives as long as the child: what a cell spawned goes on behind it.
//!
//! Started by the first cell that awaits or names tokio. Called through the hooks of `alephlab-cell` and by generated
//! code.

use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::time::Duration;

use alephlab_cell::interrupt;
use tokio::runtime::{Builder, EnterGuard, Runtime};

/// How often a cell that awaits looks whether it is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(20);

static EXECUTOR: OnceLock<Option<Runtime>> = OnceLock::new();

fn executor() -> &'static Runtime {
    let started = EXECUTOR.get_or_init(|| Builder::new_multi_thread().enable_all().build().ok());
    match started {
        Some(runtime) => runtime,
        #[expect(clippy::panic, reason = "caught and told as the cell's error")]
        None => panic!("the system gives no threads or files for tasks"),
    }
}

/// Lets the rest of a cell spawn tasks without awaiting. Generated code holds what it returns.
pub fn enter() -> EnterGuard<'static> {
    executor().enter()
}

/// Runs a future to its end, or until the person asks to stop: then this unwinds, and the future is dropped.
pub(crate) fn block_on(mut future: Pin<&mut dyn Future<Output = ()>>) {
    executor().block_on(async {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                biased;
                () = future.as_mut() => return,
                _ = looks.tick() => interrupt::check(),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[test]
    fn a_future_runs_to_its_end_and_its_tasks_have_a_reactor() {
        let mut done = false;
        block_on(pin!(async {
            let task = tokio::spawn(tokio::time::sleep(Duration::from_millis(1)));
            done = task.await.is_ok();
        }));
        assert!(done);
        let _entered = enter();
        assert!(tokio::runtime::Handle::try_current().is_ok());
    }
}
