//! Sessions that come, go, share and come back; what they hear.

use super::*;

fn text(text: &str) -> KernelMessage {
    KernelMessage::sentence(text)
}

fn heard(relay: &Relay, hold: &Hold) -> Vec<String> {
    let mut heard = Vec::new();
    loop {
        match relay.next(hold) {
            Step::Deliver(number, message) => {
                let content: serde_json::Value = serde_json::from_slice(&message.parts()[3]).unwrap();
                heard.push(content["text"].as_str().unwrap().trim().to_owned());
                relay.delivered(hold, number);
            }
            Step::Missed(count) => heard.push(format!("missed {count}")),
            _ => return heard,
        }
    }
}

#[test]
fn goes_on_where_a_session_was() {
    let relay = Relay::new(Default::default());
    let one = relay.attach("s", false);
    relay.push(None, text("1"));
    assert_eq!(heard(&relay, &one), ["1"]);
    relay.push(None, text("2"));
    relay.detach(&one);
    relay.push(None, text("3"));
    relay.push(Some(one.client), text("reply"));
    let two = relay.attach("s", false);
    assert_eq!(two.client, one.client);
    assert_eq!(heard(&relay, &two), ["2", "3", "reply"]);
}

#[test]
fn a_new_session_hears_what_nobody_heard() {
    let relay = Relay::new(Default::default());
    relay.push(None, text("0"));
    let one = relay.attach("s", false);
    assert_eq!(heard(&relay, &one), ["0"]);
    relay.detach(&one);
    relay.push(None, text("1"));
    relay.push(Some(one.client), text("not yours"));
    assert_eq!(heard(&relay, &relay.attach("t", false)), ["1"]);
    assert_eq!(heard(&relay, &relay.attach("u", false)), [""; 0]);
}

#[test]
fn a_duplicate_session_replaces_without_loss() {
    let relay = Relay::new(Default::default());
    let one = relay.attach("s", false);
    relay.push(None, text("1"));
    let Step::Deliver(..) = relay.next(&one) else {
        panic!("a message waits")
    };
    let two = relay.attach("s", false);
    assert!(matches!(relay.next(&one), Step::Replaced));
    relay.delivered(&one, 0);
    relay.detach(&one);
    assert_eq!(relay.connections(), 1);
    assert_eq!(heard(&relay, &two), ["1"]);
}

#[test]
fn connections_that_share_a_session_all_hear_it_and_the_one_that_spoke_has_its_place() {
    let relay = Relay::new(Default::default());
    let used = relay.attach("s", true);
    let given_up = relay.attach("s", true);
    relay.spoke(&used);
    relay.push(Some(used.client), text("reply"));
    assert_eq!(heard(&relay, &used), ["reply"]);
    assert_eq!(heard(&relay, &given_up), ["reply"]);
    relay.detach(&used);
    relay.push(None, text("later"));
    assert_eq!(heard(&relay, &given_up), ["later"]);
    assert_eq!(relay.connections(), 1);
    let again = relay.attach("s", true);
    assert_eq!(
        heard(&relay, &again),
        ["later"],
        "what the used one had not heard"
    );
    relay.detach(&given_up);
    relay.detach(&again);
    assert_eq!(relay.connections(), 0);
    relay.push(None, text("away"));
    let alone = relay.attach("s", false);
    assert_eq!(heard(&relay, &alone), ["away"]);
    assert!(matches!(relay.next(&again), Step::Replaced));
}

#[test]
fn tells_how_many_were_missed_and_stays_within_its_limit() {
    let relay = Relay::new(Default::default());
    let slow = relay.attach("s", false);
    let megabyte = "x".repeat(1 << 20);
    for _ in 0..90 {
        relay.push(None, text(&megabyte));
    }
    assert!(relay.lock().bytes <= LIMIT_CONNECTED + SLACK);
    let heard = heard(&relay, &slow);
    let missed: usize = heard[0].strip_prefix("missed ").unwrap().parse().unwrap();
    assert_eq!(missed + heard.len() - 1, 90);
    assert_eq!(relay.lock().bytes, 0, "what all have heard is dropped");
}

