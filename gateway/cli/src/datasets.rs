//! Datasets by the names that people use: what a reference means, and what is done with it on this machine.
//!
//! `NAME` is one of this account's own, `OWNER/NAME` another account's that was granted to it, both also by dataset id;
//! `@3` behind it names a version. Names of own datasets are kept on each machine; what another machine has published, and what another
//! owner has granted, is known by its title, which is sealed, so it is looked for. Used by `alephlab dataset` and by `keys`.

mod elsewhere;

use std::sync::Arc;

use alephlab_vault::storage::Storage;
use alephlab_vault::{
    Address, DatasetId, Forget, Forgotten, GrantTerms, Granted, Keys, Meta, Progress, Put, PutOutcome,
    Reader, Revoke, Revoking, SeenHeads, SignedHead, SourceFile, Trust, find_grant, find_head,
    forget_dataset, grant_dataset, granted_to, grants_of, heads_of, put_resumable, register_reader_key,
    revoke_reader,
};

use crate::account::Account;
use crate::error::{CliError, Result};
use crate::keys::{Books, DatasetEntry};
use crate::price::{OBJECT_BYTES, Price};

/// What the name of a dataset may hold: it is typed into cells and commands.
const NAME_CHARS_MAX: usize = 96;

/// What somebody wrote to name a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// None for the account's own.
    pub(crate) owner: Option<Address>,
    /// A name or a dataset id.
    pub(crate) name: String,
    /// The newest when none is named.
    pub(crate) version: Option<u64>,
}

impl Reference {
    /// Of `[OWNER/]NAME[@VERSION]`; none when it has another form.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (full, version) = match text.split_once('@') {
            Some((full, version)) => (full, Some(version.parse().ok().filter(|version| *version > 0)?)),
            None => (text, None),
        };
        let (owner, name) = match full.split_once('/') {
            Some((owner, name)) => (Some(owner.parse().ok()?), name),
            None => (None, full),
        };
        (!name.is_empty()).then(|| Self {
            owner,
            name: name.to_owned(),
            version,
        })
    }
}

/// Whether a name is that of an own dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    Yes,
    /// Not of one that opens here; so many do not, and their names are not known.
    No {
        closed: usize,
    },
}

/// A version of a dataset that was found.
pub(crate) struct Found {
    /// As a person writes it.
    pub(crate) name: String,
    pub(crate) head: SignedHead,
    /// Item hash of the head's message.
    pub(crate) message: String,
    /// All heads of the dataset by version.
    pub(crate) history: Vec<SignedHead>,
}

/// One account's view of the datasets on a node.
pub(crate) struct Library {
    pub(crate) account: Arc<Account>,
    pub(crate) storage: Arc<dyn Storage>,
    books: Books,
}

fn fail(what: &'static str) -> impl Fn(alephlab_vault::VaultError) -> CliError {
    move |error| CliError::vault(what, &error)
}

const NOT_FOUND: &str = "the dataset was not found";

impl Library {
    pub(crate) fn new(account: Arc<Account>, storage: Arc<dyn Storage>) -> Self {
        let books = Books::of(&account);
        Self {
            account,
            storage,
            books,
        }
    }

    /// Finds what a person wrote.
    pub(crate) async fn find(&self, text: &str) -> Result<Found> {
        let reference = Reference::parse(text).ok_or_else(|| CliError::Usage {
            message: format!("{text:?} names no dataset"),
            hint: "write NAME, OWNER/NAME or either with @VERSION".to_owned(),
        })?;
        let own = self.account.wallet().owner();
        let owner = reference.owner.unwrap_or(own);
        let id = if owner == own {
            self.own(&reference.name).await?
        } else {
            let found = find_granted(&self.storage, &self.account, owner, &reference.name).await?;
            found.0
        };
        let name = if owner == own {
            reference.name.clone()
        } else {
            format!("{owner}/{}", reference.name)
        };
        self.version(name, owner, id, reference.version).await
    }

    async fn version(
        &self,
        name: String,
        owner: Address,
        id: DatasetId,
        version: Option<u64>,
    ) -> Result<Found> {
        let owner = owner.to_string();
        let missing = |what: String| CliError::Usage {
            message: format!("{what} was not found on the Aleph node"),
            hint: "check aleph.url, or put it again".to_owned(),
        };
        let history = heads_of(&*self.storage, &owner, &id)
            .await
            .map_err(fail(NOT_FOUND))?;
        let (head, message) = match version {
            Some(version) => {
                let found = history.iter().find(|(head, _)| head.head.version == version);
                found
                    .cloned()
                    .ok_or_else(|| missing(format!("version {version} of {name}")))?
            }
            None => find_head(&*self.storage, &owner, &id)
                .await
                .map_err(fail(NOT_FOUND))?
                .ok_or_else(|| missing(name.clone()))?,
        };
        Ok(Found {
            name,
            head,
            message,
            history: history.into_iter().map(|(head, _)| head).collect(),
        })
    }

