//! Random histories over all purses and kinds of entries. Each call is dropped first while it waits for some statement, as when a client
//! goes away, and then made again as one does that got no answer. Now and then the whole process ends there instead (`killed`), and
//! another one opens what it left on the disk and goes on with the same step.
//!
//! A plain model says what each purse must come to. A history has accounts of its own; many share a database, of which the whole is
//! audited at its end. `cargo xtask test --long` runs all of them, other runs a sample.

mod killed;
mod model;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::path::Path;
use std::task::Poll;

use alephlab_api::receipt::ReceiptKind;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::super::receipts::{NewReceipt, write};
use super::*;
use killed::Progress;
use model::{Model, PRICE, Purse, Sale, Step, owner};

/// Steps of one; with the first six its accounts get something.
const STEPS: usize = 18;

struct World {
    store: Store,
    key: ReceiptKey,
    /// Of which steps there are.
    random: StdRng,
    /// Of where they are dropped: how often a call waits is not the same each time, and steps are.
    cutting: StdRng,
    /// How many statements each kind of step was seen to make.
    lengths: BTreeMap<&'static str, u32>,
    /// How far earlier processes came, and when this one ends.
    progress: Progress,
}

/// Runs a call until it has waited for the database so often. What it gave, if it came to its end, and how often it waited.
async fn cut_at<T>(at: u32, call: impl Future<Output = T>) -> (Option<T>, u32) {
    let (mut call, mut waited) = (Box::pin(call), 0);
    let ended = poll_fn(|context| match call.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending if waited == at => Poll::Ready(None),
        Poll::Pending => {
            waited += 1;
            Poll::Pending
        }
    });
    let ended = ended.await;
    (ended, waited)
}

/// A file is not waited for at each commit: nothing here is about the disk.
async fn open(folder: &Path) -> Store {
    let store = Store::open(folder).await.unwrap();
    if store.begin == "BEGIN IMMEDIATE" {
        sqlx::raw_sql("PRAGMA synchronous = OFF")
            .execute(&store.write)
            .await
            .unwrap();
    }
    store
}

impl World {
    async fn new(folder: &Path, progress: Progress) -> Self {
        Self {
            store: open(folder).await,
            key: ReceiptKey::open(folder, owner(0, 0).parse().unwrap()).unwrap(),
            random: StdRng::seed_from_u64(0),
            cutting: StdRng::seed_from_u64(progress.seed()),
            lengths: BTreeMap::new(),
            progress,
        }
    }

    /// Many histories one after the other, and then the audit of all. What earlier processes did is done by the model alone.
    async fn run(&mut self, histories: std::ops::Range<u64>) {
        let mut model = Model::default();
        for history in histories {
            (model.held, model.holds) = ([0; 3], BTreeMap::new());
            (model.sales, model.payouts) = (Vec::new(), Vec::new());
            // By its number alone, so that one that fails can be run again.
            self.random = StdRng::seed_from_u64(history);
            for number in 0..STEPS {
                let step = match number {
                    0..3 => Step::Credit {
                        owner: number,
                        amount: 9_000,
                    },
                    3..6 => Step::Deposit {
                        owner: Some(number - 3),
                        amount: 9_000,
                    },
                    _ => self.choose(&model),
                };
                let key = format!("{history}.{number}");
                let expected = model.refusal(history, &step);
                if self.progress.begin() {
                    self.take((history, &key), &step, expected).await;
                }
                if expected.is_none() {
                    model.take(history, &key, &step);
                }
            }
            if self.progress.is_here() {
                self.compare(&model, history).await;
            }
        }
        self.compare_all(&model).await;
    }

