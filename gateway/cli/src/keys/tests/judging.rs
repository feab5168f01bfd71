//! Rules against the names that kernels use: one thing is judged alike, and two things are not taken for one.

use alephlab_api::keys::Ask;
use uuid::Uuid;

use super::super::rules::{Answer, OWN_GATEWAY, Rule};
use super::super::{Books, Consent, Rules};
use super::{Bench, bench, seal, sign, store};

/// What a rule that says no to `name` makes of a request to open `reference`.
async fn judged(bench: &Bench, name: &str, reference: &str) -> Option<Answer> {
    let mut rules = Rules::load(&bench.folder.path().join(format!("{}.json", Uuid::new_v4()))).unwrap();
    let rule = Rule {
        gateway: OWN_GATEWAY.into(),
        action: "open".into(),
        name: name.into(),
        answer: Answer::No,
    };
    rules.add(rule).unwrap();
    let call = bench.call(Ask::Open {
        reference: reference.into(),
    });
    let names = bench.engine.names(&call.request.ask);
    let mut consent = Consent::OwnGateway(rules);
    consent.decide(&call, names, Vec::new()).await.unwrap()
}

#[tokio::test]
async fn a_rule_judges_one_thing_alike_by_whatever_name_it_is_asked_for() {
    let bench = bench().await;
    bench.put("hello").await;
    let sealing = seal(&bench, "digits", "one").await;
    store(&bench, &sealing).await;
    bench.ask(sign(&sealing)).await.unwrap();
    let books = Books::of(&bench.account);
    let notes = books.datasets().unwrap()["notes"].dataset_id.clone();
    let full = format!("{}/digits", bench.account.address());
    let revision = books.models().unwrap()["digits"].revisions[0].revision.clone();
    let model = books.models().unwrap()["digits"].dataset_id.clone();
    let notes = [("notes".to_owned()), notes.to_uppercase(), notes];
    let references = [
        "digits".into(),
        full.clone(),
        format!("{full}@main"),
        format!("digits@{revision}"),
    ];
    let names = ["digits".into(), full.clone(), model, format!("{full}@{revision}")];
    for (names, references) in [(&notes[..], &notes[..]), (&names[..], &references[..])] {
        for (name, reference) in names
            .iter()
            .flat_map(|name| references.iter().map(move |r| (name, r)))
        {
            let answer = judged(&bench, name, reference).await;
            assert_eq!(
                answer,
                Some(Answer::No),
                "a rule for {name}, asked for {reference}"
            );
        }
    }
    assert_eq!(judged(&bench, "notes", &full).await, None);
    // From now on the bare name is the dataset's.
    let entry = books.datasets().unwrap()["notes"].clone();
    books.set_dataset("digits", entry).unwrap();
    assert_eq!(judged(&bench, "digits", &full).await, None);
    assert_eq!(judged(&bench, "digits", "notes").await, None);
}

#[tokio::test]
async fn a_share_is_judged_by_its_uuid_however_it_is_written() {
    let bench = bench().await;
    let share = Uuid::new_v4();
    for reference in [
        share.simple().to_string(),
        share.braced().to_string(),
        share.urn().to_string(),
    ] {
        let answer = judged(&bench, &share.to_string(), &reference).await;
        assert_eq!(answer, Some(Answer::No), "{reference}");
    }
}
