//! Kernels in which nothing runs for long are stopped: what is rented costs while nobody uses it.
//!
//! The gateway's own limit spares kernels that somebody is connected to, as Jupyter's servers do; a limit that the client
//! gave with `KERNEL_IDLE_TIMEOUT` (seconds) does not: an open page would keep a paid kernel for ever.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alephlab_api::kernel::KernelState;
use alephlab_api::time;

use super::{Kernels, Live};
use crate::error::{GatewayError, Result};

/// Seconds without a cell after which the kernel is stopped, as the client says it.
const IDLE_TIMEOUT: &str = "KERNEL_IDLE_TIMEOUT";
/// How long before the end a notebook is told, where the limit is longer than that.
const TOLD_BEFORE: u64 = 300;

/// What the client asks for; none when it says nothing, or 0.
///
/// # Errors
/// 400 `kernel_env` when it is no number of seconds.
pub(super) fn asked_for(env: &BTreeMap<String, String>) -> Result<Option<u64>> {
    let Some(text) = env
        .get(IDLE_TIMEOUT)
        .map(|text| text.trim())
        .filter(|text| !text.is_empty())
    else {
        return Ok(None);
    };
    let seconds: u64 = text.parse().map_err(|_| {
        let message = format!("{IDLE_TIMEOUT} is `{text}`; write a whole number of seconds");
        GatewayError::bad_request("kernel_env", message)
    })?;
    Ok((seconds > 0).then_some(seconds))
}

impl Kernels {
    /// Stops a kernel when nothing has run in it for as long as it may be idle.
    pub(super) async fn watch_idle(self: Arc<Self>, live: Arc<Live>) {
        let asked = live.idle_limit;
        let Some(limit) = asked.or(self.terms.idle.map(|limit| limit.as_secs())) else {
            return;
        };
        let (mut status, mut told) = (live.status.subscribe(), None);
        loop {
            let state = live.status().state;
            if state.is_over() {
                return;
            }
            let worked = live.worked();
            let idle = time::unix_now().saturating_sub(worked);
            let spared = state != KernelState::Idle || (asked.is_none() && live.relay.connections() > 0);
            if !spared && idle >= limit {
                let text = format!("The kernel is stopped: nothing ran in it for {}.", spoken(limit));
                live.say(&text);
                if let Err(error) = self.stop(&live.account, live.id).await {
                    tracing::error!(kernel = %live.id, %error, "an idle kernel could not be stopped");
                }
                return;
            }
            let left = limit.saturating_sub(idle);
            if !spared && left <= TOLD_BEFORE && limit > TOLD_BEFORE && told != Some(worked) {
                told = Some(worked);
                let text = format!("Nothing runs in this kernel: it is stopped in {}.", spoken(left));
                live.say(&text);
            }
            let next = match left > TOLD_BEFORE {
                true => left - TOLD_BEFORE,
                false => left,
            };
            // While it is spared there is nothing to do before it could have been idle for that long.
            let pause = Duration::from_secs(if spared { limit.min(60) } else { next }.max(1));
            let over = status.wait_for(|status| status.state.is_over());
            let _ = tokio::time::timeout(pause, over).await;
        }
    }
}

fn spoken(seconds: u64) -> String {
    match seconds {
        1 => "a second".to_owned(),
        ..120 => format!("{seconds} seconds"),
        _ => format!("{} minutes", seconds / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_whole_seconds_and_nothing_else() {
        let env = |text: &str| BTreeMap::from([(IDLE_TIMEOUT.to_owned(), text.to_owned())]);
        assert_eq!(asked_for(&env("1800")).unwrap(), Some(1800));
        assert_eq!(asked_for(&env("0")).unwrap(), None);
        assert_eq!(asked_for(&env(" ")).unwrap(), None);
        assert_eq!(asked_for(&BTreeMap::new()).unwrap(), None);
        for wrong in ["30m", "-1", "1.5"] {
            assert_eq!(
                asked_for(&env(wrong)).unwrap_err().code(),
                "kernel_env",
                "{wrong}"
            );
        }
    }
}