    fn choose(&mut self, model: &Model) -> Step {
        let random = &mut self.random;
        let owner = random.random_range(0..3_usize);
        let amount = u128::from(random.random_range(1..5_000_u32));
        let seconds = random.random_range(0..400_u64);
        let hold = model.holds.keys().min_by_key(|_| random.random::<u32>()).cloned();
        let sale = model.sales.iter().min_by_key(|_| random.random::<u32>()).cloned();
        let payout = model.payouts.first().cloned();
        match (random.random_range(0..15), hold, sale, payout) {
            (0, ..) => Step::Deposit {
                owner: (amount % 5 > 0).then_some(owner),
                amount: 3 * amount,
            },
            (1, ..) => Step::Hold { owner, amount },
            (2, Some(hold), ..) => Step::Raise {
                hold,
                amount: 2 * amount,
            },
            (3, Some(hold), ..) => Step::Charge { hold, seconds },
            (4, Some(hold), ..) => Step::End { hold, seconds },
            (5, Some(hold), ..) => Step::Use {
                hold,
                amount: amount / 8,
            },
            (6, _, Some((key, sale)), _) => Step::Refund { key, sale },
            (7, _, Some((key, sale)), _) => Step::Release { key, sale },
            (8, ..) => Step::Convert {
                owner,
                aleph: amount,
                credits: 3 * amount,
            },
            (9, ..) => Step::Withdraw { owner, amount },
            (10, _, _, Some((key, _, amount))) => Step::Settle { key, amount },
            (11, _, _, Some((key, owner, amount))) => Step::Return { key, owner, amount },
            (12, ..) => Step::Credit {
                owner,
                amount: 2 * amount,
            },
            _ => Step::Sale {
                sale: Sale {
                    buyer: owner,
                    seller: (owner + 1 + usize::from(seconds % 2 == 0)) % 3,
                    // Of some there is no share.
                    shares: [amount, amount / 10 * u128::from(seconds % 3 > 0), amount / 20],
                },
            },
        }
    }

    /// Drops a step half-way, or ends this process there, and makes it again.
    async fn take(&mut self, (history, key): (u64, &str), step: &Step, expected: Option<&'static str>) {
        let length = self.lengths.entry(step.name()).or_insert(12);
        let at = self.cutting.random_range(0..=*length);
        let first = cut_at(at, carry_out(&self.store, &self.key, (history, key), step)).await;
        match first.0 {
            Some(first) => {
                let first = first.map_err(|error| error.code().to_owned());
                assert_eq!(first.err().as_deref(), expected, "{key} {step:?}");
            }
            // The database is still at it, in a thread of its own.
            None => self.progress.may_end(step.name(), at),
        }
        let (done, waited) = cut_at(u32::MAX, carry_out(&self.store, &self.key, (history, key), step)).await;
        *length = waited.max(*length);
        let done = done.unwrap().map_err(|error| error.code().to_owned());
        assert_eq!(done.err().as_deref(), expected, "{key} {step:?}");
    }

    async fn compare(&self, model: &Model, history: u64) {
        for (number, held) in model.held.iter().enumerate() {
            let owner = owner(history, number);
            let stands = purses(&self.store, &owner).await;
            let purses = model.purses.iter().filter(|((of, ..), _)| *of == owner);
            let wanted: BTreeMap<_, _> = purses
                .map(|((_, kind, asset), amount)| ((*kind, *asset), *amount))
                .collect();
            let found = stands
                .iter()
                .map(|((kind, asset), (amount, _))| ((kind.as_str(), *asset), *amount));
            let found: BTreeMap<_, _> = found.filter(|(_, amount)| *amount != 0).collect();
            let wanted: BTreeMap<_, _> = wanted.into_iter().filter(|(_, amount)| *amount != 0).collect();
            assert_eq!(found, wanted, "{owner}");
            let sum: u128 = stands.values().map(|(_, held)| held).sum();
            assert_eq!(sum, *held, "{owner}");
            let receipts = self.store.receipts(&owner, 0, 1_000).await.unwrap();
            crate::receipts::check_chain(&receipts, &self.key.address()).unwrap();
        }
    }

    async fn compare_all(&self, model: &Model) {
        assert_eq!(self.store.audit().await.unwrap().faults, Vec::<String>::new());
        for ((kind, asset), (amount, _)) in purses(&self.store, "gateway").await {
            let kind = PurseKind::parse(&kind).unwrap().name();
            let wanted = model.purses.get(&("gateway".to_owned(), kind, asset));
            assert_eq!(wanted.copied().unwrap_or(0), amount, "{kind} in {}", asset.name());
        }
        // The log has no gap: as many as its last place says.
        let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM receipts")
            .fetch_one(&self.store.read)
            .await
            .unwrap();
        assert_eq!(
            (unsigned(rows), self.store.receipt_count().await.unwrap()),
            (model.receipts, model.receipts)
        );
    }
}

