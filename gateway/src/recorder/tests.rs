//! Cells that are asked for, put out, end, are saved, are written, and are gone on with by another run.

use serde_json::json;

use super::*;

fn message(channel: Channel, kind: &str, parent: &str, metadata: &Value, content: &Value) -> KernelMessage {
    let header = json!({ "msg_id": if parent.is_empty() { "r1" } else { "x" }, "msg_type": kind });
    let parent = if parent.is_empty() {
        json!({})
    } else {
        json!({ "msg_id": parent })
    };
    let parts = [&header, &parent, metadata, content].map(|part| part.to_string().into());
    KernelMessage::new(channel, parts.to_vec()).unwrap()
}

fn ask(recorder: &Recorder) {
    let metadata = json!({ "cellId": "c1" });
    let content = json!({ "code": "1 + 1" });
    recorder.asked(
        "page",
        &message(Channel::Shell, "execute_request", "", &metadata, &content),
        || 0,
    );
}

fn say(recorder: &Recorder, is_here: bool, kind: &str, content: &Value) -> bool {
    let message = message(Channel::Iopub, kind, "r1", &json!({}), content);
    recorder.said(18, &message, |_| is_here)
}

fn print(recorder: &Recorder, is_here: bool, text: &str) {
    assert!(!say(
        recorder,
        is_here,
        "stream",
        &json!({ "name": "stdout", "text": text })
    ));
}

fn idle(recorder: &Recorder, is_here: bool) -> bool {
    say(recorder, is_here, "status", &json!({ "execution_state": "idle" }))
}

fn write(recorder: &Recorder) -> Vec<Recorded> {
    let missed = recorder.missed(|_| false);
    recorder.written(&missed.iter().map(Recorded::key).collect::<Vec<_>>());
    missed
}

#[test]
fn a_cell_whose_page_stayed_is_forgotten_once_it_is_saved() {
    let recorder = Recorder::default();
    ask(&recorder);
    print(&recorder, true, "a");
    let over = recorder.over(|_| true);
    assert!(!idle(&recorder, true));
    recorder.saved(over);
    assert!(!recorder.is_empty(), "the page that saved had not all of it");
    recorder.saved(recorder.over(|_| false));
    assert!(
        !recorder.is_empty(),
        "another page saved, or this one hears slowly"
    );
    recorder.saved(recorder.over(|_| true));
    assert!(recorder.is_empty() && recorder.missed(|_| false).is_empty());
}

#[test]
fn a_cell_that_was_not_saved_when_its_page_went_is_written_down_as_it_ran_last() {
    let recorder = Recorder::default();
    for text in ["first", "second"] {
        ask(&recorder);
        print(&recorder, true, text);
        idle(&recorder, true);
    }
    let missed = write(&recorder);
    assert_eq!(missed.len(), 1);
    assert_eq!(missed[0].outputs[0]["text"], json!(["second"]));
    assert!(recorder.is_empty());
}

#[test]
fn gives_up_the_oldest_when_there_is_too_much() {
    let recorder = Recorder::default();
    let content = json!({ "name": "stdout", "text": "x".repeat(1 << 20) });
    for cell in 0..40 {
        let request = format!("r{cell}");
        let header = json!({ "msg_id": request, "msg_type": "execute_request" });
        let metadata = json!({ "cellId": format!("c{cell}") });
        let parts = [header, json!({}), metadata, json!({ "code": "" })];
        let parts = parts.map(|part| part.to_string().into()).to_vec();
        recorder.asked("page", &KernelMessage::new(Channel::Shell, parts).unwrap(), || 0);
        let said = message(Channel::Iopub, "stream", &request, &json!({}), &content);
        recorder.said(18, &said, |_| true);
    }
    let missed = recorder.missed(|_| false);
    assert!((30..=32).contains(&missed.len()), "{}", missed.len());
    assert_eq!(missed.last().unwrap().id, "c39");
}

