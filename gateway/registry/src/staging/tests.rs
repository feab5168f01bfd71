//! Tests of the working area.

use super::parts::Parted;
use super::*;

fn limits() -> Limits {
    Limits {
        object: 1000,
        caller: 3000,
        part: 4,
        age: Duration::from_secs(60),
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn put(staging: &Arc<Staging>, caller: &CallerKey, bytes: &[u8]) -> Result<(String, u64)> {
    let mut spool = Spool::new(staging, caller, staging.limits().object)?;
    spool.write(bytes)?;
    spool.keep_object(None)
}

#[test]
fn finds_an_object_only_for_the_caller_that_uploaded_it() {
    let folder = tempfile::tempdir().unwrap();
    let staging = Staging::open(folder.path(), limits()).unwrap();
    let (alice, bob) = (CallerKey::of("alice"), CallerKey::of("bob"));
    let (hash, size) = put(&staging, &alice, b"weights").unwrap();
    assert_eq!((hash.clone(), size), (sha256(b"weights"), 7));
    assert_eq!(staging.object(&alice, &hash).unwrap().size, 7);
    assert!(staging.object(&bob, &hash).is_none());
    assert!(staging.object(&alice, "../../objects").is_none());
    staging.committed(&alice, &hash);
    assert!(staging.object(&alice, &hash).is_some());
    staging.forget(&alice, &hash);
    assert!(staging.object(&alice, &hash).is_none());
    assert_eq!(staging.used(&alice), 0);
}

#[test]
fn half_a_file_never_becomes_an_object() {
    let folder = tempfile::tempdir().unwrap();
    let caller = CallerKey::of("alice");
    {
        let staging = Staging::open(folder.path(), limits()).unwrap();
        let mut spool = Spool::new(&staging, &caller, 100).unwrap();
        spool.write(b"half").unwrap();
        assert_eq!(staging.used(&caller), 4);
        assert!(spool.keep_object(Some((&sha256(b"half a"), 6))).is_err());
        assert_eq!(staging.used(&caller), 0);
        let mut spool = Spool::new(&staging, &caller, 100).unwrap();
        spool.write(b"killed").unwrap();
        // What a process leaves that is killed here.
        fs::write(folder.path().join("tmp/left"), b"killed").unwrap();
    }
    let staging = Staging::open(folder.path(), limits()).unwrap();
    assert!(files(&folder.path().join("tmp")).is_empty());
    assert!(staging.object(&caller, &sha256(b"killed")).is_none());
}

#[test]
fn keeps_to_sizes_and_makes_room_of_what_was_committed() {
    let folder = tempfile::tempdir().unwrap();
    let staging = Staging::open(folder.path(), limits()).unwrap();
    let caller = CallerKey::of("alice");
    let too_large = put(&staging, &caller, &[0; 1001]).unwrap_err();
    assert_eq!(too_large.code(), "TooLarge");
    let hashes: Vec<_> = (0..3)
        .map(|n| put(&staging, &caller, &[n; 1000]).unwrap().0)
        .collect();
    assert_eq!(
        put(&staging, &caller, b"one more").unwrap_err().code(),
        "TooLarge"
    );
    staging.committed(&caller, &hashes[1]);
    put(&staging, &caller, b"one more").unwrap();
    assert!(staging.object(&caller, &hashes[1]).is_none());
    assert_eq!(staging.used(&caller), 2008);
    drop(staging);
    let again = Staging::open(folder.path(), limits()).unwrap();
    assert_eq!(again.used(&caller), 2008);
    again.sweep(SystemTime::now() + Duration::from_secs(61));
    assert_eq!(again.used(&caller), 0);
}

#[test]
fn an_upload_in_parts_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let caller = CallerKey::of("alice");
    let whole = Parted {
        sha256: sha256(b"0123456789"),
        size: 10,
        part: 4,
    };
    let part = |staging: &Arc<Staging>, number, bytes: &[u8]| {
        let mut sink = PartSink::new(staging, &caller, &whole, number)?;
        sink.write(bytes)?;
        sink.keep()
    };
    {
        let staging = Staging::open(folder.path(), limits()).unwrap();
        part(&staging, 1, b"0123").unwrap();
        assert!(part(&staging, 2, b"45678").is_err());
        assert!(part(&staging, 2, b"45").is_err());
        assert!(part(&staging, 4, b"").is_err());
        part(&staging, 3, b"89").unwrap();
        assert!(staging.finish_parts(&caller, &whole).is_err());
    }
    let staging = Staging::open(folder.path(), limits()).unwrap();
    part(&staging, 2, b"xxxx").unwrap();
    assert!(staging.finish_parts(&caller, &whole).is_err());
    let open = PartSink::new(&staging, &caller, &whole, 2).unwrap();
    assert!(staging.finish_parts(&caller, &whole).is_err());
    drop(open);
    part(&staging, 2, b"4567").unwrap();
    staging.finish_parts(&caller, &whole).unwrap();
    staging.finish_parts(&caller, &whole).unwrap();
    let staged = staging.object(&caller, &whole.sha256).unwrap();
    assert_eq!(fs::read(staged.path).unwrap(), b"0123456789");
    assert_eq!(staging.used(&caller), 10);
}

#[test]
fn one_process_has_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let first = Staging::open(folder.path(), limits()).unwrap();
    assert!(Staging::open(folder.path(), limits()).is_err());
    let secret = *first.secret();
    drop(first);
    assert_eq!(*Staging::open(folder.path(), limits()).unwrap().secret(), secret);
}
