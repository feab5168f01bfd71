//! Streams of slices: the same bytes as reads of whole objects, and nothing that a node spoiled.

use super::*;
use crate::storage::{Fault, FaultyStorage};
use futures_util::{StreamExt as _, TryStreamExt as _};
use std::ops::Range;

async fn streamed(reader: &Reader, range: Range<u64>) -> crate::Result<Vec<u8>> {
    let pieces: Vec<_> = reader.stream_slices("weights", range)?.try_collect().await?;
    assert!(pieces.iter().all(|piece| piece.len() <= 4 << 20));
    Ok(pieces.concat())
}

/// A file of several objects of four MiB, beside one that has no slices, behind a storage with faults.
async fn fixture() -> (Vec<u8>, Arc<FaultyStorage>, Reader) {
    let mut fixture = Fixture::new();
    fixture.obj_log2 = 22;
    let weights = noise(3, 9_500_001);
    let files = [
        SourceFile::bytes("readme", noise(4, 500)),
        SourceFile::bytes("weights", weights.clone()),
    ];
    let version = fixture.seal(&files).await;
    let faulty = Arc::new(FaultyStorage::new(fixture.storage.clone()));
    let keys = Keys::Epoch(fixture.secret.duplicate());
    let reader = Reader::open(faulty.clone(), &version.head, keys).await.unwrap();
    (weights, faulty, reader)
}

#[tokio::test]
async fn any_range_is_what_a_whole_read_gives() {
    let (weights, _, reader) = fixture().await;
    let end = weights.len() as u64;
    let edges = [
        0,
        1,
        16_383,
        16_384,
        16_385,
        1 << 20,
        (1 << 20) + 88,
        4 << 20,
        (4 << 20) + 1,
        8 << 20,
        end - 1,
        end,
    ];
    for (place, from) in edges.iter().enumerate() {
        for to in &edges[place..] {
            let at = |offset: u64| usize::try_from(offset).unwrap();
            let expected = &weights[at(*from)..at(*to)];
            assert!(
                streamed(&reader, *from..*to).await.unwrap() == expected,
                "{from}..{to}"
            );
        }
    }
    let small: Vec<_> = reader
        .stream_slices("readme", 0..500)
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert_eq!(small.concat(), noise(4, 500));
    assert_eq!(code(reader.stream_slices("none", 0..1)), "E_NOT_FOUND");
}

#[tokio::test]
async fn nothing_spoiled_is_sent() {
    let (weights, faulty, reader) = fixture().await;
    // The hashes of slices are had once.
    streamed(&reader, 0..1).await.unwrap();
    for (place, sent) in [(0, 0), (60, 0), (2 << 20, 1 << 20), (3_000_000, 1 << 20)] {
        faulty.set(Some(Fault::FlipByte(place)));
        let mut stream = reader.stream_slices("weights", 0..4 << 20).unwrap();
        let mut had = Vec::new();
        let error = loop {
            match stream.next().await.unwrap() {
                Ok(piece) => had.extend_from_slice(&piece),
                Err(error) => break error,
            }
        };
        assert_eq!(error.code(), "E_HASH", "{place}");
        assert!(
            had.len() >= sent && weights.starts_with(&had),
            "{place}: {}",
            had.len()
        );
        assert!(stream.next().await.is_none());
    }
    faulty.set(Some(Fault::Truncate(3 << 20)));
    assert_eq!(code(streamed(&reader, 0..4 << 20).await), "E_LENGTH");
}

#[tokio::test]
async fn a_download_that_breaks_off_goes_on() {
    let (weights, faulty, reader) = fixture().await;
    streamed(&reader, 0..1).await.unwrap();
    for times in [1, 2, 3] {
        faulty.set(Some(Fault::FailTimes(times)));
        assert!(
            streamed(&reader, 5..9_000_000).await.unwrap() == weights[5..9_000_000],
            "{times}"
        );
    }
    faulty.set(Some(Fault::FailTimes(100)));
    assert_eq!(code(streamed(&reader, 0..10).await), "E_UNAVAILABLE");
}
