//! Who signs in at an OpenID provider, the address that an account has proven, and what operators make of accounts.
//!
//! An identity is the pair of issuer and subject; the provider's name for a person is shown and nothing is found by it.

use alephlab_api::account::{AccountInfo, Role};
use alephlab_api::time::unix_now;
use sqlx::Row as _;
use uuid::Uuid;

use super::audit::{Action, note};
use super::ledger::take_over;
use super::{Connection, Row, Store, corrupt, seconds, unsigned};
use crate::error::Result;

/// Sign-ins that may be on their way through a provider; the oldest goes.
const MAX_ATTEMPTS: i64 = 1000;
/// Accounts that one answer lists: so many that wait, and so many others.
const MAX_LISTED: i64 = 1000;
/// Those that wait, newest first.
const WAITING: &str = "SELECT a.*, i.issuer, i.label, i.standing FROM accounts a
     JOIN identities i ON i.account = a.id WHERE i.standing = 'waiting'
     ORDER BY a.created DESC, a.id LIMIT $1";
/// All others, oldest first.
const DECIDED: &str = "SELECT a.*, i.issuer, i.label, i.standing FROM accounts a
     LEFT JOIN identities i ON i.account = a.id WHERE i.standing IS NULL OR i.standing <> 'waiting'
     ORDER BY a.created, a.id LIMIT $1";

/// A sign-in on its way through the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) nonce: String,
    pub(crate) verifier: String,
    /// Where the browser goes then.
    pub(crate) next: String,
}

/// What a provider has proven of somebody.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) issuer: String,
    pub(crate) subject: String,
    pub(crate) label: String,
}

/// Whether somebody who signs in at a provider may use this gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Waiting,
    Admitted,
    Dismissed,
}

impl Standing {
    const ALL: [Self; 3] = [Self::Waiting, Self::Admitted, Self::Dismissed];

    fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Admitted => "admitted",
            Self::Dismissed => "dismissed",
        }
    }
}

/// What came of linking an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Linking {
    Linked,
    /// Another account has it, or something here is in its name already.
    Taken,
    /// The account has one.
    HasOne,
}

impl Store {
    /// Keeps a sign-in until the provider sends the browser back, and forgets those that are too old or too many.
    pub(crate) async fn add_attempt(
        &self,
        (state, browser): (&[u8; 32], &[u8; 32]),
        attempt: &Attempt,
        expires: u64,
    ) -> Result<()> {
        let mut transaction = self.begin().await?;
        sqlx::query("DELETE FROM oidc_attempts WHERE expires < $1")
            .bind(seconds(unix_now()).min(seconds(expires)))
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "INSERT INTO oidc_attempts (state, browser, nonce, verifier, next, expires)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(state.as_slice())
        .bind(browser.as_slice())
        .bind(&attempt.nonce)
        .bind(&attempt.verifier)
        .bind(&attempt.next)
        .bind(seconds(expires))
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "DELETE FROM oidc_attempts WHERE state NOT IN
                 (SELECT state FROM oidc_attempts ORDER BY expires DESC, state LIMIT $1)",
        )
        .bind(MAX_ATTEMPTS)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Takes a sign-in away; none when unknown, used, too old or begun by another browser.
    pub(crate) async fn take_attempt(
        &self,
        (state, browser): (&[u8; 32], &[u8; 32]),
        now: u64,
    ) -> Result<Option<Attempt>> {
        let row = sqlx::query(
            "DELETE FROM oidc_attempts WHERE state = $1 AND browser = $2
             RETURNING nonce, verifier, next, expires",
        )
        .bind(state.as_slice())
        .bind(browser.as_slice())
        .fetch_optional(&self.write)
        .await?;
        let Some(row) = row else { return Ok(None) };
        if row.try_get::<i64, _>("expires")? < seconds(now) {
            return Ok(None);
        }
        Ok(Some(Attempt {
            nonce: row.try_get("nonce")?,
            verifier: row.try_get("verifier")?,
            next: row.try_get("next")?,
        }))
    }

