//! Mounting: what is given, and everything that must be refused.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use alephlab_api::Problem;
use alephlab_api::broker::{Access, BrokerStatus, Event, Mounted, Op};
use alephlab_api::keys::KeyReply;
use alephlab_vault::storage::{Fault, FaultyStorage};
use alephlab_vault::{Delegation, ReaderKey, SignedHead, fingerprint};
use uuid::Uuid;

use super::owner::{self, Owner};
use super::{CSV, KERNEL, Stage, digits, path_of, until};

#[tokio::test(flavor = "multi_thread")]
async fn mount_makes_the_files_readable_for_their_owner_only() {
    let stage = Stage::new().await;
    let mounted: Mounted = serde_json::from_value(stage.mount("digits").await.unwrap()).unwrap();
    assert_eq!(
        (mounted.name.as_str(), mounted.title.as_str(), mounted.version),
        ("digits", "Digits", 1)
    );
    assert_eq!((mounted.files, mounted.bytes), (2, CSV.len() as u64 + 8));
    assert!(mounted.trust.contains("could read it"), "{}", mounted.trust);
    let file = mounted.path.join("digits.csv");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), CSV);
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o400);
    let folder = std::fs::metadata(&mounted.path).unwrap().mode() & 0o777;
    assert_eq!(folder & 0o577, 0o500, "{folder:o}");
    assert_eq!(mounted.owner, stage.owner.wallet.address());
    assert_eq!(
        std::fs::read_to_string(mounted.path.join("docs/README.md")).unwrap(),
        "# Digits"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_takes_requests_one_after_another_and_one_version_is_one_folder() {
    let stage = Stage::new().await;
    let mut cell = stage.cell().await;
    let first = cell
        .ask(Op::Mount {
            reference: "digits".into(),
        })
        .await
        .unwrap();
    let unknown = cell
        .ask(Op::Mount {
            reference: "nothing".into(),
        })
        .await
        .unwrap_err();
    assert_eq!(
        (unknown.code.as_str(), unknown.message.as_str()),
        ("dataset_unknown", "there is no dataset `nothing`")
    );
    let again = cell
        .ask(Op::Mount {
            reference: "digits".into(),
        })
        .await
        .unwrap();
    assert_eq!(path_of(&first), path_of(&again));
    assert_eq!(stage.opened(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_the_cell_with_its_code_and_hint() {
    let stage = Stage::new().await;
    let no = Problem::new("keys_refused", "the owner said no").with_hint("ask them");
    stage.owner.manner.lock().unwrap().refuse = Some(no.clone());
    assert_eq!(stage.mount("digits").await.unwrap_err(), no);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_has_to_act_is_told_so() {
    let stage = Stage::new().await;
    stage.owner.manner.lock().unwrap().slow = true;
    let mut cell = stage.cell().await;
    cell.send(Op::Mount {
        reference: "digits".into(),
    })
    .await;
    let message = cell.waits().await;
    let shown = stage.owner.shown.lock().unwrap()[0].clone();
    assert_eq!(
        message,
        format!("approve on your machine: alephlab keys (key {shown})")
    );
    stage.owner.approve.notify_one();
    loop {
        match cell.event().await.unwrap() {
            Event::Done { .. } => break,
            Event::Progress { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_away_ends_no_mount() {
    let stage = Stage::new().await;
    let path = path_of(&stage.mount("digits").await.unwrap());
    stage.owner.go_away().await;
    // Nothing was read before, so what is read now has to be fetched.
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path.join("digits.csv")));
    assert_eq!(read.await.unwrap().unwrap(), CSV);
    let status = status(stage.cell().await.ask(Op::Status).await.unwrap());
    assert!(
        !status.opened[0].is_over && status.opened[0].failure.is_none(),
        "{status:?}"
    );
    // Only opening needs it.
    let error = stage.mount("digits").await.unwrap_err();
    assert!(error.to_string().contains("gateway"), "{error}");
}

/// Nothing but the person's eyes stands against a gateway that names a key of its own on a host that proves nothing: what
/// they see, what happens to who does not look, and that the kernel at least does not go on as if nothing were.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_puts_its_own_key_in_the_kernels_place_is_seen_by_comparing_two_lines() {
    let stage = Stage::new().await;
    let thief = ReaderKey::generate().unwrap();
    {
        let mut manner = stage.owner.manner.lock().unwrap();
        manner.slow = true;
        manner.substitute = Some(thief.public().to_hex());
    }
    let mut cell = stage.cell().await;
    cell.send(Op::Mount {
        reference: "digits".into(),
    })
    .await;
    let message = cell.waits().await;
    // The notebook shows the kernel's own key, `alephlab keys` the thief's.
    let shown = stage.owner.shown.lock().unwrap()[0].clone();
    assert_eq!(shown, fingerprint(&thief.public().to_hex()));
    assert!(
        message.contains("(key ") && !message.contains(&shown),
        "{message}"
    );
    // Who says yes all the same gives it to the thief ...
    stage.owner.approve.notify_one();
    let error = loop {
        match cell.event().await.unwrap() {
            Event::Failed { error, .. } => break error,
            Event::Progress { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    let KeyReply::Opened { head, delegation, .. } = stage.owner.relayed.lock().unwrap()[0].clone() else {
        panic!("nothing was opened")
    };
    let head = SignedHead::from_post(&head).unwrap();
    let delegation: Delegation = serde_json::from_value(delegation).unwrap();
    let account = stage.owner.wallet.address();
    assert!(delegation.open(&thief, &head, &account, owner::now()).is_ok());
    // ... and learns it from the kernel, which gets nothing.
    assert!(error.code.starts_with("E_"), "{error:?}");
    assert_eq!(stage.opened(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_object_is_named_and_nothing_is_left() {
    let owner = Owner::new();
    owner.put("digits", digits()).await;
    let storage = Arc::new(FaultyStorage::new(owner.storage.clone()));
    let objects = owner.storage.objects();
    let stage = Stage::copying(owner, storage.clone()).await;
    for fault in [Fault::FlipByte(100), Fault::Truncate(50)] {
        storage.set(Some(fault));
        let problem = stage.mount("digits").await.unwrap_err();
        assert!(
            ["E_HASH", "E_LENGTH"].contains(&problem.code.as_str()),
            "{problem:?}"
        );
        assert!(
            objects.iter().any(|object| problem.message.contains(object)),
            "{problem}"
        );
    }
    assert_eq!(stage.opened(), 0);
    storage.set(None);
    stage.mount("digits").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_damaged_object_among_good_ones_leaves_nothing_half_written() {
    let owner = Owner::new();
    owner.put("digits", digits()).await;
    let names = owner.storage.objects();
    let stage = Stage::copying(owner.clone(), owner.storage.clone()).await;
    let mut refused = 0;
    for name in &names {
        let good = alephlab_vault::storage::Storage::get(&*owner.storage, name)
            .await
            .unwrap();
        let mut bad = good.to_vec();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        owner.storage.damage(name, bad);
        // A leaf table is read only for ranges, so its damage may go unseen here.
        if let Err(problem) = stage.mount("digits").await {
            assert_eq!(problem.code, "E_HASH");
            assert!(problem.message.contains(name), "{problem}");
            assert_eq!(stage.opened(), 0);
            refused += 1;
        }
        owner.storage.damage(name, good);
    }
    assert!(refused >= 3, "{refused} of {} were refused", names.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_and_foreign_delegations_are_refused() {
    let stage = Stage::new().await;
    stage.owner.manner.lock().unwrap().term_seconds = Some(-5);
    let expired = stage.mount("digits").await.unwrap_err();
    assert_eq!(expired.code, "E_DELEGATION");
    assert!(expired.message.contains("expired"), "{expired}");
    *stage.owner.manner.lock().unwrap() = super::owner::Manner {
        foreign_wallet: true,
        ..Default::default()
    };
    let foreign = stage.mount("digits").await.unwrap_err();
    assert!(
        foreign.message.contains("not signed by this kernel's account"),
        "{foreign}"
    );
    assert_eq!(stage.opened(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_not_used_on_a_host_that_their_owner_does_not_allow() {
    let stage = Stage::new().await;
    let asks = |walls: &[&str], attested| super::owner::Manner {
        policy: Some(alephlab_vault::Policy {
            attested,
            walls: walls.iter().map(|wall| (*wall).to_owned()).collect(),
            max_term: None,
        }),
        ..Default::default()
    };
    // Cells and broker are one user today, and nothing attests a host.
    for (policy, lacking) in [
        (asks(&["other-user"], false), "other-user"),
        (
            asks(&["undumpable", "a wall of next year"], false),
            "a wall of next year",
        ),
        (asks(&[], true), "not attested"),
    ] {
        *stage.owner.manner.lock().unwrap() = policy;
        let refused = stage.mount("digits").await.unwrap_err();
        assert_eq!(refused.code, "E_ATTEST");
        assert!(refused.message.contains(lacking), "{refused}");
        assert_eq!(stage.opened(), 0);
    }
    // Nor longer than is allowed: the delegation is for an hour.
    let mut short = asks(&[], false);
    short.policy.as_mut().unwrap().max_term = Some(60);
    *stage.owner.manner.lock().unwrap() = short;
    let refused = stage.mount("digits").await.unwrap_err();
    assert!(
        refused.message.contains("longer than the owner's policy"),
        "{refused}"
    );
    *stage.owner.manner.lock().unwrap() = asks(&[], false);
    stage.mount("digits").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_changed_on_its_way_opens_nothing() {
    let stage = Stage::new().await;
    stage.owner.put("letters", digits()).await;
    // Both are validly signed answers of the account, for this request's key.
    for relayed in [("letters", KERNEL), ("digits", Uuid::from_u128(12))] {
        stage.owner.manner.lock().unwrap().relayed_as = Some(relayed);
        let problem = stage.mount("digits").await.unwrap_err();
        assert_eq!(problem.code, "broker_answer");
        assert!(problem.message.contains("another request"), "{problem}");
    }
    assert_eq!(stage.opened(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_an_earlier_request_opens_nothing() {
    let stage = Stage::new().await;
    stage.owner.put("letters", digits()).await;
    stage.mount("digits").await.unwrap();
    stage.owner.manner.lock().unwrap().replay = true;
    for reference in ["letters", "digits"] {
        let replayed = stage.mount(reference).await.unwrap_err();
        assert_eq!(replayed.code, "E_DELEGATION");
        assert!(replayed.message.contains("for another kernel"), "{replayed}");
    }
    assert_eq!(stage.opened(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn copied_files_are_erased_when_the_delegation_ends() {
    let owner = Owner::new();
    owner.put("digits", digits()).await;
    let storage = owner.storage.clone();
    let stage = Stage::copying(owner, storage).await;
    stage.owner.manner.lock().unwrap().term_seconds = Some(1);
    let path = path_of(&stage.mount("digits").await.unwrap());
    let kept = std::fs::File::open(path.join("digits.csv")).unwrap();
    until("erasing", || !path.exists()).await;
    assert!(std::io::read_to_string(kept).unwrap().chars().all(|c| c == '\0'));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_that_goes_away_stops_the_work_and_leaves_nothing() {
    let owner = Owner::new();
    owner.put("digits", digits()).await;
    let storage = Arc::new(FaultyStorage::new(owner.storage.clone()));
    let stage = Stage::copying(owner, storage.clone()).await;
    // Long enough that a busy machine sees the folder before all is in it.
    storage.set(Some(Fault::Delay(Duration::from_secs(2))));
    // Several times: it is cut while folders and files are being made, which must not come back after they were erased.
    for _ in 0..3 {
        let mut cell = stage.cell().await;
        cell.send(Op::Mount {
            reference: "digits".into(),
        })
        .await;
        until("the folder", || stage.opened() == 1).await;
        drop(cell);
        until("erasing", || stage.opened() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_not_understood_is_answered_without_repeating_it() {
    use tokio::io::AsyncWriteExt;
    let stage = Stage::new().await;
    let mut cell = stage.cell().await;
    cell.write
        .write_all(b"{\"id\":1,\"op\":\"pull\",\"token\":\"hf_canary\"}\n")
        .await
        .unwrap();
    let Some(Event::Failed { error, .. }) = cell.event().await else {
        panic!("no answer")
    };
    assert_eq!(error.code, "broker_request");
    assert!(!error.to_string().contains("canary"), "{error}");
    assert!(cell.event().await.is_none());
}

fn status(answer: serde_json::Value) -> BrokerStatus {
    serde_json::from_value(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn mounted_files_end_with_the_delegation_and_go_on_with_the_next() {
    let stage = Stage::new().await;
    stage.owner.manner.lock().unwrap().term_seconds = Some(1);
    let mounted: Mounted = serde_json::from_value(stage.mount("digits").await.unwrap()).unwrap();
    if mounted.access != Access::Mounted {
        return; // This account may not mount.
    }
    let file = std::fs::File::open(mounted.path.join("digits.csv")).unwrap();
    let read = || {
        let mut buffer = [0; 3];
        std::os::unix::fs::FileExt::read_at(&file, &mut buffer, 0).map(|_| buffer)
    };
    until("the end", || read().is_err()).await;
    assert_eq!(read().unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    let opened = status(stage.cell().await.ask(Op::Status).await.unwrap()).opened;
    assert_eq!((opened.len(), opened[0].is_over), (1, true));
    // Asked for again it goes on, in files that stayed open too.
    stage.owner.manner.lock().unwrap().term_seconds = None;
    stage.mount("digits").await.unwrap();
    assert_eq!(&read().unwrap()[..], &CSV.as_bytes()[..3]);
    let opened = status(stage.cell().await.ask(Op::Status).await.unwrap()).opened;
    assert!(!opened[0].is_over && opened[0].expires > Some(mounted.expires));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_object_of_a_mount_is_told_by_the_status() {
    let owner = Owner::new();
    owner.put("digits", digits()).await;
    let storage = Arc::new(FaultyStorage::new(owner.storage.clone()));
    let stage = Stage::over(owner, storage.clone()).await;
    let mounted: Mounted = serde_json::from_value(stage.mount("digits").await.unwrap()).unwrap();
    if mounted.access != Access::Mounted {
        return; // This account may not mount.
    }
    storage.set(Some(Fault::FlipByte(100)));
    let read = |path| tokio::task::spawn_blocking(move || std::fs::read(path));
    let error = read(mounted.path.join("digits.csv")).await.unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
    let opened = status(stage.cell().await.ask(Op::Status).await.unwrap()).opened;
    let failure = opened[0].failure.as_ref().unwrap();
    assert_eq!(
        (failure.path.as_str(), failure.code.as_str()),
        ("digits.csv", "E_HASH")
    );
    storage.set(None);
    let bytes = read(mounted.path.join("digits.csv")).await.unwrap().unwrap();
    assert_eq!(bytes, CSV.as_bytes());
}
