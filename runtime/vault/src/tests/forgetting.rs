//! Forgetting: what is gone, what stays, and that it can be stopped anywhere.

use super::publishing::Breaking;
use super::sharing::Person;
use super::{code, noise};
use crate::storage::{MemoryStorage, Storage};
use crate::{
    DatasetId, Forget, Forgotten, GrantTerms, Meta, SignedHead, SourceFile, find_head, forget_dataset,
    grant_dataset, grants_of, heads_of, put_dataset,
};
use std::sync::Arc;

struct World {
    memory: Arc<MemoryStorage>,
    storage: Arc<dyn Storage>,
    owner: Person,
    reader: Person,
    dataset: DatasetId,
}

impl World {
    /// Three versions that share an object, granted to a reader.
    async fn new() -> Self {
        let memory = Arc::new(MemoryStorage::new());
        let storage: Arc<dyn Storage> = memory.clone();
        let (owner, reader) = (Person::new(&*storage).await, Person::new(&*storage).await);
        let mut dataset = None;
        for round in 0..3 {
            dataset = Some(put(&storage, &owner, dataset, round).await);
        }
        let world = Self {
            memory,
            storage,
            owner,
            reader,
            dataset: dataset.unwrap(),
        };
        let (head, owner) = (world.head().await, &world.owner);
        let granted = grant_dataset(
            &*world.storage,
            &owner.wallet,
            &owner.key,
            &head,
            world.reader.wallet.owner(),
            GrantTerms::default(),
        );
        granted.await.unwrap();
        world
    }

    async fn head(&self) -> SignedHead {
        let owner = self.owner.wallet.address();
        find_head(&*self.storage, &owner, &self.dataset)
            .await
            .unwrap()
            .unwrap()
            .0
    }

    async fn forget(&self, storage: &Arc<dyn Storage>, what: Forget) -> crate::Result<Forgotten> {
        // Before the first one there is a head; when a forgetting was stopped at its end there may be none.
        let owner = self.owner.wallet.address();
        let Some((head, _)) = find_head(&*self.storage, &owner, &self.dataset).await? else {
            return Ok(Forgotten::default());
        };
        forget_dataset(
            storage,
            &self.owner.wallet,
            &self.owner.key,
            &head,
            what,
            &|_, _| {},
        )
        .await
    }

    async fn versions(&self) -> Vec<u64> {
        let heads = heads_of(&*self.storage, &self.owner.wallet.address(), &self.dataset)
            .await
            .unwrap();
        heads.iter().map(|(head, _)| head.head.version).collect()
    }
}

async fn put(storage: &Arc<dyn Storage>, owner: &Person, of: Option<DatasetId>, round: u64) -> DatasetId {
    let previous = match of {
        Some(id) => find_head(&**storage, &owner.wallet.address(), &id).await.unwrap(),
        None => None,
    };
    let files = vec![
        SourceFile::bytes("kept.bin", noise(1, 9_000_000)),
        SourceFile::bytes("changes.bin", noise(10 + round, 9_000_000)),
        SourceFile::bytes("small.txt", format!("round {round}")),
    ];
    let put = put_dataset(
        Arc::clone(storage),
        &owner.wallet,
        &owner.key,
        files,
        Meta::default(),
        previous,
        &|_| {},
    );
    put.await.unwrap().dataset_id
}

#[tokio::test]
async fn older_versions_go_with_what_only_they_use_and_the_newest_reads_whole() {
    let world = World::new().await;
    let before = world.memory.objects().len();
    let done = world.forget(&world.storage, Forget::Older).await.unwrap();
    assert_eq!((done.versions, done.unopened.as_slice()), (2, [].as_slice()));
    let after = world.memory.objects().len();
    assert_eq!(before - after, usize::try_from(done.objects).unwrap());
    assert!(after > 0 && after < before / 2, "{before} {after}");
    assert_eq!(world.versions().await, [3]);
    let head = world.head().await;
    for person in [&world.owner, &world.reader] {
        assert_eq!(person.read(&world.storage, &head).await.unwrap().len(), 3);
    }
    // Once more is nothing, and the next version goes on from there.
    assert_eq!(
        world.forget(&world.storage, Forget::Older).await.unwrap(),
        Forgotten::default()
    );
    put(&world.storage, &world.owner, Some(world.dataset), 9).await;
    assert_eq!(world.versions().await, [3, 4]);
}

#[tokio::test]
async fn everything_goes_but_other_datasets_and_what_others_posted() {
    let world = World::new().await;
    let other = put(&world.storage, &world.owner, None, 7).await;
    let kept = world.memory.objects().len();
    let head = world.head().await;
    let (person, what) = (&world.reader, Forget::Everything);
    let theirs = forget_dataset(
        &world.storage,
        &person.wallet,
        &person.key,
        &head,
        what,
        &|_, _| {},
    )
    .await;
    assert_eq!(code(theirs), "E_FORBIDDEN");
    assert_eq!(world.memory.objects().len(), kept);
    let done = world.forget(&world.storage, what).await.unwrap();
    assert_eq!(done.versions, 3);
    assert_eq!(
        kept - world.memory.objects().len(),
        usize::try_from(done.objects).unwrap()
    );
    assert!(world.versions().await.is_empty());
    assert!(grants_of(&*world.storage, &head).await.unwrap().is_empty());
    let owner = &world.owner;
    let (head, _) = find_head(&*world.storage, &owner.wallet.address(), &other)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(owner.read(&world.storage, &head).await.unwrap().len(), 3);
}

/// Stopped at its first call, its second, and so on, and begun again: nothing is left over.
#[tokio::test]
async fn a_forgetting_that_is_stopped_anywhere_ends_when_it_is_called_again() {
    let world = World::new().await;
    let mut stopped = 0;
    loop {
        put(&world.storage, &world.owner, Some(world.dataset), 20 + stopped).await;
        let breaking: Arc<dyn Storage> = Arc::new(Breaking::new(Arc::clone(&world.storage), stopped));
        let first = world.forget(&breaking, Forget::Older).await;
        let again = world.forget(&world.storage, Forget::Older).await.unwrap();
        assert!(again.unopened.is_empty(), "stopped at call {stopped}");
        assert_eq!(world.versions().await.len(), 1);
        assert_eq!(
            world
                .owner
                .read(&world.storage, &world.head().await)
                .await
                .unwrap()
                .len(),
            3
        );
        // The newest version's own: two files and the packed small one, root and leaves.
        assert!(
            world.memory.objects().len() <= 6,
            "stopped at call {stopped}: {}",
            world.memory.objects().len()
        );
        if first.is_ok_and(|done| done.unopened.is_empty()) && stopped > 3 {
            break;
        }
        stopped += 1;
    }
    assert!(stopped > 10, "{stopped}");
}
