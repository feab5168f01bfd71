//! A stand-in for gateway and `alephlab keys`: real cryptography, real HTTP, no policy but what a test sets.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use alephlab_api::Problem;
use alephlab_api::keys::{Ask, KeyReply, KeyRequest, Pending, match_text, upload_text};
use alephlab_api::model::{IndexedModel, MODEL_RECORD_TYPE, ModelPage, ModelRecord, Visibility};
use alephlab_api::share::ShareEnvelope;
use alephlab_vault::message::{sign_post, sign_store};
use alephlab_vault::share::{ShareTerms, ShareToken, narrow, seal_share};
use alephlab_vault::storage::{MemoryStorage, Storage};
use alephlab_vault::{
    Delegation, DelegationTerms, EpochSecret, HEAD_POST_TYPE, Keys, Meta, Policy, Reader, ReaderKey,
    ReaderPublic, Sealed, SignedHead, SourceFile, UnsignedHead, Wallet, dataset_id, find_grant, fingerprint,
    match_survey, new_id_random, open_epoch_secret, put_dataset, register_reader_key, seal_epoch_secret,
    session_text, sign_version,
};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Notify;
use uuid::Uuid;

/// By which an upload's later steps are known.
const TICKET: [u8; 32] = [7; 32];

/// What a test can change about the answers.
#[derive(Default, Clone)]
pub(crate) struct Manner {
    pub(crate) refuse: Option<Problem>,
    /// Added to now for the end of a delegation; an hour when nothing is said.
    pub(crate) term_seconds: Option<i64>,
    /// Sign delegations with a wallet that is not the kernel's account.
    pub(crate) foreign_wallet: bool,
    /// What the delegations ask of hosts.
    pub(crate) policy: Option<Policy>,
    /// Answer 202 first and the reply only when [`Owner::approve`] is notified.
    pub(crate) slow: bool,
    /// What a gateway makes of a request to open before it passes it on: another reference, another kernel.
    pub(crate) relayed_as: Option<(&'static str, Uuid)>,
    /// Answer requests to open with the reply that the first of them got, as a gateway could that kept it.
    pub(crate) replay: bool,
    /// The public key, hex, that a gateway puts in the place of the kernel's.
    pub(crate) substitute: Option<String>,
    /// Answer a request to publish for somebody else's model.
    pub(crate) foreign_model: bool,
    /// As a machine that cannot look objects up.
    pub(crate) old: bool,
    /// The gateway's index shows its one model under whatever name.
    pub(crate) renames: bool,
}

struct Content {
    head: SignedHead,
    message: String,
    secret: EpochSecret,
}

pub(crate) struct Owner {
    pub(crate) wallet: Wallet,
    reader_key: ReaderKey,
    pub(crate) storage: Arc<MemoryStorage>,
    pub(crate) manner: Mutex<Manner>,
    pub(crate) approve: Notify,
    contents: Mutex<BTreeMap<String, Content>>,
    preparing: Mutex<BTreeMap<String, [u8; 16]>>,
    pub(crate) records: Mutex<Vec<ModelRecord>>,
    /// What the gateway's index shows, newest last.
    indexed: Mutex<Vec<IndexedModel>>,
    shares: Mutex<BTreeMap<Uuid, (String, ShareEnvelope)>>,
    /// What the account stored with the gateway.
    pub(crate) secrets: Mutex<BTreeMap<String, String>>,
    waiting: Mutex<BTreeMap<Uuid, KeyReply>>,
    first: Mutex<Option<KeyReply>>,
    serving: Mutex<Option<tokio::task::JoinHandle<()>>>,
    /// The fingerprints that the person at `alephlab keys` was shown.
    pub(crate) shown: Mutex<Vec<String>>,
    /// What was answered to requests to open, as a gateway sees it.
    pub(crate) relayed: Mutex<Vec<KeyReply>>,
    /// Everything that clients sent: headers and bodies.
    pub(crate) seen: Mutex<String>,
}

pub(crate) fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

impl Owner {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            wallet: Wallet::generate().unwrap(),
            reader_key: ReaderKey::generate().unwrap(),
            storage: Arc::new(MemoryStorage::new()),
            manner: Mutex::default(),
            approve: Notify::new(),
            contents: Mutex::default(),
            preparing: Mutex::default(),
            records: Mutex::default(),
            indexed: Mutex::default(),
            shares: Mutex::default(),
            secrets: Mutex::default(),
            waiting: Mutex::default(),
            first: Mutex::default(),
            serving: Mutex::default(),
            shown: Mutex::default(),
            relayed: Mutex::default(),
            seen: Mutex::default(),
        })
    }

    /// Publishes a dataset named `name`.
    pub(crate) async fn put(&self, name: &str, files: Vec<SourceFile>) {
        let meta = Meta {
            title: Some("Digits".into()),
            licence: Some("CC-BY-4.0".into()),
            ..Meta::default()
        };
        let storage: Arc<dyn Storage> = self.storage.clone();
        let put = put_dataset(
            storage,
            &self.wallet,
            &self.reader_key,
            files,
            meta,
            None,
            &|_| {},
        )
        .await
        .unwrap();
        let secret = find_grant(&*self.storage, &put.head, &self.reader_key)
            .await
            .unwrap();
        let content = Content {
            head: put.head,
            message: put.head_message,
            secret,
        };
        self.contents.lock().unwrap().insert(name.to_owned(), content);
    }

    /// Makes a share of a published model and answers its UUID and token.
    pub(crate) async fn share(&self, name: &str, expires: Option<u64>) -> (Uuid, ShareToken) {
        let (head, message, secret) = {
            let contents = self.contents.lock().unwrap();
            let content = &contents[name];
            (
                content.head.clone(),
                content.message.clone(),
                content.secret.duplicate(),
            )
        };
        let storage: Arc<dyn Storage> = self.storage.clone();
        let reader = Reader::open(storage, &head, Keys::Epoch(secret)).await.unwrap();
        let (keys, root) = narrow(&reader, &message).unwrap();
        let store = sign_store(&self.wallet, &root.item_hash(), root.bytes.len() as u64).unwrap();
        self.storage.put(root.bytes, &store).await.unwrap();
        let (uuid, token) = (Uuid::new_v4(), ShareToken::generate().unwrap());
        let model = format!("{}/{name}", self.wallet.address());
        let terms = ShareTerms {
            uuid,
            model: model.clone(),
            revision: head.revision(),
            expires,
        };
        let sealed = STANDARD.encode(seal_share(&token, &terms, &keys).unwrap());
        let card = self
            .records
            .lock()
            .unwrap()
            .last()
            .map(|record| record.card.clone());
        let head_json = serde_json::to_value(&head).unwrap();
        let envelope = ShareEnvelope {
            uuid,
            model,
            revision: head.revision(),
            expires,
            sealed,
            head: head_json,
            card,
        };
        self.shares
            .lock()
            .unwrap()
            .insert(uuid, (token.auth_hex().to_string(), envelope));
        (uuid, token)
    }

    /// Lets everybody read a published model, by a record with its keys.
    pub(crate) async fn make_public(&self, name: &str) {
        let (head, message, keys) = {
            let contents = self.contents.lock().unwrap();
            let content = &contents[name];
            let keys = Keys::Epoch(content.secret.duplicate());
            (content.head.clone(), content.message.clone(), keys)
        };
        let storage: Arc<dyn Storage> = self.storage.clone();
        let reader = Reader::open(storage, &head, keys).await.unwrap();
        let (keys, root) = narrow(&reader, &message).unwrap();
        let store = sign_store(&self.wallet, &root.item_hash(), root.bytes.len() as u64).unwrap();
        self.storage.put(root.bytes, &store).await.unwrap();
        let record = ModelRecord {
            visibility: Visibility::Public,
            keys: Some(keys.to_public()),
            ..self.records.lock().unwrap().last().unwrap().clone()
        };
        record.check().unwrap();
        self.index(record).await;
    }

    /// Has the gateway show what the owner signs.
    async fn index(&self, record: ModelRecord) {
        let content = serde_json::to_value(&record).unwrap();
        let signed = sign_post(&self.wallet, MODEL_RECORD_TYPE, content, None).unwrap();
        self.storage.publish(&signed).await.unwrap();
        let message = signed.item_hash();
        self.show(record, message);
    }

    /// Has the gateway show a record, whoever signed it.
    pub(crate) fn show(&self, record: ModelRecord, message: String) {
        let mut indexed = self.indexed.lock().unwrap();
        indexed.retain(|one| one.record.commit != record.commit);
        indexed.push(IndexedModel { record, message });
    }

    /// Has the gateway forget what its index shows, as if the models were private.
    pub(crate) fn hide_all(&self) {
        self.indexed.lock().unwrap().clear();
    }

    /// Changes what the gateway says of a share.
    pub(crate) fn forge(&self, uuid: Uuid, change: impl FnOnce(&mut ShareEnvelope)) {
        change(&mut self.shares.lock().unwrap().get_mut(&uuid).unwrap().1);
    }

    /// Serves on a free port; answers the address.
    pub(crate) async fn serve(self: &Arc<Self>) -> String {
        register_reader_key(&*self.storage, &self.wallet, &self.reader_key)
            .await
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let routes = Router::new()
            .route("/v1/keys/requests", post(ask))
            .route("/v1/keys/requests/{id}", get(waited))
            .route("/v1/shares/{uuid}", get(shared))
            .route("/v1/kernel-secrets/{name}", get(secret))
            .route("/v1/models/{owner}/{name}", get(page))
            .with_state(self.clone());
        let serving = tokio::spawn(async move { drop(axum::serve(listener, routes).await) });
        *self.serving.lock().unwrap() = Some(serving);
        address
    }

    /// The gateway ends.
    pub(crate) async fn go_away(&self) {
        let serving = self.serving.lock().unwrap().take().unwrap();
        serving.abort();
        let _ = serving.await;
    }

    async fn answer(&self, request: KeyRequest) -> KeyReply {
        let manner = self.manner.lock().unwrap().clone();
        if let Some(problem) = manner.refuse {
            return KeyReply::Refused { problem };
        }
        match request.ask {
            Ask::Open { reference } => {
                let (reference, kernel) = manner
                    .relayed_as
                    .map_or((reference, super::KERNEL), |(other, kernel)| {
                        (other.to_owned(), kernel)
                    });
                let key = manner.substitute.clone().unwrap_or(request.kernel_key);
                self.shown.lock().unwrap().push(fingerprint(&key));
                let reply = self.open(&reference, kernel, &key, &manner);
                self.relayed.lock().unwrap().push(reply.clone());
                let mut first = self.first.lock().unwrap();
                let first = first.get_or_insert_with(|| reply.clone());
                if manner.replay { first.clone() } else { reply }
            }
            Ask::Prepare { model } => {
                let kernel_key = (!manner.old).then_some(request.kernel_key.as_str());
                self.prepare(model, manner.foreign_model, kernel_key)
            }
            Ask::PrepareUpload { dataset, .. } => {
                self.prepare(dataset, manner.foreign_model, Some(&request.kernel_key))
            }
            Ask::Match { model, survey, proof } => {
                assert!(!manner.old, "it would not be understood");
                assert!(EpochSecret::from_bytes(TICKET).proves(&match_text(&model, &survey), &proof));
                let id_random = self.preparing.lock().unwrap()[&model];
                let id = dataset_id(&self.wallet.owner(), &id_random);
                let survey: Sealed = serde_json::from_value(survey).unwrap();
                let storage: Arc<dyn Storage> = self.storage.clone();
                let matched = match_survey(&storage, &self.reader_key, (&id, 1), None, &survey).await;
                KeyReply::Matched {
                    answer: serde_json::to_value(matched.unwrap().0).unwrap(),
                }
            }
            Ask::SignStores { objects, .. } | Ask::SignUploadStores { objects, .. } => {
                let sign = |object: alephlab_api::keys::StoreAsk| {
                    sign_store(&self.wallet, &object.item_hash, object.size)
                        .unwrap()
                        .value()
                        .clone()
                };
                KeyReply::Stores {
                    messages: objects.into_iter().map(sign).collect(),
                }
            }
            Ask::SignPublish {
                model,
                head,
                secret,
                record,
            } => self.publish(model, head, secret, record).await,
            Ask::SignUpload {
                dataset,
                head,
                secret,
                proof,
            } => {
                let parsed: UnsignedHead = serde_json::from_value(head.clone()).unwrap();
                let text = upload_text(&dataset, &hex::encode(parsed.hash()));
                assert!(EpochSecret::from_bytes(TICKET).proves(&text, &proof));
                self.signed_upload(dataset, head, secret).await
            }
        }
    }

    async fn signed_upload(
        &self,
        dataset: String,
        head: serde_json::Value,
        secret: serde_json::Value,
    ) -> KeyReply {
        let head: UnsignedHead = serde_json::from_value(head).unwrap();
        let sealed: Sealed = serde_json::from_value(secret).unwrap();
        let secret = open_epoch_secret(&self.reader_key, &head.dataset_id, head.epoch, &sealed).unwrap();
        let storage = &*self.storage;
        let signed = sign_version(storage, &self.wallet, &self.reader_key, None, head, &secret)
            .await
            .unwrap();
        for message in &signed.messages {
            self.storage.publish(message).await.unwrap();
        }
        let message = signed.messages.last().unwrap().item_hash();
        let content = Content {
            head: signed.head,
            message: message.clone(),
            secret,
        };
        let version = content.head.head.version;
        self.contents.lock().unwrap().insert(dataset, content);
        KeyReply::Uploaded {
            version,
            head: message,
            without_key: Vec::new(),
        }
    }

    fn open(&self, reference: &str, kernel: Uuid, kernel_key: &str, manner: &Manner) -> KeyReply {
        let contents = self.contents.lock().unwrap();
        // A model as `owner/name@revision` too.
        let name = reference.split('@').next().unwrap_or_default();
        let name = name.rsplit('/').next().unwrap_or_default();
        let Some(content) = contents.get(name) else {
            let problem = Problem::new("dataset_unknown", format!("there is no dataset `{reference}`"));
            return KeyReply::Refused { problem };
        };
        let not_after = now().saturating_add_signed(manner.term_seconds.unwrap_or(3600));
        let kernel_key = ReaderPublic::from_hex(kernel_key).unwrap();
        let terms = DelegationTerms {
            session: session_text(&kernel.to_string(), reference),
            kernel_key,
            not_after,
            allocation: None,
            policy: manner.policy.clone(),
        };
        let foreign = Wallet::generate().unwrap();
        let wallet = if manner.foreign_wallet {
            &foreign
        } else {
            &self.wallet
        };
        let keys = Keys::Epoch(content.secret.duplicate());
        let delegation = Delegation::seal(wallet, &content.head, terms, &keys, now()).unwrap();
        KeyReply::Opened {
            head: serde_json::to_value(&content.head).unwrap(),
            delegation: serde_json::to_value(&delegation).unwrap(),
            name: reference.to_owned(),
        }
    }

    fn prepare(&self, model: String, foreign: bool, kernel_key: Option<&str>) -> KeyReply {
        let id_random = new_id_random().unwrap();
        let owner = if foreign {
            Wallet::generate().unwrap().owner()
        } else {
            self.wallet.owner()
        };
        self.preparing.lock().unwrap().insert(model, id_random);
        let ticket = kernel_key.map(|key| {
            let (key, id) = (
                ReaderPublic::from_hex(key).unwrap(),
                dataset_id(&owner, &id_random),
            );
            let sealed = seal_epoch_secret(&key, &id, 1, &EpochSecret::from_bytes(TICKET)).unwrap();
            serde_json::to_value(sealed).unwrap()
        });
        KeyReply::Prepared {
            owner: owner.to_string(),
            dataset_id: dataset_id(&owner, &id_random).to_string(),
            id_random: hex::encode(id_random),
            version: 1,
            prev: String::new(),
            epoch: 1,
            reader_key: self.reader_key.public().to_hex(),
            model_uuid: Uuid::from_u128(7),
            ticket,
            private: false,
        }
    }

    async fn publish(
        &self,
        model: String,
        head: serde_json::Value,
        secret: serde_json::Value,
        record: ModelRecord,
    ) -> KeyReply {
        let head: UnsignedHead = serde_json::from_value(head).unwrap();
        let sealed: Sealed = serde_json::from_value(secret).unwrap();
        let secret = open_epoch_secret(&self.reader_key, &head.dataset_id, head.epoch, &sealed).unwrap();
        assert_eq!(
            secret.commitment(&head.dataset_id, head.epoch),
            head.epoch_commitment
        );
        let head = head.sign(&self.wallet).unwrap();
        let post = sign_post(&self.wallet, HEAD_POST_TYPE, head.post_content().unwrap(), None).unwrap();
        self.storage.publish(&post).await.unwrap();
        let (revision, message) = (head.revision(), post.item_hash());
        let record = ModelRecord {
            head: message.clone(),
            ..record
        };
        record.check().unwrap();
        assert_eq!(record.commit, revision);
        self.index(record.clone()).await;
        self.records.lock().unwrap().push(record);
        self.contents.lock().unwrap().insert(
            model,
            Content {
                head,
                message: message.clone(),
                secret,
            },
        );
        KeyReply::Published {
            revision,
            head: message,
            record: "ab".repeat(32),
            uuid: Uuid::from_u128(7),
        }
    }

    fn note(&self, headers: &HeaderMap, body: &str) {
        self.seen
            .lock()
            .unwrap()
            .push_str(&format!("{headers:?} {body}\n"));
    }
}