#[test]
fn closes_only_after_what_was_said() {
    let relay = Relay::new(Default::default());
    let hold = relay.attach("s", false);
    relay.push(None, text("last"));
    relay.close(1000, "stopped");
    assert_eq!(heard(&relay, &hold), ["last"]);
    assert!(matches!(relay.next(&hold), Step::Close(1000, _)));
}

#[test]
fn expires_sessions_that_are_away_and_no_others() {
    let relay = Relay::new(Default::default());
    let (here, away) = (relay.attach("here", false), relay.attach("away", false));
    relay.detach(&away);
    assert!(relay.expire(ABSENCE).is_empty());
    assert_eq!(relay.expire(Duration::ZERO), [away.client]);
    relay.push(Some(away.client), text("1"));
    relay.push(Some(here.client), text("2"));
    assert_eq!(heard(&relay, &here), ["2"]);
}

#[test]
fn keeps_nothing_for_sessions_that_are_forgotten() {
    let relay = Relay::new(Default::default());
    let hold = relay.attach("s", false);
    relay.forget(&hold);
    relay.push(Some(hold.client), text("1"));
    assert_eq!(relay.lock().journal.len(), 0);
}

/// As another run of the gateway gets it from the agent: the note, and every numbered message that is still kept.
fn another_run(relay: &Relay, said: &[&str]) -> (Relay, bool) {
    relay.mark();
    let kept = relay.take_note(|| None, || true).unwrap();
    let next = Relay::of_earlier_run(Default::default());
    let busy = next.restore(&kept.note, None, 0).unwrap();
    for (number, words) in (1..).zip(said) {
        if number >= kept.keep && next.expects(number) == Arrival::Next {
            next.accept(number);
            next.push_numbered(number, None, text(words));
        }
    }
    (next, busy)
}

fn say(relay: &Relay, said: &[&str]) {
    for words in said {
        let number = relay.accepted() + 1;
        assert_eq!(relay.expects(number), Arrival::Next);
        relay.accept(number);
        relay.push_numbered(number, None, text(words));
    }
}

#[test]
fn another_run_of_the_gateway_tells_each_session_what_it_has_not_heard() {
    let relay = Relay::new(Default::default());
    let (quick, slow) = (relay.attach("quick", false), relay.attach("slow", false));
    say(&relay, &["1", "2"]);
    assert_eq!(heard(&relay, &quick), ["1", "2"]);
    assert_eq!(heard(&relay, &slow), ["1", "2"]);
    say(&relay, &["3", "4"]);
    assert_eq!(heard(&relay, &quick), ["3", "4"]);
    // It is killed here; the kernel goes on.
    let (next, busy) = another_run(&relay, &["1", "2", "3", "4", "5"]);
    assert!(busy);
    let back = next.attach("quick", false);
    assert_eq!(back.client, quick.client, "replies find it");
    assert_eq!(heard(&next, &back), ["5"]);
    assert_eq!(heard(&next, &next.attach("slow", false)), ["3", "4", "5"]);
}

#[test]
fn a_page_that_is_new_to_another_run_hears_what_nobody_has_heard() {
    let relay = Relay::new(Default::default());
    let page = relay.attach("page", false);
    say(&relay, &["1", "2"]);
    assert_eq!(heard(&relay, &page), ["1", "2"]);
    let (next, _) = another_run(&relay, &["1", "2", "3"]);
    assert_eq!(heard(&next, &next.attach("reloaded", false)), ["3"]);
    assert_eq!(heard(&next, &next.attach("another", false)), [""; 0]);
}

#[test]
fn what_a_page_had_not_heard_when_it_went_is_for_the_next() {
    let relay = Relay::new(Default::default());
    let page = relay.attach("page", false);
    say(&relay, &["1"]);
    assert_eq!(heard(&relay, &page), ["1"]);
    say(&relay, &["2"]);
    relay.detach(&page);
    assert_eq!(heard(&relay, &relay.attach("reloaded", false)), ["2"]);
}

