//! `alephlab dataset`: encrypts and uploads folders, reads them back, and says who may.

mod mount;
mod readers;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use alephlab_vault::storage::CachedStorage;
use alephlab_vault::{Address, Forget, Meta, Progress, Reader, Revoke, SourceFile, walk};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::DataFlag;
use super::confirm::{Loss, confirm};
use super::share::parse_term;
use crate::account::Account;
use crate::datasets::{Found, Known, Library};
use crate::error::{CliError, Result};
use crate::progress::Reporter;
use crate::services;
use crate::settings::{self, Flags, Loaded};
use crate::stop::{self, or_stop};
use readers::{policy, requirements};

const LOSS: Loss = Loss {
    becomes: "be gone for good",
    done: "forgotten",
    verb: "forget",
};

/// Encrypt folders on this machine, upload them, and say who may read them.
///
/// NAME is a dataset of yours, OWNER/NAME one that OWNER has granted to you; @3 behind it names a version. In a notebook
/// the same words go into `mount("…")`. Storage nodes get sealed objects: they learn their number and sizes, when they came,
/// owner and readers, and until when each may read; no name and no content.
#[derive(Args)]
pub(crate) struct Dataset {
    #[command(flatten)]
    data: DataFlag,
    /// Name of the account whose keys are used [default: account.name].
    #[arg(long, value_name = "NAME", global = true)]
    account: Option<String>,
    /// Print JSON: one object, or one in each line of a list.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Encrypt a folder or a file and upload it, as a new dataset or the next version of one.
    Put {
        /// The folder, or one file.
        folder: PathBuf,
        /// What to call it [default: the name of the folder or file].
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// A sentence about it, sealed like the files.
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// Its licence, sealed like the files.
        #[arg(long, value_name = "SPDX")]
        licence: Option<String>,
    },
    /// List your datasets and those granted to you, or the files of one.
    Ls {
        /// The dataset.
        name: Option<String>,
    },
    /// Show what is known of a dataset.
    Show {
        /// The dataset.
        name: String,
    },
    /// Download and decrypt all files into a new folder.
    Get {
        /// The dataset.
        name: String,
        /// The folder, which must not be there yet [default: the dataset's name, here].
        folder: Option<PathBuf>,
    },
    /// Show it as a folder of this machine, whose files are fetched and decrypted as they are read, until Ctrl-C.
    Mount {
        /// The dataset.
        name: String,
        /// An empty folder, or one that is not there yet [default: the dataset's name, here].
        folder: Option<PathBuf>,
    },
    /// Fetch and check every byte, and keep none.
    Verify {
        /// The dataset.
        name: String,
    },
    /// Let another account read a dataset of yours: later versions, and earlier ones since somebody was last shut out.
    Grant {
        /// The dataset.
        name: String,
        /// Address of the account, which must have registered its key.
        reader: Address,
        /// How long, such as 12h or 30d; without end by default.
        #[arg(long, value_name = "TIME", value_parser = parse_term)]
        expires: Option<u64>,
        /// What a host must have before the dataset is opened there: a wall that `mounts()` names, or attested. Can be given
        /// more than once. For your own kernels, grant to your own address.
        #[arg(long, value_name = "WHAT", value_parser = clap::builder::PossibleValuesParser::new(requirements()))]
        require: Vec<String>,
        /// Longest time that a kernel has it at a time, such as 4h; 12h by default.
        #[arg(long, value_name = "TIME", value_parser = parse_term)]
        max_term: Option<u64>,
        /// Ask nothing of hosts any more. Without it a second grant asks what the first one asked.
        #[arg(long, conflicts_with_all = ["require", "max_term"])]
        any_host: bool,
    },
    /// Shut an account out; what it has read it can keep.
    Revoke {
        /// The dataset.
        name: String,
        /// Address of the account.
        reader: Address,
        /// Encrypt and upload everything anew, not only what is added from now on, and have older versions forgotten.
        #[arg(long)]
        eager: bool,
    },
    /// List who may read a dataset.
    Readers {
        /// The dataset.
        name: String,
    },
    /// List the versions of a dataset.
    Versions {
        /// The dataset.
        name: String,
    },
    /// Have the network forget a dataset of yours, and stop paying for it. Nobody can bring it back.
    Forget {
        /// The dataset.
        name: String,
        /// Only its older versions, and what only they use.
        #[arg(long)]
        older: bool,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

impl Dataset {
    /// Runs the action.
    pub(crate) async fn run(self) -> Result<()> {
        let stop = stop::on_signal()?;
        let loaded = settings::load(&Flags {
            account: self.account.clone(),
            ..self.data.flags()
        })?;
        if let Action::Mount { name, folder } = &self.action {
            let library = library(&loaded, Objects::Kept)?;
            let (found, reader) = or_stop(&stop, "opening the dataset", self.open(&library, name)).await?;
            return self.serve(&found, reader, folder.as_deref(), &stop).await;
        }
        let library = library(&loaded, Objects::Asked)?;
        let doing = match &self.action {
            Action::Put { .. } => "uploading the dataset",
            Action::Get { .. } => "downloading the dataset",
            Action::Verify { .. } => "checking the dataset",
            Action::Forget { .. } => "forgetting the dataset",
            _ => "asking the Aleph node",
        };
        or_stop(&stop, doing, self.act(&library)).await
    }

    async fn act(&self, library: &Library) -> Result<()> {
        match &self.action {
            Action::Put {
                folder,
                name,
                description,
                licence,
            } => {
                let meta = Meta {
                    description: description.clone(),
                    licence: licence.clone(),
                    ..Meta::default()
                };
                self.put(library, folder, name.as_deref(), meta).await
            }
            Action::Ls { name: None } => self.list(library).await,
            Action::Ls { name: Some(name) } => self.files(library, name).await,
            Action::Show { name } => self.show(library, name).await,
            Action::Get { name, folder } => self.get(library, name, folder.as_deref()).await,
            // Ends by a stop, not in spite of one.
            Action::Mount { .. } => Ok(()),
            Action::Verify { name } => self.verify(library, name).await,
            Action::Grant {
                name,
                reader,
                expires,
                require,
                max_term,
                any_host,
            } => {
                let policy = policy(require, *max_term, *any_host);
                self.grant(library, name, *reader, *expires, policy).await
            }
            Action::Revoke { name, reader, eager } => {
                let how = if *eager { Revoke::Eager } else { Revoke::Lazy };
                self.revoke(library, name, *reader, how).await
            }
            Action::Readers { name } => self.readers(library, name).await,
            Action::Versions { name } => self.versions(library, name).await,
            Action::Forget { name, older, yes } => {
                let what = if *older { Forget::Older } else { Forget::Everything };
                self.forget(library, name, what, *yes).await
            }
        }
    }

    async fn put(&self, library: &Library, folder: &Path, name: Option<&str>, mut meta: Meta) -> Result<()> {
        let name = match name {
            Some(name) => name.to_owned(),
            None => folder_name(folder)?,
        };
        meta.title = Some(name.clone());
        meta.created = Some(alephlab_api::time::unix_now());
        let files = walk(folder).map_err(|error| CliError::vault("the folder cannot be uploaded", &error))?;
        let reporter = Reporter::new();
        let known = library.has(&name).await?;
        let is_known = known == Known::Yes;
        if let Known::No { closed: closed @ 1.. } = known {
            reporter.line(&format!(
                "{closed} of this account's datasets do not open on this machine: should one of them be called {name}, a second \
                 begins now. Where it was published: alephlab dataset grant NAME {}",
                library.account.address()
            ));
        }
        if is_known && (meta.description.is_none() || meta.licence.is_none()) {
            // What is not said again stays.
            let (_, before) = self.open(library, &name).await?;
            meta.description = meta.description.or_else(|| before.meta().description.clone());
            meta.licence = meta.licence.or_else(|| before.meta().licence.clone());
        }
        let sizes = files
            .iter()
            .map(SourceFile::size)
            .collect::<std::result::Result<Vec<u64>, _>>();
        let sizes = sizes.map_err(|error| CliError::vault("the folder cannot be uploaded", &error))?;
        let price = library.price(&sizes).await?;
        if let Some(price) = &price {
            reporter.line(&format!("price: {price}"));
            // Of a next version most is stored already: there the node decides.
            if !is_known {
                price.check(&library.account.address())?;
            }
        }
        let phase = reporter.phase(
            "dataset",
            &format!(
                "encrypting {} of {}",
                counted(files.len() as u64, "entry", "entries"),
                folder.display()
            ),
        );
        let pace = Pace::new();
        let shown = |step: Progress| phase.progress(step.done, step.total, &pace.text(&step));
        let put = library.put(&name, files, meta, &shown).await?;
        phase.finish(&match put.unchanged {
            true => format!("version {} is already on the Aleph node", put.version),
            false => format!(
                "version {} uploaded: {} bytes encrypted",
                put.version, put.uploaded
            ),
        });
        self.print(
            &json!({ "name": name, "dataset_id": put.dataset_id.to_string(), "version": put.version, "files": put.files,
                "bytes": put.bytes, "uploaded": put.uploaded, "unchanged": put.unchanged,
                "credits_per_hour": price.map(|price| price.credits_per_hour) }),
            &format!(
                "{name} version {}: {}, {} bytes",
                put.version,
                counted(put.files, "file", "files"),
                put.bytes
            ),
        );
        Ok(())
    }

    async fn list(&self, library: &Library) -> Result<()> {
        for found in library.all().await? {
            let head = &found.head.head;
            self.print(
                &described(&found),
                &format!("{}  version {}", found.name, head.version),
            );
        }
        Ok(())
    }

    async fn files(&self, library: &Library, name: &str) -> Result<()> {
        let (_, reader) = self.open(library, name).await?;
        for entry in reader.entries() {
            let mark = if entry.is_file() { "" } else { "/" };
            self.print(
                &json!({ "path": entry.path, "size": entry.size, "mime": entry.mime, "is_file": entry.is_file(),
                    "sha256": entry.is_file().then(|| hex::encode(entry.sha256)), "mtime": entry.mtime }),
                &format!("{:>12}  {}{mark}", entry.size, entry.path),
            );
        }
        Ok(())
    }

    async fn show(&self, library: &Library, name: &str) -> Result<()> {
        let (found, reader) = self.open(library, name).await?;
        let mut all = described(&found);
        let meta = reader.meta();
        let facts = [
            ("title", json!(meta.title)),
            ("description", json!(meta.description)),
            ("licence", json!(meta.licence)),
            ("files", json!(reader.files())),
            ("bytes", json!(reader.bytes())),
        ];
        for (key, value) in facts {
            all[key] = value;
        }
        if self.json {
            println!("{all}");
            return Ok(());
        }
        for (key, value) in all.as_object().into_iter().flatten() {
            match value {
                Value::Null => {}
                Value::String(text) => println!("{key:<12} {text}"),
                other => println!("{key:<12} {other}"),
            }
        }
        Ok(())
    }

    async fn get(&self, library: &Library, name: &str, folder: Option<&Path>) -> Result<()> {
        let (found, reader) = self.open(library, name).await?;
        let plain = found.name.rsplit('/').next().unwrap_or(&found.name);
        let folder = folder.map_or_else(|| PathBuf::from(plain), Path::to_owned);
        if folder.exists() {
            return Err(CliError::Usage {
                message: format!("{} is there already", folder.display()),
                hint: "name a folder that is not: nothing is overwritten".to_owned(),
            });
        }
        let reporter = Reporter::new();
        let phase = reporter.phase("dataset", &format!("downloading {} bytes", reader.bytes()));
        let mut shown = |done, total| phase.progress(done, total, "download");
        let got = reader.extract_to(&folder, &mut shown).await;
        got.map_err(|error| CliError::vault("the dataset was not downloaded whole", &error))?;
        let files = counted(reader.files(), "file", "files");
        phase.finish(&format!("{files} in {}", folder.display()));
        self.print(
            &json!({ "name": found.name, "version": found.head.head.version, "folder": folder, "files": reader.files(),
                "bytes": reader.bytes() }),
            &format!("{}", folder.display()),
        );
        Ok(())
    }

    async fn verify(&self, library: &Library, name: &str) -> Result<()> {
        let (found, reader) = self.open(library, name).await?;
        let reporter = Reporter::new();
        let phase = reporter.phase("dataset", &format!("checking {} bytes", reader.bytes()));
        let mut shown = |done, total| phase.progress(done, total, "check");
        let whole = reader.verify(&mut shown).await;
        whole.map_err(|error| CliError::vault("the dataset is not whole", &error))?;
        phase.finish(&format!(
            "{} whole",
            counted(reader.files(), "file is", "files are")
        ));
        self.print(
            &json!({ "name": found.name, "version": found.head.head.version, "files": reader.files(), "bytes": reader.bytes(),
                "whole": true }),
            &format!("{} version {}: all {} bytes are what was sealed", found.name, found.head.head.version, reader.bytes()),
        );
        Ok(())
    }

    async fn versions(&self, library: &Library, name: &str) -> Result<()> {
        let found = library.find(name).await?;
        for head in &found.history {
            let created = alephlab_api::time::hub(head.head.created);
            self.print(
                &json!({ "version": head.head.version, "epoch": head.head.epoch, "created": head.head.created,
                    "revision": head.revision() }),
                &format!("{:>4}  {created}  {}", head.head.version, head.revision()),
            );
        }
        Ok(())
    }

    async fn forget(&self, library: &Library, name: &str, what: Forget, yes: bool) -> Result<()> {
        let found = library.find(name).await?;
        let of = match what {
            Forget::Everything => format!("all {} versions of {name}", found.history.len()),
            Forget::Older => format!("the versions of {name} before {}", found.head.head.version),
        };
        if !yes {
            confirm(&of, name, &LOSS)?;
        }
        let reporter = Reporter::new();
        let phase = reporter.phase("dataset", &format!("forgetting {of}"));
        let shown = |done, total| phase.progress(done, total, "objects");
        let done = library.forget(&found, what, &shown).await?;
        phase.finish(&format!("{} versions, {} objects", done.versions, done.objects));
        for version in &done.unopened {
            reporter.line(&format!("version {version} stays: this machine has no grant that opens it, and so does not know its objects"));
        }
        self.print(
            &json!({ "name": name, "versions": done.versions, "objects": done.objects, "unopened": done.unopened }),
            &format!(
                "{} versions and {} objects are forgotten; nodes delete them after a while, and what somebody has copied \
                 stays theirs",
                done.versions, done.objects
            ),
        );
        Ok(())
    }

    async fn open(&self, library: &Library, name: &str) -> Result<(Found, Reader)> {
        let found = library.find(name).await?;
        let (reader, _) = library.open(&found).await?;
        Ok((found, reader))
    }

    fn print(&self, json: &Value, text: &str) {
        if self.json {
            println!("{json}");
        } else {
            println!("{text}");
        }
    }
}

/// How fast an upload is, and how long it will take.
struct Pace {
    started: Instant,
}

impl Pace {
    fn new() -> Self {
        Self {
            started: Instant::now(),
        }
    }

    fn text(&self, step: &Progress) -> String {
        let seconds = self.started.elapsed().as_secs();
        let rate = step.done.checked_div(seconds).filter(|rate| *rate > 0);
        match (step.unit, rate) {
            ("bytes", Some(rate)) => {
                let left = step.total.saturating_sub(step.done) / rate;
                format!("{}, {} kB/s, {left} s left", step.phase, rate / 1_000)
            }
            _ => step.phase.to_owned(),
        }
    }
}

/// Where objects come from.
#[derive(Clone, Copy, PartialEq)]
enum Objects {
    /// Nodes, each time: what is read once, or checked, is not worth the disk.
    Asked,
    /// The folder of what was read before, then nodes.
    Kept,
}

/// The account and the node of the settings, or the one that a running `alephlab up` has started.
fn library(loaded: &Loaded, objects: Objects) -> Result<Library> {
    let data = loaded.data();
    let account = Arc::new(Account::open(&data, &loaded.settings.account.name)?);
    let mut storage = services::node_in_use(loaded, &data)?;
    if objects == Objects::Kept
        && let Some(cache) = loaded.settings.aleph.cache(&data)
    {
        storage = CachedStorage::over(storage, &cache.folder, cache.bytes_max);
    }
    Ok(Library::new(account, storage))
}

/// So many, in words.
fn counted(count: u64, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

fn described(found: &Found) -> Value {
    let head = &found.head.head;
    json!({ "name": found.name, "dataset_id": head.dataset_id.to_string(), "owner": head.owner.to_string(),
        "version": head.version, "epoch": head.epoch, "created": head.created, "revision": found.head.revision(),
        "message": found.message })
}

fn folder_name(folder: &Path) -> Result<String> {
    let whole = std::fs::canonicalize(folder).map_err(|source| CliError::file("read", folder, source))?;
    let name = whole.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| CliError::Usage {
        message: format!("{} has no name that a dataset could have", folder.display()),
        hint: "choose one with --name".to_owned(),
    })
}
