//! The scheduler: has processed INSTANCE messages started and forgotten ones ended, and says where they are.
//!
//! One task, started and ended by `server`. What owners have stopped, and what is no longer paid, is in the database,
//! so that a restart of the node, a reboot of all its hosts, leaves it down.

use std::{collections::HashSet, sync::Arc, time::Duration};

use sqlx::SqliteConnection;
use tokio::sync::broadcast::error::RecvError;

use super::{
    Compute, Crn, Refusal, Started,
    spec::{self, Spec},
};
use crate::{db, error::Result, ledger, node::Node};

/// Longest time between two rounds; what was refused is tried again then.
const ROUND: Duration = Duration::from_secs(1);

/// Why a processed instance is kept down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Halt {
    /// Its owner stopped it.
    Stopped,
    /// Its owner erased it.
    Erased,
    /// Its owner's credits ran out.
    Unpaid,
}

impl Halt {
    fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Erased => "erased",
            Self::Unpaid => "unpaid",
        }
    }
}

/// Keeps an instance down, also over restarts.
pub(crate) async fn halt(connection: &mut SqliteConnection, hash: &str, why: Halt) -> Result<()> {
    sqlx::query(
        "INSERT INTO halted (item_hash, why) VALUES ($1, $2)
         ON CONFLICT (item_hash) DO UPDATE SET why = excluded.why",
    )
    .bind(hash)
    .bind(why.name())
    .execute(connection)
    .await?;
    Ok(())
}

/// Lets an instance be started again.
pub(crate) async fn resume(connection: &mut SqliteConnection, hash: &str) -> Result<()> {
    sqlx::query("DELETE FROM halted WHERE item_hash = $1")
        .bind(hash)
        .execute(connection)
        .await?;
    Ok(())
}

/// Works in rounds until the node stops: one at once, then one after each message and at intervals.
pub(crate) async fn schedule(node: Arc<Node>, compute: Arc<Compute>) {
    let mut accepted = node.accepted.subscribe();
    while !node.stop.is_cancelled() {
        if let Err(error) = round(&node, &compute).await {
            tracing::error!(%error, "instances could not be scheduled");
        }
        let message = async {
            // Who has lagged has missed a message, and a round is due as well.
            if !matches!(accepted.recv().await, Err(RecvError::Closed)) {
                tokio::time::sleep(compute.dispatch_pause).await;
            }
        };
        tokio::select! {
            () = node.stop.cancelled() => {}
            () = message => {}
            () = tokio::time::sleep(ROUND) => {}
        }
    }
    compute.shut_down().await;
}

async fn round(node: &Node, compute: &Compute) -> Result<()> {
    // Before the messages are read: what is started meanwhile has one.
    let here = here(compute);
    let mut connection = node.db.acquire().await?;
    let wanted = spec::all(&mut connection).await?;
    let halted: Vec<String> = sqlx::query_scalar("SELECT item_hash FROM halted")
        .fetch_all(&mut *connection)
        .await?;
    drop(connection);
    crash_some(node, compute).await;
    end_unwanted(node, compute, &here, &wanted).await?;
    for spec in &wanted {
        if compute.host_of(&spec.hash).is_some() {
            compute.refuse(&spec.hash, None);
        } else if spec.is_paid && !halted.contains(&spec.hash) {
            let refusal = place(compute, spec).await.err();
            if let Some(refusal) = &refusal
                && compute.refusal(&spec.hash).as_ref() != Some(refusal)
            {
                tracing::info!(
                    hash = spec.hash,
                    reason = refusal.reason(),
                    "an instance is not started"
                );
            }
            compute.refuse(&spec.hash, refusal);
        }
    }
    Ok(())
}

/// Instances that run or have files.
fn here(compute: &Compute) -> HashSet<String> {
    let running = compute.crns.iter().flat_map(|crn| crn.all());
    let kept = compute.sandbox.kept().into_iter();
    kept.chain(running.map(|seen| seen.hash)).collect()
}

