//! INSTANCE and V-PROGRAM: how they are paid, what they boot from, what they replace, and what they cost from now on.
//!
//! Starting one is a host's work (a CRN, `compute`) and not the node's.

use sqlx::SqliteConnection;

use crate::{
    config::{INSTANCES_BY_CREDIT, MIB},
    content::{Machine, Payment},
    db,
    error::Result,
    ledger::{self, MachinePrice},
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
    for used in &machine.stores {
        let Some(size) = stored(connection, &used.hash).await? else {
            let text = format!("there is no STORE {}", used.hash);
            return Err(Rejection::new(ErrorCode::VolumeMissing, text).into());
        };
        if used
            .copied_to_mib
            .is_some_and(|copy| db::unsigned(size) > copy.saturating_mul(MIB))
        {
            let text = format!(
                "a volume is smaller than what is to be copied to it, {}",
                used.hash
            );
            return Err(Rejection::new(ErrorCode::VolumeTooSmall, text).into());
        }
    }
    match &machine.replaces {
        Some(replaced) => check_replaced(connection, candidate, replaced).await,
        None => Ok(()),
    }
}

/// Size of the file that a STORE message pins.
async fn stored(connection: &mut SqliteConnection, hash: &str) -> Result<Option<i64>> {
    Ok(
        sqlx::query_scalar("SELECT size FROM pins WHERE item_hash = ? AND active = 1")
            .bind(hash)
            .fetch_optional(connection)
            .await?,
    )
}

/// Price of a machine. What it mounts as it is counts as disk, as far as it is stored here.
pub(crate) async fn price(
    node: &Node,
    connection: &mut SqliteConnection,
    machine: &Machine,
) -> Result<MachinePrice> {
    let mut mounted = 0;
    for used in machine.stores.iter().filter(|used| used.copied_to_mib.is_none()) {
        let size = stored(connection, &used.hash).await?.map_or(0, db::unsigned);
        mounted += size.div_ceil(MIB);
    }
    let credits_per_hour = node.foundation.unit_price(machine.class);
    Ok(ledger::machine(machine, mounted, credits_per_hour))
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
    let rate = price(node, connection, machine).await?.credits_per_second();
    ledger::admit(connection, &node.settings, &candidate.content.address, rate).await?;
    let (envelope, content) = (candidate.envelope, candidate.content);
    ledger::begin(
        connection,
        &envelope.item_hash,
        &content.address,
        content.time,
        rate,
    )
    .await?;
    for used in &machine.stores {
        sqlx::query("INSERT OR IGNORE INTO uses (machine, store) VALUES (?, ?)")
            .bind(&candidate.envelope.item_hash)
            .bind(&used.hash)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
