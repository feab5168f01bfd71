//! Orders as they are read and written.

use std::collections::HashMap;

use alephlab_api::market::{NewOrder, Order, OrderState, Part, PartKind, ReleaseWay, Sale, SignedPaid};
use alephlab_api::money::Amount;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row as _;
use uuid::Uuid;

use super::{NewSale, order_unknown};
use crate::error::{GatewayError, Result};
use crate::store::{Connection, Row, Store, corrupt, seconds, unsigned};

/// Orders of one answer.
const PAGE: i64 = 500;

/// An order as it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredOrder {
    pub(crate) signed: NewOrder,
    pub(crate) paid: SignedPaid,
    /// Accounts.
    pub(crate) buyer: String,
    pub(crate) seller: String,
    pub(crate) way: ReleaseWay,
    pub(crate) state: OrderState,
    pub(crate) created: u64,
    pub(crate) settles: u64,
    pub(crate) claimed: Option<u64>,
    pub(crate) released: Option<u64>,
    pub(crate) ended: Option<u64>,
    pub(crate) proof: Vec<String>,
}

/// One part, with the account that it is of.
pub(super) struct StoredPart {
    pub(super) kind: PartKind,
    pub(super) account: String,
    pub(super) address: String,
    pub(super) amount: Amount,
    pub(super) model: String,
}

impl StoredPart {
    /// As those see it who see the order.
    fn shown(self) -> Part {
        Part {
            kind: self.kind,
            to: self.address,
            amount: self.amount,
            model: self.model,
        }
    }
}

impl StoredOrder {
    pub(crate) fn id(&self) -> Uuid {
        self.signed.purchase.order
    }

    /// As its buyer and its seller see it.
    pub(crate) fn shown(self, parts: Vec<Part>) -> Order {
        Order {
            purchase: self.signed.purchase,
            state: self.state,
            release: self.way,
            parts,
            claimed: self.claimed.is_some(),
            paid: self.created,
            settles: self.settles,
            released: self.released,
            ended: self.ended,
            proof: self.proof,
        }
    }
}

impl Store {
    /// An order, with its parts.
    pub(crate) async fn order(&self, id: Uuid) -> Result<Option<StoredOrder>> {
        let mut connection = self.read.acquire().await?;
        find(&mut connection, id).await
    }

    /// What an order is divided into.
    pub(crate) async fn order_parts(&self, id: Uuid) -> Result<Vec<Part>> {
        let mut connection = self.read.acquire().await?;
        let parts = parts_of(&mut connection, id).await?;
        Ok(parts.into_iter().map(StoredPart::shown).collect())
    }

    /// An account's purchases, newest first.
    pub(crate) async fn orders_of(&self, buyer: &str) -> Result<Vec<Order>> {
        let orders = self
            .orders_by("buyer = $1 ORDER BY created DESC, id", buyer)
            .await?;
        Ok(orders
            .into_iter()
            .map(|(order, parts)| order.shown(parts))
            .collect())
    }

    /// What an account has bought or is buying of a model, newest first; nothing that was refunded.
    pub(crate) async fn bought(&self, buyer: &str, model: &str) -> Result<Vec<StoredOrder>> {
        let rows = sqlx::query(
            "SELECT * FROM orders WHERE buyer = $1 AND model = $2 AND state <> 'refunded'
             ORDER BY created DESC, id LIMIT $3",
        )
        .bind(buyer)
        .bind(model)
        .bind(PAGE)
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(read).collect()
    }

    /// An account's sales, newest first; or those whose key has not gone out, oldest first.
    pub(crate) async fn sales_of(&self, seller: &str, waiting: bool) -> Result<Vec<Sale>> {
        let which = match waiting {
            false => "seller = $1 ORDER BY created DESC, id",
            true => "seller = $1 AND state = 'paid' AND way = 'keys' ORDER BY created, id",
        };
        let sale = |(order, parts): (StoredOrder, Vec<Part>)| Sale {
            signature: order.signed.signature.clone(),
            paid: order.paid.clone(),
            order: order.shown(parts),
        };
        let orders = self.orders_by(which, seller).await?;
        Ok(orders.into_iter().map(sale).collect())
    }

