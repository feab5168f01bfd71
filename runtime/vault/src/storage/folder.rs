//! Storage in a folder: `objects/HASH` and `messages/HASH.json`. For tests, exchange with other programs and
//! machines without a network.

use super::{BoxFuture, PostQuery, Storage, StoredPost, absent, check_store, shelf};
use crate::message::SignedMessage;
use crate::source::io;
use crate::{Result, VaultError};
use bytes::Bytes;
use serde_json::Value;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Objects and messages as files.
pub struct FolderStorage {
    objects: PathBuf,
    messages: PathBuf,
}

impl FolderStorage {
    /// Uses `folder`, making it when it does not exist.
    ///
    /// # Errors
    /// `E_IO` when it can not be made.
    pub fn new(folder: &Path) -> Result<Self> {
        let (objects, messages) = (folder.join("objects"), folder.join("messages"));
        std::fs::create_dir_all(&objects).map_err(io("make the folder", &objects))?;
        std::fs::create_dir_all(&messages).map_err(io("make the folder", &messages))?;
        Ok(Self { objects, messages })
    }

    fn object(&self, item_hash: &str) -> Result<PathBuf> {
        // Names come from outside; only hashes become file names.
        if !item_hash.is_empty() && item_hash.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Ok(self.objects.join(item_hash));
        }
        Err(VaultError::Malformed {
            what: "the item hash",
            reason: "it has other than letters and digits".into(),
        })
    }

    async fn save(&self, message: &SignedMessage) -> Result<()> {
        let path = self.messages.join(format!("{}.json", message.item_hash()));
        write(&path, message.value().to_string().into()).await
    }

    async fn messages(&self) -> Result<Vec<SignedMessage>> {
        let folder = self.messages.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut found = Vec::new();
            for item in std::fs::read_dir(&folder).map_err(io("read the folder", &folder))? {
                let path = item.map_err(io("read the folder", &folder))?.path();
                if path.extension().is_some_and(|ending| ending == "json") {
                    found.push(read_message(&path)?);
                }
            }
            Ok(found)
        });
        read.await.map_err(|error| VaultError::Stopped {
            reason: error.to_string(),
        })?
    }
}

fn read_message(path: &Path) -> Result<SignedMessage> {
    let text = std::fs::read_to_string(path).map_err(io("read", path))?;
    let value = serde_json::from_str(&text).map_err(|error| VaultError::Message {
        message: path.display().to_string(),
        reason: error.to_string(),
    })?;
    SignedMessage::from_value(value)
}

async fn remove(path: &Path) -> Result<()> {
    match tokio::fs::remove_file(path).await {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Writes a whole file or none.
async fn write(path: &Path, bytes: Bytes) -> Result<()> {
    let partial = path.with_extension("partial");
    tokio::fs::write(&partial, &bytes)
        .await
        .map_err(io("write", &partial))?;
    tokio::fs::rename(&partial, path).await.map_err(io("write", path))
}

impl Storage for FolderStorage {
    fn put<'a>(&'a self, bytes: Bytes, store: &'a SignedMessage) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let name = check_store(&bytes, store)?;
            write(&self.object(&name)?, bytes).await?;
            self.save(store).await
        })
    }

    fn get<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Bytes> {
        Box::pin(async move {
            let path = self.object(item_hash)?;
            match tokio::fs::read(&path).await {
                Ok(bytes) => Ok(bytes.into()),
                Err(error) if error.kind() == ErrorKind::NotFound => Err(absent(item_hash)),
                Err(error) => Err(io("read", &path)(error)),
            }
        })
    }

    fn stores<'a>(&'a self, owner: &'a str, objects: &'a [String]) -> BoxFuture<'a, Vec<SignedMessage>> {
        Box::pin(async move { Ok(shelf::stores(&self.messages().await?, owner, objects)) })
    }

    fn publish<'a>(&'a self, message: &'a SignedMessage) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            message.verify()?;
            let forgets = !message.forgets().is_empty();
            let known = if forgets {
                self.messages().await?
            } else {
                Vec::new()
            };
            let (messages, objects) = shelf::forgotten(&known, message);
            for hash in messages {
                remove(&self.messages.join(format!("{hash}.json"))).await?;
            }
            for name in objects {
                remove(&self.object(&name)?).await?;
            }
            self.save(message).await
        })
    }

    fn post<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Option<StoredPost>> {
        Box::pin(async move {
            let found = self
                .messages()
                .await?
                .into_iter()
                .find(|message| message.item_hash() == item_hash);
            found
                .map(|message| StoredPost::from_message(&message))
                .transpose()
        })
    }

    fn posts<'a>(&'a self, query: PostQuery) -> BoxFuture<'a, Vec<StoredPost>> {
        Box::pin(async move { Ok(shelf::posts(&self.messages().await?, &query)) })
    }

    fn aggregate<'a>(&'a self, address: &'a str, key: &'a str) -> BoxFuture<'a, Option<Value>> {
        Box::pin(async move { shelf::aggregate(&self.messages().await?, address, key) })
    }
}