    async fn own(&self, name: &str) -> Result<DatasetId> {
        let here = || {
            let all = self.books.datasets()?;
            let by_id = || {
                all.values()
                    .find(|entry| entry.dataset_id.eq_ignore_ascii_case(name))
            };
            Ok::<_, CliError>(all.get(name).or_else(by_id).cloned())
        };
        let mut entry = here()?;
        if entry.is_none() {
            self.learn().await?;
            entry = here()?;
        }
        let entry = entry.ok_or_else(|| CliError::Usage {
            message: format!(
                "the account {} has no dataset called {name:?}",
                self.account.name()
            ),
            hint: "`alephlab dataset ls` lists them; another account's is OWNER/NAME".to_owned(),
        })?;
        entry.dataset_id.parse().map_err(fail(NOT_FOUND))
    }

    /// Whether this account has a dataset of that name, here or published by another machine of it.
    pub(crate) async fn has(&self, name: &str) -> Result<Known> {
        let closed = self.learn_unless_named(name).await?;
        Ok(match self.books.datasets()?.contains_key(name) {
            true => Known::Yes,
            false => Known::No { closed },
        })
    }

    /// Opens a version with this account's grant. The newest one is checked against what was seen before.
    pub(crate) async fn open(&self, found: &Found) -> Result<(Reader, Trust)> {
        let what = fail("the dataset was not opened");
        let is_newest = found
            .history
            .last()
            .is_some_and(|newest| newest.hash() == found.head.hash());
        let trust = if is_newest {
            self.see(&found.head, &found.history)?
        } else {
            Trust::Known
        };
        let secret = find_grant(&*self.storage, &found.head, self.account.reader())
            .await
            .map_err(&what)?;
        let reader = Reader::open(Arc::clone(&self.storage), &found.head, Keys::Epoch(secret)).await;
        Ok((reader.map_err(&what)?, trust))
    }

    /// Checks a newest version against what was seen before, and remembers it.
    fn see(&self, head: &SignedHead, history: &[SignedHead]) -> Result<Trust> {
        let what = fail("the dataset's newest version is not accepted");
        let (path, _lock) = self.books.seen()?;
        let mut seen = SeenHeads::load(path).map_err(&what)?;
        seen.accept(head, history).map_err(&what)
    }

    /// What storing files of these sizes costs at most; none where nothing is paid. Each object is paid for by itself, and
    /// as if it were full.
    pub(crate) async fn price(&self, sizes: &[u64]) -> Result<Option<Price>> {
        let quote = self.storage.quote(self.account.wallet(), OBJECT_BYTES).await;
        let quote = quote.map_err(fail("the price of storage is not known"))?;
        Ok(quote.map(|quote| Price::of(sizes, quote)))
    }

    /// The newest version of an own dataset with its message's hash, checked against what was seen before; none when there is no
    /// such dataset, or when its first version is on its way and `may_be_begun`.
    pub(crate) async fn newest(
        &self,
        name: &str,
        may_be_begun: bool,
    ) -> Result<Option<(SignedHead, String)>> {
        self.learn_unless_named(name).await?;
        let all = self.books.datasets()?;
        let Some(entry) = all.get(name) else {
            return Ok(None);
        };
        let id = entry.dataset_id.parse().map_err(fail(NOT_FOUND))?;
        let found = find_head(&*self.storage, &self.account.address(), &id)
            .await
            .map_err(fail(NOT_FOUND))?;
        match &found {
            Some((head, _)) => drop(self.see(head, &history(&*self.storage, head).await?)?),
            None if may_be_begun => {}
            // It was published once, here or on another node, or its first upload was cut.
            None => {
                return Err(CliError::Usage {
                    message: format!(
                        "this Aleph node does not know the dataset {name} that this account has"
                    ),
                    hint: "check aleph.url; finish an upload that was cut, by `alephlab dataset put` or from a notebook as it was begun; to begin a new \
                           dataset choose another name"
                        .to_owned(),
                });
            }
        }
        Ok(found)
    }

