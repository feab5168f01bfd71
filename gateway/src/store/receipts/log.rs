//! The log of all receipts: roots, proofs, and which roots stand on Aleph.
//!
//! A receipt costs its own row. Roots of every 256 leaves, and of 256 of those, are written when the log is to be posted, so that a
//! proof reads a few times 256 hashes however long the log is.

use std::collections::HashMap;
use std::ops::Range;

use alephlab_api::receipt::{Consistency, PostedHead, ReceiptHead, ReceiptProof};
use alephlab_vault::SignedMessage;
use sqlx::Row as _;
use uuid::Uuid;

use super::super::{Connection, Row, Store, corrupt, seconds, unsigned};
use crate::error::Result;
use crate::receipts::{Hash, consistency, inclusion, joined, leaf, subtrees, whole};

/// Levels between two that are stored.
const STEP: u32 = 8;
/// Hashes under one that is stored.
const TILE: u64 = 1 << STEP;
/// Nodes that are written in one transaction, so that nobody waits long for his.
const AT_ONCE: u64 = 64;

/// A root that is on Aleph or on its way there.
pub(crate) struct StoredHead {
    pub(crate) size: u64,
    pub(crate) message: SignedMessage,
    pub(crate) is_posted: bool,
}

impl StoredHead {
    /// What it says.
    ///
    /// # Errors
    /// The database's, when it holds something else.
    pub(crate) fn posted(&self) -> Result<PostedHead> {
        let mut content = self.message.content()?;
        let head: Option<ReceiptHead> = content
            .remove("content")
            .and_then(|content| serde_json::from_value(content).ok());
        Ok(PostedHead {
            poster: self.message.sender().to_owned(),
            message: self.message.item_hash(),
            head: head.ok_or_else(|| corrupt("a root of receipts"))?,
        })
    }
}

impl Store {
    /// How many receipts there are.
    pub(crate) async fn receipt_count(&self) -> Result<u64> {
        let count: Option<i64> = sqlx::query_scalar("SELECT MAX(place) + 1 FROM receipts")
            .fetch_one(&self.read)
            .await?;
        Ok(count.map_or(0, unsigned))
    }

    /// Root of the first `size` receipts, whose inner nodes are written down before.
    pub(crate) async fn receipt_root(&self, size: u64) -> Result<Hash> {
        for step in 1..=(size.max(1).ilog2() / STEP) {
            self.grow(step * STEP, size).await?;
        }
        let mut connection = self.read.begin().await?;
        Tree::new(&mut connection).root(&(0..size)).await
    }

    /// Writes the roots of this level that are missing.
    async fn grow(&self, level: u32, size: u64) -> Result<()> {
        let wanted = size >> level;
        loop {
            let mut transaction = self.begin().await?;
            let next: Option<i64> =
                sqlx::query_scalar("SELECT MAX(at) + 1 FROM receipt_nodes WHERE level = $1")
                    .bind(i64::from(level))
                    .fetch_one(&mut *transaction)
                    .await?;
            let next = next.map_or(0, unsigned);
            if next >= wanted {
                return Ok(());
            }
            for at in next..wanted.min(next + AT_ONCE) {
                let below = Tree::new(&mut transaction).tile(level - STEP, at).await?;
                sqlx::query("INSERT INTO receipt_nodes (level, at, hash) VALUES ($1, $2, $3)")
                    .bind(i64::from(level))
                    .bind(seconds(at))
                    .bind(&whole(&below)[..])
                    .execute(&mut *transaction)
                    .await?;
            }
            transaction.commit().await?;
        }
    }

