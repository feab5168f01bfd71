//! Mutations of real and of hostile files, through every check: none may panic, hang or take a changed file for the
//! one of the manifest.

use proptest::prelude::*;

use super::*;
use crate::made;
use crate::valid::GOOD;

/// Real files, those that libraries write and we refuse, and hostile ones.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let refused = [
        "objects.npz",
        "torch_zip.pt",
        "torch_old.pt",
        "value0.pickle",
        "value4.pickle",
        "custom.onnx",
    ];
    let mut seeds: Vec<_> = GOOD
        .into_iter()
        .chain(refused)
        .map(|name| (name.to_owned(), testdata(name)))
        .collect();
    let archive = made::zip(&[("a.npy", &made::npy("'<f4'", "(2,)", 8))]);
    seeds.push(("a.npz".into(), archive));
    seeds.push((
        "m.onnx".into(),
        made::onnx("", &[("location", "w"), ("offset", "1")]),
    ));
    seeds.push((
        "m.gguf".into(),
        made::gguf(1, 0, &made::gguf_tensor("a", &[8], 0, 0)),
    ));
    seeds.push(("chat_template.jinja".into(), b"{{ a }}".to_vec()));
    seeds.push(("a.jsonl".into(), b"{\"a\":[1]}\n{}\n".to_vec()));
    seeds
}

#[derive(Debug, Clone)]
enum Change {
    Set(prop::sample::Index, u8),
    Word(prop::sample::Index, u64),
    Cut(prop::sample::Index),
    Remove(prop::sample::Index, usize),
    Insert(prop::sample::Index, Vec<u8>),
    Repeat(prop::sample::Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    let word = prop_oneof![
        any::<u64>(),
        Just(u64::MAX),
        Just(1 << 63),
        Just(1 << 32),
        0..300u64
    ];
    prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        3 => (at(), word).prop_map(|(at, word)| Change::Word(at, word)),
        1 => at().prop_map(Change::Cut),
        1 => (at(), 1..64usize).prop_map(|(at, count)| Change::Remove(at, count)),
        2 => (at(), prop::collection::vec(any::<u8>(), 1..64)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        1 => (at(), 1..200usize).prop_map(|(at, count)| Change::Repeat(at, count)),
    ]
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    if content.is_empty() {
        return;
    }
    let length = content.len();
    match change {
        Change::Set(at, byte) => content[at.index(length)] = *byte,
        Change::Word(at, word) => {
            let at = at.index(length);
            word.to_le_bytes()
                .iter()
                .zip(&mut content[at..])
                .for_each(|(from, to)| *to = *from);
        }
        Change::Cut(at) => content.truncate(at.index(length)),
        Change::Remove(at, count) => {
            let at = at.index(length);
            content.drain(at..(at + count).min(length));
        }
        Change::Insert(at, bytes) => {
            let at = at.index(length);
            content.splice(at..at, bytes.iter().copied());
        }
        Change::Repeat(at, count) => {
            let at = at.index(length);
            let part = content[at..(at + 40).min(length)].repeat(*count);
            content.splice(at..at, part);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn changed_files_are_judged_without_panic(
        seed in any::<prop::sample::Index>(),
        name in any::<prop::sample::Index>(),
        keeps_name in any::<bool>(),
        changes in prop::collection::vec(change(), 1..6),
    ) {
        let seeds = seeds();
        let (own, original) = &seeds[seed.index(seeds.len())];
        let path = if keeps_name { own } else { &seeds[name.index(seeds.len())].0 };
        let mut content = original.clone();
        changes.iter().for_each(|change| apply(&mut content, change));
        let manifest = manifest_of(&Memory::default().with(path, original.clone())).unwrap();
        let changed = Memory::default().with(path, content.clone());
        let report = verify(&changed, &manifest, &[&Signatures], &options()).unwrap();
        prop_assert!(report.is_consistent());
        let integrity = report.check(CheckId::V1).unwrap().outcome;
        prop_assert_eq!(integrity == Outcome::Passed, content == *original);
        // Whatever the change did, what an unpickler would call is not let through as something else.
        if content.starts_with(b"\x80\x04\x95") && content.ends_with(b"\x94R\x94.") {
            prop_assert!(!findings(&report, CheckId::V3).is_empty());
        }
    }

    #[test]
    fn any_front_matter_is_judged_without_panic(front in "[-a-z0-9:\\[\\]{}#&*!|>'\"%@`,?. \n\t]{0,200}") {
        let files = Memory::default().with("README.md", format!("---\n{front}\n---\n"));
        let _ = report(&files);
    }

    #[test]
    fn any_bytes_are_judged_without_panic(
        magic in prop::sample::select(vec![
            b"GGUF\x03\0\0\0".to_vec(), b"\x93NUMPY\x01\0".to_vec(), b"PK\x03\x04".to_vec(), b"\x89PNG\r\n\x1a\n".to_vec(),
            b"\xff\xd8\xff".to_vec(), b"\x08\x09\x12\x01a\x3a".to_vec(), b"\x0a\x05\x0a\x01a".to_vec(), b"\x80\x04".to_vec(),
            b"\x20\0\0\0\0\0\0\0{".to_vec(), b"(c".to_vec(), vec![],
        ]),
        rest in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let _ = report(&Memory::default().with("a", [magic, rest].concat()));
    }
}

/// More of them by hand: `ALEPHLAB_VERIFY_CASES=100000`.
fn cases() -> u32 {
    std::env::var("ALEPHLAB_VERIFY_CASES")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(1500)
}
