//! Which objects there are already: told to the kernel that was agreed to, and to nobody else.

use alephlab_api::keys::match_text;
use alephlab_vault::{DatasetId, Survey, open_epoch_secret};

use super::*;

#[tokio::test]
async fn objects_are_looked_up_for_the_kernel_that_was_agreed_to_and_a_call_counts_once() {
    let bench = bench().await;
    let prepare = Ask::Prepare {
        model: "digits".into(),
    };
    let KeyReply::Prepared {
        dataset_id,
        epoch,
        reader_key,
        ticket,
        ..
    } = bench.ask(prepare).await.unwrap()
    else {
        panic!("another reply");
    };
    let id: DatasetId = dataset_id.parse().unwrap();
    let sealed = serde_json::from_value(ticket.unwrap()).unwrap();
    let ticket = open_epoch_secret(&bench.kernel, &id, epoch, &sealed).unwrap();
    let survey = Survey::of(&[SourceFile::bytes("a.txt", b"a".as_slice())], DEFAULT_OBJ_LOG2).unwrap();
    let (owner, answers) = (
        ReaderPublic::from_hex(&reader_key).unwrap(),
        ReaderKey::generate().unwrap(),
    );
    let survey = survey.seal(&owner, (&id, epoch), &answers.public()).unwrap();
    let survey = serde_json::to_value(survey).unwrap();
    let text = match_text("digits", &survey);
    let ask = |proof: String| Ask::Match {
        model: "digits".into(),
        survey: survey.clone(),
        proof,
    };
    // A gateway knows the owner's key and the model, and relayed the ticket without being able to open it.
    for proof in [
        String::new(),
        EpochSecret::generate().unwrap().proof(&text),
        ticket.proof("another"),
    ] {
        assert_eq!(bench.ask(ask(proof)).await.unwrap_err().code(), "not_prepared");
    }
    let call = bench.call(ask(ticket.proof(&text)));
    for _ in 0..2 {
        let reply = bench.engine.answer(&call).await.unwrap();
        assert!(matches!(reply, KeyReply::Matched { .. }));
    }
    let books = Books::of(&bench.account);
    let pending = || books.models().unwrap().remove("digits").unwrap().pending.unwrap();
    assert_eq!(pending().looked_up, 1);
    bench.ask(ask(ticket.proof(&text))).await.unwrap();
    assert_eq!(pending().looked_up, 2, "another call");
    // The consent does not hold for ever.
    let lock = books.lock_publish().await.unwrap();
    let mut entry = books.models().unwrap().remove("digits").unwrap();
    entry.pending = Some(super::super::books::Pending {
        until: 1,
        ..pending()
    });
    books.set_model(&lock, "digits", entry).unwrap();
    drop(lock);
    assert_eq!(
        bench.ask(ask(ticket.proof(&text))).await.unwrap_err().code(),
        "not_prepared"
    );
}
