//! One message of the registry: looked at on Aleph, verified, and written down. The same for what an account tells and for
//! what is read from the network; the order in which messages come makes no difference.

use std::collections::BTreeMap;
use std::sync::Arc;

use alephlab_api::Problem;
use alephlab_api::market::{MODEL_TERMS_TYPE, ModelTerms};
use alephlab_api::model::{
    IndexedModel, MODEL_EVIDENCE_TYPE, MODEL_RECORD_TYPE, MODEL_TAGS_TYPE, MODEL_WITHDRAWAL_TYPE,
    ModelEvidence, ModelRecord, ModelTags, ModelWithdrawal, RecordFile, WeightCount, weight_files,
};
use alephlab_vault::storage::{Storage, StoredPost};
use alephlab_vault::{Address, HEAD_POST_TYPE, Keys, ObjectKeys, Reader, SignedHead};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;

use crate::error::{GatewayError, Result};
use crate::reading;
use crate::store::{Store, StoredModel, StoredTags, StoredTerms};

const SPELLING: &str = "it spells an address in another way than EIP-55";

/// The types of posts that a registry is made of.
pub(crate) const TYPES: [&str; 5] = [
    MODEL_RECORD_TYPE,
    MODEL_TAGS_TYPE,
    MODEL_WITHDRAWAL_TYPE,
    MODEL_EVIDENCE_TYPE,
    MODEL_TERMS_TYPE,
];

/// How much later than its message something may say that it was made, seconds: what is from the future would stay the newest.
const AHEAD: u64 = 3600;

/// A message whose signer may say what it says.
#[derive(Debug, Clone)]
pub(crate) enum Said {
    Record(Box<StoredModel>),
    Tags(StoredTags),
    Withdrawal(ModelWithdrawal),
    Evidence {
        message: String,
        evidence: ModelEvidence,
    },
    Terms(StoredTerms),
}

impl Said {
    /// The model that it is about.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Record(model) => &model.record.name,
            Self::Tags(stored) => &stored.tags.name,
            Self::Withdrawal(withdrawal) => &withdrawal.name,
            Self::Evidence { evidence, .. } => &evidence.name,
            Self::Terms(stored) => &stored.terms.name,
        }
    }

    /// Who signed it.
    pub(crate) fn signer(&self) -> &str {
        match self {
            Self::Record(model) => &model.record.owner,
            Self::Tags(stored) => &stored.tags.owner,
            Self::Withdrawal(withdrawal) => &withdrawal.owner,
            Self::Evidence { evidence, .. } => &evidence.verifier,
            Self::Terms(stored) => &stored.terms.owner,
        }
    }

    /// What the index tells of a record; of other messages there is nothing more to tell.
    pub(crate) fn indexed(self) -> Option<IndexedModel> {
        match self {
            Self::Record(model) => Some(model.indexed()),
            _ => None,
        }
    }

    pub(super) async fn write(&self, store: &Store) -> Result<()> {
        match self {
            Self::Record(model) => store.add_model(model).await,
            Self::Tags(stored) => store.add_tags(stored).await,
            Self::Withdrawal(withdrawal) => {
                store.add_withdrawal(withdrawal).await?;
                store.remove_withdrawn_deposits(&withdrawal.name).await
            }
            Self::Evidence { message, evidence } => store.add_evidence(message, evidence).await,
            Self::Terms(stored) => store.add_terms(stored).await,
        }
    }
}

/// Fetches a message and what it names, and checks all of it.
///
/// # Errors
/// `record_missing` when the node does not have it, `record_refused` when it does not hold, and the vault's.
pub(crate) async fn look(storage: &Arc<dyn Storage>, message: &str) -> Result<Said> {
    // The storage checks hash and signature of each message.
    let Some(post) = storage.post(message).await? else {
        let text = format!("the Aleph node does not have the message {message}");
        return Err(GatewayError::not_found("record_missing", text)
            .with_hint("post it first, or try again in a moment"));
    };
    verified(storage, post).await
}

/// The same for a post that is there already.
pub(crate) async fn verified(storage: &Arc<dyn Storage>, post: StoredPost) -> Result<Said> {
    let message = post.item_hash.clone();
    match post.post_type.as_str() {
        MODEL_RECORD_TYPE => {
            let record: ModelRecord = parsed(&post)?;
            record.check().map_err(unprocessable)?;
            signed(&post, &record.owner, record.created)?;
            let head = head(storage, &message, &record).await?;
            let model = StoredModel {
                message,
                record,
                head,
            };
            opens(storage, &model).await?;
            Ok(Said::Record(Box::new(model)))
        }
        MODEL_TAGS_TYPE => {
            let tags: ModelTags = parsed(&post)?;
            tags.check().map_err(unprocessable)?;
            signed(&post, &tags.owner, tags.created)?;
            if i64::try_from(tags.serial).is_err() {
                return Err(refused(&message, "its serial is too large"));
            }
            Ok(Said::Tags(StoredTags { message, tags }))
        }
        MODEL_WITHDRAWAL_TYPE => {
            let withdrawal: ModelWithdrawal = parsed(&post)?;
            withdrawal.check().map_err(unprocessable)?;
            signed(&post, &withdrawal.owner, withdrawal.created)?;
            Ok(Said::Withdrawal(withdrawal))
        }
        MODEL_EVIDENCE_TYPE => {
            let evidence: ModelEvidence = parsed(&post)?;
            evidence.check().map_err(unprocessable)?;
            signed(&post, &evidence.verifier, evidence.created)?;
            Ok(Said::Evidence { message, evidence })
        }
        MODEL_TERMS_TYPE => {
            let terms: ModelTerms = parsed(&post)?;
            terms.check().map_err(unprocessable)?;
            signed(&post, &terms.owner, terms.created)?;
            if !terms.addresses().all(is_spelled) {
                return Err(refused(&message, SPELLING));
            }
            Ok(Said::Terms(StoredTerms { message, terms }))
        }
        _ => Err(refused(&message, "it is a post of another type")),
    }
}