async fn ask(State(owner): State<Arc<Owner>>, headers: HeaderMap, body: String) -> Response {
    owner.note(&headers, &body);
    let reply = owner.answer(serde_json::from_str(&body).unwrap()).await;
    if !owner.manner.lock().unwrap().slow {
        return Json(reply).into_response();
    }
    let id = Uuid::new_v4();
    owner.waiting.lock().unwrap().insert(id, reply);
    (StatusCode::ACCEPTED, Json(Pending { id })).into_response()
}

async fn waited(State(owner): State<Arc<Owner>>, Path(id): Path<Uuid>) -> Response {
    owner.approve.notified().await;
    let reply = owner.waiting.lock().unwrap().remove(&id);
    Json(reply.unwrap()).into_response()
}

async fn secret(State(owner): State<Arc<Owner>>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    owner.note(&headers, &name);
    match owner.secrets.lock().unwrap().get(&name) {
        Some(value) => Json(serde_json::json!({ "value": value })).into_response(),
        None => {
            let problem = Problem::new("secret_unknown", "no such secret").with_hint("add it");
            (StatusCode::NOT_FOUND, Json(problem)).into_response()
        }
    }
}

async fn page(State(owner): State<Arc<Owner>>, Path((of, name)): Path<(String, String)>) -> Response {
    let indexed = owner.indexed.lock().unwrap();
    let renames = owner.manner.lock().unwrap().renames;
    let is_it = |one: &&IndexedModel| {
        let is_named = renames || one.record.name == format!("{of}/{name}");
        is_named && one.record.visibility != Visibility::Private
    };
    let revisions: Vec<IndexedModel> = indexed.iter().rev().filter(is_it).cloned().collect();
    if revisions.is_empty() {
        let problem = Problem::new("model_unknown", "there is no such model");
        return (StatusCode::NOT_FOUND, Json(problem)).into_response();
    }
    let page = ModelPage {
        terms: None,
        revisions,
        tags: BTreeMap::new(),
        tags_serial: 0,
        evidence: Vec::new(),
        downloads: 0,
    };
    Json(page).into_response()
}

async fn shared(State(owner): State<Arc<Owner>>, Path(uuid): Path<Uuid>, headers: HeaderMap) -> Response {
    owner.note(&headers, &uuid.to_string());
    let bearer = headers
        .get("authorization")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let shares = owner.shares.lock().unwrap();
    match shares
        .get(&uuid)
        .filter(|(auth, _)| bearer == format!("Bearer {auth}"))
    {
        Some((_, envelope)) => Json(envelope.clone()).into_response(),
        None => {
            let problem = Problem::new("share_unknown", "there is no such share, or its token is another");
            (StatusCode::UNAUTHORIZED, Json(problem)).into_response()
        }
    }
}
