//! The tasks that work without being asked: one judges pending messages one after another, the other
//! charges stored files and removes those that nothing pins. Started and ended by `server`.

use std::{sync::Arc, time::Duration};

use crate::{
    compute::{self, Compute},
    db,
    error::Result,
    ledger,
    node::Node,
    process::{self, Pending},
};

/// Messages taken from the queue at a time.
const BATCH: i64 = 100;

/// Longest wait before the queue is looked at again; a guard in case the clock was set.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Files removed in one sweep.
const MAX_SWEPT: i64 = 1_000;

/// Judges pending messages until the node stops.
pub(crate) async fn judge(node: Arc<Node>) {
    while !node.stop.is_cancelled() {
        let wait = match judge_due(&node).await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::error!(%error, source = error_source(&error), "pending messages could not be judged");
                node.settings.retry_interval
            }
        };
        tokio::select! {
            () = node.stop.cancelled() => {}
            () = node.wake.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Charges and sweeps at intervals until the node stops.
pub(crate) async fn sweep(node: Arc<Node>, compute: Option<Arc<Compute>>) {
    loop {
        tokio::select! {
            () = node.stop.cancelled() => return,
            () = tokio::time::sleep(node.settings.sweep_interval) => {}
        }
        if let Err(error) = sweep_once(&node, compute.as_deref()).await {
            tracing::error!(%error, source = error_source(&error), "stored files could not be swept");
        }
    }
}

/// Judges what is due and says how long nothing else will be.
async fn judge_due(node: &Node) -> Result<Duration> {
    loop {
        let due: Vec<Pending> = sqlx::query_as(
            "SELECT id, envelope, received, attempts FROM pending WHERE due <= ? ORDER BY due, id LIMIT ?",
        )
        .bind(db::now())
        .bind(BATCH)
        .fetch_all(&node.db)
        .await?;
        if due.is_empty() || node.stop.is_cancelled() {
            break;
        }
        for pending in &due {
            if let Err(error) = process::attempt(node, pending).await {
                process::put_off(node, pending).await?;
                return Err(error);
            }
        }
    }
    let next: Option<f64> = sqlx::query_scalar("SELECT MIN(due) FROM pending")
        .fetch_one(&node.db)
        .await?;
    let seconds = next.map_or(MAX_WAIT.as_secs_f64(), |due| {
        (due - db::now()).clamp(0.0, MAX_WAIT.as_secs_f64())
    });
    Ok(Duration::from_secs_f64(seconds))
}

/// Charges stored files, then removes files whose grace is over and that nothing needs.
async fn sweep_once(node: &Node, compute: Option<&Compute>) -> Result<()> {
    let now = db::now();
    let mut transaction = node.db.begin_with(db::WRITE).await?;
    ledger::settle(&mut transaction, now).await?;
    transaction.commit().await?;
    if let Some(compute) = compute {
        compute::end_unpaid(node, compute).await?;
    }
    let _storing = node.storing.lock().await;
    let mut transaction = node.db.begin_with(db::WRITE).await?;
    let orphans: Vec<String> = sqlx::query_scalar(
        "SELECT hash FROM files WHERE keep_until < ?
             AND NOT EXISTS (SELECT 1 FROM pins WHERE file_hash = files.hash AND active = 1)
             AND NOT EXISTS (SELECT 1 FROM messages WHERE messages.item_hash = files.hash
                             AND item_type = 'storage' AND status = 'processed')
         LIMIT ?",
    )
    .bind(now)
    .bind(MAX_SWEPT)
    .fetch_all(&mut *transaction)
    .await?;
    // Files go before their rows: after a stop in between the next sweep finds the rows again.
    for hash in &orphans {
        node.files.remove(hash).await?;
        sqlx::query("DELETE FROM files WHERE hash = ?")
            .bind(hash)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    if !orphans.is_empty() {
        tracing::info!(files = orphans.len(), "removed files that no STORE pins");
    }
    Ok(())
}

fn error_source(error: &crate::Error) -> String {
    std::error::Error::source(error)
        .map(ToString::to_string)
        .unwrap_or_default()
}