fn parsed<T: DeserializeOwned>(post: &StoredPost) -> Result<T> {
    serde_json::from_value(post.content.clone()).map_err(|error| refused(&post.item_hash, &error.to_string()))
}

/// Whether the one who is named signed it, spelled as everybody spells the address, and not for a time that is to come.
fn signed(post: &StoredPost, signer: &str, made: u64) -> Result<()> {
    let is = |address: &str| address.eq_ignore_ascii_case(signer);
    if !is(&post.sender) || !is(&post.address) {
        return Err(refused(
            &post.item_hash,
            "it is not signed by the account that it names",
        ));
    }
    if !is_spelled(signer) {
        return Err(refused(&post.item_hash, SPELLING));
    }
    if made > seconds(post.time).saturating_add(AHEAD) {
        return Err(refused(
            &post.item_hash,
            "it says that it was made later than it was signed",
        ));
    }
    Ok(())
}

/// Whether an address is spelled as everybody spells it: in another way it would be somebody else, who is paid and cannot sign in.
fn is_spelled(text: &str) -> bool {
    text.parse::<Address>()
        .is_ok_and(|address| address.to_string() == text)
}

/// Signed seconds without their fraction.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast of a float gives the nearest number that there is, zero for none"
)]
pub(super) fn seconds(time: f64) -> u64 {
    time as u64
}

/// The head that a record names, if it is of this revision and owner.
async fn head(storage: &Arc<dyn Storage>, message: &str, record: &ModelRecord) -> Result<SignedHead> {
    let Some(post) = storage.post(&record.head).await? else {
        return Err(GatewayError::not_found(
            "head_missing",
            format!("the Aleph node does not have the head of the record {message}"),
        ));
    };
    if post.post_type != HEAD_POST_TYPE {
        return Err(refused(message, "its head is a post of another type"));
    }
    let head = SignedHead::from_post(&post.content)?;
    head.verify()?;
    let by_owner = |address: &str| address.eq_ignore_ascii_case(&record.owner);
    if head.revision() != record.commit
        || !by_owner(&post.sender)
        || !by_owner(&post.address)
        || !by_owner(&head.head.owner.to_string())
    {
        return Err(refused(message, "its head is of another revision or owner"));
    }
    Ok(head)
}

/// Whether the keys of a public revision open it, and the files are those that the record names.
async fn opens(storage: &Arc<dyn Storage>, model: &StoredModel) -> Result<()> {
    let Some(keys) = &model.record.keys else {
        return Ok(());
    };
    let reader = open_public(storage, &model.head, &model.record.head, keys).await?;
    let mut files = reading::files(&reader);
    let mut named = model.record.files.clone();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    named.sort_by(|a, b| a.path.cmp(&b.path));
    if files != named {
        return Err(refused(&model.message, "its files are not those of the revision"));
    }
    let counted = &model.record.parameters;
    if !counted.is_empty() && *counted != parameters(&reader, &named).await? {
        return Err(refused(
            &model.message,
            "its weights have other numbers than it counts",
        ));
    }
    Ok(())
}

/// What the headers of a revision's weights say.
async fn parameters(reader: &Reader, files: &[RecordFile]) -> Result<BTreeMap<String, u64>> {
    let mut count = WeightCount::default();
    for file in weight_files(files) {
        match reading::counted(reader, file, count).await? {
            Some(more) => count = more,
            None => return Ok(BTreeMap::new()),
        }
    }
    Ok(count.end())
}

/// Opens a revision with the keys of its public record.
pub(crate) async fn open_public(
    storage: &Arc<dyn Storage>,
    head: &SignedHead,
    head_message: &str,
    keys: &str,
) -> Result<Reader> {
    let keys = ObjectKeys::from_public(keys)?;
    if keys.head_hash != head.hash() || keys.head_message != head_message {
        return Err(refused(
            head_message,
            "the keys beside it are those of another revision",
        ));
    }
    let opened = reading::open(Arc::clone(storage), head.clone(), Keys::Objects(keys)).await;
    opened.map_err(GatewayError::from)
}

fn unprocessable(problem: Problem) -> GatewayError {
    GatewayError::Refused {
        status: StatusCode::UNPROCESSABLE_ENTITY,
        problem,
    }
}

fn refused(message: &str, reason: &str) -> GatewayError {
    let text = format!("the message {message} is refused: {reason}");
    GatewayError::refused(StatusCode::UNPROCESSABLE_ENTITY, "record_refused", text)
}
