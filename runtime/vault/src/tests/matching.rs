//! Revisions that are sealed beside a kernel: what they take over, what the kernel is given for it, and what naming a hash gives.

use super::revisions::{Model, safetensors};
use super::{code, noise};
use crate::digest::sha256;
use crate::keys::EpochSecret;
use crate::message::sign_store;
use crate::storage::Storage;
use crate::{
    DatasetId, Matched, Meta, ReaderKey, SealParams, SealedTree, SignedHead, SourceFile, Survey,
    UnsignedHead, dataset_id, match_survey, seal_matched, sign_version,
};
use std::sync::Arc;

const LOG2: u8 = 20;

fn four(changed: u64) -> Vec<SourceFile> {
    let tensors: Vec<_> = ["a", "b", "c", "d"]
        .into_iter()
        .enumerate()
        .map(|(at, name)| {
            (
                name,
                noise(at as u64 + if at == 2 { 100 + changed } else { 0 }, 2 << 20),
            )
        })
        .collect();
    vec![
        SourceFile::bytes("README.md", b"# Four".as_slice()),
        SourceFile::bytes("model.safetensors", safetensors(&tensors, "")),
    ]
}

/// What the broker and the owner's machine do together.
struct Published {
    head: SignedHead,
    tree: SealedTree,
    taken_over: usize,
}

impl Model {
    fn id(&self) -> DatasetId {
        dataset_id(&self.wallet.owner(), &self.id_random)
    }

    async fn matched(&self, files: &[SourceFile]) -> crate::Result<Matched> {
        let previous = self.newest().await.map(|(head, _)| head);
        let epoch = previous.as_ref().map_or(1, |head| head.head.epoch + 1);
        let (id, reply) = (self.id(), ReaderKey::generate()?);
        let survey = Survey::of(files, LOG2)?;
        let asked = survey.seal(&self.key.public(), (&id, epoch), &reply.public())?;
        let storage: Arc<dyn Storage> = self.storage.clone();
        let (answer, count) =
            match_survey(&storage, &self.key, (&id, epoch), previous.as_ref(), &asked).await?;
        assert_eq!(count, survey.objects());
        survey.open(&reply, (&id, epoch), &answer)
    }

    /// As a kernel publishes.
    async fn publish_from_kernel(&self, files: Vec<SourceFile>) -> Published {
        let matched = self.matched(&files).await.unwrap();
        let previous = self.newest().await.map(|(head, _)| head);
        let secret = EpochSecret::generate().unwrap();
        let params = SealParams {
            dataset_id: self.id(),
            version: previous.as_ref().map_or(1, |head| head.head.version + 1),
            epoch: previous.as_ref().map_or(1, |head| head.head.epoch + 1),
            obj_log2: LOG2,
            meta: Meta::default(),
        };
        let taken_over = matched.taken_over();
        let mut objects = Vec::new();
        let tree = seal_matched(&files, &params, &secret, &matched, &mut |object| {
            objects.push(object);
            Ok(())
        })
        .unwrap();
        for object in objects {
            let store = sign_store(&self.wallet, &object.item_hash(), object.bytes.len() as u64).unwrap();
            self.storage.put(object.bytes, &store).await.unwrap();
        }
        let head = UnsignedHead {
            dataset_id: params.dataset_id,
            owner: self.wallet.owner(),
            version: params.version,
            prev: previous.as_ref().map_or([0; 32], SignedHead::hash),
            epoch: tree.epoch,
            epoch_commitment: secret.commitment(&params.dataset_id, tree.epoch),
            root: tree.root.clone(),
            writers: Vec::new(),
            created: 1,
            not_after: None,
            id_random: self.id_random,
        };
        let signed = sign_version(
            &*self.storage,
            &self.wallet,
            &self.key,
            previous.as_ref(),
            head,
            &secret,
        );
        let signed = signed.await.unwrap();
        let record = self.record(
            &signed.messages.last().unwrap().item_hash(),
            &signed.head.revision(),
        );
        for message in signed.messages.iter().chain([&record]) {
            self.storage.publish(message).await.unwrap();
        }
        Published {
            head: signed.head,
            tree,
            taken_over,
        }
    }

    async fn read_all(&self, head: &SignedHead, files: &[SourceFile]) {
        let reader = self.open(head).await;
        for file in files {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut file.open().unwrap(), &mut bytes).unwrap();
            assert_eq!(&*reader.read(&file.path).await.unwrap(), &bytes, "{}", file.path);
        }
        assert_eq!(reader.files(), files.len() as u64);
    }
}