/// All purses of somebody: what they come to, and what is held.
async fn purses(store: &Store, owner: &str) -> BTreeMap<(String, Asset), (i128, u128)> {
    let rows = sqlx::query("SELECT * FROM ledger_accounts WHERE owner = $1")
        .bind(owner)
        .fetch_all(&store.read)
        .await
        .unwrap();
    let base = |amount: Amount| u128::from_be_bytes(amount.to_bytes()[16..].try_into().unwrap());
    let signed = |amount: Amount| i128::try_from(base(amount)).unwrap();
    rows.iter()
        .map(|row| {
            let purse = read_purse(row).unwrap();
            let kind: String = row.try_get("kind").unwrap();
            let amount = signed(purse.credits) - signed(purse.debits);
            ((kind, asset(row).unwrap()), (amount, base(purse.held)))
        })
        .collect()
}

/// What a gateway does at this step. Made again with the same key, it changes nothing.
async fn carry_out(
    store: &Store,
    receipts: &ReceiptKey,
    (history, key): (u64, &str),
    step: &Step,
) -> Result<()> {
    let id = async |hold: &str| {
        let hold = store.hold_of(hold).await?;
        hold.map(|hold| hold.id).ok_or_else(|| corrupt("a hold"))
    };
    match step {
        Step::Credit { owner: to, amount } => {
            let to = owner(history, *to);
            let amount = Amount::from_base(*amount);
            store.credit((&to, &to), Asset::Credit, amount, key, "").await
        }
        Step::Hold { owner: of, amount } => {
            let new = NewHold {
                owner: &owner(history, *of),
                key,
                amount: Amount::from_base(*amount),
                price: Amount::from_base(PRICE),
                memo: "kernel",
            };
            store.hold(new).await.map(drop)
        }
        Step::Raise { hold, amount } => {
            let held = store.hold_of(hold).await?.ok_or_else(|| corrupt("a hold"))?;
            let rows = sqlx::query("SELECT owner FROM ledger_accounts WHERE id = $1")
                .bind(held.account)
                .fetch_one(&store.read)
                .await?;
            let amount = Amount::from_base(*amount);
            store
                .raise_hold(rows.try_get("owner")?, hold, amount)
                .await
                .map(drop)
        }
        Step::Charge { hold, seconds } => store.charge(id(hold).await?, *seconds).await.map(drop),
        Step::End { hold, seconds } => store
            .end_hold(id(hold).await?, *seconds, receipts)
            .await
            .map(drop),
        _ => by_transfers(store, receipts, (history, key), step).await,
    }
}

async fn by_transfers(
    store: &Store,
    receipts: &ReceiptKey,
    (history, key): (u64, &str),
    step: &Step,
) -> Result<()> {
    let named = |purse: Purse| {
        purse
            .0
            .map_or_else(|| "gateway".to_owned(), |number| owner(history, number))
    };
    let hold = match step {
        Step::Use { hold, .. } => store.hold_of(hold).await?.map(|hold| hold.id),
        _ => None,
    };
    let mut transaction = store.begin().await?;
    let mut sum = Amount::ZERO;
    for (number, (kind, (asset, amount, from, to))) in step.transfers().into_iter().enumerate() {
        let amount = Amount::from_base(amount);
        sum = add(sum, amount)?;
        let one = Transfer {
            key: &format!("{key}:{number}"),
            kind,
            asset,
            amount,
            hold,
            memo: "",
            from: Place {
                owner: &named(from),
                kind: from.1,
            },
            to: Place {
                owner: &named(to),
                kind: to.1,
            },
        };
        transfer(&mut transaction, &one).await?;
    }
    let receipt = match step {
        Step::Sale { sale } => Some((ReceiptKind::Sale, sale.buyer, owner(history, sale.seller))),
        Step::Withdraw { owner: by, .. } => Some((ReceiptKind::Withdraw, *by, owner(history, *by))),
        _ => None,
    };
    if let Some((kind, payer, payee)) = receipt {
        let new = NewReceipt {
            about: &format!("order:{key}"),
            payer: &owner(history, payer),
            payee: &payee,
            kind,
            subject: "",
            model: None,
            commit: None,
            units: 1,
            unit_price: sum,
            amount: sum,
            asset: Asset::Aleph,
            entry: None,
        };
        write(&mut transaction, &new, receipts).await?;
    }
    transaction.commit().await?;
    Ok(())
}
