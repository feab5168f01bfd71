//! Having a revision opened for a client that does not wait long: the question goes on without it, and a client that comes again
//! finds the answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alephlab_api::Problem;
use alephlab_api::broker::Event;
use alephlab_registry::RegistryError;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::readers::{Audience, Held};
use crate::report::Report;
use crate::{Broker, BrokerError};

/// Longest that a client waits: `huggingface_hub` gives up after 10 s.
const WAIT: Duration = Duration::from_secs(8);
/// How long a refusal stands before the owner's machine is asked again.
const REFUSED: Duration = Duration::from_secs(3);
/// Questions at a time: a client may name whatever it likes, and each may have a person asked.
const MOST: usize = 16;

/// Where a question is.
#[derive(Clone)]
enum Stage {
    /// It is asked; what a person has to do, if one has to.
    Asked(Option<String>),
    Opened(Arc<Held>),
    /// The owner's machine said no.
    Refused(Problem),
    /// It could not be asked, or what was answered does not open.
    Failed(Problem),
}

/// Questions that are asked, and refusals of a moment ago, by what was named.
#[derive(Default)]
pub(super) struct Questions(Arc<Mutex<HashMap<String, Asked>>>);

struct Asked {
    stage: watch::Receiver<Stage>,
    since: Instant,
}

/// What came of a question.
pub(super) enum Opened {
    Open(Arc<Held>),
    /// In the words of the owner's machine.
    Refused(Problem),
}

impl Questions {
    /// Has `id` opened at a revision.
    ///
    /// # Errors
    /// [`RegistryError::Gated`] while somebody has to agree; [`RegistryError::Content`] when it cannot be opened.
    pub(super) async fn open(
        &self,
        broker: &Arc<Broker>,
        id: &str,
        revision: &str,
    ) -> Result<Opened, RegistryError> {
        let mut stage = self.ask(broker, id, revision)?;
        let is_over = |stage: &Stage| !matches!(stage, Stage::Asked(_));
        // Over, or where it is by then.
        drop(tokio::time::timeout(WAIT, stage.wait_for(is_over)).await);
        let found = stage.borrow().clone();
        match found {
            Stage::Opened(held) => Ok(Opened::Open(held)),
            Stage::Refused(problem) => Ok(Opened::Refused(problem)),
            Stage::Failed(problem) => Err(RegistryError::Content { problem }),
            Stage::Asked(notice) => {
                let what = notice.unwrap_or_else(|| "it is being opened".to_owned());
                Err(RegistryError::Gated {
                    message: format!("{id} is not open yet: {what}; then ask again"),
                    price: None,
                })
            }
        }
    }

    fn ask(
        &self,
        broker: &Arc<Broker>,
        id: &str,
        revision: &str,
    ) -> Result<watch::Receiver<Stage>, RegistryError> {
        let key = format!("{}@{revision}", id.to_ascii_lowercase());
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One whose asker is gone without an answer would be waited for for ever.
        let is_asked =
            |one: &Asked| matches!(*one.stage.borrow(), Stage::Asked(_)) && one.stage.has_changed().is_ok();
        asked.retain(|_, one| is_asked(one) || one.since.elapsed() < REFUSED);
        if let Some(known) = asked.get(&key) {
            return Ok(known.stage.clone());
        }
        if asked.len() >= MOST {
            return Err(RegistryError::TooMany);
        }
        let (told, stage) = watch::channel(Stage::Asked(None));
        asked.insert(
            key.clone(),
            Asked {
                stage: stage.clone(),
                since: Instant::now(),
            },
        );
        drop(asked);
        let (all, broker) = (Arc::clone(&self.0), Arc::clone(broker));
        let (id, revision) = (id.to_owned(), revision.to_owned());
        tokio::spawn(async move {
            let opened = open(&broker, &id, &revision, &told).await;
            let mut asked = all.lock().unwrap_or_else(PoisonError::into_inner);
            let stage = match opened {
                Ok(held) => {
                    // From now on it is found among what is open.
                    asked.remove(&key);
                    Stage::Opened(held)
                }
                Err(error) => {
                    if let Some(one) = asked.get_mut(&key) {
                        one.since = Instant::now();
                    }
                    tracing::info!(code = error.code(), "a model was not opened for the hub");
                    let problem = error.to_problem();
                    match error {
                        BrokerError::Refused { .. } => Stage::Refused(problem),
                        _ => Stage::Failed(problem),
                    }
                }
            };
            drop(told.send(stage));
        });
        Ok(stage)
    }
}

/// Asks like a `pull` in a cell does, and tells what a person has to do.
async fn open(
    broker: &Broker,
    id: &str,
    revision: &str,
    told: &watch::Sender<Stage>,
) -> crate::Result<Arc<Held>> {
    let (events, mut said) = mpsc::channel(8);
    let report = Report::new(0, events);
    let share = id.strip_prefix("m/").and_then(|share| share.parse::<Uuid>().ok());
    let reference = match share {
        Some(share) => share.to_string(),
        None => format!("{id}@{revision}"),
    };
    let opening = async {
        let opened = broker
            .open_delegated(&reference, broker.cells.get().copied(), &report)
            .await;
        drop(report);
        opened
    };
    let listening = async {
        while let Some(event) = said.recv().await {
            if let Event::Waiting { message, .. } = event {
                told.send_replace(Stage::Asked(Some(message)));
            }
        }
    };
    let (opened, ()) = tokio::join!(opening, listening);
    let (reader, _, expires) = opened?;
    Ok(broker.readers.keep(Held {
        id: id.to_owned(),
        asked: revision.to_owned(),
        audience: Audience::Kernel,
        expires: Some(expires),
        card: None,
        reader,
    }))
}
