//! Manifests by writers who err or lie: every rule of section 7 broken once, each with its own error.

use super::revisions::Model;
use super::{Fixture, Version, code, noise};
use crate::digest::sha256;
use crate::entry::{Entry, Extent, decode_page, encode_page};
use crate::manifest::{Meta, PageRef, Root, Row, Table, decode_table_page, encode_table_page, tree_hash};
use crate::object::Kind;
use crate::seal::seal_object;
use crate::{RootRef, SealedObject, SealedTree, SourceFile};
use std::collections::BTreeMap;

/// What a forger may change before pages and root are sealed.
struct Draft {
    rows: Vec<Row>,
    entries: Vec<Entry>,
    /// Changed after everything else is filled in.
    root: Box<dyn Fn(&mut Root)>,
    in_pages: bool,
}

/// Seals a small true tree, lets `forge` change it, and opens the result with a validly signed head.
async fn forged(forge: impl FnOnce(&mut Draft)) -> &'static str {
    let fixture = Fixture::new();
    let files = [
        SourceFile::bytes("d/a", noise(1, 100)),
        SourceFile::bytes("d/b", noise(2, 200)),
        SourceFile::bytes("large", noise(3, 300_000)),
    ];
    let version = fixture.seal(&files).await;
    let reader = fixture.open(&version).await.unwrap();
    let rows: Vec<Row> = reader
        .rows()
        .iter()
        .enumerate()
        .filter(|(number, _)| *number < 2)
        .map(|(_, row)| row.clone())
        .collect();
    let mut draft = Draft {
        rows,
        entries: reader.entries().to_vec(),
        root: Box::new(|_| ()),
        in_pages: false,
    };
    forge(&mut draft);
    let version = draft.seal(&fixture).await;
    match fixture.open(&version).await {
        Ok(reader) => {
            for entry in reader.entries().iter().filter(|entry| entry.is_file()) {
                if let Err(error) = reader.read(&entry.path).await {
                    return error.code();
                }
            }
            "no error"
        }
        Err(error) => error.code(),
    }
}

impl Draft {
    async fn seal(self, fixture: &Fixture) -> Version {
        let mut rows = self.rows;
        let put = async |kind, plaintext: &[u8]| -> (Row, SealedObject) {
            let (row, object) = seal_object(fixture.dataset, 1, &fixture.secret, kind, plaintext).unwrap();
            fixture.put(&object).await;
            (row, object)
        };
        let mut pages = Vec::new();
        if let (Some(first), Some(last)) = (self.entries.first(), self.entries.last()) {
            let (row, _) = put(Kind::Page, &encode_page(&self.entries)).await;
            let object = u32::try_from(rows.len()).unwrap();
            let entries = self.entries.len() as u64;
            pages.push(PageRef {
                first: first.path.clone(),
                last: last.path.clone(),
                object,
                entries,
            });
            rows.push(row);
        }
        let files: Vec<_> = self.entries.iter().filter(|entry| entry.is_file()).collect();
        let tree = tree_hash(&rows);
        let table = if self.in_pages {
            let mut parts = Vec::new();
            for part in rows.chunks(2) {
                parts.push(put(Kind::Page, &encode_table_page(part)).await.0);
            }
            Table::Pages(parts)
        } else {
            Table::Rows(rows)
        };
        let mut root = Root {
            dataset: fixture.dataset,
            version: 1,
            obj_log2: 20,
            table,
            pages,
            older: BTreeMap::new(),
            files: files.len() as u64,
            directories: (self.entries.len() - files.len()) as u64,
            bytes: files.iter().fold(0, |sum, entry| sum.wrapping_add(entry.size)),
            meta: Meta::default(),
            tree,
        };
        (self.root)(&mut root);
        let (row, object) = put(Kind::Root, &root.encode()).await;
        version_of(fixture, row, object)
    }
}

/// A signed first version with this root.
fn version_of(fixture: &Fixture, row: Row, object: SealedObject) -> Version {
    let tree = SealedTree {
        root: RootRef {
            item_hash: row.item_hash,
            length: row.ciphertext_len,
            sha256: row.sha256,
        },
        files: 0,
        bytes: 0,
        objects: 0,
        sealed_bytes: 0,
        epoch: 1,
    };
    let head = fixture
        .head(&tree, 1, 1, [0; 32], &fixture.secret)
        .sign(&fixture.wallet)
        .unwrap();
    Version {
        head,
        tree,
        objects: vec![object],
    }
}

/// The entry of "d/a".
fn a(draft: &mut Draft) -> &mut Entry {
    draft
        .entries
        .iter_mut()
        .find(|entry| entry.path == "d/a")
        .unwrap()
}

#[tokio::test]
async fn opens_a_forgery_that_changes_nothing() {
    assert_eq!(forged(|_| ()).await, "no error");
    assert_eq!(forged(|draft| draft.in_pages = true).await, "no error");
}