    /// The account of somebody whom a provider has proven, made at the first time. `everyone`: whoever waits is admitted by that.
    pub(crate) async fn identify(&self, identity: &Identity, everyone: bool) -> Result<(String, Standing)> {
        let mut transaction = self.begin().await?;
        let found =
            sqlx::query("SELECT account, standing FROM identities WHERE issuer = $1 AND subject = $2")
                .bind(&identity.issuer)
                .bind(&identity.subject)
                .fetch_optional(&mut *transaction)
                .await?;
        let (account, before) = match found {
            Some(row) => (row.try_get("account")?, standing(&row)?),
            None => (make_account(&mut transaction, identity).await?, Standing::Waiting),
        };
        let after = match before {
            Standing::Waiting if everyone => Standing::Admitted,
            other => other,
        };
        sqlx::query("UPDATE identities SET label = $1, standing = $2 WHERE account = $3")
            .bind(&identity.label)
            .bind(after.name())
            .bind(&account)
            .execute(&mut *transaction)
            .await?;
        if after != before {
            sqlx::query("UPDATE accounts SET admitted = 1 WHERE id = $1")
                .bind(&account)
                .execute(&mut *transaction)
                .await?;
            note(&mut transaction, &account, Action::AccountAdmitted, "everyone").await?;
        }
        // The settings may admit its address, whatever an operator said of the identity.
        let row = sqlx::query("SELECT admitted FROM accounts WHERE id = $1")
            .bind(&account)
            .fetch_one(&mut *transaction)
            .await?;
        let is_admitted = row.try_get::<i64, _>("admitted")? != 0;
        transaction.commit().await?;
        Ok((account, if is_admitted { Standing::Admitted } else { after }))
    }