#[test]
fn a_cell_whose_page_went_is_written_down_whole_and_until_that_is_done() {
    let recorder = Recorder::default();
    ask(&recorder);
    say(&recorder, true, "execute_input", &json!({ "execution_count": 7 }));
    print(&recorder, true, "heard\n");
    print(&recorder, false, "missed\n");
    let missed = recorder.missed(|_| false);
    let text = json!({ "output_type": "stream", "name": "stdout", "text": ["heard\n", "missed\n"] });
    assert_eq!(
        (missed[0].id.as_str(), missed[0].count, &missed[0].outputs),
        ("c1", Some(7), &vec![text])
    );
    assert_eq!(missed[0].code, sha256(b"1 + 1"));
    assert_eq!(write(&recorder).len(), 1, "it was not written yet");
    assert!(write(&recorder).is_empty(), "nothing came since");
    assert!(
        recorder.missed(|_| true).is_empty(),
        "its page is back and has it"
    );
    assert!(idle(&recorder, false));
    assert_eq!(write(&recorder).len(), 1);
    assert!(recorder.is_empty());
}

#[test]
fn cells_that_never_end_are_bounded_too() {
    let recorder = Recorder::default();
    for request in 0..2_000 {
        let header = json!({ "msg_id": request.to_string(), "msg_type": "execute_request" });
        let metadata = json!({ "cellId": format!("c{request}") });
        let parts = [header, json!({}), metadata, json!({ "code": "x".repeat(1_000) })];
        let parts = parts.map(|part| part.to_string().into()).to_vec();
        recorder.asked("page", &KernelMessage::new(Channel::Shell, parts).unwrap(), || 0);
    }
    assert_eq!(recorder.lock().cells.len(), MAX_CELLS);
    assert_eq!(recorder.lock().requests.len(), MAX_CELLS);
}

fn told(recorder: &Recorder) -> Vec<(u64, Option<Value>)> {
    std::iter::from_fn(|| recorder.next_change().inspect(|_| recorder.told())).collect()
}

#[test]
fn another_run_of_the_gateway_goes_on_with_what_the_agent_was_told() {
    let recorder = Recorder::default();
    let metadata = json!({ "cellId": "c1" });
    let asked = message(
        Channel::Shell,
        "execute_request",
        "",
        &metadata,
        &json!({ "code": "1 + 1" }),
    );
    recorder.asked("page", &asked, || 17);
    assert_eq!(recorder.since(), Some(17));
    let changes = told(&recorder);
    let [(cell, Some(note))] = changes.as_slice() else {
        panic!("{changes:?}")
    };
    let mut long = note.clone();
    long["id"] = "x".repeat(257).into();
    let mut early = note.clone();
    early["since"] = 15.into();
    let cells = [
        (*cell, note.clone()),
        (3, json!({ "id": 1 })),
        (4, long),
        (5, early),
    ];
    let cells = cells.map(|(cell, note)| HeldCell { cell, note });
    let noted = Noted::of_agent(&cells, 18);
    assert_eq!(
        (noted.len(), Noted::since(&noted)),
        (1, Some(17)),
        "what is no note, or began before what the host still has, is left out"
    );

    let next = Recorder::default();
    next.restore(&cells, noted, 40);
    assert_eq!(
        told(&next),
        [(3, None), (4, None), (5, None)],
        "the agent has the other one"
    );
    for text in ["1\n", "2\n"] {
        print(&next, false, text);
    }
    assert!(idle(&next, false));
    ask(&next);
    let missed = next.missed(|_| false);
    assert_eq!(missed.len(), 1, "the same cell, asked for again");
    assert_ne!(missed[0].number, *cell);
    assert_eq!(told(&next).first(), Some(&(*cell, None)));
}

#[test]
fn the_agent_keeps_nothing_for_cells_that_are_written_or_say_too_much() {
    let recorder = Recorder::default();
    ask(&recorder);
    idle(&recorder, false);
    write(&recorder);
    let changes = told(&recorder);
    assert!(
        matches!(changes.as_slice(), [(_, Some(_)), (_, None)]),
        "{changes:?}"
    );
    assert_eq!(recorder.since(), None);
    ask(&recorder);
    told(&recorder);
    let plot = json!({ "data": { "image/png": "x".repeat(1 << 20) }, "metadata": {} });
    for _ in 0..70 {
        say(&recorder, true, "clear_output", &json!({ "wait": true }));
        say(&recorder, true, "display_data", &plot);
    }
    assert!(matches!(told(&recorder).as_slice(), [(_, None)]));
    assert_eq!(recorder.since(), None);
    assert_eq!(recorder.missed(|_| false).len(), 1, "this run still has it");
}