    /// Orders that are settled by `now` without a look at Aleph, oldest first: those whose key went out, and those that nobody
    /// has begun to release.
    pub(crate) async fn orders_to_settle(&self, now: u64) -> Result<Vec<StoredOrder>> {
        let rows = sqlx::query(
            "SELECT * FROM orders WHERE settles <= $1
             AND (state = 'released' OR (state = 'paid' AND (claimed IS NULL OR way = 'deposit')))
             ORDER BY settles, id LIMIT $2",
        )
        .bind(seconds(now))
        .bind(PAGE)
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(read).collect()
    }

    /// Orders that a seller's machine has begun to release, whose message may be on Aleph, oldest first.
    pub(crate) async fn orders_to_look_for(&self) -> Result<Vec<StoredOrder>> {
        let rows = sqlx::query(
            "SELECT * FROM orders WHERE state = 'paid' AND claimed IS NOT NULL AND way = 'keys' ORDER BY settles, id",
        )
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(read).collect()
    }

    /// The order by which this account has a revision, if one stands.
    pub(crate) async fn standing_order(
        &self,
        buyer: &str,
        model: &str,
        revision: &str,
    ) -> Result<Option<Uuid>> {
        let mut connection = self.read.acquire().await?;
        standing(&mut connection, buyer, model, revision).await
    }

    /// Orders with their parts: two statements, however many there are.
    async fn orders_by(&self, which: &'static str, account: &str) -> Result<Vec<(StoredOrder, Vec<Part>)>> {
        // Of one moment, or a new order would push out one whose parts are then missing.
        let mut connection = self.read.begin().await?;
        let of = |what: &str, order: &str| {
            let orders = format!("SELECT {what} FROM orders WHERE {which} LIMIT $2");
            let statement = match order {
                "" => orders,
                order => format!("SELECT * FROM order_parts WHERE order_id IN ({orders}) {order}"),
            };
            sqlx::query(sqlx::AssertSqlSafe(statement))
                .bind(account.to_owned())
                .bind(PAGE)
        };
        let orders = of("*", "").fetch_all(&mut *connection).await?;
        let rows = of("id", "ORDER BY order_id, number")
            .fetch_all(&mut *connection)
            .await?;
        let mut parts: HashMap<String, Vec<Part>> = HashMap::new();
        for row in &rows {
            let of = parts.entry(row.try_get("order_id")?).or_default();
            of.push(read_part(row)?.shown());
        }
        let with_parts = |row: &Row| {
            let order = read(row)?;
            let parts = parts.remove(&order.id().to_string()).unwrap_or_default();
            Ok::<_, GatewayError>((order, parts))
        };
        orders.iter().map(with_parts).collect()
    }
}