    /// Writes down what will be posted; one at a time.
    pub(crate) async fn add_receipt_head(&self, head: &StoredHead) -> Result<()> {
        sqlx::query(
            "INSERT INTO receipt_heads (size, message, envelope, state) VALUES ($1, $2, $3, 'signed')",
        )
        .bind(seconds(head.size))
        .bind(head.message.item_hash())
        .bind(head.message.value().to_string())
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// It stands on Aleph.
    pub(crate) async fn receipt_head_posted(&self, size: u64) -> Result<()> {
        sqlx::query("UPDATE receipt_heads SET state = 'posted' WHERE size = $1 AND state = 'signed'")
            .bind(seconds(size))
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// The network refuses it: another one is signed in its place.
    pub(crate) async fn drop_receipt_head(&self, size: u64) -> Result<()> {
        sqlx::query("DELETE FROM receipt_heads WHERE size = $1 AND state = 'signed'")
            .bind(seconds(size))
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// The newest root, also one that may not have arrived.
    pub(crate) async fn newest_receipt_head(&self) -> Result<Option<StoredHead>> {
        let row = sqlx::query("SELECT * FROM receipt_heads ORDER BY size DESC LIMIT 1")
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(read_head).transpose()
    }

    /// The newest root that stands on Aleph.
    pub(crate) async fn posted_receipt_head(&self) -> Result<Option<StoredHead>> {
        posted_head(&mut *self.read.acquire().await?).await
    }

    /// That a receipt is under the newest posted root; none where that is older than the receipt.
    pub(crate) async fn receipt_proof(&self, id: Uuid) -> Result<Option<ReceiptProof>> {
        let _turn = self.proving.acquire().await;
        // What is read is of one moment; nothing of it changes later in any case.
        let mut connection = self.read.begin().await?;
        let place: Option<i64> = sqlx::query_scalar("SELECT place FROM receipts WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&mut *connection)
            .await?;
        let (Some(place), Some(head)) = (place.map(unsigned), posted_head(&mut connection).await?) else {
            return Ok(None);
        };
        if place >= head.size {
            return Ok(None);
        }
        let posted = head.posted()?;
        let path = path_of(&mut connection, place, head.size).await?;
        Ok(Some(ReceiptProof {
            place,
            size: head.size,
            root: posted.head.root,
            path,
            poster: posted.poster,
            message: posted.message,
        }))
    }

    /// That one root continues another; none beyond the newest. Also of one whose arrival is not known yet, or which was dropped and
    /// stands on Aleph after all: who finds it there asks for it.
    pub(crate) async fn receipt_consistency(&self, from: u64, to: u64) -> Result<Option<Consistency>> {
        let _turn = self.proving.acquire().await;
        let mut connection = self.read.begin().await?;
        let newest: Option<i64> = sqlx::query_scalar("SELECT MAX(size) FROM receipt_heads")
            .fetch_one(&mut *connection)
            .await?;
        if from == 0 || from > to || to > newest.map_or(0, unsigned) {
            return Ok(None);
        }
        let path = Tree::new(&mut connection).path(consistency(from, to)).await?;
        Ok(Some(Consistency { from, to, path }))
    }
}

pub(in crate::store) async fn path_of(
    connection: &mut Connection,
    place: u64,
    size: u64,
) -> Result<Vec<String>> {
    Tree::new(connection).path(inclusion(place, size)).await
}

async fn posted_head(connection: &mut Connection) -> Result<Option<StoredHead>> {
    let row = sqlx::query("SELECT * FROM receipt_heads WHERE state = 'posted' ORDER BY size DESC LIMIT 1")
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read_head).transpose()
}

fn read_head(row: &Row) -> Result<StoredHead> {
    let envelope = serde_json::from_str(row.try_get("envelope")?);
    Ok(StoredHead {
        size: unsigned(row.try_get("size")?),
        message: SignedMessage::from_value(envelope.map_err(|_| corrupt("a message"))?)?,
        is_posted: row.try_get::<&str, _>("state")? == "posted",
    })
}

/// The hashes, of which what was read once is kept for the rest of a question.
struct Tree<'c> {
    connection: &'c mut Connection,
    tiles: HashMap<(u32, u64), Vec<Hash>>,
}

impl<'c> Tree<'c> {
    fn new(connection: &'c mut Connection) -> Self {
        Self {
            connection,
            tiles: HashMap::new(),
        }
    }

    /// Roots of these ranges, in hexadecimal digits.
    async fn path(&mut self, ranges: Vec<Range<u64>>) -> Result<Vec<String>> {
        let mut path = Vec::with_capacity(ranges.len());
        for range in ranges {
            path.push(hex::encode(self.root(&range).await?));
        }
        Ok(path)
    }

    async fn root(&mut self, leaves: &Range<u64>) -> Result<Hash> {
        let mut hashes = Vec::new();
        for (level, at) in subtrees(leaves) {
            hashes.push(self.node(level, at).await?);
        }
        Ok(joined(&hashes))
    }

    /// Root of a whole subtree.
    async fn node(&mut self, level: u32, at: u64) -> Result<Hash> {
        let stored = level - level % STEP;
        let (first, count) = (at << (level - stored), 1_u64 << (level - stored));
        let tile = self.tile(stored, first / TILE).await?;
        let begin = usize::try_from(first % TILE).unwrap_or(usize::MAX);
        let hashes = tile.iter().skip(begin);
        let hashes: Vec<Hash> = hashes
            .take(usize::try_from(count).unwrap_or(0))
            .copied()
            .collect();
        if hashes.len() as u64 != count {
            return Err(corrupt("the log of receipts"));
        }
        Ok(whole(&hashes))
    }

    /// The hashes of a level that one of the next stored level is made of, as many of them as there are.
    async fn tile(&mut self, level: u32, at: u64) -> Result<Vec<Hash>> {
        if let Some(known) = self.tiles.get(&(level, at)) {
            return Ok(known.clone());
        }
        let statement = match level {
            0 => "SELECT hash FROM receipts WHERE 0 = $1 AND place >= $2 AND place < $3 ORDER BY place",
            _ => "SELECT hash FROM receipt_nodes WHERE level = $1 AND at >= $2 AND at < $3 ORDER BY at",
        };
        let rows = sqlx::query(statement)
            .bind(i64::from(level))
            .bind(seconds(at * TILE))
            .bind(seconds((at + 1) * TILE))
            .fetch_all(&mut *self.connection)
            .await?;
        let mut hashes = Vec::with_capacity(rows.len());
        for row in &rows {
            let hash = row.try_get::<&[u8], _>("hash")?.try_into();
            let hash: Hash = hash.map_err(|_| corrupt("a hash of a receipt"))?;
            hashes.push(if level == 0 { leaf(&hash) } else { hash });
        }
        self.tiles.insert((level, at), hashes.clone());
        Ok(hashes)
    }
}
