//! STORE: what it may refer to, whether it is paid, and the pin that keeps its file.

use sqlx::SqliteConnection;

use crate::{
    config::HOLD_ENDS,
    content::{Payment, StoreBody},
    db,
    envelope::parse_hash,
    ledger,
    node::Node,
    process::Candidate,
    rejection::{ErrorCode, Judged, Rejection},
};

/// Checks how the STORE is paid and, when `ref` is a hash, the first STORE of the series.
pub(crate) async fn check_reference(
    connection: &mut SqliteConnection,
    candidate: Candidate<'_>,
    store: &StoreBody,
) -> Judged<()> {
    if store.payment == Payment::Hold && candidate.content.time >= HOLD_ENDS {
        return Err(Rejection::new(
            ErrorCode::PaymentMethod,
            "from 2027 on a STORE is paid with credits only",
        )
        .into());
    }
    // Any other ref is a free name of the owner's, and the newest file of a name wins.
    let Some(first) = store
        .reference
        .as_deref()
        .filter(|reference| parse_hash(reference).is_some())
    else {
        return Ok(());
    };
    let found: Option<(String, Option<String>)> =
        sqlx::query_as("SELECT owner, reference FROM pins WHERE item_hash = ? AND active = 1")
            .bind(first)
            .fetch_optional(connection)
            .await?;
    match found {
        None => Err(Rejection::new(ErrorCode::StoreRefMissing, format!("there is no STORE {first}")).into()),
        Some((_, Some(_))) => Err(Rejection::new(
            ErrorCode::StoreUpdateOfUpdate,
            format!("{first} has itself a ref"),
        )
        .into()),
        Some((owner, None)) if !owner.eq_ignore_ascii_case(&candidate.content.address) => {
            Err(Rejection::new(ErrorCode::Permission, "the series belongs to another owner").into())
        }
        Some(_) => Ok(()),
    }
}

/// Finds the file, checks that its owner can pay for it, and pins it.
pub(crate) async fn pin(
    node: &Node,
    connection: &mut SqliteConnection,
    candidate: Candidate<'_>,
    store: &StoreBody,
) -> Judged<()> {
    let size: Option<i64> = sqlx::query_scalar("SELECT size FROM files WHERE hash = ?")
        .bind(&store.file_hash)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(size) = size.filter(|_| !store.on_ipfs).map(db::unsigned) else {
        return Err(Rejection::new(
            ErrorCode::FileUnavailable,
            format!("File not found: {}", store.file_hash),
        )
        .into());
    };
    let owner = &candidate.content.address;
    ledger::settle(connection, db::now()).await?;
    let rate = ledger::admit_store(connection, &node.settings, owner, store.payment, size, true).await?;
    sqlx::query(
        "INSERT INTO pins (item_hash, owner, file_hash, reference, size, created) VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(&candidate.envelope.item_hash)
    .bind(owner)
    .bind(&store.file_hash)
    .bind(&store.reference)
    .bind(db::signed(size))
    .bind(candidate.content.time)
    .execute(&mut *connection)
    .await?;
    if rate > 0.0 {
        let (item_hash, since) = (&candidate.envelope.item_hash, candidate.content.time);
        ledger::begin(connection, item_hash, owner, since, rate).await?;
    }
    Ok(())
}