pub(super) async fn insert(connection: &mut Connection, new: &NewSale<'_>, seller: &str) -> Result<()> {
    let purchase = &new.signed.purchase;
    let none: [String; 0] = [];
    sqlx::query(
        "INSERT INTO orders (id, buyer, seller, model, revision, price, way, signed, paid, terms, state, created, settles, proof)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'paid', $11, $12, $13)",
    )
    .bind(purchase.order.to_string())
    .bind(new.buyer)
    .bind(seller)
    .bind(&purchase.model)
    .bind(&purchase.revision)
    .bind(&purchase.price.to_bytes()[..])
    .bind(new.way.name())
    .bind(written(new.signed)?)
    .bind(written(new.paid)?)
    .bind(new.terms)
    .bind(seconds(new.paid.paid.time))
    .bind(seconds(new.settles))
    .bind(written(&none)?)
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn insert_part(
    connection: &mut Connection,
    order: Uuid,
    number: usize,
    part: &Part,
    account: &str,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO order_parts (order_id, number, kind, account, address, amount, model)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(order.to_string())
    .bind(i64::try_from(number).unwrap_or(i64::MAX))
    .bind(part.kind.name())
    .bind(account)
    .bind(&part.to)
    .bind(&part.amount.to_bytes()[..])
    .bind(&part.model)
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn find(connection: &mut Connection, id: Uuid) -> Result<Option<StoredOrder>> {
    let row = sqlx::query("SELECT * FROM orders WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read).transpose()
}

/// An order that must be there, within a change.
pub(super) async fn locked(connection: &mut Connection, id: Uuid) -> Result<StoredOrder> {
    find(connection, id).await?.ok_or_else(order_unknown)
}

/// In their order.
pub(super) async fn parts_of(connection: &mut Connection, id: Uuid) -> Result<Vec<StoredPart>> {
    let rows = sqlx::query("SELECT * FROM order_parts WHERE order_id = $1 ORDER BY number")
        .bind(id.to_string())
        .fetch_all(connection)
        .await?;
    rows.iter().map(read_part).collect()
}

fn read_part(row: &Row) -> Result<StoredPart> {
    Ok(StoredPart {
        kind: kind(row)?,
        account: row.try_get("account")?,
        address: row.try_get("address")?,
        amount: amount(row)?,
        model: row.try_get("model")?,
    })
}

/// The order by which this account has a revision.
pub(super) async fn standing(
    connection: &mut Connection,
    buyer: &str,
    model: &str,
    revision: &str,
) -> Result<Option<Uuid>> {
    let row = sqlx::query(
        "SELECT id FROM orders WHERE buyer = $1 AND revision = $2 AND model = $3 AND state <> 'refunded'",
    )
    .bind(buyer)
    .bind(revision)
    .bind(model)
    .fetch_optional(connection)
    .await?;
    let id = |row: Row| {
        row.try_get::<&str, _>("id")?
            .parse()
            .map_err(|_| corrupt("an order's id"))
    };
    row.map(id).transpose()
}

/// Orders that this account made after `since`.
pub(super) async fn count_since(connection: &mut Connection, buyer: &str, since: u64) -> Result<u64> {
    let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM orders WHERE buyer = $1 AND created > $2")
        .bind(buyer)
        .bind(seconds(since))
        .fetch_one(connection)
        .await?;
    Ok(unsigned(count))
}

pub(super) fn kind(row: &Row) -> Result<PartKind> {
    PartKind::parse(row.try_get("kind")?).ok_or_else(|| corrupt("a part's kind"))
}

pub(super) fn amount(row: &Row) -> Result<Amount> {
    let bytes: &[u8] = row.try_get("amount")?;
    let bytes = bytes.try_into().map_err(|_| corrupt("an amount"))?;
    Ok(Amount::from_bytes(bytes))
}

pub(super) fn written(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|_| corrupt("an order"))
}

fn parsed<T: DeserializeOwned>(row: &Row, column: &'static str) -> Result<T> {
    serde_json::from_str(row.try_get(column)?).map_err(|_| corrupt("an order"))
}

fn read(row: &Row) -> Result<StoredOrder> {
    let time = |column| Ok::<_, sqlx::Error>(row.try_get::<Option<i64>, _>(column)?.map(unsigned));
    Ok(StoredOrder {
        signed: parsed(row, "signed")?,
        paid: parsed(row, "paid")?,
        buyer: row.try_get("buyer")?,
        seller: row.try_get("seller")?,
        way: ReleaseWay::parse(row.try_get("way")?).ok_or_else(|| corrupt("an order's way"))?,
        state: OrderState::parse(row.try_get("state")?).ok_or_else(|| corrupt("an order's state"))?,
        created: unsigned(row.try_get("created")?),
        settles: unsigned(row.try_get("settles")?),
        claimed: time("claimed")?,
        released: time("released")?,
        ended: time("ended")?,
        proof: parsed(row, "proof")?,
    })
}