#[tokio::test]
async fn refuses_paths_against_the_rules() {
    // These keep the order of the entries, so that only the rule itself is broken.
    for path in ["d/../x", "d//x", "d/a\\b", "d/.", "d/a\u{7f}"] {
        assert_eq!(
            forged(|draft| a(draft).path = path.to_owned()).await,
            "E_PATH",
            "{path}"
        );
    }
    assert_eq!(
        forged(|draft| a(draft).path = "z".into()).await,
        "E_TREE",
        "out of order"
    );
    assert_eq!(forged(|draft| a(draft).path = "d/B".into()).await, "E_PATH");
    assert_eq!(forged(|draft| a(draft).path = "d/aa/x".into()).await, "E_PATH");
}

#[tokio::test]
async fn refuses_extents_against_the_rules() {
    let extent = |object, offset, length| Extent {
        object,
        offset,
        length,
    };
    let cases = [
        extent(9, 0, 100),
        extent(2, 0, 100),
        extent(0, 1 << 40, 100),
        extent(0, u64::MAX, 100),
        extent(0, 0, u64::MAX),
        extent(0, 0, 99),
        extent(0, 0, 101),
    ];
    for case in cases {
        assert_eq!(
            forged(|draft| a(draft).extents = vec![case]).await,
            "E_EXTENT",
            "{case:?}"
        );
    }
    assert_eq!(forged(|draft| a(draft).extents.clear()).await, "E_EXTENT");
}

#[tokio::test]
async fn refuses_content_that_is_not_what_the_manifest_says() {
    assert_eq!(forged(|draft| a(draft).sha256 = [0; 32]).await, "E_TREE");
    // Bytes of "d/a" that belong to no file any more lie in the padding.
    let shrink = |draft: &mut Draft| {
        a(draft).extents[0].length = 50;
        a(draft).size = 50;
    };
    assert_eq!(forged(shrink).await, "E_EXTENT");
}

#[tokio::test]
async fn refuses_tables_that_contradict_themselves() {
    let large = |draft: &mut Draft| draft.rows[0].plaintext_len = (1 << 20) + 1;
    assert_eq!(forged(large).await, "E_LIMIT");
    assert_eq!(
        forged(|draft| draft.rows[0].plaintext_len = u64::MAX).await,
        "E_LIMIT"
    );
    assert_eq!(
        forged(|draft| draft.rows[1].object_id = draft.rows[0].object_id).await,
        "E_TREE"
    );
    assert_eq!(forged(|draft| draft.rows[0].leaves = Some(77)).await, "E_TREE");
    assert_eq!(forged(|draft| draft.rows[0].epoch = 2).await, "E_EPOCH");
    assert_eq!(forged(|draft| draft.rows[0].epoch = 0).await, "E_EPOCH");
    assert_eq!(forged(|draft| draft.rows[0].plaintext_len += 1).await, "E_LENGTH");
    assert_eq!(
        forged(|draft| draft.rows[0].ciphertext_len += 1).await,
        "E_LENGTH"
    );
    assert_eq!(
        forged(|draft| draft.rows[0].item_hash = "../x".into()).await,
        "E_CBOR"
    );
    assert_eq!(
        forged(|draft| draft.rows[0].item_hash = "ab".into()).await,
        "E_UNAVAILABLE"
    );
    assert_eq!(forged(|draft| draft.rows[0].sha256 = [0; 32]).await, "E_HASH");
    assert_eq!(forged(|draft| draft.rows[0].object_id = [0; 16]).await, "E_FRAME");
}

#[tokio::test]
async fn refuses_roots_that_contradict_head_or_pages() {
    let forged_root = async |change: fn(&mut Root)| forged(|draft| draft.root = Box::new(change)).await;
    assert_eq!(forged_root(|root| root.version = 2).await, "E_TREE");
    assert_eq!(forged_root(|root| root.dataset.0[0] ^= 1).await, "E_TREE");
    assert_eq!(forged_root(|root| root.tree[0] ^= 1).await, "E_TREE");
    assert_eq!(forged_root(|root| root.files += 1).await, "E_TREE");
    assert_eq!(forged_root(|root| root.directories += 1).await, "E_TREE");
    assert_eq!(forged_root(|root| root.bytes += 1).await, "E_TREE");
    assert_eq!(forged_root(|root| root.pages[0].entries += 1).await, "E_TREE");
    assert_eq!(
        forged_root(|root| root.pages[0].first = "x".into()).await,
        "E_TREE"
    );
    assert_eq!(forged_root(|root| root.pages[0].object = 99).await, "E_TREE");
    assert_eq!(forged_root(|root| root.pages[0].object = 0).await, "E_FRAME");
    assert_eq!(
        forged_root(|root| root.pages.push(root.pages[0].clone())).await,
        "E_TREE"
    );
    assert_eq!(forged_root(|root| root.obj_log2 = 19).await, "E_LIMIT");
    assert_eq!(forged_root(|root| root.obj_log2 = 27).await, "E_LIMIT");
    let secret = || crate::EpochSecret::from_bytes([1; 32]);
    assert_eq!(
        forged(|draft| draft.root = Box::new(move |root| {
            root.older.insert(1, secret());
        }))
        .await,
        "E_EPOCH"
    );
    assert_eq!(
        forged(|draft| draft.root = Box::new(|root| root.meta.title = Some("x".repeat(4_097)))).await,
        "E_LIMIT"
    );
}