#[tokio::test]
async fn a_kernel_stores_the_tensor_that_changed_and_reads_everything() {
    let model = Model::new();
    let first = model.publish_from_kernel(four(0)).await;
    assert!(first.tree.sealed_bytes > 8 << 20);
    let second = model.publish_from_kernel(four(1)).await;
    // Two objects of the tensor, its leaves, pages and root; all else is taken over.
    assert!(
        second.tree.sealed_bytes < (2 << 20) + (300 << 10),
        "{}",
        second.tree.sealed_bytes
    );
    assert_eq!(second.taken_over, 7);
    model.read_all(&first.head, &four(0)).await;
    model.read_all(&second.head, &four(1)).await;
    let again = model.publish_from_kernel(four(1)).await;
    assert!(again.tree.sealed_bytes < 100 << 10, "{}", again.tree.sealed_bytes);
    model.read_all(&again.head, &four(1)).await;
}

#[tokio::test]
async fn shell_and_kernel_take_over_from_one_another() {
    let model = Model::new();
    model.put(four(0)).await;
    let kernel = model.publish_from_kernel(four(1)).await;
    assert!(
        kernel.tree.sealed_bytes < (2 << 20) + (300 << 10),
        "{}",
        kernel.tree.sealed_bytes
    );
    let shell = model.put(four(2)).await;
    assert!(shell.uploaded < (2 << 20) + (300 << 10), "{}", shell.uploaded);
    model.read_all(&shell.head, &four(2)).await;
}

#[tokio::test]
async fn the_kernel_is_given_what_it_names_and_no_secret_of_a_head() {
    let model = Model::new();
    let first = model.publish_from_kernel(four(0)).await;
    let second = model.publish_from_kernel(four(1)).await;
    // The root of the second carries the secrets of the objects that it took over, and not that of the first manifest.
    let reader = model.open(&second.head).await;
    let crate::ring::Ring::Epochs(known) = reader.ring() else {
        panic!("an owner has epochs");
    };
    assert!(!known.contains_key(&first.head.head.epoch));
    let matched = model.matched(&four(2)).await.unwrap();
    assert_eq!(matched.taken_over(), 7);
    let nothing = vec![SourceFile::bytes("x", noise(9, 3 << 20))];
    assert_eq!(model.matched(&nothing).await.unwrap().taken_over(), 0);
    // Whose owner this is not answers nothing.
    let (other, id) = (Model::new(), model.id());
    let reply = ReaderKey::generate().unwrap();
    let survey = Survey::of(&four(0), LOG2).unwrap();
    let epoch = second.head.head.epoch + 1;
    let asked = survey
        .seal(&model.key.public(), (&id, epoch), &reply.public())
        .unwrap();
    let storage: Arc<dyn Storage> = model.storage.clone();
    let foreign = match_survey(&storage, &other.key, (&id, epoch), Some(&second.head), &asked).await;
    assert_eq!(code(foreign), "E_GRANT_OPEN");
    // Nor is an answer opened by another than who asked, or for another revision.
    let (answer, _) = match_survey(&storage, &model.key, (&id, epoch), Some(&second.head), &asked)
        .await
        .unwrap();
    assert_eq!(
        code(survey.open(&other.key, (&id, epoch), &answer)),
        "E_GRANT_OPEN"
    );
    assert_eq!(
        code(survey.open(&reply, (&id, epoch + 1), &answer)),
        "E_GRANT_OPEN"
    );
    let late = match_survey(&storage, &model.key, (&id, epoch), Some(&first.head), &asked).await;
    assert_eq!(code(late), "E_EPOCH");
}

#[tokio::test]
async fn another_model_of_the_same_owner_is_not_looked_at() {
    let mut model = Model::new();
    model.publish_from_kernel(four(0)).await;
    model.id_random = [3; 16];
    assert_eq!(model.publish_from_kernel(four(0)).await.taken_over, 0);
}

#[tokio::test]
async fn the_hash_of_a_file_that_a_record_says_names_no_object() {
    let model = Model::new();
    let bytes = noise(5, (1 << 20) - 7);
    let whole = vec![SourceFile::bytes("weights", bytes.clone())];
    model.publish_from_kernel(whole.clone()).await;
    let survey = Survey::of(&whole, LOG2).unwrap();
    assert_eq!(model.matched(&whole).await.unwrap().taken_over(), 1);
    assert!(!survey.holds(&sha256(&[&bytes])));
    let one = SourceFile::bytes("weights", b"x".as_slice());
    let small = Survey::of(&[one], LOG2).unwrap();
    assert!(!small.holds(&sha256(&[b"x"])));
}

#[tokio::test]
async fn files_that_change_between_looking_and_sealing_are_not_sealed() {
    let model = Model::new();
    let matched = model.matched(&four(0)).await.unwrap();
    let params = SealParams {
        dataset_id: model.id(),
        version: 1,
        epoch: 1,
        obj_log2: LOG2,
        meta: Meta::default(),
    };
    let secret = EpochSecret::generate().unwrap();
    let sealed = seal_matched(&four(1), &params, &secret, &matched, &mut |_| Ok(()));
    assert_eq!(code(sealed), "E_STOPPED");
}