/// Starts an instance on its CRN, or on the first that can if it names none.
async fn place(compute: &Compute, spec: &Spec) -> Started<()> {
    let mut refusal = Refusal::NoCapacity;
    for crn in candidates(compute, spec) {
        if crn.is_down(&spec.hash) {
            return Ok(());
        }
        if crn.is_unreachable() {
            continue;
        }
        match crn.start(spec).await {
            Ok(()) => return Ok(()),
            Err(refused) => refusal = refused,
        }
    }
    Err(refusal)
}

fn candidates<'a>(compute: &'a Compute, spec: &'a Spec) -> impl Iterator<Item = &'a Arc<Crn>> {
    let node = spec.node.as_deref();
    compute
        .crns
        .iter()
        .filter(move |crn| node.is_none_or(|node| node == crn.facts.hash))
}

/// Ends what runs without a message, and removes the files of what no longer has one.
async fn end_unwanted(node: &Node, compute: &Compute, here: &HashSet<String>, wanted: &[Spec]) -> Result<()> {
    let wanted: HashSet<&str> = wanted.iter().map(|spec| spec.hash.as_str()).collect();
    let unwanted: Vec<&String> = here
        .iter()
        .filter(|hash| !wanted.contains(hash.as_str()))
        .collect();
    if unwanted.is_empty() || node.faults.forget_is_ignored() {
        return Ok(());
    }
    for hash in unwanted {
        for crn in &compute.crns {
            crn.erase(hash).await?;
        }
        compute.refuse(hash, None);
        let mut connection = node.db.acquire().await?;
        resume(&mut connection, hash).await?;
    }
    Ok(())
}

/// Kills what a fault switch names.
async fn crash_some(node: &Node, compute: &Compute) {
    for crn in &compute.crns {
        for seen in crn.all() {
            if seen.ssh.is_some() && node.faults.instance_dies(&seen.hash) {
                crn.crash(&seen.hash).await;
            }
        }
    }
}

/// Ends the instances of owners whose credits have run out, and charges no longer for them.
pub(crate) async fn end_unpaid(node: &Node, compute: &Compute) -> Result<()> {
    let mut transaction = node.db.begin_with(db::WRITE).await?;
    let mut ended = Vec::new();
    for spec in spec::all(&mut transaction).await? {
        if spec.is_paid && ledger::balance(&mut transaction, &node.settings, &spec.owner).await? <= 0.0 {
            ledger::end(&mut transaction, &spec.hash).await?;
            halt(&mut transaction, &spec.hash, Halt::Unpaid).await?;
            ended.push(spec.hash);
        }
    }
    transaction.commit().await?;
    for hash in ended {
        tracing::info!(hash, "an instance is ended: its owner's credits have run out");
        for crn in &compute.crns {
            crn.stop(&hash).await;
        }
    }
    Ok(())
}

/// Where an instance is and how the network calls that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status<'a> {
    /// Hash of its CRN.
    pub(crate) node: Option<&'a str>,
    pub(crate) status: &'static str,
    /// What is to be done with it.
    pub(crate) scheduling: &'static str,
}

/// The status of an instance; `spec` is `None` when its message is forgotten.
pub(crate) fn status<'a>(compute: &'a Compute, hash: &str, spec: Option<&'a Spec>) -> Status<'a> {
    let host = compute.host_of(hash).map(|crn| crn.facts.hash.as_str());
    let Some(spec) = spec else {
        return Status {
            node: host,
            status: if host.is_some() { "orphaned" } else { "removed" },
            scheduling: "removed",
        };
    };
    if host.is_some() {
        return Status {
            node: host,
            status: "dispatched",
            scheduling: "scheduled",
        };
    }
    let candidate = candidates(compute, spec)
        .next()
        .map(|crn| crn.facts.hash.as_str());
    let was_there = compute.crns.iter().any(|crn| crn.console(hash).is_some());
    let status = match (compute.refusal(hash), candidate) {
        (Some(_), _) | (_, None) => "unschedulable",
        // It ended, or its owner stopped it.
        (None, Some(_)) if was_there => "missing",
        (None, Some(_)) => "scheduled",
    };
    let is_placed = status != "unschedulable";
    Status {
        node: candidate.filter(|_| is_placed),
        status,
        scheduling: if is_placed { "scheduled" } else { status },
    }
}
