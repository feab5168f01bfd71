//! What an owner asks of hosts: a kernel gets keys only where it stands, and no longer than it may have them.

use alephlab_vault::{GrantTerms, Policy, grant_dataset, register_reader_key};

use super::*;

fn wall(id: &str, missing: Option<&str>) -> Wall {
    Wall {
        id: id.to_owned(),
        name: id.to_owned(),
        missing: missing.map(str::to_owned),
    }
}

/// The owner asks for something on hosts of its own kernels.
async fn ask_for(bench: &Bench, policy: Policy) {
    let (wallet, reader) = (bench.account.wallet(), bench.account.reader());
    register_reader_key(&*bench.storage, wallet, reader)
        .await
        .unwrap();
    let (head, _) = newest(bench).await;
    let terms = GrantTerms {
        policy: Some(policy),
        ..GrantTerms::default()
    };
    grant_dataset(&*bench.storage, wallet, reader, &head, wallet.owner(), terms)
        .await
        .unwrap();
}

async fn newest(bench: &Bench) -> (SignedHead, String) {
    let id = Books::of(&bench.account).datasets().unwrap()["notes"]
        .dataset_id
        .parse()
        .unwrap();
    let found = alephlab_vault::find_head(&*bench.storage, &bench.account.address(), &id).await;
    found.unwrap().unwrap()
}

fn walls(ids: &[&str]) -> Policy {
    Policy {
        walls: ids.iter().map(|id| (*id).to_owned()).collect(),
        ..Policy::default()
    }
}

async fn delegation(bench: &Bench) -> Result<Delegation> {
    let ask = Ask::Open {
        reference: "notes".into(),
    };
    match bench.ask(ask).await? {
        KeyReply::Opened { delegation, .. } => Ok(serde_json::from_value(delegation).unwrap()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn kernel_gets_keys_only_where_the_wall_stands() {
    let mut bench = bench().await;
    bench.put("hello").await;
    ask_for(&bench, walls(&["no-swap"])).await;
    // A host that says nothing of it, one that lacks it, and one that has it and lacks another.
    for (said, opens) in [
        (vec![], false),
        (vec![wall("no-swap", Some("swap is on"))], false),
        (
            vec![wall("no-swap", None), wall("locked-memory", Some("no"))],
            true,
        ),
    ] {
        bench.walls = said;
        match delegation(&bench).await {
            Ok(given) => {
                assert!(opens);
                assert_eq!(
                    given.terms.policy,
                    Some(walls(&["no-swap"])),
                    "the broker hears of it"
                );
            }
            Err(error) => {
                assert!(!opens, "{error}");
                assert_eq!(error.code(), "E_ATTEST");
                assert!(error.to_string().contains("no-swap"), "{error}");
            }
        }
    }
    let ask = Ask::Open {
        reference: "notes".into(),
    };
    let lines = bench.engine.describe(&bench.call(ask).request).await.join("|");
    assert!(lines.contains("lacks    locked-memory"), "{lines}");
    assert!(lines.contains("policy   the wall no-swap"), "{lines}");
}

#[tokio::test]
async fn no_host_is_attested_yet() {
    let bench = bench().await;
    bench.put("hello").await;
    let policy = Policy {
        attested: true,
        ..Policy::default()
    };
    ask_for(&bench, policy).await;
    let error = delegation(&bench).await.unwrap_err();
    assert!(error.to_string().contains("not attested"), "{error}");
}

#[tokio::test]
async fn term_is_as_short_as_the_owner_wants_it_and_the_next_version_keeps_to_it() {
    let bench = bench().await;
    bench.put("hello").await;
    let policy = Policy {
        max_term: Some(3_600),
        ..Policy::default()
    };
    ask_for(&bench, policy).await;
    let now = alephlab_api::time::unix_now();
    for text in ["hello", "hello again"] {
        bench.put(text).await;
        let until = delegation(&bench).await.unwrap().terms.not_after;
        assert!((now + 3_600..now + 3_700).contains(&until), "{until} of {now}");
    }
}