    /// Gives an account the address that it has proven. An address belongs to one account, for good.
    pub(crate) async fn link_address(&self, account: &str, address: &str) -> Result<Linking> {
        let mut transaction = self.begin().await?;
        // Who paid or was given something is somebody: receipts and credits are in the name of an address that never signed in.
        let taken = sqlx::query(
            "SELECT 1 FROM accounts WHERE address = $1
             UNION ALL SELECT 1 FROM ledger_accounts a WHERE a.owner = $1 AND EXISTS
                 (SELECT 1 FROM legs l JOIN entries e ON e.seq = l.entry
                  WHERE l.account = a.id AND e.kind NOT IN ('sale', 'royalty', 'fee', 'use', 'refund', 'release'))
             UNION ALL SELECT 1 FROM ledger_accounts a JOIN holds h ON h.account = a.id WHERE a.owner = $1
             UNION ALL SELECT 1 FROM receipts WHERE payer = $1",
        )
        .bind(address)
        .fetch_optional(&mut *transaction)
        .await?;
        if taken.is_some() {
            return Ok(Linking::Taken);
        }
        let done = sqlx::query("UPDATE accounts SET address = $1 WHERE id = $2 AND address IS NULL")
            .bind(address)
            .bind(account)
            .execute(&mut *transaction)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(Linking::HasOne);
        }
        take_over(&mut transaction, address, account).await?;
        note(&mut transaction, account, Action::AddressLinked, address).await?;
        transaction.commit().await?;
        Ok(Linking::Linked)
    }

    /// Accounts that wait to be admitted, newest first, then those that are or were, oldest first.
    pub(crate) async fn accounts(&self) -> Result<Vec<AccountInfo>> {
        // Apart, or strangers who sign in once would push those out of the list whom somebody has admitted, or these them.
        let mut rows = Vec::new();
        for part in [WAITING, DECIDED] {
            let listed = sqlx::query(part).bind(MAX_LISTED);
            rows.extend(listed.fetch_all(&self.read).await?);
        }
        rows.iter().map(info).collect()
    }

    /// An account by its id or its address.
    pub(crate) async fn account(&self, named: &str) -> Result<Option<AccountInfo>> {
        let row = sqlx::query(
            "SELECT a.*, i.issuer, i.label, i.standing FROM accounts a
             LEFT JOIN identities i ON i.account = a.id WHERE a.id = $1 OR a.address = $1",
        )
        .bind(named)
        .fetch_optional(&self.read)
        .await?;
        row.as_ref().map(info).transpose()
    }

    /// Gives an account a role, for good; `by` is who says so.
    pub(crate) async fn set_role(&self, account: &str, role: Role, by: &str) -> Result<()> {
        let mut transaction = self.begin().await?;
        let done = sqlx::query("UPDATE accounts SET role = $1 WHERE id = $2 AND role <> $1")
            .bind(role.name())
            .bind(account)
            .execute(&mut *transaction)
            .await?;
        if done.rows_affected() == 1 {
            let what = format!("{account} {role}");
            note(&mut transaction, by, Action::RoleSet, &what).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Admits or dismisses who signs in at the provider with this issuer; false when the account has no such identity.
    pub(crate) async fn set_admitted(
        &self,
        (account, issuer): (&str, &str),
        admitted: bool,
        by: &str,
    ) -> Result<bool> {
        let (standing, action) = match admitted {
            true => (Standing::Admitted, Action::AccountAdmitted),
            false => (Standing::Dismissed, Action::AccountDismissed),
        };
        let mut transaction = self.begin().await?;
        let done = sqlx::query("UPDATE identities SET standing = $1 WHERE account = $2 AND issuer = $3")
            .bind(standing.name())
            .bind(account)
            .bind(issuer)
            .execute(&mut *transaction)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query("UPDATE accounts SET admitted = $1 WHERE id = $2")
            .bind(i64::from(admitted))
            .bind(account)
            .execute(&mut *transaction)
            .await?;
        note(&mut transaction, by, action, account).await?;
        transaction.commit().await?;
        // What a dismissed account has open is closed.
        self.tokens_ended();
        Ok(true)
    }
}

/// The id of the account that has this address; the address itself where none has.
pub(super) async fn account_of(transaction: &mut Connection, named: &str) -> Result<String> {
    let row = sqlx::query("SELECT id FROM accounts WHERE address = $1")
        .bind(named)
        .fetch_optional(transaction)
        .await?;
    match row {
        Some(row) => Ok(row.try_get("id")?),
        None => Ok(named.to_owned()),
    }
}

async fn make_account(transaction: &mut Connection, identity: &Identity) -> Result<String> {
    let account = format!("acct_{}", Uuid::new_v4().simple());
    sqlx::query("INSERT INTO accounts (id, operator, admitted, role, created) VALUES ($1, 0, 0, 'user', $2)")
        .bind(&account)
        .bind(seconds(unix_now()))
        .execute(&mut *transaction)
        .await?;
    sqlx::query(
        "INSERT INTO identities (issuer, subject, account, label, standing) VALUES ($1, $2, $3, $4, 'waiting')",
    )
    .bind(&identity.issuer)
    .bind(&identity.subject)
    .bind(&account)
    .bind(&identity.label)
    .execute(&mut *transaction)
    .await?;
    note(transaction, &account, Action::AccountMade, &identity.issuer).await?;
    Ok(account)
}

fn standing(row: &Row) -> Result<Standing> {
    let name = row.try_get::<&str, _>("standing")?;
    let found = Standing::ALL.into_iter().find(|standing| standing.name() == name);
    found.ok_or_else(|| corrupt("an identity's standing"))
}

fn info(row: &Row) -> Result<AccountInfo> {
    let role = row.try_get::<&str, _>("role")?.parse();
    let by_settings = row.try_get::<i64, _>("operator")? != 0;
    Ok(AccountInfo {
        account: row.try_get("id")?,
        address: row.try_get("address")?,
        role: match by_settings {
            true => Role::Operator,
            false => role.map_err(|_| corrupt("an account's role"))?,
        },
        by_settings,
        admitted: row.try_get::<i64, _>("admitted")? != 0,
        issuer: row.try_get("issuer")?,
        label: row.try_get("label")?,
        created: unsigned(row.try_get("created")?),
    })
}

#[cfg(test)]
mod tests {
    use alephlab_api::money::{Amount, Asset};

    use super::*;

    const ADA: &str = "0x00000000000000000000000000000000000000aD";
    const EVE: &str = "0x00000000000000000000000000000000000000eE";
    const FAY: &str = "0x00000000000000000000000000000000000000fA";
    const ISSUER: &str = "https://id.example";

    async fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        store
            .configure(ADA, &[1; 32], &[EVE.to_owned()], Some(ISSUER))
            .await
            .unwrap();
        (folder, store)
    }

    fn identity(subject: &str) -> Identity {
        Identity {
            issuer: ISSUER.to_owned(),
            subject: subject.to_owned(),
            label: format!("{subject} of example"),
        }
    }

    async fn signed_in(store: &Store, token: u8, account: &str) {
        let later = unix_now() + 1000;
        let (hash, who) = ([token; 32], (account, "oidc"));
        let added = store.add_token(&hash, who, Some("Firefox"), later);
        added.await.unwrap();
    }

    #[tokio::test]
    async fn an_identity_has_one_account_whatever_it_is_called() {
        let (_folder, store) = store().await;
        let (fay, standing) = store.identify(&identity("fay"), false).await.unwrap();
        assert!(fay.starts_with("acct_") && standing == Standing::Waiting, "{fay}");
        let renamed = Identity {
            label: "Fay".to_owned(),
            ..identity("fay")
        };
        assert_eq!(
            store.identify(&renamed, false).await.unwrap(),
            (fay.clone(), Standing::Waiting)
        );
        let other = Identity {
            issuer: "https://other.example".to_owned(),
            ..identity("fay")
        };
        let (other, _) = store.identify(&other, false).await.unwrap();
        assert_ne!(other, fay, "the same subject at another provider");
        let told = store.account(&fay).await.unwrap().unwrap();
        assert_eq!(
            (told.label.as_deref(), told.admitted, told.address),
            (Some("Fay"), false, None)
        );
    }

    #[tokio::test]
    async fn who_waits_opens_nothing_until_an_operator_admits_it() {
        let (_folder, store) = store().await;
        let (fay, _) = store.identify(&identity("fay"), false).await.unwrap();
        signed_in(&store, 2, &fay).await;
        let opens = async || store.bearer(&[2; 32]).await.unwrap().is_some();
        assert!(!opens().await);
        assert!(store.set_admitted((&fay, ISSUER), true, ADA).await.unwrap());
        assert!(opens().await);
        let again = async |issuer| {
            let configured = store.configure(ADA, &[1; 32], &[], issuer);
            configured.await.unwrap();
        };
        again(Some(ISSUER)).await;
        assert!(opens().await, "the next start knows it");
        again(Some("https://other.example")).await;
        assert!(!opens().await, "the provider is no longer asked");
        again(Some(ISSUER)).await;
        assert!(opens().await);
        assert!(store.set_admitted((&fay, ISSUER), false, ADA).await.unwrap());
        assert!(!opens().await);
        let (_, standing) = store.identify(&identity("fay"), true).await.unwrap();
        assert_eq!(standing, Standing::Dismissed, "also where everyone is admitted");
        let (_, standing) = store.identify(&identity("gus"), true).await.unwrap();
        assert_eq!(standing, Standing::Admitted);
        assert!(
            !store.set_admitted((EVE, ISSUER), false, ADA).await.unwrap(),
            "the settings admit it"
        );
    }

    #[tokio::test]
    async fn who_waits_is_listed_before_others_and_the_newest_of_them_first() {
        let (_folder, store) = store().await;
        for (subject, everyone, created) in [("fay", false, 10), ("hal", true, 5), ("gus", false, 20)] {
            let (account, _) = store.identify(&identity(subject), everyone).await.unwrap();
            sqlx::query("UPDATE accounts SET created = $1 WHERE id = $2")
                .bind(seconds(created))
                .bind(&account)
                .execute(&store.write)
                .await
                .unwrap();
        }
        let listed = store.accounts().await.unwrap();
        let labels: Vec<_> = listed.iter().map(|one| one.label.as_deref()).collect();
        assert_eq!(
            labels[..3],
            [
                Some("gus of example"),
                Some("fay of example"),
                Some("hal of example")
            ]
        );
        assert_eq!(labels.len(), 5, "and the two of the settings");
    }

    #[tokio::test]
    async fn an_address_belongs_to_one_account() {
        let (_folder, store) = store().await;
        let (fay, _) = store.identify(&identity("fay"), true).await.unwrap();
        let (gus, _) = store.identify(&identity("gus"), true).await.unwrap();
        for taken in [ADA, EVE] {
            assert_eq!(store.link_address(&fay, taken).await.unwrap(), Linking::Taken);
        }
        let gift = async |to: &str, key: &str| {
            let amount: Amount = "5".parse().unwrap();
            let given = store.credit((ADA, to), Asset::Credit, amount, key, "");
            given.await.unwrap();
        };
        let bob = "0x00000000000000000000000000000000000000b0";
        gift(bob, "1").await;
        assert_eq!(
            store.link_address(&fay, bob).await.unwrap(),
            Linking::Taken,
            "credits are in its name"
        );
        assert_eq!(store.link_address(&fay, FAY).await.unwrap(), Linking::Linked);
        assert_eq!(store.link_address(&gus, FAY).await.unwrap(), Linking::Taken);
        let second = "0x00000000000000000000000000000000000000F2";
        assert_eq!(store.link_address(&fay, second).await.unwrap(), Linking::HasOne);
        assert_eq!(store.admits(FAY).await.unwrap().as_deref(), Some(fay.as_str()));
        gift(FAY, "2").await;
        assert_eq!(
            store.balances(&fay).await.unwrap().len(),
            1,
            "it is the account's"
        );
        // Named by the settings at the next start, it is no second account.
        store.configure(FAY, &[9; 32], &[], Some(ISSUER)).await.unwrap();
        let bearer = store.bearer(&[9; 32]).await.unwrap().unwrap();
        assert_eq!((bearer.account.as_str(), bearer.operator), (fay.as_str(), true));
        assert_eq!(bearer.address.as_deref(), Some(FAY));
    }

    #[tokio::test]
    async fn a_role_lasts_and_the_settings_have_the_last_word_on_their_operator() {
        let (_folder, store) = store().await;
        signed_in(&store, 2, EVE).await;
        let operates = async || store.bearer(&[2; 32]).await.unwrap().unwrap().operator;
        assert!(!operates().await);
        store.set_role(EVE, Role::Operator, ADA).await.unwrap();
        assert!(operates().await);
        store
            .configure(ADA, &[1; 32], &[EVE.to_owned()], None)
            .await
            .unwrap();
        assert!(operates().await, "after the next start, too");
        store.set_role(EVE, Role::User, ADA).await.unwrap();
        assert!(!operates().await);
        let ada = store.account(ADA).await.unwrap().unwrap();
        assert_eq!((ada.role, ada.by_settings), (Role::Operator, true));
        let lines = store.audit_lines(0, 100).await.unwrap();
        let told: Vec<_> = lines.iter().map(|line| line.subject.as_str()).collect();
        assert_eq!(told, ["oidc", &format!("{EVE} operator"), &format!("{EVE} user")]);
    }

    #[tokio::test]
    async fn an_attempt_is_taken_once_by_the_browser_that_began_it() {
        let (_folder, store) = store().await;
        let attempt = Attempt {
            nonce: "n".to_owned(),
            verifier: "v".to_owned(),
            next: "/lab".to_owned(),
        };
        let later = unix_now() + 100;
        let (state, browser) = (&[1; 32], &[2; 32]);
        let add = async |state: &[u8; 32], expires| {
            let added = store.add_attempt((state, browser), &attempt, expires);
            added.await.unwrap();
        };
        add(state, later).await;
        let take = async |state, browser, now| store.take_attempt((state, browser), now).await.unwrap();
        assert_eq!(take(state, &[3; 32], later).await, None, "another browser's");
        assert_eq!(take(state, browser, later).await, Some(attempt.clone()));
        assert_eq!(take(state, browser, later).await, None);
        add(state, later).await;
        assert_eq!(take(state, browser, later + 1).await, None, "too late");
        for number in 0..=MAX_ATTEMPTS {
            let number = seconds(u64::MAX >> 1).wrapping_sub(number).to_be_bytes();
            let mut state = [0; 32];
            state[..8].copy_from_slice(&number);
            add(&state, later + 1).await;
        }
        let row = sqlx::query("SELECT count(*) AS n FROM oidc_attempts")
            .fetch_one(&store.read)
            .await;
        assert_eq!(row.unwrap().try_get::<i64, _>("n").unwrap(), MAX_ATTEMPTS);
    }
}
