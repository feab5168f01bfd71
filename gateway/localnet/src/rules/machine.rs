//! INSTANCE and V-PROGRAM: how they are paid, what they boot from, what they replace, and what they cost from now on.
//!
//! Starting one is a host's work (a CRN) and not the node's.

use sqlx::SqliteConnection;

use crate::{
    config::{INSTANCES_BY_CREDIT, MIB},
    content::{Machine, Payment},
    db, ledger,
    node::Node,
    process::Candidate,
    rejection::{ErrorCode, Judged, Rejection},
};

/// Checks everything but the sender's permission and the owner's credits.
pub(crate) async fn check(
    connection: &mut SqliteConnection,
    candidate: Candidate<'_>,
    machine: &Machine,
) -> Judged<()> {
    // By the time that is signed, so that old messages are judged by the rules of their day.
    if machine.payment != Some(Payment::Credit) && candidate.content.time >= INSTANCES_BY_CREDIT {
        return Err(Rejection::new(
            ErrorCode::PaymentMethod,
            "since 2026-03-11 machines are paid with credits only",
        )
        .into());
    }
    for (hashes, missing) in [
        (&machine.images, ErrorCode::MachineRefMissing),
        (&machine.volumes, ErrorCode::VolumeMissing),
    ] {
        for hash in hashes {
            let Some(size) = stored(connection, hash).await? else {
                return Err(Rejection::new(missing, format!("there is no STORE {hash}")).into());
            };
            if let Some(rootfs_mib) = machine.rootfs_mib
                && missing == ErrorCode::MachineRefMissing
                && db::unsigned(size) > rootfs_mib.saturating_mul(MIB)
            {
                return Err(Rejection::new(
                    ErrorCode::VolumeTooSmall,
                    format!("rootfs.size_mib is less than its image {hash} has"),
                )
                .into());
            }
        }
    }
    match &machine.replaces {
        Some(replaced) => check_replaced(connection, candidate, replaced).await,
        None => Ok(()),
    }
}

/// Size of the file that a STORE message pins.
async fn stored(connection: &mut SqliteConnection, hash: &str) -> Judged<Option<i64>> {
    Ok(
        sqlx::query_scalar("SELECT size FROM pins WHERE item_hash = ? AND active = 1")
            .bind(hash)
            .fetch_optional(connection)
            .await?,
    )
}

async fn check_replaced(
    connection: &mut SqliteConnection,
    candidate: Candidate<'_>,
    replaced: &str,
) -> Judged<()> {
    let found: Option<(String, String)> = sqlx::query_as(
        "SELECT owner, content FROM messages
         WHERE item_hash = ? AND type = 'INSTANCE' AND status = 'processed'",
    )
    .bind(replaced)
    .fetch_optional(connection)
    .await?;
    let Some((owner, content)) = found else {
        let text = format!("there is no INSTANCE {replaced}");
        return Err(Rejection::new(ErrorCode::MachineRefMissing, text).into());
    };
    let content: serde_json::Value = serde_json::from_str(&content).unwrap_or_default();
    if !owner.eq_ignore_ascii_case(&candidate.content.address) {
        return Err(Rejection::new(ErrorCode::Permission, "it replaces another owner's machine").into());
    }
    if !content["replaces"].is_null() {
        let text = format!("{replaced} itself replaces another machine");
        return Err(Rejection::new(ErrorCode::MachineUpdateOfUpdate, text).into());
    }
    if content["allow_amend"] != true {
        let text = format!("{replaced} does not allow to be replaced");
        return Err(Rejection::new(ErrorCode::MachineAmendNotAllowed, text).into());
    }
    Ok(())
}

/// Admits the machine by its owner's credits and charges it from now on.
pub(crate) async fn charge(
    node: &Node,
    connection: &mut SqliteConnection,
    candidate: Candidate<'_>,
    machine: &Machine,
) -> Judged<()> {
    ledger::settle(connection, db::now()).await?;
    let rate = ledger::machine(machine).credits_per_second();
    ledger::admit(connection, &node.settings, &candidate.content.address, rate).await?;
    ledger::begin(connection, candidate, rate).await?;
    for store in machine.images.iter().chain(&machine.volumes) {
        sqlx::query("INSERT OR IGNORE INTO uses (machine, store) VALUES (?, ?)")
            .bind(&candidate.envelope.item_hash)
            .bind(store)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