#[tokio::test]
async fn what_everybody_has_heard_comes_again_for_the_notebook_only() {
    let relay = Relay::new(Default::default());
    let page = relay.attach("page", false);
    say(&relay, &["1", "2", "3", "4"]);
    assert_eq!(heard(&relay, &page).len(), 4);
    relay.mark();
    // A cell began after the first.
    let kept = relay.take_note(|| Some(1), || true).unwrap();
    assert_eq!((kept.keep, kept.taken), (2, 4));
    let next = Relay::of_earlier_run(Default::default());
    next.restore(&kept.note, Some(1), 5);
    assert_eq!(next.accepted(), 1);
    assert!(!next.is_caught_up());
    // Number 2 is lost, and nobody's loss who listens.
    assert_eq!(next.expects(3), Arrival::After { lost: 1, unheard: 0 });
    let back = next.attach("page", false);
    for number in 3..=5 {
        next.accept(number);
        if !next.is_heard(number) {
            next.push_numbered(number, None, text(&number.to_string()));
        }
        next.settle(number);
    }
    assert_eq!(heard(&next, &back), ["5"]);
    next.caught_up().await;
    assert!(next.is_caught_up());
}

#[test]
fn sessions_of_an_earlier_run_are_not_away_before_they_could_come_back() {
    let relay = Relay::new(Default::default());
    relay.attach("page", false);
    let (next, _) = another_run(&relay, &[]);
    assert!(!next.is_gone("page", Duration::from_secs(5)));
    assert!(next.is_gone("page", Duration::ZERO), "for who opens it elsewhere");
}

#[test]
fn numbers_tell_what_came_before_and_what_is_lost() {
    let relay = Relay::new(Default::default());
    assert_eq!(relay.expects(1), Arrival::Next);
    assert_eq!(relay.expects(1), Arrival::Next, "until it is accepted");
    relay.accept(1);
    assert_eq!(relay.expects(1), Arrival::Known);
    assert_eq!(relay.expects(5), Arrival::After { lost: 3, unheard: 3 });
    relay.accept(5);
    assert_eq!(relay.expects(6), Arrival::Next);
}

#[test]
fn a_connection_that_is_lost_keeps_what_there_was_room_for() {
    let relay = Relay::new(Default::default());
    let page = relay.attach("page", false);
    let megabyte = "x".repeat(1 << 20);
    for _ in 0..60 {
        relay.push(None, text(&megabyte));
    }
    relay.detach(&page);
    assert_eq!(heard(&relay, &relay.attach("page", false)).len(), 60);
}

#[test]
fn the_agent_is_told_to_wait_while_nobody_listens_and_nothing_is_lost() {
    let relay = Relay::new(Default::default());
    let megabyte = "x".repeat(1 << 20);
    let mut count = 0;
    loop {
        let kept = relay.take_note(|| None, || false);
        let taken = kept.map_or(0, |kept| kept.taken);
        // The agent's window.
        if count >= taken + 4 {
            break;
        }
        count += 1;
        assert_eq!(relay.expects(count), Arrival::Next);
        relay.accept(count);
        relay.push_numbered(count, None, text(&megabyte));
    }
    assert!((16..=21).contains(&count), "{count} MiB");
    let page = relay.attach("page", false);
    assert_eq!(heard(&relay, &page).len() as u64, count);
    assert_eq!(relay.take_note(|| None, || false).unwrap().taken, count);
}

#[test]
fn a_note_that_lies_costs_its_kernel_only() {
    for note in [
        serde_json::json!(null),
        serde_json::json!("x"),
        serde_json::json!({ "told": -1 }),
        serde_json::json!({ "sessions": [{ "session": 1 }] }),
        serde_json::json!({ "told": u64::MAX, "sessions": [{ "session": "s", "client": Uuid::nil(), "told": u64::MAX }] }),
    ] {
        let relay = Relay::of_earlier_run(Default::default());
        relay.restore(&note, None, 0).unwrap();
        assert!(relay.restore(&note, None, 0).is_none(), "once");
        relay.attach("s", false);
        relay.take_note(|| None, || false);
        relay.expects(1);
        relay.accept(1);
        relay.settle(u64::MAX);
        relay.settle(1);
    }
}
