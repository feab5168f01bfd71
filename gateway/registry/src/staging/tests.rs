//! Tests of the working area.

use sha2::{Digest as _, Sha256};

use super::parts::Parted;
use super::*;

fn limits() -> Limits {
    Limits {
        object: 1000,
        caller: 3000,
        total: 5000,
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
    let (alice, bob) = (staging.key("alice"), staging.key("bob"));
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
    let caller;
    {
        let staging = Staging::open(folder.path(), limits()).unwrap();
        caller = staging.key("alice");
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
    let caller = staging.key("alice");
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
    let caller = CallerKey::parse(&"a".repeat(32)).unwrap();
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

/// As if nobody had asked for it for two hours.
fn aged(path: &Path) {
    let then = SystemTime::now() - Duration::from_secs(7200);
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_modified(then).unwrap();
}

#[test]
fn an_upload_that_was_given_up_locks_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let staging = Staging::open(folder.path(), limits()).unwrap();
    let caller = staging.key("alice");
    let whole = Parted {
        sha256: sha256(b"never"),
        size: 1000,
        part: 500,
    };
    drop(PartSink::new(&staging, &caller, &whole, 1).unwrap());
    let (left, _) = put(&staging, &caller, &[1; 1000]).unwrap();
    let (wanted, _) = put(&staging, &caller, &[2; 1000]).unwrap();
    assert!(put(&staging, &caller, b"more").is_err());
    let parts = files(&folder.path().join("parts").join(caller.as_str()));
    aged(&parts[0].join("data"));
    aged(&staging.place("objects", &caller, &left));
    aged(&staging.place("objects", &caller, &wanted));
    let (_, held) = staging.hold(&caller, &wanted).unwrap();
    aged(&staging.place("objects", &caller, &wanted));
    let fresh = put(&staging, &caller, &[3; 1000]).unwrap().0;
    put(&staging, &caller, &[4; 1000]).unwrap();
    assert!(staging.object(&caller, &left).is_none());
    assert!(files(&folder.path().join("parts").join(caller.as_str())).is_empty());
    assert!(
        staging.object(&caller, &wanted).is_some(),
        "a commit works with it"
    );
    assert!(staging.object(&caller, &fresh).is_some());
    assert_eq!(staging.used(&caller), 3000);
    drop(held);
    aged(&staging.place("objects", &caller, &wanted));
    put(&staging, &caller, &[5; 1000]).unwrap();
    assert!(staging.object(&caller, &wanted).is_none());
}

#[test]
fn all_callers_together_have_a_bound() {
    let folder = tempfile::tempdir().unwrap();
    let staging = Staging::open(folder.path(), limits()).unwrap();
    let (alice, bob) = (staging.key("alice"), staging.key("bob"));
    let hashes: Vec<_> = (0..3)
        .map(|n| put(&staging, &alice, &[n; 1000]).unwrap().0)
        .collect();
    put(&staging, &bob, &[3; 1000]).unwrap();
    put(&staging, &bob, &[4; 1000]).unwrap();
    assert_eq!(put(&staging, &bob, &[5; 1000]).unwrap_err().code(), "TooLarge");
    staging.committed(&alice, &hashes[0]);
    put(&staging, &bob, &[5; 1000]).unwrap();
    assert_eq!((staging.used(&alice), staging.used(&bob)), (2000, 3000));
}

#[test]
fn equal_uploads_at_once_are_charged_once() {
    let folder = tempfile::tempdir().unwrap();
    let staging = Staging::open(folder.path(), limits()).unwrap();
    let caller = staging.key("alice");
    let spools: Vec<_> = (0..2)
        .map(|_| {
            let mut spool = Spool::new(&staging, &caller, 100).unwrap();
            spool.write(b"0123456789").unwrap();
            spool
        })
        .collect();
    let whole = Parted {
        sha256: sha256(b"0123456789"),
        size: 10,
        part: 10,
    };
    let mut sink = PartSink::new(&staging, &caller, &whole, 1).unwrap();
    sink.write(b"0123456789").unwrap();
    sink.keep().unwrap();
    for spool in spools {
        spool.keep_object(None).unwrap();
    }
    assert_eq!(staging.used(&caller), 20);
    // The parts are not needed any more, and cost nothing once they are asked to become the object.
    staging.finish_parts(&caller, &whole).unwrap();
    assert_eq!(staging.used(&caller), 10);
    assert!(files(&folder.path().join("tmp")).is_empty());
}

#[test]
fn the_folder_is_its_users_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let staging = Staging::open(folder.path(), limits()).unwrap();
    let caller = staging.key("alice");
    let (hash, _) = put(&staging, &caller, b"weights").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(folder.path()), 0o700);
    assert_eq!(mode(&staging.place("objects", &caller, &hash)), 0o600);
    assert_eq!(mode(&folder.path().join("staging.key")), 0o600);
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