    /// Uploads files as the next version of the dataset `name`, or as its first.
    pub(crate) async fn put(
        &self,
        name: &str,
        files: Vec<SourceFile>,
        meta: Meta,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<PutOutcome> {
        check_name(name)?;
        let what = fail("the dataset was not uploaded");
        let (wallet, reader) = (self.account.wallet(), self.account.reader());
        register_reader_key(&*self.storage, wallet, reader)
            .await
            .map_err(&what)?;
        let journal = self.account.upload_journal(name)?;
        let previous = self.newest(name, journal.exists()).await?;
        let (books, own_name) = (self.books.clone(), name.to_owned());
        let known = move |id: &DatasetId| {
            let dataset_id = id.to_string();
            let noted = books.set_dataset(&own_name, DatasetEntry { dataset_id });
            noted.map_err(|error| alephlab_vault::VaultError::Stopped {
                reason: error.to_string(),
            })
        };
        let put = Put {
            files,
            meta,
            previous,
            journal: Some(journal),
            known: Some(Box::new(known)),
        };
        let storage = Arc::clone(&self.storage);
        let put = put_resumable(storage, wallet, reader, put, progress)
            .await
            .map_err(&what)?;
        self.see(&put.head, &history(&*self.storage, &put.head).await?)?;
        Ok(put)
    }

    /// Lets an account read.
    pub(crate) async fn grant(&self, found: &Found, reader: Address, terms: GrantTerms) -> Result<()> {
        let (wallet, key) = (self.owners_wallet(found)?, self.account.reader());
        let granted = grant_dataset(&*self.storage, wallet, key, &found.head, reader, terms).await;
        granted.map(drop).map_err(fail("nothing was granted"))
    }

    /// Shuts an account out.
    pub(crate) async fn revoke(
        &self,
        found: &Found,
        reader: Address,
        how: Revoke,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<PutOutcome> {
        let (wallet, key) = (self.owners_wallet(found)?, self.account.reader());
        if reader == wallet.owner() {
            return Err(CliError::Usage {
                message: "the owner cannot be shut out of their own dataset".to_owned(),
                hint: "name another account".to_owned(),
            });
        }
        let revoking = Revoking {
            previous: found.head.clone(),
            reader,
            how,
            journal: Some(self.account.upload_journal(&self.own_name(found)?)?),
        };
        let storage = Arc::clone(&self.storage);
        let revoked = revoke_reader(storage, wallet, key, revoking, progress).await;
        let put = revoked.map_err(fail("the revocation is not finished"))?;
        self.see(&put.head, &history(&*self.storage, &put.head).await?)?;
        Ok(put)
    }

    /// Has the network forget a dataset, or its older versions.
    pub(crate) async fn forget(
        &self,
        found: &Found,
        what: Forget,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<Forgotten> {
        let (wallet, key) = (self.owners_wallet(found)?, self.account.reader());
        let forgotten = forget_dataset(&self.storage, wallet, key, &found.head, what, progress).await;
        let forgotten = forgotten.map_err(fail("not everything is forgotten: run it again"))?;
        if what == Forget::Everything && forgotten.unopened.is_empty() {
            self.books.remove_dataset(&self.own_name(found)?)?;
        }
        Ok(forgotten)
    }

    /// What this account calls a dataset of its own.
    fn own_name(&self, found: &Found) -> Result<String> {
        let id = found.head.head.dataset_id.to_string();
        let all = self.books.datasets()?;
        let name = all
            .into_iter()
            .find(|(_, entry)| entry.dataset_id.eq_ignore_ascii_case(&id));
        Ok(name.map_or(id, |(name, _)| name))
    }

    /// All grants of a dataset.
    pub(crate) async fn readers(&self, found: &Found) -> Result<Vec<Granted>> {
        grants_of(&*self.storage, &found.head)
            .await
            .map_err(fail("the readers were not found"))
    }

    /// Own datasets by name, then what others have granted, by owner and title. A granted one that does not open any more
    /// is left out.
    pub(crate) async fn all(&self) -> Result<Vec<Found>> {
        let own = self.account.wallet().owner();
        self.learn().await?;
        let mut all = Vec::new();
        for (name, entry) in self.books.datasets()? {
            let id = entry.dataset_id.parse().map_err(fail(NOT_FOUND))?;
            // A name whose dataset this node does not know: another node's.
            all.extend(self.version(name, own, id, None).await.ok());
        }
        for (id, owner) in granted_to(&*self.storage, own).await.map_err(fail(NOT_FOUND))? {
            let Ok(mut found) = self.version(format!("{owner}/{id}"), owner, id, None).await else {
                continue;
            };
            let title = title_of(&self.storage, &self.account, &found.head).await;
            if let Ok(title) = title {
                found.name = format!("{owner}/{}", title.unwrap_or_else(|| id.to_string()));
                all.push(found);
            }
        }
        Ok(all)
    }

    fn owners_wallet(&self, found: &Found) -> Result<&alephlab_vault::Wallet> {
        let wallet = self.account.wallet();
        if found.head.head.owner == wallet.owner() {
            // What is granted and ended is the newest version's, whatever was read before.
            let newest = found.history.last();
            if newest.is_some_and(|newest| newest.hash() == found.head.hash()) {
                self.see(&found.head, &found.history)?;
                return Ok(wallet);
            }
            return Err(CliError::Usage {
                message: format!(
                    "{} is not the newest version, for which this is decided",
                    found.name
                ),
                hint: "leave out the @VERSION".to_owned(),
            });
        }
        Err(CliError::Usage {
            message: format!(
                "{} belongs to {}, who alone decides who reads it",
                found.name, found.head.head.owner
            ),
            hint: "ask the owner".to_owned(),
        })
    }
}

/// The dataset of another account that this one was granted, by its title or id.
pub(crate) async fn find_granted(
    storage: &Arc<dyn Storage>,
    account: &Account,
    owner: Address,
    name: &str,
) -> Result<(DatasetId, Option<String>)> {
    let reader = account.wallet().owner();
    let granted = granted_to(&**storage, reader).await.map_err(fail(NOT_FOUND))?;
    let mut ids: Vec<DatasetId> = granted
        .into_iter()
        .filter(|(_, sender)| *sender == owner)
        .map(|(id, _)| id)
        .collect();
    if let Ok(id) = name.parse::<DatasetId>() {
        ids.retain(|granted| *granted == id);
        let id = ids.pop().ok_or_else(|| not_granted(account, owner, name, None))?;
        // Said when it is opened, if it does not open.
        let title = titled(storage, account, owner, id).await.unwrap_or_default();
        return Ok((id, title));
    }
    let mut found = Vec::new();
    let mut failure = None;
    for id in ids {
        match titled(storage, account, owner, id).await {
            Ok(title) if title.as_deref() == Some(name) => found.push((id, title)),
            Ok(_) => {}
            Err(error) => failure = Some(error),
        }
    }
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        (Some(_), false) => Err(CliError::Usage {
            message: format!("{owner} has granted several datasets called {name:?}"),
            hint: "name it by its id: `alephlab dataset ls --json`".to_owned(),
        }),
        (None, _) => Err(not_granted(account, owner, name, failure.as_ref())),
    }
}

/// `failure` is why one that was granted, and whose name is not known therefore, does not open.
fn not_granted(account: &Account, owner: Address, name: &str, failure: Option<&CliError>) -> CliError {
    let (reader, address) = (account.name(), account.address());
    let but = failure.map_or_else(String::new, |failure| format!("; one does not open: {failure}"));
    CliError::Usage {
        message: format!(
            "{owner} has granted no dataset called {name:?} to the account {reader} ({address}){but}"
        ),
        hint: format!("ask them to run `alephlab dataset grant NAME {address}`"),
    }
}

/// All heads of a dataset.
async fn history(storage: &dyn Storage, head: &SignedHead) -> Result<Vec<SignedHead>> {
    let heads = heads_of(storage, &head.head.owner.to_string(), &head.head.dataset_id).await;
    let heads = heads.map_err(fail(NOT_FOUND))?;
    Ok(heads.into_iter().map(|(head, _)| head).collect())
}

async fn titled(
    storage: &Arc<dyn Storage>,
    account: &Account,
    owner: Address,
    id: DatasetId,
) -> Result<Option<String>> {
    let newest = find_head(&**storage, &owner.to_string(), &id)
        .await
        .map_err(fail(NOT_FOUND))?;
    match newest {
        Some((head, _)) => title_of(storage, account, &head).await,
        None => Ok(None),
    }
}

/// The sealed title of a version that this account can open.
async fn title_of(
    storage: &Arc<dyn Storage>,
    account: &Account,
    head: &SignedHead,
) -> Result<Option<String>> {
    let what = fail("a granted dataset was not opened");
    let secret = find_grant(&**storage, head, account.reader())
        .await
        .map_err(&what)?;
    let reader = Reader::open(Arc::clone(storage), head, Keys::Epoch(secret)).await;
    Ok(reader.map_err(&what)?.meta().title.clone())
}

pub(crate) fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && name.chars().count() <= NAME_CHARS_MAX && name.chars().all(plain) {
        return Ok(());
    }
    Err(CliError::Usage {
        message: format!("{name:?} cannot be the name of a dataset"),
        hint: format!("use at most {NAME_CHARS_MAX} letters, digits, dots, hyphens and underscores"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_name_owner_and_version() {
        let owner = "0x1111111111111111111111111111111111111111";
        let parsed = Reference::parse(&format!("{owner}/digits@3")).unwrap();
        assert_eq!(
            (parsed.owner, parsed.name.as_str(), parsed.version),
            (owner.parse().ok(), "digits", Some(3))
        );
        let parsed = Reference::parse("digits").unwrap();
        assert_eq!((parsed.owner, parsed.version), (None, None));
        for wrong in [
            "",
            "@1",
            "digits@",
            "digits@0",
            "digits@main",
            "someone/digits",
            "/digits",
        ] {
            assert_eq!(Reference::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_can_be_typed() {
        for name in ["digits", "Größen-2026.v1", "a_b"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "a b", "a/b", "a@1", "\n", &"a".repeat(97)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
