//! Frames of one kernel that are kept, sent, taken and given up.

use alephlab_api::agent::decode;

use super::*;

const SMALL: Limits = Limits {
    memory: 1_000,
    segment: 2_000,
    total: 100_000,
    window: 3_000,
};

struct World {
    journals: Arc<Journals>,
    outbound: Outbound,
    kernel: Uuid,
    _folder: tempfile::TempDir,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let journals = Arc::new(Journals::new(folder.path().to_owned(), SMALL));
    let kernel = Uuid::new_v4();
    World {
        outbound: journals.outbound(kernel),
        journals,
        kernel,
        _folder: folder,
    }
}

impl World {
    fn say(&self, count: usize) {
        for _ in 0..count {
            let frame = FromAgent::State {
                kernel_id: self.kernel,
                state: KernelState::Idle,
                detail: Some("x".repeat(50)),
                at: 0,
            };
            self.outbound.push(encode::<_, &[u8]>(&frame, &[]).unwrap(), None);
        }
    }

    fn sent(&self) -> Vec<u64> {
        let mut numbers = Vec::new();
        loop {
            let batch = self.journals.batch();
            if batch.is_empty() {
                return numbers;
            }
            numbers.extend(batch.iter().map(|frame| decode::<FromAgent>(frame).unwrap().0));
        }
    }

    /// Takes everything as it comes; needs nothing before `keep`.
    fn take(&self, keep: u64) -> Vec<u64> {
        let mut all = Vec::new();
        loop {
            let sent = self.sent();
            let Some(newest) = sent.last() else { return all };
            self.journals.note(self.kernel, (*newest, keep), Value::Null);
            all.extend(sent);
        }
    }
}

#[test]
fn sends_everything_in_order_from_memory_and_files() {
    let world = world();
    world.say(300);
    assert_eq!(world.take(1), (1..=300).collect::<Vec<_>>());
    // Nothing was given up, so another gateway gets all of it.
    world.journals.resume(&BTreeMap::from([(world.kernel, 0)]));
    assert_eq!(world.take(1), (1..=300).collect::<Vec<_>>());
    world.journals.resume(&BTreeMap::from([(world.kernel, 290)]));
    assert_eq!(world.take(296), (291..=300).collect::<Vec<_>>());
    world.journals.resume(&BTreeMap::from([(world.kernel, 0)]));
    assert_eq!(world.take(301), (296..=300).collect::<Vec<_>>());
    let kernels = world.journals.lock();
    let journal = kernels.values().next().unwrap();
    assert_eq!((journal.bytes, journal.memory, journal.segments.len()), (0, 0, 0));
}

#[test]
fn sends_no_more_than_the_gateway_has_room_for() {
    let world = world();
    world.say(300);
    let first = world.sent();
    assert!(
        (10..40).contains(&first.len()),
        "{} frames are about 3,000 bytes",
        first.len()
    );
    assert!(world.journals.batch().is_empty());
    world.journals.note(world.kernel, (10, 1), Value::Null);
    assert_eq!(world.sent().len(), 10);
}

#[test]
fn a_state_does_not_wait_behind_output() {
    let world = world();
    // The window is open yet when the kernel dies.
    world.say(300);
    let frame = encode::<_, &[u8]>(&0, &[]).unwrap();
    let says = Some((KernelState::Dead, Some("killed".to_owned()), 77));
    world.outbound.push(frame, says);
    for connection in 1..3 {
        let mut ahead = Vec::new();
        loop {
            let batch = world.journals.batch();
            if batch.is_empty() {
                break;
            }
            let frames = batch.iter().filter_map(|frame| decode::<FromAgent>(frame).ok());
            ahead.extend(frames.filter_map(|(count, said, _)| match said {
                FromAgent::Ahead {
                    number, state, at, ..
                } => Some((count, number, state, at)),
                _ => None,
            }));
        }
        assert_eq!(
            ahead,
            [(0, 301, KernelState::Dead, 77)],
            "once on connection {connection}"
        );
        world.journals.resume(&BTreeMap::from([(world.kernel, 5)]));
    }
}

#[test]
fn the_oldest_go_when_there_is_no_room_and_the_numbers_tell() {
    let world = world();
    world.say(2_000);
    let sent = world.take(1);
    assert!(
        sent[0] > 1 && sent.last() == Some(&2_000),
        "{} to {:?}",
        sent[0],
        sent.last()
    );
    assert!(sent.windows(2).all(|pair| pair[1] == pair[0] + 1));
    assert_eq!(world.journals.held()[0].oldest, sent[0]);
}

#[test]
fn a_kernel_that_is_over_goes_when_the_gateway_has_all_of_it() {
    let world = world();
    world.say(3);
    world.outbound.end();
    world.sent();
    world.journals.note(world.kernel, (2, 3), Value::Null);
    assert_eq!(world.journals.held().len(), 1);
    world.journals.note(world.kernel, (3, 4), Value::Null);
    assert!(world.journals.held().is_empty());
}

#[test]
fn what_a_gateway_says_of_frames_that_it_cannot_have_loses_nothing() {
    let world = world();
    world.say(5);
    world.journals.note(world.kernel, (1_000, 1_000), Value::Null);
    assert_eq!(world.sent(), [1, 2, 3, 4, 5]);
    world.journals.resume(&BTreeMap::from([(world.kernel, 1_000)]));
    world.say(1);
    assert_eq!(world.sent(), [6]);
}

#[test]
fn gives_the_note_back() {
    let world = world();
    world
        .journals
        .note(world.kernel, (0, 1), serde_json::json!({ "busy": true }));
    assert_eq!(world.journals.held()[0].note["busy"], true);
    let note = |cell: u64| Some(serde_json::json!(cell));
    for (cell, note) in [(7, note(7)), (8, note(8)), (7, None), (9, None)] {
        world.journals.follow(world.kernel, cell, note);
    }
    let held = world.journals.held();
    assert_eq!((held[0].cells.len(), held[0].cells[0].cell), (1, 8));
    world.say(3);
    assert_eq!((held[0].newest, world.journals.held()[0].newest), (0, 3));
    assert_eq!(world.journals.resume(&BTreeMap::new()), [world.kernel]);
}