#[test]
fn refuses_pages_over_the_limits_and_unknown_codecs() {
    let mut file = Entry::directory("f".into());
    file.kind = crate::EntryKind::File;
    let file = file.settle();
    let page = encode_page(std::slice::from_ref(&file));
    assert_eq!(decode_page(&page).unwrap(), [file]);
    // Key 8 of the only entry is the last pair: 08 00 becomes 08 01.
    let mut zstd = page.clone();
    *zstd.last_mut().unwrap() = 1;
    assert_eq!(code(decode_page(&zstd)), "E_CODEC");
    let many = vec![Entry::directory("x".into()); 65_537];
    assert_eq!(code(decode_page(&encode_page(&many))), "E_LIMIT");
    let long = Entry::directory("x".repeat(4_097));
    assert_eq!(code(decode_page(&encode_page(&[long]))), "E_LIMIT");
    assert_eq!(code(decode_page(&vec![0; (16 << 20) + 1])), "E_LIMIT");
    assert_eq!(code(decode_page(&[&page[..], &[0]].concat())), "E_CBOR");
    assert_eq!(code(decode_table_page(&page)), "E_CBOR");
    for cut in 0..page.len() {
        assert_eq!(code(decode_page(&page[..cut])), "E_CBOR", "cut at {cut}");
    }
}

#[test]
fn survives_any_change_of_a_root_and_page() {
    let root = |bytes: &[u8]| Root::decode(bytes).map(|root| root.encode());
    let row = Row {
        object_id: [1; 16],
        epoch: 1,
        plaintext_len: 5,
        ciphertext_len: 109,
        sha256: [2; 32],
        item_hash: "ab".into(),
        leaves: None,
    };
    let whole = Root {
        dataset: crate::DatasetId([3; 32]),
        version: 1,
        obj_log2: 20,
        table: Table::Rows(vec![row]),
        pages: vec![PageRef {
            first: "a".into(),
            last: "b".into(),
            object: 0,
            entries: 2,
        }],
        older: BTreeMap::new(),
        files: 1,
        directories: 0,
        bytes: 5,
        meta: Meta {
            title: Some("t".into()),
            ..Meta::default()
        },
        tree: [4; 32],
    }
    .encode();
    assert_eq!(root(&whole).unwrap(), whole);
    for place in 0..whole.len() {
        for bit in 0..8 {
            let mut changed = whole.clone();
            changed[place] ^= 1 << bit;
            // Either refused, or read as exactly what it says.
            if let Ok(again) = root(&changed) {
                assert_eq!(again, changed);
            }
        }
        assert!(root(&whole[..place]).is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_another_owner_are_hashed_also_where_the_revision_before_has_that_hash() {
    let (own, foreign) = (noise(1, 900), noise(2, 900));
    let fixture = Fixture::new();
    let version = fixture.seal(&[SourceFile::bytes("f", foreign.clone())]).await;
    let reader = fixture.open(&version).await.unwrap();
    let mut entries = reader.entries().to_vec();
    entries[0].sha256 = sha256(&[&own]);
    let draft = Draft {
        rows: reader.rows()[..1].to_vec(),
        entries,
        root: Box::new(|_| ()),
        in_pages: false,
    };
    let lying = fixture.open(&draft.seal(&fixture).await).await.unwrap();
    let source = SourceFile::sealed(&lying, lying.entry("f").unwrap());
    // Nothing is there to compare with: the manifest says what the bytes are.
    let model = Model::new();
    let put = model.put(vec![source.clone()]).await;
    let sealed = model.open(&put.head).await;
    assert_eq!(sealed.entry("f").unwrap().sha256, sha256(&[&foreign]));
    // The own file lay in one object with one that is gone, so that it is sealed anew.
    let model = Model::new();
    let files = [("f", own), ("gone", noise(3, 900))];
    let files = files.map(|(path, bytes)| SourceFile::bytes(path, bytes));
    let first = model.put(files.to_vec()).await;
    let put = model.put_through(model.storage.clone(), vec![source], None).await;
    assert_eq!(code(put), "E_IO");
    assert_eq!(model.newest().await.unwrap().0.hash(), first.head.hash());
}