#[test]
fn what_is_lost_is_said_in_the_cell_that_runs() {
    let recorder = Recorder::default();
    ask(&recorder);
    recorder.lost(3);
    print(&recorder, false, "rest");
    let outputs = &recorder.missed(|_| false)[0].outputs;
    assert_eq!(
        outputs[0]["text"],
        json!(["[alephlab: 3 messages of the kernel are lost here]\n"])
    );
    assert_eq!(outputs[1]["text"], json!(["rest"]));
    // One that only begins has lost nothing.
    ask(&recorder);
    recorder.lost(4);
    busy(&recorder, 30);
    print(&recorder, false, "whole");
    let outputs = &recorder.missed(|_| false)[0].outputs;
    assert_eq!(outputs.len(), 1);
    assert_eq!(outputs[0]["text"], json!(["whole"]));
}

fn busy(recorder: &Recorder, number: u64) {
    let content = json!({ "execution_state": "busy" });
    let message = message(Channel::Iopub, "status", "r1", &json!({}), &content);
    assert!(!recorder.said(number, &message, |_| false));
}

#[test]
fn the_agent_keeps_what_a_cell_says_from_where_it_begins_and_not_from_where_it_was_asked_for() {
    let recorder = Recorder::default();
    ask(&recorder);
    told(&recorder);
    busy(&recorder, 30);
    assert_eq!(recorder.since(), Some(0), "the agent goes by what it was told");
    assert!(matches!(told(&recorder).as_slice(), [(_, Some(_))]));
    assert_eq!(recorder.since(), Some(29));
    // The kernel answered something beside it, and is busy with it again.
    print(&recorder, false, "goes on");
    recorder.lost(3);
    busy(&recorder, 40);
    assert_eq!(recorder.since(), Some(29));
    assert!(told(&recorder).is_empty());
    assert_eq!(
        recorder.missed(|_| false)[0].outputs.len(),
        2,
        "and says what is lost"
    );
    // A restart that is heard of again was before it.
    recorder.ended(29);
    print(&recorder, false, "goes on");
    assert_eq!(write(&recorder).len(), 1);
    assert!(!recorder.is_empty());
    recorder.ended(31);
    print(&recorder, false, "no more");
    write(&recorder);
    assert!(recorder.is_empty());
}

#[test]
fn a_cell_that_waits_for_one_that_says_much_is_kept_all_the_same() {
    let recorder = Recorder::default();
    for request in ["r1", "r2"] {
        let header = json!({ "msg_id": request, "msg_type": "execute_request" });
        let metadata = json!({ "cellId": request });
        let parts = [header, json!({}), metadata, json!({ "code": "" })];
        let parts = parts.map(|part| part.to_string().into()).to_vec();
        assert!(recorder.asked("page", &KernelMessage::new(Channel::Shell, parts).unwrap(), || 0));
    }
    told(&recorder);
    let plot = json!({ "data": { "image/png": "x".repeat(1 << 20) }, "metadata": {} });
    for number in 1..=70 {
        let said = message(Channel::Iopub, "update_display_data", "r1", &json!({}), &plot);
        recorder.said(number, &said, |_| true);
    }
    let changes = told(&recorder);
    assert!(
        matches!(changes.as_slice(), [(_, None), (_, Some(_))]),
        "{}",
        changes.len()
    );
    assert!(recorder.since().is_some_and(|since| since > 60));
    recorder.not_asked("r2");
    told(&recorder);
    assert_eq!(recorder.since(), None);
}

#[test]
fn cells_of_a_client_that_did_not_wait_are_newer_than_what_the_agent_gives_back() {
    let recorder = Recorder::default();
    ask(&recorder);
    told(&recorder);
    let note = json!({ "id": "c1", "code": "00".repeat(32), "request": "old", "session": "s", "since": 3 });
    let held = [HeldCell { cell: 1, note }];
    recorder.restore(&held, Noted::of_agent(&held, 1), 40);
    assert_eq!(
        recorder.missed(|_| false).len(),
        1,
        "the older one is the same cell"
    );
    assert!(matches!(told(&recorder).as_slice(), [(_, Some(_)), (1, None)]));
    assert_eq!(recorder.since(), Some(40));
}

#[test]
fn follows_only_cells_that_are_named() {
    let recorder = Recorder::default();
    let content = json!({ "code": "1" });
    recorder.asked(
        "s",
        &message(Channel::Shell, "execute_request", "", &json!({}), &content),
        || 0,
    );
    print(&recorder, false, "a");
    assert!(recorder.missed(|_| false).is_empty());
}
